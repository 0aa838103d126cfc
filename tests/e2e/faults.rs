//! A record that was changed on the disk, and a disk that is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use daybook_client::Daybook as Client;
use daybook_contract::daybook::v1::ReadAllRequest;
use daybook_contract::daybook::v1::ReadStreamRequest;
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tonic::Code;
use uuid::Uuid;

use crate::common::{PATIENCE, Site, everything, head, usd};

/// Does to the file of the log what nobody should.
async fn tamper(data: &Path, sql: &str) {
    let file = data.join("log").join("log.db");
    let mut connection: SqliteConnection =
        SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    let changed = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
    assert!(changed.unwrap().rows_affected() > 0, "{sql} changed nothing");
    connection.close().await.unwrap();
}

async fn two_accounts(client: &Client) {
    for account in ["ada", "bob"] {
        client.open_account("Somebody").account_id(account).await.unwrap();
        client.deposit(account, usd(500)).await.unwrap();
    }
}

async fn stream_length(client: &Client, stream: &str) -> Result<usize, daybook_client::Error> {
    let read = ReadStreamRequest { stream: stream.into(), ..Default::default() };
    let events: Vec<_> = client.events().read_stream(read).try_collect().await?;
    Ok(events.len())
}

/// What `daybook doctor` says of a directory: its exit code and its findings.
fn doctor(data: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(["doctor", "-o", "json", "--data"])
        .arg(data)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// A byte in the middle of the record at position 2, ada's deposit.
const CHANGE_A_BYTE: &str = "UPDATE events SET record = CAST(substr(record, 1, 60) || x'00' \
                             || substr(record, 62) AS BLOB) WHERE position = 2";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_record_is_data_loss_for_who_reads_it_and_for_nobody_else() {
    let site = Site::new();
    let process = site.start("command", &[]);
    two_accounts(&site.client()).await;
    assert_eq!(doctor(site.data.path()).0, Some(0));
    assert!(process.terminate().success());
    // Started anew, so that nothing is in memory.
    let process = site.start("command", &[]);
    let client = site.strict_client();
    tamper(site.data.path(), CHANGE_A_BYTE).await;

    let log = client.events();
    let lost = [
        log.get_at(2).await.map(|_| ()).unwrap_err(),
        stream_length(&client, "bank.account-ada").await.map(|_| ()).unwrap_err(),
        client.deposit("ada", usd(1)).await.map(|_| ()).unwrap_err(),
        log.read_all(ReadAllRequest::default()).try_collect::<Vec<_>>().await.unwrap_err(),
        log.subscribe(1, None).try_collect::<Vec<_>>().await.unwrap_err(),
    ];
    for error in lost {
        assert_eq!((error.code(), error.reason()), (Code::DataLoss, "DAMAGED_RECORD"), "{error}");
        assert_eq!(error.metadata()["position"], "2");
    }
    log.get_at(1).await.unwrap();
    assert_eq!(stream_length(&client, "bank.account-bob").await.unwrap(), 2);
    client.deposit("bob", usd(1)).await.unwrap();
    client.open_account("Cyd").await.unwrap();

    let (code, findings) = doctor(site.data.path());
    assert!(code.is_some_and(|code| code != 0), "{findings}");
    assert!(findings.contains("position 2, stream bank.account-ada"), "{findings}");
    assert!(process.terminate().success());
    assert_eq!(doctor(site.data.path()).0, code);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_record_is_noticed_by_every_reader_that_passes_it() {
    let site = Site::new();
    let process = site.start("command", &[]);
    let client = site.client();
    two_accounts(&client).await;
    client.deposit("ada", usd(1)).await.unwrap();
    assert!(process.terminate().success());
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    tamper(site.data.path(), "DELETE FROM events WHERE position = 2").await;
    let log = client.events();
    let lost = [
        stream_length(&client, "bank.account-ada").await.map(|_| ()).unwrap_err(),
        log.read_all(ReadAllRequest::default()).try_collect::<Vec<_>>().await.unwrap_err(),
        log.subscribe(0, None).try_collect::<Vec<_>>().await.unwrap_err(),
        client.deposit("ada", usd(1)).await.map(|_| ()).unwrap_err(),
    ];
    for error in lost {
        assert_eq!((error.code(), error.reason()), (Code::DataLoss, "DAMAGED_RECORD"), "{error}");
    }
    assert_eq!(stream_length(&client, "bank.account-bob").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_damaged_end_is_not_opened() {
    let site = Site::new();
    for (sql, part) in [
        (CHANGE_A_BYTE, "leaf hash"),
        ("UPDATE events SET position = 9 WHERE position = 4", "position"),
        ("DELETE FROM events WHERE position < 4", "missing"),
    ] {
        let site = Site { ports: site.ports, ..Site::new() };
        let process = site.start("command", &[]);
        two_accounts(&site.client()).await;
        assert!(process.terminate().success());
        tamper(site.data.path(), sql).await;
        let mut process = site.spawn("command", &[]);
        assert!(!process.wait().success(), "opened after {sql}");
        assert!(process.log_lines().contains(part), "{}", process.log_lines());
    }
}

/// The size of the log now, in pages.
fn pages(data: &Path) -> u64 {
    let file: PathBuf = data.join("log").join("log.db");
    std::fs::metadata(file).unwrap().len() / 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_commands_answers_queries_and_harms_nothing() {
    let site = Site::new();
    let process = site.start("command", &[]);
    site.client().open_account("Ada").account_id("ada").await.unwrap();
    assert!(process.terminate().success());

    let room = (pages(site.data.path()) + 60).to_string();
    let process = site.start("dev", &["--max-log-pages", &room]);
    let client = site.strict_client();
    let text = "x".repeat(500);
    let deposit = |id: &str| client.deposit("ada", usd(1)).description(&text).request_id(id);
    let mut receipts = Vec::new();
    let (failed, full) = loop {
        let id = Uuid::now_v7().to_string();
        match deposit(&id).await {
            Ok(receipt) => receipts.push((id, receipt)),
            Err(error) => break (id, error),
        }
        assert!(receipts.len() < 10_000, "the limit does not hold");
    };
    assert_eq!((full.code(), full.reason()), (Code::ResourceExhausted, "DISK_FULL"), "{full}");
    assert!(receipts.len() > 10);
    // It stays full, and nothing of a failed write is left.
    for _ in 0..5 {
        assert_eq!(deposit(&failed).await.unwrap_err().reason(), "DISK_FULL");
    }
    let recorded = 1 + receipts.len() as u64;
    assert_eq!(head(&client).await, recorded);
    assert_eq!(everything(&client).await.len() as u64, recorded);
    // Nor is anything of it left in memory.
    let stale = client.deposit("ada", usd(1)).expected_version(u64::MAX).await.unwrap_err();
    assert_eq!(stale.metadata()["actual_version"], recorded.to_string());
    let (_, last) = receipts.last().unwrap();
    let answer = client.get_account("ada").after(last).max_wait(PATIENCE / 3).await.unwrap();
    assert_eq!(answer.account.unwrap().version, recorded);
    // What was accepted before is answered again without any room.
    assert!(deposit(&receipts[0].0).await.unwrap().replayed);
    assert!(process.terminate().success());

    let _process = site.start("dev", &[]);
    let client = site.strict_client();
    let deposit = |id: &str| client.deposit("ada", usd(1)).description(&text).request_id(id);
    assert_eq!(head(&client).await, recorded);
    let receipt = deposit(&failed).await.unwrap();
    assert_eq!((receipt.position, receipt.replayed), (recorded + 1, false));
    for (id, first) in &receipts {
        let again = deposit(id).await.unwrap();
        assert!(again.replayed);
        assert_eq!((again.position, &again.event_ids), (first.position, &first.event_ids));
    }
    assert_eq!(doctor(site.data.path()).0, Some(0));
}
