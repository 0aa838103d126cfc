//! The disk fails while something is made durable. After that nobody knows what it holds (PostgreSQL's
//! "fsyncgate", 2018), so the process ends rather than lie.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daybook_contract::daybook::v1::{NewEvent, RawPayload, new_event};
use daybook_testing::{Daybook as Process, eventually};
use uuid::Uuid;

use crate::common::{PATIENCE, Site, everything, usd};

/// Builds the library that lets `fsync` fail.
fn fail_fsync(directory: &Path) -> PathBuf {
    let library = directory.join("fail_fsync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/crash/fail_fsync.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status();
    assert!(built.expect("cc builds SQLite too").success());
    library
}

/// A command service whose syncs fail while the file exists: all, or those of files with this end.
async fn start(site: &Site, broken: &Path, of: Option<&str>) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.env("LD_PRELOAD", fail_fsync(site.data.path())).env("FAIL_FSYNC", broken);
    command.envs(of.map(|end| ("FAIL_FSYNC_OF", end)));
    let process = Process::spawn_as(command, "command", site.data.path(), site.ports, &[]);
    let ready = || async { process.is_ready().then_some(()) };
    eventually(PATIENCE, ready).await;
    process
}

/// Waits until it has ended, which it does with a failure, and says why.
async fn ends_by_itself(process: &mut Process) {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it goes on: {}", process.log_lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(!status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_is_answered_with_no_receipt_and_ends_the_process() {
    a_sync_fails_after(1).await;
}

/// By then small groups are committed where they are decided, where the disk is quick.
#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_fails_after_many_that_were_quick() {
    a_sync_fails_after(50).await;
}

/// All syncs fail after so many deposits.
async fn a_sync_fails_after(deposits: usize) {
    let site = Site::new();
    let broken = site.data.path().join("broken");
    let mut process = start(&site, &broken, None).await;
    let strict = site.strict_client();
    strict.open_account("Ada").account_id("ada").await.unwrap();
    for _ in 0..deposits {
        strict.deposit("ada", usd(5)).await.unwrap();
    }

    std::fs::write(&broken, "").unwrap();
    let id = Uuid::now_v7().to_string();
    let error = strict.deposit("ada", usd(7)).request_id(&id).await.unwrap_err();
    assert!(error.is_retryable(), "the outcome is open: {error}");
    ends_by_itself(&mut process).await;
    let lines = process.log_lines();
    assert!(lines.contains("disk I/O error"), "it says why: {lines}");

    // On a disk that works, the request has one effect, whether it was written or not.
    std::fs::remove_file(&broken).unwrap();
    let _process = site.start("command", &[]);
    let client = site.client();
    client.deposit("ada", usd(7)).request_id(&id).await.unwrap();
    let log = everything(&client).await;
    assert_eq!(log.len(), 2 + deposits, "{log:?}");
    let balance = 5 * deposits as i64 + 7;
    let refused = client.withdraw("ada", usd(balance + 1)).await.unwrap_err();
    let balance = format!("{}.{:02} USD", balance / 100, balance % 100);
    assert_eq!(refused.metadata()["balance"], balance);
}

/// What is in the WAL is moved into the main file beside the thread that writes: when that file
/// cannot be synced, the WAL must stay as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_main_file_that_cannot_be_synced_ends_the_process_and_loses_nothing() {
    the_main_file_cannot_be_synced(200_000).await;
}

/// Groups of such events are small, and committed where they are decided while the disk is quick.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_beside_groups_that_are_small() {
    the_main_file_cannot_be_synced(100_000).await;
}

/// The main file cannot be synced while events of so many bytes are appended.
async fn the_main_file_cannot_be_synced(bytes: usize) {
    let site = Site::new();
    let broken = site.data.path().join("broken");
    let mut process = start(&site, &broken, Some("/log.db")).await;
    let strict = site.strict_client();
    std::fs::write(&broken, "").unwrap();
    let raw = RawPayload { content_type: "text/plain".into(), data: vec![b' '; bytes].into() };
    let payload = Some(new_event::Payload::Raw(raw));
    let event = NewEvent { event_name: "Noted".into(), event_version: 1, payload };
    let mut noted = 0;
    // 16 MB are moved at once.
    while strict.events().append("notes-1", vec![event.clone()]).await.is_ok() {
        noted += 1;
        assert!(noted < 1000, "it goes on: {}", process.log_lines());
    }
    assert!(noted * bytes >= 14_000_000, "the WAL alone could be written: {noted}");
    ends_by_itself(&mut process).await;
    let lines = process.log_lines();
    let why = "the WAL could not be moved into the main file; the log stops";
    assert!(lines.contains(why), "it says why: {lines}");

    std::fs::remove_file(&broken).unwrap();
    let _process = site.start("command", &[]);
    assert_eq!(everything(&site.client()).await.len(), noted, "those that were answered");
}
