//! A projection that nobody asks rests; whoever asks does not notice. The rests here are of an hour:
//! what does not end them takes longer than a test waits.

use std::sync::Arc;
use std::time::Duration;

use daybook_bus::SharedSourceFactory;
use daybook_bus::source::SourceFactory;
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{PauseProjectionRequest, ProjectionState};
use daybook_query::ProjectionServer;
use daybook_query::runtime::{Handle, Host, Settings};
use tonic::Request;

use crate::fakes::*;
use crate::sums::*;

/// How long a position must stand still to be that of a projection that rests.
const STANDS_STILL: Duration = Duration::from_millis(300);

fn run_resting(dir: &tempfile::TempDir, log: &Log, source: Arc<dyn SourceFactory>) -> Host {
    let settings = Settings { rest: Duration::from_secs(3600), ..settings(dir) };
    Host::open(settings, source, Arc::new(log.clone()), start_sums::<NONE, 1>).unwrap()
}

/// A projection that rests although there are events that it has not applied.
async fn resting(dir: &tempfile::TempDir, log: &Log) -> Host {
    resting_over(Arc::new(log.clone()), dir, log).await
}

/// The same over a source.
async fn resting_over(source: Arc<dyn SourceFactory>, dir: &tempfile::TempDir, log: &Log) -> Host {
    let host = run_resting(dir, log, source);
    log.append("a", opened("A", usd(1)));
    loop {
        log.append("a", deposited(usd(1)));
        let before = handle(&host, "sums").status();
        tokio::time::sleep(STANDS_STILL).await;
        let after = handle(&host, "sums").status();
        let stood = before.position == after.position && after.position < log.position();
        if stood && after.state() != ProjectionState::Rebuilding {
            return host;
        }
    }
}

/// The position that an answer reflects.
async fn asked(handle: &Handle) -> u64 {
    handle.read(None, |_| Ok(())).await.unwrap().1
}

#[tokio::test]
async fn an_answer_has_all_that_was_there_when_it_was_asked_for() {
    for _ in 0..3 {
        let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
        let host = resting(&dir, &log).await;
        log.append("a", deposited(usd(1)));
        let sums = handle(&host, "sums");
        let questions = (0..4).map(|_| asked(sums));
        for position in futures::future::join_all(questions).await {
            assert_eq!(position, log.position());
        }
        assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
        host.shutdown().await;
    }
}

#[tokio::test]
async fn an_answer_has_all_that_came_in_a_rest_also_if_that_is_many_batches() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = resting(&dir, &log).await;
    for _ in 0..2_000 {
        log.append("a", deposited(usd(1)));
    }
    assert_eq!(asked(handle(&host, "sums")).await, log.position());
    host.shutdown().await;
}

/// A shared source is read while a projection rests: the first of its batches was read when there
/// were no more.
#[tokio::test]
async fn an_answer_has_all_that_a_shared_source_has_read_in_a_rest() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let source = Arc::new(SharedSourceFactory::new(Arc::new(log.clone())));
    let host = resting_over(source, &dir, &log).await;
    for _ in 0..2_000 {
        log.append("a", deposited(usd(1)));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(STANDS_STILL).await;
    assert_eq!(asked(handle(&host, "sums")).await, log.position());
    host.shutdown().await;
}

#[tokio::test]
async fn who_is_asked_does_not_rest() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = resting(&dir, &log).await;
    asked(handle(&host, "sums")).await;
    for _ in 0..5 {
        log.append("a", deposited(usd(1)));
        until_position(&host, log.position()).await;
    }
    host.shutdown().await;
}

#[tokio::test]
async fn who_waits_for_a_position_ends_a_rest_and_who_glances_does_not() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = resting(&dir, &log).await;
    let sums = handle(&host, "sums");
    for _ in 0..3 {
        let (_, position) = sums.glance(|_| Ok(())).await.unwrap();
        assert!(position < log.position(), "a glance has ended the rest");
    }
    let read = reflecting(log.position());
    let answer = sums.read(Some(&read), |_| Ok(())).await;
    assert_eq!(answer.unwrap().1, log.position());
    host.shutdown().await;
}

#[tokio::test]
async fn operations_do_not_wait_for_the_end_of_a_rest() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = resting(&dir, &log).await;
    let request = PauseProjectionRequest { name: "sums".to_owned() };
    ProjectionServer::new(&host).pause_projection(Request::new(request)).await.unwrap();
    assert_eq!(handle(&host, "sums").status().state(), ProjectionState::Paused);
    // Nothing is applied any more, and nobody waits for it.
    log.append("a", deposited(usd(1)));
    assert!(asked(handle(&host, "sums")).await < log.position());
    host.shutdown().await;
}

#[tokio::test]
async fn who_is_behind_does_not_rest() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = resting(&dir, &log).await;
    host.shutdown().await;
    drop(host);
    for _ in 0..1_000 {
        log.append("a", deposited(usd(1)));
    }
    let host = run_resting(&dir, &log, Arc::new(log.clone()));
    until_position(&host, log.position()).await;
    host.shutdown().await;
}
