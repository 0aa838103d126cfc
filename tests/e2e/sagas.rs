//! Transfers and fulfilments as their users meet them.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use daybook_client::{CommandRequest, Daybook as Client, StoredEvent};
use daybook_contract::bank::v1::{
    BankTransfer, ReceiveTransferRequest, RecordTransferStepRequest, RefundPaymentRequest,
    RefundTransferRequest, SendPaymentRequest, SendTransferRequest, TransferFunded, TransferStatus,
};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{
    AppendRequest, CommandContext, CommandReceipt, GetSagaRequest, ListSagasRequest, NewEvent,
    ProjectionState, RawPayload, ReadContext, Saga, SagaStatus, SagaStep, StepAnswer, StepRefusal,
    new_event, recorded_event,
};
use daybook_contract::inventory::v1::ReserveStockRequest;
use daybook_contract::orders::v1::{
    ExpireFulfilmentRequest, OrderStatus, RecordFulfilmentStepRequest, StartFulfilmentRequest,
};
use daybook_testing::{Broker, eventually, http_get, unique};
use futures::StreamExt;
use prost::Message;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::Bench;
use crate::common::{PATIENCE, Site, eur, everything, head, minor, over_kafka, usd};

/// A transfer at its end.
async fn ended(client: &Client, id: &str) -> BankTransfer {
    eventually(PATIENCE, || async {
        let query = client.get_transfer(id).min_position(head(client).await);
        let transfer = query.await.ok()?.transfer?;
        transfer.ended_time.is_some().then_some(transfer)
    })
    .await
}

/// A saga and its steps, at its end.
pub async fn saga_ended(client: &Client, stream: &str) -> (Saga, Vec<SagaStep>) {
    eventually(PATIENCE, || async {
        let read = Some(ReadContext { min_position: head(client).await, ..Default::default() });
        let request = GetSagaRequest { read, stream: stream.to_owned() };
        let answer = client.sagas().get(request).await.ok()?;
        let saga = answer.saga?;
        saga.ended_time.is_some().then_some((saga, answer.steps))
    })
    .await
}

async fn balance(client: &Client, account: &str) -> i64 {
    let query = client.get_account(account).min_position(head(client).await);
    minor(&query.await.unwrap().account.unwrap().balance.unwrap())
}

pub async fn two_accounts(client: &Client) {
    client.open_account("Ada").account_id("ada").initial_balance(usd(10_000)).await.unwrap();
    client.open_account("Bob").account_id("bob").await.unwrap();
}

async fn transfers_arrive_or_come_back(flags: &[&str]) {
    let site = Site::new();
    let _server = site.start("dev", flags);
    let client = site.client();
    two_accounts(&client).await;
    client.open_account("Cleo").account_id("cleo").initial_balance(eur(0)).await.unwrap();
    client.open_account("Dan").account_id("dan").await.unwrap();
    client.close_account("dan").await.unwrap();

    client.transfer("ada", "bob", usd(1_234)).transfer_id("arrives").await.unwrap();
    let arrived = ended(&client, "arrives").await;
    assert_eq!((arrived.status(), arrived.refusal), (TransferStatus::Completed, None));
    assert_eq!(balance(&client, "ada").await, 8_766);
    assert_eq!(balance(&client, "bob").await, 1_234);

    let refused =
        [("dan", "ACCOUNT_CLOSED"), ("cleo", "WRONG_CURRENCY"), ("nobody", "ACCOUNT_NOT_FOUND")];
    for (to, reason) in refused {
        client.transfer("ada", to, usd(500)).transfer_id(to).await.unwrap();
        let back = ended(&client, to).await;
        assert_eq!(
            (back.status(), back.refusal.unwrap().reason.as_str()),
            (TransferStatus::Returned, reason)
        );
        assert_eq!(balance(&client, "ada").await, 8_766);
        let (saga, steps) = saga_ended(&client, &format!("bank.transfer-{to}")).await;
        assert_eq!(saga.status(), SagaStatus::Compensated);
        let commands: Vec<_> = steps.iter().map(|step| step.command.as_str()).collect();
        let expected = ["SendTransfer", "ReceiveTransfer", "RefundTransfer"];
        assert_eq!(commands, expected.map(|name| format!("bank.v1.{name}Request")));
    }
    let listed = client.list_transfers().account("ada").min_position(head(&client).await);
    let found: Vec<_> =
        listed.await.unwrap().transfers.into_iter().map(|t| t.transfer_id).collect();
    assert_eq!(found, ["nobody", "cleo", "dan", "arrives"]);
}

#[tokio::test]
async fn a_transfer_arrives_or_comes_back() {
    transfers_arrive_or_come_back(&[]).await;
}

/// In one process with everything, the query service shows and steers what the sagas have too.
#[tokio::test]
async fn the_projections_of_one_process_are_in_one_place() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    let (command, query) = (site.ports.command_url(), site.ports.query_url());
    let builder = Client::builder().command_url(command).query_url(&query).saga_url(&query);
    let client = builder.build().unwrap();
    let list = client.projections().list().await.unwrap();
    let names: Vec<_> = list.iter().map(|projection| projection.name.as_str()).collect();
    assert!(names.contains(&"sagas") && names.is_sorted(), "{names:?}");
    let paused = client.projections().pause("sagas").await.unwrap();
    assert_eq!(paused.state(), ProjectionState::Paused);
    // It is the same one that the saga service has.
    let steering = site.client().projections();
    assert_eq!(steering.get("sagas").await.unwrap().state(), ProjectionState::Paused);
    steering.resume("sagas").await.unwrap();
}

#[tokio::test]
async fn a_transfer_arrives_or_comes_back_over_kafka() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("transfers"));
    transfers_arrive_or_come_back(&over_kafka(broker, &prefix)).await;
}

#[tokio::test]
async fn a_transfer_that_cannot_start_is_refused_at_once() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    let client = site.strict_client();
    two_accounts(&client).await;
    client.open_account("Dan").account_id("dan").await.unwrap();
    client.close_account("dan").await.unwrap();
    let before = head(&client).await;
    for (from, to, amount, reason) in [
        ("ada", "ada", usd(1), "SAME_ACCOUNT"),
        ("ada", "bob", usd(0), "AMOUNT_NOT_POSITIVE"),
        ("ada", "bob", usd(-1), "AMOUNT_NOT_POSITIVE"),
        ("ada", "bob", usd(10_i64.pow(15) + 1), "AMOUNT_TOO_LARGE"),
        ("ada", "bob", usd(10_001), "INSUFFICIENT_FUNDS"),
        ("ada", "bob", eur(1), "WRONG_CURRENCY"),
        ("nobody", "bob", usd(1), "ACCOUNT_NOT_FOUND"),
        ("dan", "bob", usd(1), "ACCOUNT_CLOSED"),
    ] {
        let error = client.transfer(from, to, amount).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    assert_eq!(head(&client).await, before, "a refused transfer recorded something");
    let unknown = client.get_transfer("nothing").await.unwrap_err();
    assert_eq!(unknown.reason(), "TRANSFER_NOT_FOUND");
    client.transfer("ada", "bob", usd(1)).transfer_id("t").await.unwrap();
    let again = client.transfer("ada", "bob", usd(2)).transfer_id("t").await.unwrap_err();
    assert_eq!(again.reason(), "TRANSFER_ALREADY_STARTED");
}

/// Without the saga process money stays where the last step has left it: it can be seen, and the
/// account cannot close.
#[tokio::test]
async fn money_in_flight_is_seen_and_keeps_its_account_open() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let (queries, sagas) = (beside(), beside());
    let _query = queries.start("query", &[]);
    let client = site.strict_client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(10_000)).transfer_id("t").await.unwrap();
    let send = SendTransferRequest {
        account_id: "ada".into(),
        transfer_id: "t".into(),
        to_account_id: "bob".into(),
        amount: Some(usd(10_000)),
        ..Default::default()
    };
    // Anybody can send the step, under its own id alone, and then the saga's is the same one.
    let foreign = client.command(send.clone()).await.unwrap_err();
    assert_eq!(foreign.reason(), "TRANSFER_NOT_IN_FLIGHT");
    let step = daybook_kernel::step_id("bank.transfer-t", 1, 0);
    client.command(send.clone()).request_id(&step).await.unwrap();

    let account = |id: &'static str| {
        let client = &client;
        async move {
            let query = client.get_account(id).min_position(head(client).await);
            query.await.unwrap().account.unwrap()
        }
    };
    let [ada, bob] = [account("ada").await, account("bob").await];
    let money = |money: &Option<daybook_client::Money>| minor(money.as_ref().unwrap());
    assert_eq!(
        (money(&ada.balance), money(&ada.pending_out), money(&ada.pending_in)),
        (0, 10_000, 0)
    );
    assert_eq!(
        (money(&bob.balance), money(&bob.pending_out), money(&bob.pending_in)),
        (0, 0, 10_000)
    );
    let error = client.close_account("ada").await.unwrap_err();
    assert_eq!(error.reason(), "TRANSFER_IN_FLIGHT");

    // Nobody but the transfer itself can take its next steps.
    let error = client.command(send).await.unwrap_err();
    assert_eq!(error.reason(), "INSUFFICIENT_FUNDS");
    let receive = ReceiveTransferRequest {
        account_id: "bob".into(),
        transfer_id: "t".into(),
        from_account_id: "ada".into(),
        amount: Some(usd(10_000)),
        ..Default::default()
    };
    let error = client.command(receive).await.unwrap_err();
    assert_eq!(error.reason(), "TRANSFER_NOT_IN_FLIGHT");
    let refund = RefundTransferRequest {
        account_id: "ada".into(),
        transfer_id: "t".into(),
        ..Default::default()
    };
    let error = client.command(refund).await.unwrap_err();
    assert_eq!(error.reason(), "TRANSFER_NOT_IN_FLIGHT");

    // The saga goes on from there.
    let _saga = sagas.start("saga", &[]);
    assert_eq!(ended(&client, "t").await.status(), TransferStatus::Completed);
    assert_eq!(money(&account("ada").await.pending_out), 0);
    assert_eq!(money(&account("bob").await.balance), 10_000);
}

/// An answer to the step after a version of a saga.
pub fn answer(version: u64, outcome: Outcome) -> Option<StepAnswer> {
    Some(StepAnswer { version, index: 0, outcome: Some(outcome) })
}

pub fn accepted() -> Outcome {
    Outcome::Receipt(CommandReceipt { event_ids: vec!["forged".into()], ..Default::default() })
}

fn refused() -> Outcome {
    Outcome::Refusal(StepRefusal { reason: "FORGED".into(), ..Default::default() })
}

/// The first step of a transfer of 10.00 from Ada to Bob.
fn send(transfer: &str) -> SendTransferRequest {
    SendTransferRequest {
        account_id: "ada".into(),
        transfer_id: transfer.into(),
        to_account_id: "bob".into(),
        amount: Some(usd(1_000)),
        ..Default::default()
    }
}

/// The request id of a step is no secret. Whatever is sent under it and is not the step, or comes
/// before its time, leaves no answer that could be taken for the step's.
#[tokio::test]
async fn nobody_takes_the_request_id_of_a_step() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let client = site.strict_client();
    two_accounts(&client).await;
    let step = daybook_kernel::step_id("bank.transfer-t", 1, 0);
    let refused = |error: daybook_client::Error| {
        assert_eq!(error.reason(), "STEP_NOT_AWAITED", "{error}");
    };
    let sending = || client.command(send("t")).request_id(&step);
    refused(sending().await.unwrap_err());
    client.transfer("ada", "bob", usd(1_000)).transfer_id("t").await.unwrap();
    let before = head(&client).await;
    refused(client.deposit("ada", usd(1)).request_id(&step).await.unwrap_err());
    let other = SendTransferRequest { amount: Some(usd(1)), ..send("t") };
    refused(client.command(other).request_id(&step).await.unwrap_err());
    refused(sending().expected_version(1).await.unwrap_err());
    let payload = Some(new_event::Payload::Raw(RawPayload::default()));
    let event = NewEvent { event_name: "Noted".into(), event_version: 0, payload };
    let context = CommandContext { request_id: step.clone(), ..Default::default() };
    let append =
        AppendRequest { stream: "notes-1".into(), events: vec![event], context: Some(context) };
    refused(client.events().append_request(append).await.unwrap_err());
    assert_eq!(head(&client).await, before);
    let sent = sending().await.unwrap();
    assert_eq!((sent.replayed, sent.position), (false, before + 1));
}

#[tokio::test]
async fn a_transfer_believes_the_log_alone() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let client = site.strict_client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(1_000)).transfer_id("t").await.unwrap();
    let record = |transfer: &str, answer| RecordTransferStepRequest {
        transfer_id: transfer.into(),
        answer,
        ..Default::default()
    };
    let before = head(&client).await;
    // Nobody has answered the step.
    for outcome in [accepted(), refused()] {
        let error = client.command(record("t", answer(1, outcome))).await.unwrap_err();
        assert_eq!(error.reason(), "STEP_NOT_ANSWERED", "{error}");
    }
    assert_eq!(head(&client).await, before, "a forged answer was recorded");
    // The step is accepted; whoever says otherwise records that it was.
    let step = daybook_kernel::step_id("bank.transfer-t", 1, 0);
    let sent = client.command(send("t")).request_id(step).await.unwrap();
    client.command(record("t", answer(1, refused()))).await.unwrap();
    let log = everything(&client).await;
    let last = log.last().unwrap();
    assert_eq!(last.event_name, "TransferFunded");
    let Some(recorded_event::Payload::Event(event)) = &last.payload else { panic!("{last:?}") };
    let funded = TransferFunded::decode(event.value.as_slice()).unwrap();
    let Some(Outcome::Receipt(receipt)) = funded.answer.unwrap().outcome else { panic!("refused") };
    assert_eq!((receipt.position, &receipt.event_ids), (sent.position, &sent.event_ids));
}

#[test]
fn a_transfer_is_followed_from_the_command_line() {
    let bench = Bench::start();
    bench.json(&["account", "open", "Ada", "100", "--id", "ada"]);
    bench.json(&["account", "open", "Bob", "0", "--id", "bob"]);
    let watched = bench.run(&["transfer", "send", "ada", "bob", "12.34", "--id", "t1", "--watch"]);
    assert_eq!(watched.code, 0, "{}", watched.err);
    // Every change is shown, however fast they come.
    let way = ["TransferStarted", "TransferFunded", "TransferDelivered", "TransferCompleted"];
    assert_eq!(event_names(&watched.out), way);
    let bounced = bench.run(&["transfer", "send", "ada", "eve", "5", "--id", "t2", "--watch"]);
    assert_eq!(bounced.code, 3, "{}", bounced.out);
    assert!(bounced.err.contains("ACCOUNT_NOT_FOUND"), "{}", bounced.err);
    let way = ["TransferStarted", "TransferFunded", "TransferBounced", "TransferReturned"];
    assert_eq!(event_names(&bounced.out), way);
    assert!(bounced.out.contains("answer=\"refused: ACCOUNT_NOT_FOUND\""), "{}", bounced.out);
    assert_eq!(bench.run(&["transfer", "watch", "t1"]).code, 0);
    let shown = bench.json(&["transfer", "show", "t1"]);
    assert_eq!(shown["transfer"]["status"], json!("TRANSFER_STATUS_COMPLETED"));
    let listed = bench.json(&["transfer", "list", "--account", "bob"]);
    assert_eq!(listed["transfers"].as_array().map(Vec::len), Some(1));
    let sagas = bench.json(&["saga", "list", "--status", "compensated"]);
    assert_eq!(sagas["sagas"][0]["stream"], json!("bank.transfer-t2"));
    let saga: Value = bench.json(&["saga", "show", "bank.transfer-t1"]);
    let steps = saga["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    let event = steps[0]["answer"]["receipt"]["eventIds"][0].as_str().unwrap().to_owned();
    let linked = bench.run(&["events", "show", &event]);
    assert!(linked.out.contains("TransferSent"), "{}{}", linked.out, linked.err);
    assert_eq!(bench.json(&["saga", "retry", "bank.transfer-t1"]), json!({}));
    let late = bench.run(&["saga", "compensate", "bank.transfer-t1"]);
    assert!(late.code == 3 && late.err.contains("TOO_LATE_TO_CANCEL"), "{}", late.err);
    assert!(late.err.contains("transfer t1 is completed: "), "{}", late.err);
    let nonsense = bench.run(&["saga", "list", "--kind", "nonsense"]);
    assert_eq!(nonsense.code, 4, "{}{}", nonsense.out, nonsense.err);
    assert!(nonsense.err.contains("bank.transfer"), "{}", nonsense.err);
    let again = bench.run(&["saga", "watch", "bank.transfer-t2"]);
    assert_eq!((again.code, again.out), (3, bounced.out));
    for (words, says) in [
        (["saga", "show", "bank.transfer-none"], "SAGA_NOT_FOUND"),
        (["saga", "watch", "bank.transfer-none"], "SAGA_NOT_FOUND"),
        (["transfer", "watch", "none"], "error: there is no transfer none\n"),
        (["order", "watch", "none"], "error: there is no order none\n"),
    ] {
        let unknown = bench.run(&words);
        assert!(unknown.code == 3 && unknown.err.contains(says), "{}", unknown.err);
    }
}

/// The names of the events that a `watch` has shown.
fn event_names(shown: &str) -> Vec<&str> {
    shown.lines().map(|line| line.split_whitespace().nth(4).unwrap()).collect()
}

#[test]
fn whoever_watches_is_told_when_nothing_happens() {
    let bench = Bench::start_with(&["--sagas", "false"]);
    bench.json(&["account", "open", "Ada", "100", "--id", "ada"]);
    bench.json(&["transfer", "send", "ada", "bob", "12.34", "--id", "t"]);
    let mut watch = bench.command(&["transfer", "watch", "t"]).spawn().unwrap();
    let errors = BufReader::new(watch.stderr.take().unwrap());
    let (says, said) = mpsc::channel();
    std::thread::spawn(move || errors.lines().try_for_each(|line| says.send(line.unwrap())));
    let hint = "nothing has happened for 5 s; why: daybook saga show bank.transfer-t";
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), hint);
    watch.kill().unwrap();
    watch.wait().unwrap();
    // That command, and whoever watches the saga, learns that nobody works on it.
    for command in ["show", "watch"] {
        let outcome = bench.run(&["saga", command, "bank.transfer-t"]);
        assert_eq!(outcome.code, 5, "{}", outcome.err);
        assert!(outcome.err.starts_with("error: the saga service at "), "{}", outcome.err);
    }
}

#[tokio::test]
async fn a_transfer_is_given_up_before_its_saga_begins() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let sagas = beside();
    let client = site.client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(1)).transfer_id("t").await.unwrap();
    // Given up before it had a process to carry it: its money comes back.
    client.cancel_transfer("t").reason("a mistake").await.unwrap();
    let _saga = sagas.start("saga", &[]);
    let steering = sagas.client();
    let (saga, _) = saga_ended(&steering, "bank.transfer-t").await;
    assert_eq!(saga.status(), SagaStatus::Compensated);
    let open =
        |kind: &str| ListSagasRequest { open: true, kind: kind.into(), ..Default::default() };
    assert!(steering.sagas().list(open("bank.transfer")).await.unwrap().sagas.is_empty());
    let counted = || {
        let (_, metrics) = http_get(sagas.ports.http, "/metrics")?;
        let line = "daybook_sagas_compensated_total{kind=\"bank.transfer\"} 1";
        metrics.contains(line).then_some(())
    };
    eventually(PATIENCE, || async { counted() }).await;
}

#[tokio::test]
async fn a_saga_that_waits_for_the_command_service_is_seen_and_goes_on() {
    let site = Site::new();
    let mut command = site.start("command", &[]);
    let sagas = Site { ports: site.ports.beside(), ..Site::new() };
    let client = site.client();
    two_accounts(&client).await;
    let _saga = sagas.start("saga", &[]);
    let steering = sagas.client();
    let list = async |request| steering.sagas().list(request).await.unwrap().sagas;
    // Transfers come without end, so that some are under way whenever the command service goes.
    let sender = client.clone();
    let sending = tokio::spawn(async move {
        let transfer = |n: u32| {
            let transfer = sender.transfer("ada", "bob", usd(1)).transfer_id(format!("t{n}"));
            async { drop(transfer.await) }
        };
        futures::stream::iter(0..9_999).for_each_concurrent(16, transfer).await;
    });
    let many_end = || async {
        let completed = SagaStatus::Completed.into();
        let request = ListSagasRequest { status: completed, page_size: 20, ..Default::default() };
        (list(request).await.len() == 20).then_some(())
    };
    eventually(PATIENCE, many_end).await;
    command.kill();
    sending.abort();
    let open = ListSagasRequest { open: true, page_size: 500, ..Default::default() };
    let waits = || async {
        for saga in list(open.clone()).await {
            let stream = saga.stream;
            let request = GetSagaRequest { stream: stream.clone(), ..Default::default() };
            let shown = steering.sagas().get(request).await.unwrap();
            // The log is where the command service is, so that nothing else can be shown.
            assert!(shown.problem.contains("cannot be reached"), "{shown:?}");
            if let Some(step) = shown.steps.into_iter().find(|step| step.failed_attempts > 1) {
                return Some((stream, step));
            }
        }
        None
    };
    let (stream, step) = eventually(PATIENCE, waits).await;
    assert_eq!(step.answer, None);
    assert!(step.problem.starts_with("Unavailable"), "{}", step.problem);
    let _command = site.start("command", &[]);
    let none_waits = || async {
        let read = Some(ReadContext { min_position: head(&client).await, ..Default::default() });
        let open = ListSagasRequest { read, ..open.clone() };
        list(open).await.is_empty().then_some(())
    };
    eventually(PATIENCE, none_waits).await;
    let (saga, _) = saga_ended(&steering, &stream).await;
    assert_eq!(saga.status(), SagaStatus::Completed);
}

/// The value of a metric of transfers, as `/metrics` shows it.
fn metric(metrics: &str, name: &str) -> Option<f64> {
    let line = format!("{name}{{kind=\"bank.transfer\"}} ");
    metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok())
}

#[tokio::test]
async fn the_metrics_count_sagas_by_their_ends_and_tell_the_age_of_the_oldest() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let (sagas, others) = (beside(), beside());
    let client = site.client();
    two_accounts(&client).await;
    // Ada can pay one of the two, whichever comes first.
    for id in ["t1", "t3"] {
        client.transfer("ada", "bob", usd(6_000)).transfer_id(id).await.unwrap();
    }
    client.transfer("ada", "nobody", usd(1)).transfer_id("t5").await.unwrap();
    let of_two = |index| ["--saga-instances", "2", "--saga-instance", index];
    let _saga = sagas.start("saga", &of_two("0"));
    // This one is in the share of the other process, and open until that comes.
    client.transfer("ada", "bob", usd(1)).transfer_id("t2").await.unwrap();
    let shown = |completed: f64, open: f64| {
        let sagas = &sagas;
        async move {
            eventually(PATIENCE, || async {
                let (_, metrics) = http_get(sagas.ports.http, "/metrics")?;
                let value = |name| metric(&metrics, name);
                let counted = value("daybook_sagas_started_total")? == 4.0
                    && value("daybook_sagas_completed_total")? == completed
                    && value("daybook_sagas_compensated_total")? == 1.0
                    && value("daybook_sagas_failed_total")? == 1.0
                    && value("daybook_sagas_open")? == open;
                let age = value("daybook_saga_oldest_seconds")?;
                (counted && (age > 0.0) == (open > 0.0)).then_some(())
            })
            .await;
        }
    };
    shown(1.0, 1.0).await;
    let _other = others.start("saga", &of_two("1"));
    shown(2.0, 0.0).await;
}

// ---- Fulfilment -------------------------------------------------------------------------------

/// A shop with two products at 10.00, five pieces of each, and Ada with 100.00.
async fn shop(client: &Client) {
    client.register_user("ada", "ada@example.org").user_id("ada").await.unwrap();
    client.open_account("Ada").account_id("ada").initial_balance(usd(10_000)).await.unwrap();
    for product in ["ball", "cup"] {
        client.create_product(product, usd(1_000)).product_id(product).await.unwrap();
        client.receive_stock(product, 5).await.unwrap();
    }
}

/// Submits an order of so many balls and cups.
pub async fn order(client: &Client, id: &str, balls: u64, cups: u64, within_seconds: u32) {
    order_from(client, "ada", id, (balls, cups), within_seconds).await;
}

async fn order_from(
    client: &Client,
    account: &str,
    id: &str,
    (balls, cups): (u64, u64),
    within_seconds: u32,
) {
    client.create_order("ada").order_id(id).await.unwrap();
    client.add_item(id, "ball", balls).await.unwrap();
    client.add_item(id, "cup", cups).await.unwrap();
    client.submit_order(id, account).fulfil_within_seconds(within_seconds).await.unwrap();
}

async fn order_status(client: &Client, id: &str) -> OrderStatus {
    let query = client.get_order(id).min_position(head(client).await);
    query.await.unwrap().order.unwrap().status()
}

async fn reserved(client: &Client, product: &str) -> u64 {
    let query = client.get_stock(product).min_position(head(client).await);
    query.await.unwrap().stock.unwrap().reserved
}

#[tokio::test]
async fn an_order_is_fulfilled_or_everything_is_undone() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    orders_are_fulfilled_or_undone(&site.client()).await;
}

/// Opens the shop, and brings one order to its end; and others back, for want of the goods, the
/// money and the account.
pub async fn orders_are_fulfilled_or_undone(client: &Client) {
    shop(client).await;

    order(client, "good", 2, 1, 0).await;
    let (saga, steps) = saga_ended(client, "orders.fulfilment-good").await;
    assert_eq!((saga.status(), steps.len()), (SagaStatus::Completed, 5));
    assert_eq!(order_status(client, "good").await, OrderStatus::Paid);
    assert_eq!(balance(client, "ada").await, 7_000);
    assert_eq!((reserved(client, "ball").await, reserved(client, "cup").await), (2, 1));

    // What was sold is kept for its buyer until it leaves the house.
    let release = client.release_reservation("ball", "good", "1").await.unwrap_err();
    assert_eq!(release.reason(), "ORDER_IN_FULFILMENT");
    assert_eq!(reserved(client, "ball").await, 2);

    // There are four cups left, and three balls.
    order(client, "no-stock", 3, 5, 0).await;
    let (saga, steps) = saga_ended(client, "orders.fulfilment-no-stock").await;
    assert_eq!(saga.status(), SagaStatus::Compensated);
    assert_eq!(saga.refusal.unwrap().reason, "INSUFFICIENT_STOCK");
    let commands: Vec<_> =
        steps.iter().map(|step| step.command.rsplit('.').next().unwrap()).collect();
    let expected = [
        "ReserveStockRequest",
        "ReserveStockRequest",
        "ReleaseReservationRequest",
        "CancelOrderRequest",
    ];
    assert_eq!(commands, expected);

    client.withdraw("ada", usd(6_500)).await.unwrap();
    order(client, "no-money", 1, 1, 0).await;
    let (saga, _) = saga_ended(client, "orders.fulfilment-no-money").await;
    assert_eq!(saga.refusal.unwrap().reason, "INSUFFICIENT_FUNDS");
    order_from(client, "nobody", "no-account", (1, 1), 0).await;
    let (saga, _) = saga_ended(client, "orders.fulfilment-no-account").await;
    assert_eq!(saga.refusal.unwrap().reason, "ACCOUNT_NOT_FOUND");
    for order in ["no-stock", "no-money", "no-account"] {
        assert_eq!(order_status(client, order).await, OrderStatus::Cancelled);
    }
    assert_eq!(balance(client, "ada").await, 500);
    assert_eq!((reserved(client, "ball").await, reserved(client, "cup").await), (2, 1));
}

#[tokio::test]
async fn a_deadline_that_passes_while_the_saga_process_is_down_cancels_the_order() {
    let site = Site::new();
    let mut command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let (queries, sagas) = (beside(), beside());
    let _query = queries.start("query", &[]);
    let client = sagas.client();
    shop(&client).await;
    for id in ["begun", "never-begun"] {
        order(&client, id, 1, 1, 1).await;
    }
    order(&client, "charged", 1, 1, 4).await;
    // As processes do that die after their first command, and after the charge had its effect and
    // before that is recorded.
    for id in ["begun", "charged"] {
        let start = StartFulfilmentRequest { order_id: id.into(), ..Default::default() };
        client.command(start).await.unwrap();
    }
    for (version, (product, line)) in [("ball", "1"), ("cup", "2")].into_iter().enumerate() {
        let reserve = reserve(product, "charged", line, 1);
        take_step(&client, "charged", version as u64 + 1, reserve).await;
    }
    let charge = daybook_kernel::step_id("orders.fulfilment-charged", 3, 0);
    client.command(charge_ada("charged", 2_000)).request_id(&charge).await.unwrap();
    assert_eq!(balance(&client, "ada").await, 8_000);
    // The deadline is an event: it outlives the process that has recorded it, too.
    command.kill();
    sleep(Duration::from_secs(4)).await;
    let _command = site.start("command", &[]);
    let _saga = sagas.start("saga", &[]);
    for id in ["begun", "charged", "never-begun"] {
        let (saga, _) = saga_ended(&client, &format!("orders.fulfilment-{id}")).await;
        assert_eq!(saga.status(), SagaStatus::Compensated);
        assert_eq!(saga.refusal.unwrap().reason, "DEADLINE_PASSED");
        assert_eq!(order_status(&client, id).await, OrderStatus::Cancelled);
    }
    assert_eq!(
        effects_of_steps(&client, "orders.fulfilment-charged").await,
        [
            "StockReserved ball",
            "StockReserved cup",
            "PaymentSent ada",
            "PaymentRefunded ada",
            "ReservationReleased cup",
            "ReservationReleased ball",
            "OrderCancelled charged",
        ]
    );
    assert_eq!(balance(&client, "ada").await, 10_000);
    assert_eq!((reserved(&client, "ball").await, reserved(&client, "cup").await), (0, 0));
}

/// What the steps of a saga have recorded, step by step.
async fn effects_of_steps(client: &Client, stream: &str) -> Vec<String> {
    let log = everything(client).await;
    let (_, steps) = saga_ended(client, stream).await;
    let receipts = steps.into_iter().map(|step| match step.answer.unwrap().outcome {
        Some(Outcome::Receipt(receipt)) => receipt,
        other => panic!("{}: {other:?}", step.command),
    });
    let events = receipts.flat_map(|receipt| receipt.event_ids);
    let recorded = |id: String| log.iter().find(|event| event.event_id == id).unwrap();
    let effect = |event: &StoredEvent| format!("{} {}", event.event_name, event.aggregate_id);
    events.map(recorded).map(effect).collect()
}

#[tokio::test]
async fn a_fulfilment_believes_the_log_alone() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let client = site.strict_client();
    shop(&client).await;
    order(&client, "o", 9, 1, 0).await;
    let start = StartFulfilmentRequest { order_id: "o".into(), ..Default::default() };
    client.command(start).await.unwrap();
    let record = |outcome| RecordFulfilmentStepRequest {
        order_id: "o".into(),
        answer: answer(1, outcome),
        ..Default::default()
    };
    let before = head(&client).await;
    for outcome in [accepted(), refused()] {
        let error = client.command(record(outcome)).await.unwrap_err();
        assert_eq!(error.reason(), "STEP_NOT_ANSWERED", "{error}");
    }
    assert_eq!(head(&client).await, before, "a forged answer was recorded");
    // The step is refused, since there are five balls; whoever says otherwise records that it was.
    let reserve = reserve("ball", "o", "1", 9);
    let step = daybook_kernel::step_id("orders.fulfilment-o", 1, 0);
    let error = client.command(reserve).request_id(&step).await.unwrap_err();
    assert_eq!(error.reason(), "INSUFFICIENT_STOCK");
    client.command(record(accepted())).await.unwrap();
    let log = everything(&client).await;
    assert_eq!(log.last().unwrap().event_name, "FulfilmentRefused");
}

/// The step that keeps pieces for an item of an order.
fn reserve(product: &str, order: &str, line: &str, quantity: u64) -> ReserveStockRequest {
    ReserveStockRequest {
        product_id: product.into(),
        order_id: order.into(),
        line_id: line.into(),
        quantity,
        ..Default::default()
    }
}

/// The step that charges Ada for an order.
fn charge_ada(order: &str, amount_minor: i64) -> SendPaymentRequest {
    SendPaymentRequest {
        account_id: "ada".into(),
        order_id: order.into(),
        amount: Some(usd(amount_minor)),
        description: format!("order {order}"),
        ..Default::default()
    }
}

/// Takes a step of a fulfilment as its runtime does: sends the command, and has the answer recorded.
async fn take_step<C: CommandRequest>(client: &Client, order: &str, version: u64, command: C) {
    let step = daybook_kernel::step_id(&format!("orders.fulfilment-{order}"), version, 0);
    client.command(command).request_id(&step).await.unwrap();
    let answer = Some(StepAnswer { version, ..Default::default() });
    let record =
        RecordFulfilmentStepRequest { order_id: order.into(), answer, ..Default::default() };
    client.command(record).await.unwrap();
}

/// Without the saga process a fulfilment stands where its last step has left it: its money can be seen
/// and comes back for certain, and its goods are nobody else's.
#[tokio::test]
async fn nobody_interferes_with_an_order_in_fulfilment() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let (queries, sagas) = (beside(), beside());
    let _query = queries.start("query", &[]);
    let client = site.strict_client();
    shop(&client).await;
    client.create_order("ada").order_id("o").await.unwrap();
    client.add_item("o", "ball", 5).await.unwrap();
    client.submit_order("o", "ada").await.unwrap();
    let start = StartFulfilmentRequest { order_id: "o".into(), ..Default::default() };
    client.command(start).await.unwrap();
    let early = ExpireFulfilmentRequest { order_id: "o".into(), ..Default::default() };
    let error = client.command(early).await.unwrap_err();
    assert_eq!(error.reason(), "DEADLINE_NOT_PASSED");
    take_step(&client, "o", 1, reserve("ball", "o", "1", 5)).await;
    take_step(&client, "o", 2, charge_ada("o", 5_000)).await;

    let error = client.pay_order("o").payment_id("cash").await.unwrap_err();
    assert_eq!(error.reason(), "ORDER_IN_FULFILMENT");
    for error in [
        client.release_reservation("ball", "o", "1").await.unwrap_err(),
        client.ship_reservation("ball", "o", "1").await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "ORDER_IN_FULFILMENT");
    }
    client.withdraw("ada", usd(5_000)).await.unwrap();
    let error = client.close_account("ada").await.unwrap_err();
    assert_eq!(error.reason(), "PAYMENT_IN_FLIGHT");
    let query = client.get_account("ada").min_position(head(&client).await);
    let ada = query.await.unwrap().account.unwrap();
    let shown = [ada.balance, ada.pending_out].map(|money| minor(&money.unwrap()));
    assert_eq!(shown, [0, 5_000]);
    let refund = RefundPaymentRequest {
        account_id: "ada".into(),
        order_id: "o".into(),
        ..Default::default()
    };
    let error = client.command(refund).await.unwrap_err();
    assert_eq!(error.reason(), "PAYMENT_NOT_IN_FLIGHT");

    // Whoever cancels the order has it undone.
    client.cancel_order("o").await.unwrap();
    let _saga = sagas.start("saga", &[]);
    let steering = sagas.client();
    let (saga, _) = saga_ended(&steering, "orders.fulfilment-o").await;
    assert_eq!(saga.status(), SagaStatus::Compensated);
    assert_eq!(saga.refusal.unwrap().reason, "ORDER_CANCELLED");
    assert_eq!(balance(&client, "ada").await, 5_000);
    assert_eq!(reserved(&client, "ball").await, 0);
}

#[tokio::test]
async fn an_order_that_is_paid_by_other_means_first_is_left_alone() {
    let site = Site::new();
    let _command = site.start("command", &[]);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let (queries, sagas) = (beside(), beside());
    let _query = queries.start("query", &[]);
    let client = site.client();
    shop(&client).await;
    order(&client, "o", 1, 1, 0).await;
    client.pay_order("o").payment_id("cash").await.unwrap();
    let _saga = sagas.start("saga", &[]);
    let (saga, steps) = saga_ended(&sagas.client(), "orders.fulfilment-o").await;
    assert_eq!((saga.status(), steps.len()), (SagaStatus::Compensated, 0));
    assert_eq!(order_status(&client, "o").await, OrderStatus::Paid);
    assert_eq!(balance(&client, "ada").await, 10_000);
}

#[tokio::test]
async fn the_goods_of_an_order_leave_the_house_with_it() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    let client = site.client();
    shop(&client).await;
    order(&client, "o", 2, 1, 0).await;
    saga_ended(&client, "orders.fulfilment-o").await;
    let error = client.ship_reservation("ball", "o", "1").await.unwrap_err();
    assert_eq!(error.reason(), "ORDER_IN_FULFILMENT");
    client.ship_order("o").tracking_id("parcel").await.unwrap();
    let (saga, steps) = saga_ended(&client, "orders.shipment-o").await;
    assert_eq!((saga.status(), steps.len()), (SagaStatus::Completed, 2));
    for (product, left) in [("ball", 3), ("cup", 4)] {
        let query = client.get_stock(product).min_position(head(&client).await);
        let stock = query.await.unwrap().stock.unwrap();
        assert_eq!((stock.on_hand, stock.reserved), (left, 0), "{product}");
    }
    // There is no way back.
    let error = client.sagas().compensate("orders.shipment-o", "a mistake").await.unwrap_err();
    assert_eq!(error.reason(), "NOT_SUPPORTED");
}
