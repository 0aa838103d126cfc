//! Somebody writes to the topic what nobody understands.

use std::process::Command;
use std::time::Duration;

use daybook_client::Daybook as Client;
use daybook_contract::bank::v1::AccountOpened;
use daybook_contract::daybook::v1::{
    ListQuarantinedEventsRequest, QuarantinedEvent, RecordedEvent, SagaStatus, recorded_event,
};
use daybook_testing::{Broker, eventually, http_get, unique};
use prost::Message;
use prost_types::{Any, Timestamp};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;
use tonic::Code;

use crate::common::{PATIENCE, Site, everything, head, over_kafka, usd};
use crate::fulfilment::get;
use crate::gate::Gate;
use crate::ledger::Ledger;

/// How long a query may wait for a position here: a guard against hanging, and the most there is.
const WAIT: Duration = Duration::from_secs(30);

const PROJECTIONS: [&str; 3] = ["account_balance", "account_transactions", "daily_summary"];

/// A record of a stream that the log does not know.
fn foreign(version: u64, name: &str, message: &AccountOpened) -> Vec<u8> {
    forged(("bank.account", "mallory"), version, name, message.encode_to_vec())
}

/// A record that the log does not know.
fn forged((kind, id): (&str, &str), version: u64, name: &str, value: Vec<u8>) -> Vec<u8> {
    let package = kind.split('.').next().unwrap();
    let type_url = format!("type.googleapis.com/{package}.v1.{name}");
    RecordedEvent {
        event_id: uuid::Uuid::now_v7().to_string(),
        aggregate_type: kind.into(),
        aggregate_id: id.into(),
        version,
        position: version,
        event_name: name.into(),
        event_version: 1,
        recorded_time: Some(Timestamp { seconds: 1_795_000_000, nanos: 0 }),
        payload: Some(recorded_event::Payload::Event(Any { type_url, value })),
        ..Default::default()
    }
    .encode_to_vec()
}

/// Writes a record in the name of a store: readers take no event without one.
async fn write(
    producer: &FutureProducer,
    (topic, partition): (&str, i32),
    payload: &[u8],
    store_id: &str,
) {
    let header = Header { key: "daybook_store_id", value: Some(store_id) };
    let record = FutureRecord::<str, [u8]>::to(topic)
        .partition(partition)
        .payload(payload)
        .headers(OwnedHeaders::new().insert(header));
    producer.send(record, PATIENCE).await.unwrap();
}

async fn quarantine(client: &Client, name: &str) -> Vec<QuarantinedEvent> {
    let request = ListQuarantinedEventsRequest { name: name.into(), ..Default::default() };
    client.projections().quarantine(request).await.unwrap().events
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_on_the_topic_is_set_aside_and_everybody_else_goes_on() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("poison"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let _command = site.start("command", &flags);
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let mut query = reader.start("query", &flags);
    let client = site.client();
    let mut last = Default::default();
    for n in 0..24 {
        let open = client.open_account("Ada").account_id(format!("a{n}"));
        last = open.initial_balance(usd(10)).await.unwrap();
    }
    client.get_account("a0").after(&last).max_wait(WAIT).await.unwrap();

    let topic = format!("{prefix}bank-events");
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let opened = AccountOpened {
        owner_name: "Mallory".into(),
        initial_balance: Some(usd(66)),
        opened_time: None,
    };
    // Garbage, nothing at all, an event that nobody knows with one that waits behind it, and one
    // whose earlier events nobody has.
    let store = client.events().info().await.unwrap().store_id;
    let unknown = foreign(1, "Teleported", &AccountOpened::default());
    write(&producer, (&topic, 0), &[0xff; 40], &store).await;
    write(&producer, (&topic, 1), b"", &store).await;
    write(&producer, (&topic, 2), &unknown, &store).await;
    write(&producer, (&topic, 2), &foreign(2, "AccountOpened", &opened), &store).await;
    write(&producer, (&topic, 1), &foreign(9, "AccountOpened", &opened), &store).await;

    for n in 0..24 {
        last = client.deposit(format!("a{n}"), usd(1)).await.unwrap();
    }
    for n in 0..24 {
        let query = client.get_account(format!("a{n}")).after(&last).max_wait(WAIT);
        assert_eq!(query.await.unwrap().account.unwrap().balance, Some(usd(11)));
    }
    let log = everything(&client).await;
    Ledger::of(&log).is_projected_by(&client).await;
    for name in PROJECTIONS {
        let all = || async {
            let found = quarantine(&client, name).await;
            (found.len() == 5).then_some(found)
        };
        let found = eventually(PATIENCE, all).await;
        let no_events: Vec<&str> = found
            .iter()
            .filter(|event| event.stream.is_empty())
            .map(|event| event.source.as_str())
            .collect();
        assert_eq!(no_events.len(), 3, "{found:#?}");
        assert!(no_events.iter().all(|source| source.starts_with(&topic)), "{no_events:?}");
        let mallory: Vec<u64> = found
            .iter()
            .filter(|event| event.stream == "bank.account-mallory")
            .map(|event| event.version)
            .collect();
        assert_eq!(mallory, [1, 2]);
        assert!(found.iter().all(|event| !event.problem.is_empty()));
        let status = client.projections().get(name).await.unwrap();
        assert_eq!(status.quarantined_events, 5);
    }
    let (code, ready) = http_get(reader.ports.http, "/readyz").unwrap();
    assert!(code == 200 && ready.contains("quarantine"), "{code}: {ready}");

    // It is all still there after a crash, and no record comes twice.
    query.kill();
    let _query = reader.start("query", &flags);
    mend(&client).await;
    Ledger::of(&log).projections_settle(&client).await;
}

/// Tries again, which does not help, then gives up one after the other.
async fn mend(client: &Client) {
    let projections = client.projections();
    for name in PROJECTIONS {
        let found = quarantine(client, name).await;
        assert_eq!(found.len(), 5, "{found:#?}");
        let retried = projections.retry(name, "bank.account-mallory").await.unwrap();
        assert_eq!((retried.applied_events, retried.remaining_events), (0, 2));
        let of = |version| {
            let mine = |event: &&QuarantinedEvent| {
                event.stream == "bank.account-mallory" && event.version == version
            };
            found.iter().find(mine).unwrap().quarantine_id
        };
        // Not the one that waits.
        let early = projections.skip(name, of(2)).await.unwrap_err();
        assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
        let skipped = projections.skip(name, of(1)).await.unwrap();
        assert_eq!((skipped.applied_events, skipped.remaining_events), (1, 0), "{name}");
        for event in found.iter().filter(|event| event.stream.is_empty()) {
            projections.skip(name, event.quarantine_id).await.unwrap();
        }
        assert_eq!(quarantine(client, name).await, []);
        assert_eq!(projections.get(name).await.unwrap().quarantined_events, 0);
        let gone = projections.skip(name, of(1)).await.unwrap_err();
        assert_eq!((gone.code(), gone.reason()), (Code::NotFound, "QUARANTINED_EVENT_NOT_FOUND"));
    }
    // What waited behind the poison has been applied.
    let mallory = client.get_account("mallory").await.unwrap().account.unwrap();
    assert_eq!((mallory.balance, mallory.version), (Some(usd(66)), 2));
    // A rebuild reads the log, which knows nothing of it.
    projections.rebuild("account_balance").await.unwrap();
    let gone = || async { client.get_account("mallory").await.err() };
    assert_eq!(eventually(PATIENCE, gone).await.code(), Code::NotFound);
}

/// Runs a client command: its exit code, and all that it said.
pub fn daybook(site: &Site, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(args)
        .args(["--timeout", "120s"])
        .env("DAYBOOK_COMMAND_URL", site.ports.command_url())
        .env("DAYBOOK_QUERY_URL", site.ports.query_url())
        .env("DAYBOOK_SAGA_URL", site.ports.saga_url())
        .env("DAYBOOK_HTTP_URL", site.ports.http_url())
        .env("DAYBOOK_WAIT", "30s")
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

/// What is in quarantine: the id, the stream and the version of each.
fn listed(site: &Site) -> Vec<(String, String, String)> {
    let (code, text) =
        daybook(site, &["projection", "quarantine", "account_balance", "-o", "json"]);
    assert_eq!(code, 0, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = answer["events"].as_array().cloned().unwrap_or_default();
    let row = |e: &Value| (text(&e["quarantineId"]), text(&e["stream"]), text(&e["version"]));
    events.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_found_and_given_up_on_the_command_line() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("poison-cli"));
    let site = Site::new();
    let process = site.start("dev", &over_kafka(broker, &prefix));
    let client = site.client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    // The log must have the positions that the poison names: else it is taken for another log.
    let opened = client.open_account("Bob").account_id("bob").await.unwrap();
    client.get_account("bob").after(&opened).max_wait(WAIT).await.unwrap();
    let topic = format!("{prefix}bank-events");
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let store = client.events().info().await.unwrap().store_id;
    let unknown = foreign(1, "Teleported", &AccountOpened::default());
    let initial_balance = Some(usd(66));
    let known = AccountOpened { owner_name: "Mallory".into(), initial_balance, opened_time: None };
    write(&producer, (&topic, 0), &[0xff; 40], &store).await;
    write(&producer, (&topic, 2), &unknown, &store).await;
    write(&producer, (&topic, 2), &foreign(2, "AccountOpened", &known), &store).await;
    let three =
        || async { (quarantine(&client, "account_balance").await.len() == 3).then_some(()) };
    eventually(PATIENCE, three).await;

    let says = |args: &[&str], code: i32, parts: &[&str]| {
        let (actual, text) = daybook(&site, args);
        assert_eq!(actual, code, "{args:?}: {text}\n{}", process.log_lines());
        assert!(parts.iter().all(|part| text.contains(part)), "{args:?}: {text}");
        text
    };
    // The doctor finds it, and each command says what the next one is.
    says(&["doctor"], 1, &["3 in quarantine", "daybook projection quarantine account_balance"]);
    let list = ["projection", "quarantine", "account_balance"];
    let origin = format!("{topic}/0@");
    let waits = "waits for version 1 of its stream";
    let next = "daybook projection skip account_balance ID";
    says(&list, 0, &["Teleported", "bank.account-mallory", &origin, waits, next]);
    let page = says(&[&list[..], &["--page-size", "2"]].concat(), 0, &["--page-token"]);
    let token = page.split("--page-token ").nth(1).unwrap().split_whitespace().next().unwrap();
    let rest = says(&[&list[..], &["--page-token", token]].concat(), 0, &[]);
    assert!(!rest.contains("--page-token"), "{rest}");

    let retry = ["projection", "retry", "account_balance", "bank.account-mallory"];
    says(&retry, 0, &["applied              0", "still in quarantine  2"]);
    let found = listed(&site);
    let id_of = |version: &str| {
        found.iter().find(|(_, _, found)| found == version).map(|(id, _, _)| id.as_str()).unwrap()
    };
    let skip = |id| ["projection", "skip", "account_balance", id];
    says(&skip(id_of("2")), 3, &["PROJECTION_STATE"]);
    says(&skip(id_of("1")), 0, &["applied              1", "still in quarantine  0"]);
    says(&skip(id_of("1")), 3, &["QUARANTINED_EVENT_NOT_FOUND"]);
    let (evidence, _, _) = found.iter().find(|(_, stream, _)| stream.is_empty()).unwrap();
    says(&skip(evidence), 0, &["applied              0", "still in quarantine  0"]);
    says(&list, 0, &["nothing is in quarantine"]);
    says(&retry, 3, &["QUARANTINED_EVENT_NOT_FOUND"]);
    // What waited behind the poison is there.
    says(&["account", "show", "mallory", "--stale"], 0, &["Mallory", "0.66 USD"]);
}

/// The process that runs the sagas has a projection of its own, and it is steered in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn poison_among_the_sagas_is_given_up_and_a_rebuild_mends_the_rest() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("poison-sagas"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let _command = site.start("command", &flags);
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    // Nothing real comes before what is forged.
    let gate = Gate::before(site.ports).await;
    gate.close("bank.v1.SendTransferRequest");
    let (queries, sagas) = (beside(), Site { ports: gate.ports, ..Site::new() });
    let _query = queries.start("query", &flags);
    let client = sagas.client();
    client.open_account("Ada").account_id("ada").initial_balance(usd(100)).await.unwrap();
    client.open_account("Bob").account_id("bob").await.unwrap();
    client.transfer("ada", "bob", usd(1)).transfer_id("stuck").await.unwrap();
    // What nobody knows: of a transfer that there never was, with something that waits behind it,
    // and in the place of the next event of one that there is.
    let topic = format!("{prefix}bank-events");
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let store = client.events().info().await.unwrap().store_id;
    for (id, version, name) in
        [("mallory", 1, "Teleported"), ("mallory", 2, "TransferCompleted"), ("stuck", 2, "Lost")]
    {
        let record = forged(("bank.transfer", id), version, name, Vec::new());
        write(&producer, (&topic, 0), &record, &store).await;
    }
    let _saga = sagas.start("saga", &flags);
    let three = || async { (quarantine(&client, "sagas").await.len() == 3).then_some(()) };
    eventually(PATIENCE, three).await;
    gate.open();

    // All others go on.
    client.transfer("ada", "bob", usd(2)).transfer_id("other").await.unwrap();
    completed(&client, "other").await;
    let says = |args: &[&str], parts: &[&str]| {
        let (code, text) = daybook(&sagas, args);
        assert_eq!(code, 0, "{args:?}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{args:?}: {text}");
        text
    };
    says(&["projection", "list"], &["sagas", "account_balance"]);
    says(&["projection", "show", "sagas"], &["quarantined", "3"]);
    says(
        &["projection", "quarantine", "sagas"],
        &["Teleported", "TransferCompleted", "waits for", "Lost"],
    );
    let retry = |stream| ["projection", "retry", "sagas", stream];
    says(&retry("bank.transfer-mallory"), &["applied              0", "still in quarantine  2"]);
    for paused in ["pause", "resume"] {
        says(&["projection", paused, "sagas"], &["sagas"]);
    }
    for event in quarantine(&client, "sagas").await {
        let skip = ["projection", "skip", "sagas", &event.quarantine_id.to_string()];
        match (event.stream.as_str(), event.version) {
            // What waits behind another one goes with it; the saga itself has gone on meanwhile.
            ("bank.transfer-mallory", 2) | ("bank.transfer-stuck", 3..) => {}
            ("bank.transfer-mallory", _) => {
                says(&skip, &["applied              1", "still in quarantine  0"]);
            }
            _ => {
                says(&skip, &["still in quarantine  0"]);
            }
        }
    }
    says(&["projection", "quarantine", "sagas"], &["nothing is in quarantine"]);
    // What was given up in place of the real event is not there; in the log it is.
    let rebuilt = says(&["projection", "rebuild", "sagas"], &["done"]);
    assert!(rebuilt.contains("added rows"), "{rebuilt}");
    completed(&client, "stuck").await;
    let ada = client.get_account("ada").min_position(head(&client).await).await.unwrap();
    assert_eq!(ada.account.unwrap().balance, Some(usd(97)));
    let (code, ready) = http_get(sagas.ports.http, "/readyz").unwrap();
    assert!(code == 200 && !ready.contains("quarantine"), "{code}: {ready}");
}

/// Waits until a transfer is completed.
async fn completed(client: &Client, id: &str) {
    let completed = || async {
        let (saga, _) = get(client, &format!("bank.transfer-{id}")).await;
        (saga.status() == SagaStatus::Completed).then_some(())
    };
    eventually(PATIENCE, completed).await;
}
