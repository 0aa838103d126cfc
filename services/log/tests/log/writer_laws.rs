//! The laws of the writer.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use daybook_contract::daybook::v1::{RecordedEvent, recorded_event};
use daybook_log::sqlite::{self, Options};
use daybook_log::storage::{Group, StorageWriter};
use daybook_log::{Config, Direction, Error, EventLog, StreamCache};
use futures::future::{BoxFuture, join_all};
use proptest::prelude::*;
use sqlx::Connection;
use uuid::Uuid;

use crate::fixture::{Ask, LITTLE, add, add_as, all_events, copy_of, open, stream, submission};

#[tokio::test]
async fn versions_and_positions_count_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let first = add(&log, "a", 1).await.unwrap();
    assert_eq!((first.version, first.position, first.replayed), (1, 1, false));
    let other = add(&log, "b", 1).await.unwrap();
    assert_eq!((other.version, other.position), (1, 2));
    let both = log.submit(submission("a", Ask::Add(vec![1, 2]), None)).await.unwrap();
    assert_eq!((both.version, both.position, both.event_ids.len()), (3, 4, 2));
    let none = log.submit(submission("a", Ask::Add(vec![]), None)).await.unwrap();
    assert_eq!((none.version, none.position, none.event_ids.len()), (3, 4, 0));
    assert_eq!(all_events(&log).await.len(), 4);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_says_what_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let expect = |expected| {
        let mut submission = submission("a", Ask::Add(vec![1]), None);
        submission.expected_version = Some(expected);
        log.submit(submission)
    };
    expect(0).await.unwrap();
    expect(1).await.unwrap();
    let conflict = expect(1).await.unwrap_err();
    let stream = "counter-a".to_owned();
    assert_eq!(conflict, Error::VersionConflict { stream, expected: 1, actual: 2 });
    assert!(expect(0).await.is_err());
    assert_eq!(all_events(&log).await.len(), 2);
}

#[tokio::test]
async fn a_repeated_request_gets_its_first_answer_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let (accepted, refused, empty) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let pair = || submission("a", Ask::Add(vec![3, 4]), Some(accepted));
    let nothing = || submission("a", Ask::Add(vec![]), Some(empty));
    let first = log.submit(pair()).await.unwrap();
    let no = add_as(&log, "a", -50, refused).await.unwrap_err();
    let idle = log.submit(nothing()).await.unwrap();
    add(&log, "a", 100).await.unwrap();
    for restart in [false, true] {
        let log = match restart {
            true => {
                log.close().await;
                open(&dir).await
            }
            false => log.clone(),
        };
        let mut again = log.submit(pair()).await.unwrap();
        assert!(again.replayed);
        again.replayed = false;
        assert_eq!(again, first);
        // By now the sum would allow it: the first answer holds all the same.
        let Err(Error::Refused { failure, replayed: true }) = add_as(&log, "a", -50, refused).await
        else {
            panic!("the refusal was not replayed")
        };
        assert_eq!(no, Error::Refused { failure, replayed: false });
        let mut idle_again = log.submit(nothing()).await.unwrap();
        assert!(idle_again.replayed);
        idle_again.replayed = false;
        assert_eq!(idle_again, idle);
        let reused = add_as(&log, "a", 5, accepted).await.unwrap_err();
        assert_eq!(reused, Error::RequestIdReused { request_id: accepted.to_string() });
        assert_eq!(all_events(&log).await.len(), 3);
        log.close().await;
    }
}

#[tokio::test]
async fn the_same_request_at_the_same_time_has_one_effect() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let id = Uuid::now_v7();
    let answers = join_all((0..50).map(|_| add_as(&log, "a", 7, id))).await;
    let fresh = answers.iter().filter(|answer| !answer.as_ref().unwrap().replayed).count();
    assert_eq!(fresh, 1);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().position == 1));
    assert_eq!(all_events(&log).await.len(), 1);
}

#[tokio::test]
async fn a_hot_stream_and_many_cold_ones_have_no_gaps() {
    for cache in LITTLE {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { cache, ..Config::new(dir.path()) };
        let log = EventLog::open(config).await.unwrap();
        let hot = join_all((0..500).map(|_| add(&log, "hot", 1)));
        let cold = join_all((0..500).map(|at| add(&log, at % 40, 1)));
        let (hot, cold) = tokio::join!(hot, cold);
        let mut versions: Vec<u64> =
            hot.into_iter().map(|receipt| receipt.unwrap().version).collect();
        versions.sort_unstable();
        assert_eq!(versions, (1..=500).collect::<Vec<_>>());
        assert!(cold.iter().all(Result::is_ok));
        assert_eq!(all_events(&log).await.len(), 1000);
    }
}

#[tokio::test]
async fn the_state_is_folded_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    for _ in 0..3 {
        add(&log, "a", 10).await.unwrap();
    }
    log.close().await;
    let log = open(&dir).await;
    assert!(add(&log, "a", -31).await.is_err());
    assert_eq!(add(&log, "a", -30).await.unwrap().version, 4);
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_take_its_submission_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let mut head = log.head();
    {
        let mut call = Box::pin(add(&log, "a", 1));
        let _ = futures::poll!(&mut call);
    }
    head.wait_for(|head| *head == 1).await.unwrap();
    assert_eq!(add(&log, "a", 1).await.unwrap().version, 2);
}

#[tokio::test]
async fn a_fault_of_the_domain_fails_one_submission_only() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    let fault = log.submit(submission("a", Ask::Panic, None)).await;
    assert!(matches!(fault, Err(Error::NotUnderstood { .. })), "{fault:?}");
    assert_eq!(add(&log, "a", 1).await.unwrap().version, 2);
}

#[tokio::test]
async fn a_fault_of_the_domain_while_loading_concerns_its_stream_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.submit(submission("a", Ask::Poison, None)).await.unwrap();
    log.close().await;
    drop(log);
    let log = open(&dir).await;
    let fault = add(&log, "a", 1).await;
    assert!(matches!(fault, Err(Error::NotUnderstood { position: 1, .. })), "{fault:?}");
    assert_eq!(add(&log, "b", 1).await.unwrap().version, 1, "the others go on");
    assert!(add(&log, "a", 1).await.is_err(), "and it fails each time");
}

/// A storage whose commit panics.
struct Panicking;

impl StorageWriter for Panicking {
    fn commit(&mut self, _: Arc<Group>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async { panic!("a fault of the storage") })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn a_writer_that_ends_by_a_fault_of_its_own_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    let opened = sqlite::open(options).await.unwrap();
    let cached = StreamCache::default();
    let log = EventLog::start(opened.info, Box::new(Panicking), Arc::new(opened.reader), cached);
    let log = log.await.unwrap();
    assert!(add(&log, "a", 1).await.is_err());
    let mut stopped = log.stopped();
    stopped.wait_for(Option::is_some).await.unwrap();
    assert!(matches!(add(&log, "a", 1).await, Err(Error::Stopped { .. })));
}

#[tokio::test]
async fn what_is_beyond_a_limit_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let many = log.submit(submission("a", Ask::Add(vec![1; 101]), None)).await.unwrap_err();
    let what = "number of events";
    assert_eq!(many, Error::LimitExceeded { what, actual: 101, limit: 100 });
    let large = log.submit(submission("a", Ask::Bytes(300 * 1024), None)).await.unwrap_err();
    assert!(matches!(large, Error::LimitExceeded { limit: 262_144, .. }), "{large:?}");
    assert!(add(&log, "a", -1).await.is_err());
    assert_eq!(add(&log, "a", 1).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let second = EventLog::open(Config::new(dir.path())).await.err().unwrap();
    assert!(matches!(second, Error::InUse { .. }), "{second}");
    log.close().await;
    drop(log);
    open(&dir).await;
}

#[tokio::test]
async fn a_tampered_record_is_found_when_it_is_read_and_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    for _ in 0..3 {
        add(&log, "a", 10).await.unwrap();
    }
    log.close().await;
    drop(log);
    let url = format!("sqlite://{}", dir.path().join(sqlite::FILE_NAME).display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let change = "UPDATE events SET record = CAST(replace(record, x'3130', x'3939') AS BLOB) WHERE position = 2";
    assert_eq!(sqlx::query(change).execute(&mut connection).await.unwrap().rows_affected(), 1);
    connection.close().await.unwrap();
    let refused = EventLog::open(Config::new(dir.path())).await.err().unwrap();
    assert!(matches!(refused, Error::Damaged { position: 2, .. }), "{refused}");
    let reader = sqlite::open_reader(dir.path()).await.unwrap();
    use daybook_log::storage::StorageReader;
    let read = reader.read_all(1, Direction::Forward, 10).await.unwrap_err();
    assert!(matches!(read, Error::Damaged { position: 2, .. }), "{read}");
    assert_eq!(reader.read_all(3, Direction::Forward, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_commands_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    log.close().await;
    drop(log);
    let config = Config { max_pages: Some(40), ..Config::new(dir.path()) };
    let log = EventLog::open(config).await.unwrap();
    let mut recorded = 1;
    let full = loop {
        // Whole groups at once, so that the statements before the failing one are at stake too.
        let group = (0..8).map(|at| log.submit(submission(at, Ask::Bytes(9000), None)));
        let answers = join_all(group).await;
        recorded += answers.iter().filter(|answer| answer.is_ok()).count();
        if let Some(full) = answers.into_iter().find_map(Result::err) {
            break full;
        }
        assert!(recorded < 1000, "the limit of the size has no effect");
    };
    assert_eq!(full, Error::DiskFull);
    assert_eq!(log.write_problem(), Some(Error::DiskFull));
    assert_eq!(all_events(&log).await.len(), recorded, "exactly what was acknowledged is there");
    assert!(log.submit(submission("b", Ask::Bytes(90_000), None)).await.is_err());
    log.close().await;
    drop(log);
    let log = open(&dir).await;
    assert_eq!(all_events(&log).await.len(), recorded);
    assert_eq!(add(&log, "a", 1).await.unwrap().version, 2);
    assert_eq!(log.write_problem(), None);
}

#[tokio::test]
async fn an_event_is_found_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    let id = add(&log, "b", 1).await.unwrap().event_ids[0];
    assert_eq!(log.find(&id).await.unwrap().unwrap().position, 2);
    assert_eq!(log.find(&Uuid::now_v7()).await.unwrap(), None);
    assert_eq!(log.get(3).await.unwrap(), None);
}

#[tokio::test]
async fn the_published_mark_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    log.set_published(1);
    log.close().await;
    drop(log);
    assert_eq!(open(&dir).await.published(), 1);
}

/// A storage whose n-th commit fails.
struct Faulty {
    inner: Box<dyn StorageWriter>,
    left: Arc<AtomicUsize>,
    fault: Error,
    /// Whether the group is written all the same, as when the answer to COMMIT was lost.
    written: bool,
}

impl StorageWriter for Faulty {
    fn commit(&mut self, group: Arc<Group>) -> BoxFuture<'static, Result<(), Error>> {
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return self.inner.commit(group);
        }
        let written = self.written.then(|| self.inner.commit(group));
        let fault = self.fault.clone();
        Box::pin(async move {
            if let Some(written) = written {
                written.await?;
            }
            Err(fault)
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

/// A log whose n-th commit fails.
pub async fn faulty(dir: &tempfile::TempDir, nth: usize, fault: Error, written: bool) -> EventLog {
    faulty_with(dir, nth, fault, written, StreamCache::default()).await
}

async fn faulty_with(
    dir: &tempfile::TempDir,
    nth: usize,
    fault: Error,
    written: bool,
    cache: StreamCache,
) -> EventLog {
    let options = Options::new(dir.path());
    let opened = sqlite::open(options).await.unwrap();
    let left = Arc::new(AtomicUsize::new(nth));
    let storage = Faulty { inner: Box::new(opened.writer), left, fault, written };
    EventLog::start(opened.info, Box::new(storage), Arc::new(opened.reader), cache).await.unwrap()
}

#[tokio::test]
async fn a_failed_group_fails_all_its_commands_and_leaves_no_trace_in_memory() {
    for cache in [StreamCache::default()].into_iter().chain(LITTLE) {
        let dir = tempfile::tempdir().unwrap();
        let fault = Error::NotWritten { problem: "as the test wants it".into() };
        let log = faulty_with(&dir, 2, fault.clone(), false, cache).await;
        add(&log, "a", 5).await.unwrap();
        let id = Uuid::now_v7();
        let group = join_all([
            log.submit(submission("a", Ask::Add(vec![10]), Some(id))),
            log.submit(submission("a", Ask::Add(vec![10]), Some(id))),
            log.submit(submission("a", Ask::Add(vec![-12]), None)),
            log.submit(submission("a", Ask::Add(vec![-99]), None)),
        ])
        .await;
        assert_eq!(group, vec![Err(fault); 4], "even the refusal was decided on what failed");
        assert!(add(&log, "a", -6).await.is_err(), "the ten that failed are not in the state");
        let retried = add_as(&log, "a", 10, id).await.unwrap();
        assert_eq!((retried.version, retried.position, retried.replayed), (2, 2, false));
        assert_eq!(all_events(&log).await.len(), 2);
    }
}

#[tokio::test]
async fn after_a_fault_of_unknown_outcome_the_log_stops_and_a_retry_finds_out() {
    for written in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let fault = Error::Stopped { problem: "fsync failed".into() };
        let log = faulty(&dir, 2, fault.clone(), written).await;
        let mut stopped = log.stopped();
        add(&log, "a", 5).await.unwrap();
        let id = Uuid::now_v7();
        assert_eq!(add_as(&log, "a", 10, id).await.unwrap_err(), fault);
        assert_eq!(stopped.wait_for(Option::is_some).await.unwrap().clone(), Some(fault.clone()));
        assert_eq!(add(&log, "a", 1).await.unwrap_err(), fault, "nothing more is taken");
        log.close().await;
        drop(log);
        let log = open(&dir).await;
        let retried = add_as(&log, "a", 10, id).await.unwrap();
        assert_eq!((retried.version, retried.replayed), (2, written), "one effect either way");
    }
}

/// What an event of these tests adds.
fn number(event: &RecordedEvent) -> i64 {
    let Some(recorded_event::Payload::Raw(raw)) = &event.payload else { panic!("not of these") };
    std::str::from_utf8(&raw.data).unwrap().parse().unwrap()
}

/// Ids of requests as callers choose them: by the time, or just some.
fn some_id(number: u64) -> Uuid {
    match number % 3 {
        0 => Uuid::now_v7(),
        1 => Uuid::new_v4(),
        // A clock that is wrong by years.
        _ => Uuid::from_u128(Uuid::now_v7().as_u128() + (u128::from(number % 7) << 120)),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, i64),
    Again(usize),
    Restart,
    /// The process ends without closing anything.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0u8..4, -20i64..20).prop_map(|(id, number)| Step::Add(id, number)),
        6 => (0usize..20).prop_map(Step::Again),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..50)
}

/// Reads a stream in both directions, whole and in pages.
pub async fn check_stream(log: &EventLog, id: usize, sum: i64) {
    let name = stream(id).to_string();
    let read = async |from, direction, limit| -> Vec<RecordedEvent> {
        let records = log.read_stream(&name, from, direction, limit).await.unwrap();
        records.iter().map(|record| record.decode().unwrap()).collect()
    };
    let forward = read(1, Direction::Forward, 500).await;
    assert_eq!(forward.iter().map(number).sum::<i64>(), sum);
    let mut backward = read(u64::MAX, Direction::Backward, 500).await;
    backward.reverse();
    assert_eq!(forward, backward);
    for (at, event) in forward.iter().enumerate() {
        let from = event.version;
        assert_eq!(
            read(from, Direction::Forward, 3).await,
            forward[at..].iter().take(3).cloned().collect::<Vec<_>>()
        );
        let before: Vec<_> = forward[..=at].iter().rev().take(3).cloned().collect();
        assert_eq!(read(from, Direction::Backward, 3).await, before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_log_agrees_with_a_model_over_repeats_and_restarts(
        steps in steps(),
        index_after in 1usize..30,
        cache in prop::sample::select(LITTLE.to_vec()),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut dir = tempfile::tempdir().unwrap();
            let mut config = Config {
                index_after: NonZeroUsize::new(index_after).unwrap(),
                // So that streams are loaded, or unpacked, again and again.
                cache,
                ..Config::new(dir.path())
            };
            let mut log = EventLog::open(config.clone()).await.unwrap();
            let mut sums = [0i64; 4];
            let mut sent: Vec<(Uuid, u8, i64, bool)> = Vec::new();
            let mut events = 0;
            for step in steps {
                match step {
                    Step::Add(id, number) => {
                        let request = some_id(sent.len() as u64);
                        let accepted = add_as(&log, id, number, request).await.is_ok();
                        let sum = &mut sums[usize::from(id)];
                        assert_eq!(accepted, *sum + number >= 0);
                        if accepted {
                            *sum += number;
                            events += 1;
                        }
                        sent.push((request, id, number, accepted));
                    }
                    Step::Again(at) if !sent.is_empty() => {
                        let (request, id, number, accepted) = sent[at % sent.len()];
                        let answer = add_as(&log, id, number, request).await;
                        assert_eq!(answer.is_ok(), accepted);
                    }
                    Step::Again(_) => {}
                    Step::Restart => {
                        log.close().await;
                        drop(log);
                        log = EventLog::open(config.clone()).await.unwrap();
                    }
                    Step::Crash => {
                        let after = copy_of(&dir);
                        log.close().await;
                        dir = after;
                        config.directory = dir.path().into();
                        log = EventLog::open(config.clone()).await.unwrap();
                    }
                }
            }
            assert_eq!(all_events(&log).await.len(), events);
            for (id, sum) in sums.iter().enumerate() {
                check_stream(&log, id, *sum).await;
            }
            log.close().await;
            let findings = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap();
            assert_eq!(findings.problems, vec![]);
        });
    }
}

#[tokio::test]
async fn a_check_of_the_whole_log_finds_every_kind_of_tampering() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    for at in 0..6 {
        add(&log, at % 2, 10).await.unwrap();
    }
    log.close().await;
    drop(log);
    let check = || daybook_log::verify::verify(dir.path(), None, |_| ());
    let clean = check().await.unwrap();
    assert_eq!((clean.events, clean.streams, clean.problem_count), (6, 2, 0), "{clean:?}");
    let url = format!("sqlite://{}", dir.path().join(sqlite::FILE_NAME).display());
    let found_after = |change: &'static str| {
        let url = url.clone();
        async move {
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            assert!(
                sqlx::query(change).execute(&mut connection).await.unwrap().rows_affected() > 0
            );
            connection.close().await.unwrap();
            let texts: Vec<String> =
                check().await.unwrap().problems.into_iter().map(|problem| problem.text).collect();
            texts.join("; ")
        }
    };
    let found = found_after("UPDATE events SET leaf_hash = zeroblob(32) WHERE position = 2").await;
    assert!(found.contains("leaf hash"), "{found}");
    let swap = "UPDATE events SET (record, leaf_hash) =
        (SELECT record, leaf_hash FROM events WHERE position = 3) WHERE position = 1";
    let found = found_after(swap).await;
    assert!(found.contains("the record says position 3"), "{found}");
    let found = found_after("DELETE FROM events WHERE position = 4").await;
    assert!(found.contains("positions 4 to 4 are missing"), "{found}");
    assert!(found.contains("version 3 stands where 2 belongs"), "{found}");
}

/// Each change is made to a store of its own.
#[tokio::test]
async fn a_check_finds_what_is_wrong_with_the_indexes() {
    let changes = [
        ("UPDATE requests SET position = 2 WHERE position = 1", "another answer to its request"),
        ("UPDATE requests SET fingerprint = zeroblob(16)", "another answer to its request"),
        ("DELETE FROM requests WHERE position = 3", "missing in the table of requests"),
        (
            "INSERT INTO requests (request_id, fingerprint, position)
             VALUES (randomblob(16), zeroblob(16), 2)",
            "recorded this event",
        ),
        (
            "INSERT INTO requests (request_id, fingerprint, position)
             VALUES (randomblob(16), zeroblob(16), 99)",
            "recorded this event",
        ),
        ("UPDATE store SET newest_request = zeroblob(16)", "would be taken for new"),
        ("UPDATE store SET requests_indexed = 5", "is less than store.indexed"),
        // Nothing is wrong with the index of the streams then: all of it is in memory.
        (
            "UPDATE store SET indexed = 0; DELETE FROM runs;
             DELETE FROM requests WHERE position = 4",
            "missing in the table of requests",
        ),
        ("DELETE FROM runs", "go to 0, store.indexed to 6"),
        ("UPDATE store SET indexed = 5", "go to 6, store.indexed to 5"),
        ("INSERT INTO runs VALUES (99, 3, 4)", "has positions 3 to 4 where 7 follows"),
        ("UPDATE runs SET last_position = 5", "a position that is not of this run"),
        ("DELETE FROM run_chunks", "has 0 entries instead of 6"),
        ("DELETE FROM run_chunks", "missing in the index of its stream"),
        ("UPDATE run_chunks SET version = 2", "it begins with another entry"),
        ("UPDATE run_chunks SET places = substr(places, 1, 12)", "an entry cannot be read"),
        (
            "UPDATE run_chunks SET places = unhex(hex(places) || '00')",
            "it is longer than its entries",
        ),
        (
            // Without the last event of each stream.
            "UPDATE run_chunks SET places = x'04010101000102010102000102'",
            "has 4 entries instead of 6",
        ),
        (
            // The same event twice, another not at all.
            "UPDATE run_chunks
             SET places = x'06010101000102000102010102000102000101'",
            "missing in the index of its stream",
        ),
        (
            // Each stream where the other is.
            "UPDATE run_chunks
             SET places = x'06010102000102000102010101000102000102'",
            "the index says that it is version 1 of stream 2",
        ),
        (
            "UPDATE events SET request = (SELECT request FROM events WHERE position = 1)
             WHERE position = 6",
            "the id of a request that did not record it",
        ),
    ];
    for (change, wanted) in changes {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir).await;
        for at in 0..6 {
            add_as(&log, at % 2, 10, Uuid::now_v7()).await.unwrap();
        }
        log.close().await;
        drop(log);
        let check = || daybook_log::verify::verify(dir.path(), None, |_| ());
        assert_eq!(check().await.unwrap().problems, vec![], "before: {change}");
        let url = format!("sqlite://{}", dir.path().join(sqlite::FILE_NAME).display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let done = sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{change}");
        connection.close().await.unwrap();
        let problems = check().await.unwrap().problems;
        assert!(problems.iter().any(|it| it.text.contains(wanted)), "{change}: {problems:?}");
    }
}
