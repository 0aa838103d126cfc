//! The log is replaced by an older copy of itself, or by another one: rows of what it held before
//! are not served any more.

use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{
    PauseProjectionRequest, ProjectionState, ProjectionStatus, RebuildProjectionRequest,
    RebuildStage,
};
use daybook_contract::error::Error;
use daybook_query::runtime::Host;
use daybook_query::{BankQueries, ProjectionServer};
use tonic::Request;

use crate::bank::get;
use crate::fakes::*;
use crate::sums::*;

/// What replaces the log: an older copy, another log, or none. Each has or gets as many events as
/// there were, so that nothing but the events themselves tells.
fn replacements() -> Vec<(&'static str, Log, Inner)> {
    let log = || {
        let log = Log::new();
        log.append("ada", opened("Ada", usd(100)));
        log
    };
    let older = log();
    let copy = older.copy();
    older.append("ada", deposited(usd(1_000)));
    let other = log();
    other.append("ada", deposited(usd(1_000)));
    let removed = log();
    removed.append("ada", deposited(usd(1_000)));
    vec![
        ("an older copy", older, copy),
        ("another store", other, log().copy()),
        ("nothing", removed, Log::new().copy()),
    ]
}

/// Writes on until the log is longer than before.
fn write_on(log: &Log) {
    log.append("bob", opened("Bob", usd(1)));
    log.append("ada", deposited(usd(1)));
    log.append("bob", deposited(usd(1)));
}

async fn has_the_rows_of(host: &Host, dir: &tempfile::TempDir, log: &Log) {
    let status = until(host, "sums", |status| is_rebuilt(status, log)).await;
    assert_eq!((status.head_position, status.problem.as_str()), (log.position(), ""));
    assert_eq!(dump(dir, "sums", "sums").await, expected(log));
}

fn is_rebuilt(status: &ProjectionStatus, log: &Log) -> bool {
    let rebuilt = status.rebuild.as_ref().is_some_and(|r| r.stage() == RebuildStage::Done);
    rebuilt && status.state() == ProjectionState::Live && status.position == log.position()
}

#[tokio::test]
async fn a_log_that_was_replaced_while_nobody_looked_is_noticed_at_the_start() {
    for (what, log, copy) in replacements() {
        for writes_on in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
            until_position(&host, 2).await;
            host.shutdown().await;
            drop(host);
            let before = log.copy();
            log.restore(&copy);
            if writes_on {
                write_on(&log);
            }
            let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
            has_the_rows_of(&host, &dir, &log).await;
            write_on(&log);
            until_position(&host, log.position()).await;
            assert_eq!(dump(&dir, "sums", "sums").await, expected(&log), "{what}");
            host.shutdown().await;
            drop(host);
            // It is not rebuilt again.
            let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
            until_position(&host, log.position()).await;
            assert_eq!(handle(&host, "sums").status().rebuild, None, "{what}");
            host.shutdown().await;
            log.restore(&before);
        }
    }
}

#[tokio::test]
async fn a_log_that_is_replaced_in_the_middle_is_noticed() {
    for (what, log, copy) in replacements() {
        let dir = tempfile::tempdir().unwrap();
        let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
        until_position(&host, 2).await;
        log.set_down(true);
        log.restore(&copy);
        write_on(&log);
        log.set_down(false);
        has_the_rows_of(&host, &dir, &log).await;
        host.shutdown().await;
        drop(log);
        println!("{what}");
    }
}

#[tokio::test]
async fn a_reader_of_topics_notices_it_without_a_word_from_them() {
    for (what, log, copy) in replacements() {
        let (dir, topic) = (tempfile::tempdir().unwrap(), Topic::new(2));
        log.events().into_iter().for_each(|record| topic.write(0, record));
        topic.watermarks(2);
        let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
        until_position(&host, 2).await;
        topic.forget();
        log.restore(&copy);
        write_on(&log);
        let status = until(&host, "sums", |status| is_rebuilt(status, &log)).await;
        assert_eq!(status.problem, "", "{what}");
        assert_eq!(dump(&dir, "sums", "sums").await, expected(&log), "{what}");
        host.shutdown().await;
    }
}

#[tokio::test]
async fn no_query_is_answered_with_rows_of_before() {
    for (what, log, copy) in replacements() {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, &log);
        until_position(&host, 2).await;
        host.shutdown().await;
        drop(host);
        log.restore(&copy);
        write_on(&log);
        let host = run_bank(&dir, &log);
        let bank = BankQueries::new(host.handles()).unwrap();
        // From the first moment on: not yet, or right.
        let answer = loop {
            match bank.get_account(get("ada")).await {
                Ok(answer) => break Ok(answer.into_inner().account.unwrap().balance.unwrap()),
                Err(status) => match Error::from(&status) {
                    error if error.reason() == "PROJECTION_REBUILDING" => {}
                    error => break Err(error.reason().to_owned()),
                },
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        };
        match what {
            // Her account is not in this log: its deposit went into quarantine or made no row.
            "nothing" => assert_ne!(answer, Ok(usd(1_100))),
            _ => assert_eq!(answer, Ok(usd(101)), "{what}"),
        }
        host.shutdown().await;
    }
}

#[tokio::test]
async fn nothing_remembered_outlives_the_rows_it_was_read_from() {
    let log = Log::new();
    log.append("ada", opened("Ada", usd(100)));
    let copy = log.copy();
    log.append("ada", deposited(usd(1_000)));
    let dir = tempfile::tempdir().unwrap();
    let host = run_bank(&dir, &log);
    until_position(&host, 2).await;
    let bank = BankQueries::new(host.handles()).unwrap();
    let balance = async || {
        let answer = bank.get_account(get("ada")).await;
        answer.map(|answer| answer.into_inner().account.unwrap().balance.unwrap())
    };
    assert_eq!(balance().await.unwrap(), usd(1_100));
    log.restore(&copy);
    // Whenever the projection does not serve the old rows any more, they never come back.
    let mut seen = Vec::new();
    loop {
        match balance().await {
            Ok(amount) => seen.push(amount),
            Err(status) => assert_eq!(Error::from(&status).reason(), "PROJECTION_REBUILDING"),
        }
        if seen.last() == Some(&usd(100)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    seen.dedup();
    assert_eq!(seen, [usd(1_100), usd(100)]);
    host.shutdown().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_reached_proves_nothing() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("ada", opened("Ada", usd(100)));
    let copy = log.copy();
    log.append("ada", deposited(usd(1_000)));
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 2).await;
    host.shutdown().await;
    drop(host);
    log.set_down(true);
    log.restore(&copy);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    let status =
        until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    assert_eq!((status.position, status.rebuild), (2, None));
    log.set_down(false);
    has_the_rows_of(&host, &dir, &log).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_pause_and_a_rebuild_under_way_make_no_difference() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("ada", opened("Ada", usd(100)));
    let copy = log.copy();
    log.append("ada", deposited(usd(1_000)));
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 2).await;
    let service = ProjectionServer::new(&host);
    let pause = PauseProjectionRequest { name: "sums".to_owned() };
    service.pause_projection(Request::new(pause)).await.unwrap();
    log.set_down(true);
    let rebuild = RebuildProjectionRequest { name: "sums".to_owned() };
    service.rebuild_projection(Request::new(rebuild)).await.unwrap();
    log.restore(&copy);
    log.set_down(false);
    let status = until(&host, "sums", |status| {
        status.position == 1 && status.state() == ProjectionState::Paused
    })
    .await;
    assert_eq!(status.rebuild.unwrap().stage(), RebuildStage::Done);
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}
