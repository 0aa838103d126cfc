//! How sagas begin: with their first event, before there is a row of them; and what keeps them from
//! going on.

use std::time::Duration;

use daybook_contract::bank::v1::RecordTransferStepRequest;
use daybook_contract::daybook::v1::{EventMetadata, Failure, GetSagaRequest};
use daybook_kernel::StreamName;
use daybook_log::{
    Claim, Config, Decider, EventLog, Facts, Folder, NewEvent, Payload, RequestKey, State,
    Submission,
};
use daybook_testing::{Broker, eventually, unique};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::time::sleep;

use crate::common::{PATIENCE, Site, everything, head, over_kafka, usd};
use crate::sagas::{accepted, answer, saga_ended, two_accounts};

/// The rows of the sagas can be read, and nothing can be written to them until the end of this.
async fn standing_still(site: &Site) -> SqliteConnection {
    let rows = site.data.path().join("saga").join("sagas.g1.db");
    let options = SqliteConnectOptions::new().filename(rows).busy_timeout(PATIENCE);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn a_saga_begins_before_its_row_is_there() {
    begins_before_its_row_is_there(&[]).await;
}

#[tokio::test]
async fn a_saga_begins_before_its_row_is_there_over_kafka() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("begins"));
    begins_before_its_row_is_there(&over_kafka(broker, &prefix)).await;
}

async fn begins_before_its_row_is_there(more: &[&str]) {
    let site = Site::new();
    let _server = site.start("dev", more);
    let client = site.client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(1)).transfer_id("first").await.unwrap();
    saga_ended(&client, "bank.transfer-first").await;
    let mut rows = standing_still(&site).await;
    client.transfer("ada", "bob", usd(1)).transfer_id("second").await.unwrap();
    let completed = || async {
        let log = everything(&client).await;
        let mut ends = log.iter().filter(|event| event.event_name == "TransferCompleted");
        ends.any(|event| event.aggregate_id == "second").then_some(())
    };
    eventually(PATIENCE, completed).await;
    let shown: Vec<String> =
        sqlx::query_scalar("SELECT saga_id FROM sagas").fetch_all(&mut rows).await.unwrap();
    assert_eq!(shown, ["first"]);
    rows.close().await.unwrap();
    saga_ended(&client, "bank.transfer-second").await;
}

/// As long as its rows are paused, no saga begins; those that have begun go on.
#[tokio::test]
async fn no_saga_begins_while_its_projection_is_paused() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    let client = site.client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(1)).transfer_id("first").await.unwrap();
    saga_ended(&client, "bank.transfer-first").await;
    client.projections().pause("sagas").await.unwrap();
    let started = client.transfer("ada", "bob", usd(1)).transfer_id("second").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(head(&client).await, started.position);
    client.projections().resume("sagas").await.unwrap();
    saga_ended(&client, "bank.transfer-second").await;
}

/// An event beside all rules, as another version of the program may have recorded it.
struct Beside;

impl Decider for Beside {
    fn folder(&self) -> Option<&'static dyn Folder> {
        None
    }

    fn decide(&mut self, _: Facts<'_>) -> Result<Vec<NewEvent>, Failure> {
        let payload = Payload::Raw { content_type: "text/plain".into(), data: "".into() };
        Ok(vec![NewEvent { name: "Noted".into(), version: 1, payload, claims: Vec::new() }])
    }

    fn taken(&self, _: &Claim) -> Failure {
        unreachable!("nothing is claimed")
    }

    fn evolve(&mut self, _: &mut State) {}
}

/// When a new program makes another command of an event whose step was sent already, the answer is
/// not taken for one to that command.
#[tokio::test]
async fn a_step_that_was_another_command_before_waits_for_a_person() {
    let site = Site::new();
    let command = site.start("command", &[]);
    let client = site.client();
    two_accounts(&client).await;
    client.transfer("ada", "bob", usd(1_000)).transfer_id("t").await.unwrap();
    assert!(command.terminate().success());
    let log = EventLog::open(Config::new(site.data.path().join("log"))).await.unwrap();
    let id = daybook_kernel::step_id("bank.transfer-t", 1, 0).parse().unwrap();
    let before = log.submit(Submission {
        stream: StreamName::new("notes", "1").unwrap(),
        reads: Vec::new(),
        expected_version: None,
        request: Some(RequestKey { id, fingerprint: [7; 16] }),
        answer_of: None,
        metadata: EventMetadata { request_id: id.to_string(), ..EventMetadata::default() },
        decider: Box::new(Beside),
    });
    let before = before.await.unwrap().position;
    log.close().await;
    let _command = site.start("command", &[]);
    let sagas = Site { ports: site.ports.beside(), ..Site::new() };
    let _saga = sagas.start("saga", &[]);
    let waits = || async {
        let query = GetSagaRequest { stream: "bank.transfer-t".into(), ..Default::default() };
        let step = sagas.client().sagas().get(query).await.ok()?.steps.pop()?;
        step.problem.contains("was used before").then_some(step)
    };
    let step = eventually(PATIENCE, waits).await;
    assert!(step.answer.is_none() && step.failed_attempts > 0, "{step:?}");
    let record = RecordTransferStepRequest {
        transfer_id: "t".into(),
        answer: answer(1, accepted()),
        ..Default::default()
    };
    let error = client.command(record).await.unwrap_err();
    assert_eq!(error.reason(), "STEP_NOT_ANSWERED", "{error}");
    assert_eq!(head(&client).await, before);
}
