//! The runs on the disk, in which the index of the streams is: they are compacted by the way, and
//! what is wrong with them is never taken for an answer.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daybook_log::sqlite;
use daybook_log::{Config, Direction, Error, EventLog};
use futures::future::join_all;
use sqlx::Connection;

use crate::fixture::{Ask, LITTLE, add, copy_of, stream, submission};

const STREAMS: usize = 11;

/// What the runs of a store are.
#[derive(Debug)]
struct Runs {
    /// The events of each complete run, the oldest first.
    lengths: Vec<i64>,
    /// How many others have chunks.
    others: i64,
}

async fn connect(dir: &Path) -> sqlx::SqliteConnection {
    let url = format!("sqlite://{}", dir.join(sqlite::FILE_NAME).display());
    sqlx::SqliteConnection::connect(&url).await.unwrap()
}

async fn runs(dir: &Path) -> Runs {
    let mut connection = connect(dir).await;
    let sql = "SELECT last_position - first_position + 1 FROM runs ORDER BY first_position";
    let lengths = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    let sql = "SELECT count(DISTINCT run) FROM run_chunks WHERE run NOT IN (SELECT run FROM runs)";
    let others = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Runs { lengths, others }
}

/// Reads a stream in both directions, in pages and from its middle.
async fn check_stream(log: &EventLog, id: usize, length: u64) {
    let name = stream(id).to_string();
    let read = async |from, direction, limit| -> Vec<u64> {
        let records = log.read_stream(&name, from, direction, limit).await.unwrap();
        records.iter().map(|record| record.decode().unwrap().version).collect()
    };
    let mut all = Vec::new();
    while let from = all.len() as u64 + 1
        && let page = read(from, Direction::Forward, 90).await
        && !page.is_empty()
    {
        all.extend(page);
    }
    assert_eq!(all, (1..=length).collect::<Vec<_>>());
    let last: Vec<u64> = (1..=length).rev().take(200).collect();
    assert_eq!(read(u64::MAX, Direction::Backward, 200).await, last);
    let middle = (length / 2).max(1);
    let before: Vec<u64> = (1..=middle).rev().take(50).collect();
    assert_eq!(read(middle, Direction::Backward, 50).await, before);
}

#[tokio::test]
async fn runs_are_compacted_by_the_way_and_all_is_read_meanwhile_and_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let index_after = NonZeroUsize::new(200).unwrap();
    let config = Config { index_after, cache: LITTLE[0], ..Config::new(dir.path()) };
    let log = EventLog::open(config.clone()).await.unwrap();
    let mut lengths = [0_u64; STREAMS];
    let (mut at_work, mut most) = (0, 0);
    for group in 0..100 {
        let ids: Vec<usize> = (0..40).map(|at| at * at * (group + 1) % STREAMS).collect();
        for added in join_all(ids.iter().map(|id| add(&log, id, 1))).await {
            added.unwrap();
        }
        ids.iter().for_each(|id| lengths[*id] += 1);
        if group % 7 > 0 {
            continue;
        }
        check_stream(&log, group % STREAMS, lengths[group % STREAMS]).await;
        let crashed = copy_of(&dir);
        let found = runs(crashed.path()).await;
        at_work += usize::from(found.others > 0);
        most = most.max(found.lengths.len());
        let findings = daybook_log::verify::verify(crashed.path(), None, |_| ()).await.unwrap();
        assert_eq!(findings.problems, vec![]);
        let again = Config { directory: crashed.path().into(), ..config.clone() };
        let again = EventLog::open(again).await.unwrap();
        let id = (group + 1) % STREAMS;
        check_stream(&again, id, lengths[id]).await;
        assert_eq!(add(&again, id, 1).await.unwrap().version, lengths[id] + 1);
        again.close().await;
        let findings = daybook_log::verify::verify(crashed.path(), None, |_| ()).await.unwrap();
        assert_eq!(findings.problems, vec![]);
    }
    assert!(at_work > 3, "no crash was in the middle of a merge");
    assert!((2..=7).contains(&most), "{most} runs at once");
    log.close().await;
    drop(log);
    // Beside a few commands, what remains is done: what was left over, too.
    let log = EventLog::open(Config { index_after: NonZeroUsize::MAX, ..config }).await.unwrap();
    for _ in 0..60 {
        add(&log, 0, 1).await.unwrap();
    }
    lengths[0] += 60;
    let settled = runs(copy_of(&dir).path()).await;
    assert!(settled.lengths.is_sorted_by(|before, later| *before >= 2 * *later), "{settled:?}");
    assert_eq!((settled.lengths.iter().sum::<i64>(), settled.others), (4000, 0), "{settled:?}");
    for (id, length) in lengths.into_iter().enumerate() {
        check_stream(&log, id, length).await;
    }
    log.close().await;
    let findings = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap();
    assert_eq!((findings.events, findings.problems), (4060, vec![]));
}

/// Whoever reads sees all that was acknowledged before, in whatever memory or run it is by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_miss_nothing_while_runs_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let index_after = NonZeroUsize::new(50).unwrap();
    let config = Config { index_after, cache: LITTLE[0], ..Config::new(dir.path()) };
    let log = EventLog::open(config).await.unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let readers = [Direction::Forward, Direction::Backward].map(|direction| {
        let (log, acknowledged) = (log.clone(), acknowledged.clone());
        tokio::spawn(async move {
            let name = stream(0).to_string();
            let mut reads = 0;
            while let least = acknowledged.load(Ordering::SeqCst)
                && least < 3000
            {
                let (from, limit) = match direction {
                    Direction::Forward => (least.saturating_sub(60).max(1), 500),
                    Direction::Backward => (u64::MAX, 60),
                };
                let records = log.read_stream(&name, from, direction, limit).await.unwrap();
                let versions = records.iter().map(|record| record.decode().unwrap().version);
                assert!(versions.max().unwrap_or(0) >= least, "{direction:?}: {least} is missing");
                reads += 1;
            }
            reads
        })
    });
    for group in 1..=150 {
        for added in join_all((0..40).map(|at| add(&log, at % 2, 1))).await {
            added.unwrap();
        }
        acknowledged.store(group * 20, Ordering::SeqCst);
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 10);
    }
    log.close().await;
    let findings = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap();
    assert_eq!((findings.events, findings.problems), (6000, vec![]));
}

/// Many sessions that write a little each leave few runs.
#[tokio::test]
async fn short_sessions_leave_few_runs() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..40 {
        let log = EventLog::open(Config::new(dir.path())).await.unwrap();
        add(&log, "a", 1).await.unwrap();
        log.close().await;
    }
    let Runs { lengths, others } = runs(dir.path()).await;
    assert!(lengths.len() <= 8 && others <= 2, "{lengths:?}, {others}");
    assert_eq!(lengths.iter().sum::<i64>(), 40);
}

/// A full disk: what is left over of the index makes room for a group, which is not refused before.
#[tokio::test]
async fn what_is_left_over_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(Config::new(dir.path())).await.unwrap();
    add(&log, "a", 1).await.unwrap();
    log.close().await;
    let mut connection = connect(dir.path()).await;
    let left_over =
        "WITH numbers (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 200)
        INSERT INTO run_chunks (run, stream_id, version, places)
        SELECT 99, n, 1, zeroblob(4000) FROM numbers";
    sqlx::query(left_over).execute(&mut connection).await.unwrap();
    let pages: u32 =
        sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let config = Config { max_pages: Some(pages), ..Config::new(dir.path()) };
    let log = EventLog::open(config).await.unwrap();
    // Some 50 pages: more than are deleted with a group while there is room.
    let answers =
        join_all((0..20).map(|at| log.submit(submission(at, Ask::Bytes(9000), None)))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    log.close().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_run_is_an_error_and_no_answer() {
    let changes = [
        // Each stream where the other is.
        (
            "UPDATE run_chunks SET places = x'06010102000102000102010101000102000102'",
            "belongs here",
        ),
        // Without an event in the middle of the streams.
        ("UPDATE run_chunks SET places = x'04010101000204010102000204'", "version 2 of stream"),
        ("UPDATE run_chunks SET places = substr(places, 1, 4)", "an entry cannot be read"),
        ("UPDATE run_chunks SET stream_id = 0", "it begins with another entry"),
    ];
    for (change, wanted) in changes {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(Config::new(dir.path())).await.unwrap();
        for at in 0..6 {
            add(&log, at % 2, 10).await.unwrap();
        }
        log.close().await;
        let mut connection = connect(dir.path()).await;
        let changed = sqlx::query(change).execute(&mut connection).await.unwrap();
        assert_eq!(changed.rows_affected(), 1);
        connection.close().await.unwrap();
        let log = EventLog::open(Config::new(dir.path())).await.unwrap();
        for (from, direction) in [(1, Direction::Forward), (u64::MAX, Direction::Backward)] {
            let read = log.read_stream(stream(1).as_str(), from, direction, 10).await;
            let Err(Error::Read { problem } | Error::Damaged { problem, .. }) = read else {
                panic!("{change}: {read:?}")
            };
            assert!(problem.contains(wanted), "{change}: {problem}");
        }
        let added = add(&log, 1, 1).await;
        let is_damage = matches!(added, Err(Error::Read { .. } | Error::Damaged { .. }));
        assert!(is_damage, "{change}: {added:?}");
        assert_eq!(log.read_all(1, Direction::Forward, 10).await.unwrap().len(), 6);
        assert_eq!(add(&log, "other", 1).await.unwrap().position, 7, "the rest goes on");
        log.close().await;
    }
}
