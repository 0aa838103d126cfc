//! Exactly once, whatever the source does; crashes, errors, pauses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use daybook_bus::source::{Cursor, Error as SourceError, Source, SourceFactory};
use daybook_contract::bank::v1::GetAccountRequest;
use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{
    PauseProjectionRequest, ProjectionState, ReadContext, ResumeProjectionRequest,
};
use daybook_contract::error::Error;
use daybook_query::runtime::{Host, OpenError, Settings};
use daybook_query::{BankQueries, ProjectionServer};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rusqlite::Connection;
use tokio::sync::Notify;
use tonic::Request;

use crate::fakes::*;
use crate::sums::*;

/// Twenty accounts with some movements each, in turn.
fn some_movements(log: &Log) {
    for round in 0..6 {
        for account in 0..20 {
            let id = format!("a{account:02}");
            match round {
                0 => log.append(&id, opened("Owner", usd(1_000 + account))),
                3 => log.append(&id, withdrawn(usd(1_000 + account))),
                _ => log.append(&id, deposited(usd(round))),
            };
        }
    }
}

fn partition(id: &str) -> usize {
    id.bytes().map(usize::from).sum::<usize>() % 3
}

/// Publishes the events of a log after a position, each to the partition of its stream.
fn publish(log: &Log, topic: &Topic, after: u64) {
    for (bytes, (record, _)) in log.events().into_iter().zip(decoded(log)) {
        if record.position > after {
            topic.write(partition(&record.aggregate_id), bytes);
        }
    }
    topic.watermarks(log.position());
}

#[tokio::test]
async fn a_log_is_followed_to_its_end_and_on() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 0).await;
    some_movements(&log);
    until_position(&host, 120).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    log.append("a00", deposited(usd(5)));
    until_position(&host, 121).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    let status = handle(&host, "sums").status();
    assert_eq!(status.state(), ProjectionState::Live);
    assert_eq!((status.head_position, status.lag_events), (121, 0));
    assert_eq!(status.source, "log");
    assert_eq!(status.last_event_time.unwrap().seconds, START);
    host.shutdown().await;
}

/// Whoever leaves in the middle leaves no transaction behind, in which the next would see old rows.
#[tokio::test]
async fn a_read_that_is_given_up_or_fails_does_no_harm_to_the_next() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let settings = Settings { readers: 1, ..settings(&dir) };
    let source = Arc::new(log.clone());
    let host = Host::open(settings, source.clone(), source, start_sums::<NONE, 1>).unwrap();
    log.append("a", opened("A", usd(0)));
    until_position(&host, 1).await;
    let sums = handle(&host, "sums");
    for _ in 0..3 {
        let (begun, given_up) = (Arc::new(Notify::new()), Arc::new(Barrier::new(2)));
        let (begins, waits) = (begun.clone(), given_up.clone());
        let slow = sums.read(None, move |_| {
            begins.notify_one();
            waits.wait();
            Ok(())
        });
        tokio::select! {
            _ = slow => panic!("it waits"),
            () = begun.notified() => {}
        }
        // The next one waits for its turn until the one that was given up has ended.
        let wrong = sums.read(None, |rows| rows.execute("SELECT nothing", ()));
        let end = async {
            tokio::task::yield_now().await;
            given_up.wait();
        };
        let (wrong, ()) = tokio::join!(wrong, end);
        let problem = wrong.map(drop).unwrap_err().to_string();
        assert_eq!(problem, "projection sums cannot be read");
        log.append("a", deposited(usd(1)));
        until_position(&host, log.position()).await;
        let (_, position) = sums.read(None, |_| Ok(())).await.unwrap();
        assert_eq!(position, log.position());
    }
    host.shutdown().await;
}

#[tokio::test]
async fn rows_come_and_go() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    log.append("a", opened("A", usd(0)));
    log.append("b", opened("B", usd(0)));
    until_position(&host, 2).await;
    assert_eq!(dump(&dir, "sums", "empty").await, ["'a' 'USD'", "'b' 'USD'"]);
    log.append("a", deposited(usd(1)));
    until_position(&host, 3).await;
    assert_eq!(dump(&dir, "sums", "empty").await, ["'b' 'USD'"]);
    host.shutdown().await;
}

#[tokio::test]
async fn rows_that_nobody_wanted_are_loaded_all_the_same() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    some_movements(&log);
    let host = run(&dir, &log, &log, start_sums::<FORGETS, 1>);
    until_position(&host, 120).await;
    some_movements(&log);
    until_position(&host, 240).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn partitions_in_any_order_and_duplicates_make_the_same_rows() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    some_movements(&log);
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    // What the first build has read from the log comes again from the topic, twice.
    publish(&log, &topic, 0);
    publish(&log, &topic, 0);
    for account in ["a00", "a01", "a02", "a00"] {
        log.append(account, deposited(usd(7)));
    }
    publish(&log, &topic, 100);
    publish(&log, &topic, 90);
    until_position(&host, 124).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    let status = handle(&host, "sums").status();
    assert_eq!((status.source.as_str(), status.quarantined_events), ("kafka", 0));
    assert_eq!(log.gap_reads(), 0);
    host.shutdown().await;
}

#[tokio::test]
async fn what_was_seen_is_known_after_a_restart_wherever_it_is_in_the_file() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    for id in ["a", "b", "c", "d"] {
        log.append(id, opened("Owner", usd(10)));
    }
    for round in 0..20 {
        let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
        // Another number of streams and events in each round: some fit beside what waits.
        for event in 0..round * 3 % 7 {
            log.append(["a", "b", "c", "d"][(round + event) % 4], deposited(usd(1)));
        }
        log.append(&format!("new-{round}"), opened("Owner", usd(round as i64)));
        // Everything comes again.
        publish(&log, &topic, 0);
        until_position(&host, log.position()).await;
        host.shutdown().await;
        assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    }
    assert_eq!(log.gap_reads(), 0);
}

#[tokio::test]
async fn the_position_is_that_of_the_slowest_partition_and_never_goes_back() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    log.append("a00", opened("A", usd(1)));
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 1).await;
    for _ in 0..3 {
        let record = log.append("a00", deposited(usd(1)));
        topic.write(partition("a00"), record);
    }
    topic.watermark(partition("a00"), 4);
    let status = until(&host, "sums", |status| last_event(status) == 4).await;
    assert_eq!(status.position, 1);
    // The rows are ahead of the position: it promises what is in, not what is not.
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    topic.watermarks(3);
    until(&host, "sums", |status| status.position == 3).await;
    topic.watermarks(2);
    topic.watermarks(4);
    let status = until(&host, "sums", |status| status.position == 4).await;
    assert_eq!(status.state(), ProjectionState::Live);
    host.shutdown().await;
}

#[tokio::test]
async fn a_gap_is_filled_from_the_log() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 0).await;
    log.append("a00", opened("A", usd(1)));
    for _ in 0..2_100 {
        log.append("a00", deposited(usd(1)));
    }
    let last = log.append("a00", withdrawn(usd(2)));
    topic.write(0, last);
    topic.watermarks(log.position());
    until_position(&host, log.position()).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    assert_eq!(log.gap_reads(), 3, "a long gap is read in pieces");
    host.shutdown().await;
}

#[tokio::test]
async fn a_gap_waits_for_the_log() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 0).await;
    log.append("a00", opened("A", usd(1)));
    let second = log.append("a00", deposited(usd(1)));
    log.set_down(true);
    topic.write(0, second);
    topic.watermarks(2);
    let status =
        until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    assert!(status.problem.contains("it is down"), "{}", status.problem);
    assert_eq!(status.position, 0);
    log.set_down(false);
    until_position(&host, 2).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_runner_that_is_killed_between_batches_loses_and_doubles_nothing() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    for round in 0..12 {
        let before = log.position();
        some_movements(&log);
        publish(&log, &topic, before);
        let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
        // Killed at an arbitrary moment: nothing is said to the runner.
        let goal = before + 10 * round;
        until(&host, "sums", |status| status.position >= goal.min(log.position())).await;
        drop(host);
    }
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, log.position()).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_one_ended() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    some_movements(&log);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    host.shutdown().await;
    drop(host);
    log.set_down(true);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    let status =
        until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    assert_eq!(status.position, 120, "it serves what it has while the log is away");
    log.set_down(false);
    log.append("a00", deposited(usd(1)));
    until_position(&host, 121).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

/// A source that cannot be opened for a while.
#[derive(Clone)]
struct Shut(Topic, Arc<AtomicBool>);

impl SourceFactory for Shut {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, SourceError>> {
        if !self.1.load(Ordering::SeqCst) {
            return self.0.open(cursor);
        }
        let (source_name, problem) = ("Kafka".to_owned(), "shut".to_owned());
        ready(Err(SourceError::Unavailable { source_name, problem })).boxed()
    }
}

#[tokio::test]
async fn a_source_that_can_be_opened_again_is_there_also_without_news() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(1));
    topic.write(0, log.append("a00", opened("A", usd(1))));
    topic.watermarks(1);
    let shut = Shut(topic, Arc::default());
    let host = run(&dir, &shut, &log, start_sums::<NONE, 1>);
    until_position(&host, 1).await;
    host.shutdown().await;
    drop(host);
    shut.1.store(true, Ordering::SeqCst);
    let host = run(&dir, &shut, &log, start_sums::<NONE, 1>);
    until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    shut.1.store(false, Ordering::SeqCst);
    until(&host, "sums", |status| status.state() == ProjectionState::Live).await;
    assert_eq!(handle(&host, "sums").status().problem, "");
    host.shutdown().await;
}

#[tokio::test]
async fn events_of_others_move_the_place_and_cost_no_transaction_each() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("a", opened("A", usd(1)));
    let host = run_bank(&dir, &log);
    until_position(&host, 1).await;
    let queries = BankQueries::new(host.handles()).unwrap();
    let commits = stored(&dir, "account_balance", "commits");
    for position in 2..=200 {
        log.append_note();
        let read = Some(reflecting(position));
        let request = GetAccountRequest { read, account_id: "a".into() };
        let answer = queries.get_account(Request::new(request)).await.unwrap().into_inner();
        assert_eq!(answer.position, position, "a query sees the place that is not stored yet");
    }
    let more = stored(&dir, "account_balance", "commits") - commits;
    assert!(more < 100, "{more} transactions for 199 events of others");
    // The place is stored in the end, so nothing has to be read again.
    host.shutdown().await;
    assert_eq!(stored(&dir, "account_balance", "position"), 200);
}

/// A projection that has a thousand events to catch up with, of which its source holds half back.
async fn far_behind(dir: &tempfile::TempDir, log: &Log, gathering: Duration) -> Host {
    log.append("a", opened("A", usd(1)));
    log.hold_at(Some(1));
    let rest = Duration::ZERO;
    let settings = Settings { gathering, waiting_rows: 100_000, rest, ..settings(dir) };
    let (source, reader) = (Arc::new(log.clone()), Arc::new(log.clone()));
    let host = Host::open(settings, source, reader, start_sums::<NONE, 1>).unwrap();
    until_position(&host, 1).await;
    for _ in 0..1_000 {
        log.append("a", deposited(usd(1)));
    }
    log.hold_at(Some(500));
    host
}

#[tokio::test]
async fn what_is_gathered_is_told_when_it_is_committed_all_at_once() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = far_behind(&dir, &log, Duration::from_secs(3600)).await;
    log.until_silent().await;
    let (status, position) = (handle(&host, "sums").status(), stored(&dir, "sums", "position"));
    assert!(status.position < 500, "what is in memory alone is not told: {status:?}");
    assert_eq!(status.position, position as u64);
    let before = stored(&dir, "sums", "commits");
    log.hold_at(None);
    until_position(&host, 1_001).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    let commits = stored(&dir, "sums", "commits") - before;
    assert!(commits < 5, "{commits} transactions for the ten batches of the source");
    host.shutdown().await;
}

#[tokio::test]
async fn a_source_that_falls_silent_does_not_keep_back_what_was_gathered() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = far_behind(&dir, &log, Duration::from_millis(50)).await;
    until(&host, "sums", |status| status.position == 500).await;
    assert_eq!(dump(&dir, "sums", "sums").await, ["'a' 500 500"]);
    log.hold_at(None);
    until_position(&host, 1_001).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn who_gathers_stops_at_once_and_loses_nothing() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = far_behind(&dir, &log, Duration::from_secs(3600)).await;
    log.until_silent().await;
    host.shutdown().await;
    drop(host);
    assert_eq!(stored(&dir, "sums", "position"), 500);
    assert_eq!(dump(&dir, "sums", "sums").await, ["'a' 500 500"]);
}

/// A source that always has the next batch must not be followed without a commit.
#[tokio::test]
async fn who_gathers_commits_after_a_while_however_fast_the_source_is() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = far_behind(&dir, &log, Duration::ZERO).await;
    let before = stored(&dir, "sums", "commits");
    log.hold_at(None);
    until_position(&host, 1_001).await;
    let commits = stored(&dir, "sums", "commits") - before;
    assert!(commits >= 3, "{commits} transactions for the batches that were left");
    host.shutdown().await;
}

/// A number of the stored checkpoint of a projection.
fn stored(dir: &tempfile::TempDir, projection: &str, column: &str) -> i64 {
    let sql = format!("SELECT {column} FROM checkpoint");
    reader(dir, projection).query_row(&sql, (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_source_that_lost_the_place_is_made_up_for_by_the_log() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(3));
    some_movements(&log);
    publish(&log, &topic, 0);
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    host.shutdown().await;
    drop(host);
    // While the reader is away, records are written and forgotten.
    some_movements(&log);
    publish(&log, &topic, 120);
    topic.forget();
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 240).await;
    some_movements(&log);
    publish(&log, &topic, 240);
    until_position(&host, 360).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_live_source_that_fails_is_opened_again() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    some_movements(&log);
    until_position(&host, 120).await;
    log.set_lost(true);
    until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    log.set_lost(false);
    some_movements(&log);
    until_position(&host, 240).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    assert_eq!(handle(&host, "sums").status().problem, "");
    host.shutdown().await;
}

#[tokio::test]
async fn a_runner_that_panics_is_seen_and_started_again() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    some_movements(&log);
    until_position(&host, 120).await;
    log.set_panics(true);
    let status =
        until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    assert!(status.problem.contains("a bug in the source"), "{}", status.problem);
    log.set_panics(false);
    some_movements(&log);
    until_position(&host, 240).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    assert_eq!(handle(&host, "sums").status().problem, "");
    host.shutdown().await;
}

#[tokio::test]
async fn a_first_build_that_panics_is_begun_again() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    some_movements(&log);
    log.set_panics(true);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    let status = until(&host, "sums", |status| !status.problem.is_empty()).await;
    assert_eq!(status.state(), ProjectionState::Rebuilding);
    log.set_panics(false);
    until_position(&host, 120).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_pause_holds_over_a_restart() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    some_movements(&log);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    let name = || "sums".to_owned();
    let service = ProjectionServer::new(&host);
    for _ in 0..2 {
        let request = Request::new(PauseProjectionRequest { name: name() });
        let paused = service.pause_projection(request).await.unwrap().into_inner();
        assert_eq!(paused.projection.unwrap().state(), ProjectionState::Paused);
    }
    some_movements(&log);
    host.shutdown().await;
    drop(host);

    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    // The lag of a paused projection is known all the same.
    let status = until(&host, "sums", |status| status.lag_events == 120).await;
    assert_eq!(status.state(), ProjectionState::Paused);
    assert_eq!(status.position, 120);
    assert!(status.lag_seconds > 0.0);
    let service = ProjectionServer::new(&host);
    for _ in 0..2 {
        let request = Request::new(ResumeProjectionRequest { name: name() });
        let resumed = service.resume_projection(request).await.unwrap().into_inner();
        assert_ne!(resumed.projection.unwrap().state(), ProjectionState::Paused);
    }
    until_position(&host, 240).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_lag_is_as_old_as_what_is_missing() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.pass_seconds(-100 * 24 * 3600);
    log.append("a", opened("A", usd(1)));
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 1).await;
    assert_eq!(handle(&host, "sums").status().lag_seconds, 0.0);
    let service = ProjectionServer::new(&host);
    let pause = PauseProjectionRequest { name: "sums".to_owned() };
    service.pause_projection(Request::new(pause)).await.unwrap();
    // After a hundred days without one, an event is appended now.
    log.pass_seconds(100 * 24 * 3600);
    log.append("a", deposited(usd(1)));
    let first = until(&host, "sums", |status| status.lag_events == 1).await.lag_seconds;
    assert!(first > 0.0 && first < 24.0 * 3600.0, "{first}");
    log.append("a", deposited(usd(1)));
    let second = until(&host, "sums", |status| status.lag_events == 2).await.lag_seconds;
    assert!(second > first, "{second} counts from the first event that is missing, like {first}");
    let resume = ResumeProjectionRequest { name: "sums".to_owned() };
    service.resume_projection(Request::new(resume)).await.unwrap();
    until_position(&host, 3).await;
    assert_eq!(handle(&host, "sums").status().lag_seconds, 0.0);
    host.shutdown().await;
}

#[tokio::test]
async fn a_query_says_why_to_wait_longer_does_not_help() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("a", opened("A", usd(1)));
    let host = run_bank(&dir, &log);
    until_position(&host, 1).await;
    let bank = BankQueries::new(host.handles()).unwrap();
    let ask = async || {
        let max_wait = Some(prost_types::Duration::default());
        let read = ReadContext { min_position: 2, max_wait, ..Default::default() };
        let request = GetAccountRequest { account_id: "a".to_owned(), read: Some(read) };
        let error = Error::from(&bank.get_account(Request::new(request)).await.unwrap_err());
        assert_eq!(error.reason(), "PROJECTION_LAGGING");
        (error.metadata()["state"].clone(), error.metadata()["problem"].clone(), error.to_string())
    };
    let (state, problem, text) = ask().await;
    assert_eq!((state.as_str(), problem.as_str()), ("LIVE", ""));
    assert!(!text.contains("resume"), "{text}");

    let service = ProjectionServer::new(&host);
    let name = || "account_balance".to_owned();
    let pause = PauseProjectionRequest { name: name() };
    service.pause_projection(Request::new(pause)).await.unwrap();
    let (state, _, text) = ask().await;
    assert_eq!(state, "PAUSED");
    assert!(text.contains("it is paused: daybook projection resume account_balance"), "{text}");

    let resume = ResumeProjectionRequest { name: name() };
    service.resume_projection(Request::new(resume)).await.unwrap();
    log.set_down(true);
    until(&host, "account_balance", |s| s.state() == ProjectionState::Disconnected).await;
    let (state, problem, text) = ask().await;
    assert_eq!(state, "DISCONNECTED");
    assert!(problem.contains("it is down") && text.contains(&problem), "{text}");
    host.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_stops_a_projection_without_harm() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let small = Settings { max_page_count: Some(20), ..settings(&dir) };
    let log_source = || Arc::new(log.clone());
    log.append("first", opened("A", usd(1)));
    let start = start_sums::<NONE, 1>;
    let host = Host::open(small, log_source(), log_source(), start).unwrap();
    until_position(&host, 1).await;
    for account in 0..3_000 {
        log.append(&format!("account-{account}"), opened("A", usd(1)));
    }
    let status =
        until(&host, "sums", |status| status.state() == ProjectionState::Disconnected).await;
    assert!(status.problem.contains("full"), "{}", status.problem);
    // What was committed is a prefix, complete and consistent, and can be read.
    let position = status.position;
    assert_eq!(dump(&dir, "sums", "sums").await.len() as u64, position);
    drop(host);

    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 3_001).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn a_damaged_file_is_built_anew() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    some_movements(&log);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    host.shutdown().await;
    drop(host);
    std::fs::write(live_file(&dir, "sums"), "this is no database, and never was one").unwrap();
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 120).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    host.shutdown().await;
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_a_problem_of_the_projection() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("a", opened("A", usd(1)));
    let host = run_bank(&dir, &log);
    until_position(&host, 1).await;
    let bank = BankQueries::new(host.handles()).unwrap();
    let file = Connection::open(live_file(&dir, "account_balance")).unwrap();
    file.execute("ALTER TABLE accounts RENAME TO away", ()).unwrap();
    let error = Error::from(&bank.get_account(crate::bank::get("a")).await.unwrap_err());
    assert_eq!(error.reason(), "INTERNAL");
    let status = handle(&host, "account_balance").status();
    assert!(status.problem.contains("its rows cannot be read"), "{}", status.problem);
    file.execute("ALTER TABLE away RENAME TO accounts", ()).unwrap();
    bank.get_account(crate::bank::get("a")).await.unwrap();
    assert_eq!(handle(&host, "account_balance").status().problem, "");
    host.shutdown().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_files_is_refused() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    let log_source = || Arc::new(log.clone());
    let second = Host::open(settings(&dir), log_source(), log_source(), start_sums::<NONE, 1>);
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    host.shutdown().await;
}
