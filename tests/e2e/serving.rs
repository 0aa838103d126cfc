//! Starting, being looked at, being overloaded, stopping.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use daybook_client::CommandReceipt;
use daybook_contract::METHODS;
use daybook_contract::bank::v1::DepositRequest;
use daybook_contract::daybook::v1::projection_service_client::ProjectionServiceClient;
use daybook_contract::daybook::v1::{CommandContext, ListProjectionsRequest, SubscribeRequest};
use daybook_testing::{Daybook as Process, Ports, eventually, http_get};
use futures::{StreamExt, stream};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use crate::common::{PATIENCE, Site, channel, error, everything, head, usd};

/// The services of the contract with one of these endings.
fn services(endings: [&str; 2]) -> BTreeSet<String> {
    let services = METHODS.iter().filter_map(|method| method.path[1..].split('/').next());
    let found = services.filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
    found.map(str::to_owned).collect()
}

/// The names that one version of the reflection service lists, and the files it gives for them.
macro_rules! reflected {
    ($version:ident, $url:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let channel = channel($url);
        let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
        let ask = |message| pb::ServerReflectionRequest {
            message_request: Some(message),
            ..Default::default()
        };
        let list = stream::iter([ask(MessageRequest::ListServices(String::new()))]);
        let mut answers = client.server_reflection_info(list).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
        let names: BTreeSet<String> = list.service.into_iter().map(|s| s.name).collect();
        for name in &names {
            let file = stream::iter([ask(MessageRequest::FileContainingSymbol(name.clone()))]);
            let mut answers = client.server_reflection_info(file).await.unwrap().into_inner();
            let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::FileDescriptorResponse(files) = answer else {
                panic!("{name}: {answer:?}")
            };
            assert!(!files.file_descriptor_proto.is_empty(), "{name}");
        }
        names
    }};
}

async fn health_of(url: &str, service: &str) -> Result<ServingStatus, Code> {
    let mut health = HealthClient::new(channel(url.to_owned()));
    let request = HealthCheckRequest { service: service.to_owned() };
    health.check(request).await.map(|a| a.into_inner().status()).map_err(|status| status.code())
}

async fn serves(url: String, mut expected: BTreeSet<String>) {
    assert!(expected.len() > 2, "{expected:?}");
    for service in &expected {
        // A moment after the start, a projection may still have nothing to show.
        let serving = || async {
            (health_of(&url, service).await == Ok(ServingStatus::Serving)).then_some(())
        };
        eventually(PATIENCE, serving).await;
    }
    assert_eq!(health_of(&url, "").await, Ok(ServingStatus::Serving));
    assert_eq!(health_of(&url, "bank.v1.Nothing").await, Err(Code::NotFound));
    let v1 = reflected!(v1, url.clone());
    let v1alpha = reflected!(v1alpha, url.clone());
    assert_eq!(v1, v1alpha);
    expected.insert("grpc.health.v1.Health".to_owned());
    let known: BTreeSet<String> =
        v1.into_iter().filter(|name| !name.starts_with("grpc.reflection.")).collect();
    assert_eq!(known, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_reflected_in_both_versions_and_has_its_health() {
    let site = Site::new();
    let _process = site.start("dev", &[]);
    serves(site.ports.command_url(), services([".CommandService", ".EventLogService"])).await;
    serves(site.ports.query_url(), services([".QueryService", ".ProjectionService"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_served_over_http() {
    let site = Site::new();
    let _process = site.start("dev", &[]);
    let client = site.client();
    let receipt = client.open_account("Ada").account_id("ada").await.unwrap();
    client.withdraw("ada", usd(1)).await.unwrap_err();
    client.get_account("ada").after(&receipt).await.unwrap();
    assert_eq!(http_get(site.ports.http, "/healthz").unwrap().0, 200);
    let (code, ready) = http_get(site.ports.http, "/readyz").unwrap();
    assert_eq!(code, 200);
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["ready"], true);
    let parts: Vec<_> =
        ready["parts"].as_array().unwrap().iter().map(|part| part["part"].clone()).collect();
    assert!(parts.contains(&"log".into()), "{parts:?}");
    assert_eq!(http_get(site.ports.http, "/nothing").unwrap().0, 404);

    let (code, metrics) = http_get(site.ports.http, "/metrics").unwrap();
    assert_eq!(code, 200);
    let has = |start: &str, parts: &[&str]| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)));
        assert!(line.is_some(), "no {start} with {parts:?} in\n{metrics}");
    };
    has("daybook_events_appended_total 1", &[]);
    let withdraw = "method=\"/bank.v1.CommandService/Withdraw\"";
    has("daybook_requests_total", &[withdraw, "code=\"FAILED_PRECONDITION\""]);
    has("daybook_request_seconds_bucket", &["method=\"/bank.v1.QueryService/GetAccount\""]);
    has("daybook_projection_lag_events", &["projection=\"account_balance\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_answers_what_is_under_way_and_loses_nothing() {
    let site = Site::new();
    let process = site.start("command", &["--drain-timeout-ms", "120000"]);
    let client = site.strict_client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let mut log = site.event_log();
    let request = SubscribeRequest { after_position: 0, filter: None };
    let mut subscription = log.subscribe(request).await.unwrap().into_inner();
    let mut health = HealthClient::new(channel(site.ports.command_url()));
    let request = HealthCheckRequest { service: "bank.v1.CommandService".into() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut senders = Vec::new();
    for _ in 0..8 {
        let client = site.strict_client();
        senders.push(tokio::spawn(async move {
            let mut answered = Vec::new();
            loop {
                let id = Uuid::now_v7().to_string();
                match client.deposit("ada", usd(1)).request_id(&id).await {
                    Ok(receipt) => answered.push((id, receipt)),
                    Err(error) => return (answered, id, error),
                }
            }
        }));
    }
    eventually(PATIENCE, || async { (head(&client).await > 100).then_some(()) }).await;

    process.signal("TERM");
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    // While this watch holds the process back, it says that it is not ready.
    let unready =
        || async { http_get(site.ports.http, "/readyz").filter(|(code, _)| *code == 503) };
    assert!(eventually(PATIENCE, unready).await.1.contains("stopping"));
    drop(watch);
    drop(health);
    let mut process = process;
    assert!(process.wait().success(), "{}", process.log_lines());
    assert!(!process.log_lines().contains("cut off"), "{}", process.log_lines());

    let end = loop {
        match subscription.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    if let Some(status) = end {
        assert_eq!(error(status).reason(), "NOT_SERVING");
    }
    let _process = site.start("command", &[]);
    let log = everything(&site.client()).await;
    let recorded: BTreeSet<String> =
        log.iter().map(|event| event.metadata.clone().unwrap().request_id).collect();
    for sender in senders {
        let (answered, unanswered, error) = sender.await.unwrap();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(!recorded.contains(&unanswered), "{unanswered} was done and not answered: {error}");
        for (id, receipt) in answered {
            let event = &log[usize::try_from(receipt.position).unwrap() - 1];
            assert_eq!(event.metadata.as_ref().unwrap().request_id, id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_does_not_wait_for_an_idle_stream_of_commands() {
    let site = Site::new();
    let process = site.start("command", &["--drain-timeout-ms", "600000"]);
    let client = site.strict_client();
    let commands = stream::iter([client.open_account("Ada")]).chain(stream::pending());
    let mut answers = client.execute_stream(commands);
    answers.next().await.unwrap().unwrap();
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_reported_with_the_flag_that_changes_it() {
    for (mode, flag) in [
        ("command", "--command-listen"),
        ("command", "--http"),
        ("dev", "--query-listen"),
        ("query", "--query-listen"),
    ] {
        let site = Site::new();
        let port = match flag {
            "--command-listen" => site.ports.command,
            "--query-listen" => site.ports.query,
            _ => site.ports.http,
        };
        let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let mut process = site.spawn(mode, &[]);
        assert!(!process.wait().success());
        let lines = process.log_lines();
        assert!(lines.contains(flag) && lines.contains(&port.to_string()), "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_says_so_and_harms_nothing() {
    let site = Site::new();
    let _first = site.start("command", &[]);
    let client = site.client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let binary = env!("CARGO_BIN_EXE_daybook");
    let mut second = Process::spawn(binary, "command", site.data.path(), Ports::free(), &[]);
    assert!(!second.wait().success());
    let lines = second.log_lines();
    assert!(lines.contains("in use by another process") && lines.contains("--data"), "{lines}");
    client.deposit("ada", usd(1)).await.unwrap();
}

#[test]
fn each_setting_is_printed_with_its_value_and_its_source() {
    let site = Site::new();
    let file = site.data.path().join("settings.toml");
    std::fs::write(&file, "max_requests = 9\nbatch_size = 8\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(["config", "-o", "json", "--topic-prefix", "t-", "--config"])
        .arg(&file)
        .env("DAYBOOK_BATCH_SIZE", "7")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let settings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| {
        let found = settings.as_array().unwrap().iter().find(|setting| setting["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {settings}"));
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        (text("value"), text("source"))
    };
    assert_eq!(of("topic_prefix"), ("t-".into(), "flag".into()));
    assert_eq!(of("batch_size"), ("7".into(), "environment DAYBOOK_BATCH_SIZE".into()));
    let (value, source) = of("max_requests");
    assert!(value == "9" && source.contains("settings.toml"), "{value} from {source}");
    assert_eq!(of("drain_timeout_ms"), ("10000".into(), "default".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_runs_the_projections_that_it_is_told_to_and_says_so_of_the_others() {
    let site = Site::new();
    let _server =
        site.start("dev", &["--projections", "account_balance,users", "--sagas", "false"]);
    let client = site.strict_client();
    let opened = client.open_account("Ada").account_id("ada").await.unwrap();
    let get = client.get_account("ada").min_position(opened.position).max_wait(PATIENCE);
    assert_eq!(get.await.unwrap().position, opened.position);
    let mut projections = ProjectionServiceClient::new(channel(site.ports.query_url()));
    let listed = projections.list_projections(ListProjectionsRequest {}).await.unwrap();
    let listed = listed.into_inner().projections;
    let names: Vec<_> = listed.iter().map(|projection| projection.name.as_str()).collect();
    assert_eq!(names, ["account_balance", "users"]);
    let refused = client.list_transactions("ada").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(refused.reason(), "PROJECTION_STATE");
    assert!(refused.to_string().contains("--projections"), "{refused}");
}

#[test]
fn a_setting_that_cannot_be_is_refused_at_the_start() {
    let site = Site::new();
    for (flags, part) in [
        (["--max-requests", "0"], "max_requests"),
        (["--log-format", "xml"], "log_format"),
        (["--log-filter", "=,="], "log_filter"),
        (["--projections", "acounts"], "account_balance, "),
    ] {
        let mut process = site.spawn("command", &flags);
        assert!(!process.wait().success());
        assert!(process.log_lines().contains(part), "{}", process.log_lines());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_json_when_asked_for() {
    let site = Site::new();
    let mut process = site.start("command", &["--log-format", "json"]);
    let client = site.client();
    let secret = "a-text-of-a-customer";
    client.open_account(secret).account_id("ada").await.unwrap();
    process.signal("TERM");
    assert!(process.wait().success());
    let lines = process.log_lines();
    assert!(lines.lines().count() > 1, "{lines}");
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    assert!(!lines.contains(secret), "payloads do not belong into log lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_with_a_delay_and_passes_with_retries() {
    let site = Site::new();
    let _process = site.start("command", &["--max-requests", "1"]);
    let patient = daybook_client::Daybook::builder()
        .command_url(site.ports.command_url())
        .deadline(PATIENCE)
        .max_attempts(1000)
        .build()
        .unwrap();
    patient.open_account("Ada").account_id("ada").await.unwrap();
    let strict = site.strict_client();
    let calls = || {
        let calls = (0..32).map(|_| strict.deposit("ada", usd(1)).into_future());
        stream::iter(calls).buffer_unordered(32).collect::<Vec<_>>()
    };
    let refused = || async { calls().await.into_iter().find_map(Result::err) };
    let refused = eventually(PATIENCE, refused).await;
    assert_eq!((refused.code(), refused.reason()), (Code::ResourceExhausted, "OVERLOADED"));
    let delay = refused.details().retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO && delay < Duration::from_secs(5));

    let before = head(&patient).await;
    let calls = (0..32).map(|_| patient.deposit("ada", usd(1)).into_future());
    let receipts: Vec<_> = stream::iter(calls).buffer_unordered(8).collect().await;
    assert!(receipts.iter().all(Result::is_ok), "{receipts:?}");
    assert_eq!(head(&patient).await, before + 32);
}

/// Opens accounts, all at once, where every answer is late, and again after a restart, where none
/// is. Returns how many were opened the first time although the answer was that it is late.
async fn done_though_late() -> usize {
    const COUNT: usize = 300;
    let site = Site::new();
    let process = site.start("command", &["--request-timeout-ms", "0"]);
    let ids: Vec<String> = (0..COUNT).map(|_| Uuid::now_v7().to_string()).collect();
    let open_all = || async {
        let client = site.strict_client();
        let calls = ids.iter().map(|id| client.open_account("Ada").account_id(id).request_id(id));
        let calls: Vec<_> = calls.map(IntoFuture::into_future).collect();
        stream::iter(calls).buffered(COUNT).collect::<Vec<_>>().await
    };
    let first = open_all().await;
    for late in first.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!((late.code(), late.reason()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        assert!(late.message().contains("same request id"), "{late}");
    }
    // What was under way is carried out before the process ends.
    assert!(process.terminate().success());
    let _process = site.start("command", &[]);
    let mut done = 0;
    for (first, again) in first.into_iter().zip(open_all().await) {
        let again = again.unwrap();
        match first {
            Ok(receipt) => assert_eq!(again, CommandReceipt { replayed: true, ..receipt }),
            Err(_) => done += usize::from(again.replayed),
        }
    }
    assert_eq!(head(&site.client()).await, COUNT as u64, "one effect for each request");
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_says_that_the_effect_is_open() {
    // Which of the late ones had begun is chance; that none had is hardly possible even once.
    let done = || async { Some(done_though_late().await).filter(|count| *count > 0) };
    eventually(PATIENCE, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_have_a_longer_deadline_than_the_server() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    site.client().open_account("Ada").account_id("ada").await.unwrap();
    let mut commands = site.bank_commands();
    let request = DepositRequest {
        context: Some(CommandContext::default()),
        account_id: "ada".into(),
        amount: Some(usd(1)),
        ..Default::default()
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(50));
    commands.deposit(request).await.unwrap();
}
