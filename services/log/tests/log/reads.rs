//! A decision that reads other streams sees their latest accepted states.

use daybook_log::{Config, Error, EventLog, Receipt};
use futures::future::join_all;

use crate::fixture::{Ask, LITTLE, add, add_reads, all_events, open, submission};
use crate::writer_laws::faulty;

/// What the event of a receipt adds.
pub async fn added(log: &EventLog, receipt: Receipt) -> i64 {
    let event = log.get(receipt.position).await.unwrap().unwrap().decode().unwrap();
    let Some(daybook_contract::daybook::v1::recorded_event::Payload::Raw(raw)) = event.payload
    else {
        panic!("not an event of these tests")
    };
    std::str::from_utf8(&raw.data).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_read_sees_what_was_accepted_before_it_even_in_the_same_group() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let unknown = add_reads(&log, "a", &["b", "c"]).await.unwrap();
    assert_eq!(added(&log, unknown).await, 0, "a stream without events has the empty state");
    let (_, _, sum, _, later) = tokio::join!(
        add(&log, "b", 3),
        add(&log, "c", 4),
        add_reads(&log, "a", &["b", "c", "b"]),
        add(&log, "b", 10),
        add_reads(&log, "b", &["b"]),
    );
    assert_eq!(added(&log, sum.unwrap()).await, 10);
    assert_eq!(added(&log, later.unwrap()).await, 13, "its own stream, too");
}

#[tokio::test]
async fn streams_that_are_read_are_loaded_and_nothing_overtakes_what_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    for stream in ["a", "b", "c"] {
        add(&log, stream, 5).await.unwrap();
    }
    log.close().await;
    drop(log);
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    let (sum, after, changed) =
        tokio::join!(add_reads(&log, "a", &["b", "c"]), add(&log, "a", 1), add(&log, "b", 100),);
    let sum = sum.unwrap();
    assert_eq!(sum.version, 3);
    assert_eq!((after.unwrap().version, changed.unwrap().version), (4, 2));
    assert_eq!(added(&log, sum).await, 10);
}

#[tokio::test]
async fn reads_keep_their_streams_although_few_are_kept_in_memory() {
    for cache in LITTLE {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { cache, ..Config::new(dir.path()) };
        let log = EventLog::open(config).await.unwrap();
        let names: Vec<String> = (0..10).map(|at| format!("read-{at}")).collect();
        for name in &names {
            add(&log, name, 1).await.unwrap();
        }
        let reads: Vec<&str> = names.iter().map(String::as_str).collect();
        let sums = join_all((0..50).map(|at| add_reads(&log, at % 7, &reads)));
        let (sums, more) = tokio::join!(sums, join_all((0..50).map(|at| add(&log, at % 5, 1))));
        assert!(sums.iter().chain(&more).all(Result::is_ok));
        for sum in sums {
            assert_eq!(added(&log, sum.unwrap()).await, 10);
        }
        assert_eq!(all_events(&log).await.len(), 110);
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_fails_only_what_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.submit(submission("bad", Ask::Poison, None)).await.unwrap();
    log.close().await;
    drop(log);
    let log = open(&dir).await;
    let (bad, good) = tokio::join!(add_reads(&log, "a", &["bad"]), add_reads(&log, "b", &["c"]));
    assert!(matches!(bad, Err(Error::NotUnderstood { .. })), "{bad:?}");
    good.unwrap();
    assert_eq!(add(&log, "a", 1).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_read_sees_nothing_of_a_group_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Error::NotWritten { problem: "as the test wants it".into() };
    let log = faulty(&dir, 3, fault, false).await;
    add(&log, "a", 1).await.unwrap();
    add(&log, "b", 5).await.unwrap();
    // What is decided on the group fails with it.
    let (lost, read) = tokio::join!(add(&log, "b", 100), add_reads(&log, "a", &["b"]));
    assert!(lost.is_err() && read.is_err());
    let read = add_reads(&log, "a", &["b"]).await.unwrap();
    assert_eq!(added(&log, read).await, 5);
}
