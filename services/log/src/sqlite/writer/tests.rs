//! Where a group is committed: what is small and likely to be short by the caller, the rest by the
//! thread.

use bytes::Bytes;
use futures::FutureExt;
use tempfile::TempDir;
use uuid::Uuid;

use super::super::{Sqlite, open};
use super::*;
use crate::Record;
use crate::storage::RequestRow;

/// A store in which every commit is quick, with the score that those before are to have left.
async fn store(directory: &TempDir, score: u32) -> SqliteWriter {
    let options = Options { quick_commit: Duration::MAX, ..Options::new(directory.path()) };
    let Sqlite { writer, .. } = open(options).await.unwrap();
    writer.store.lock().unwrap().score = score;
    writer
}

/// The events of one stream from a position on, each of so many bytes.
fn group(first: u64, count: u64, bytes: usize) -> Arc<Group> {
    let events = (first..first + count).map(|position| {
        let record = Record { position, bytes: Bytes::from(vec![0; bytes]) };
        EventRow { stream_id: 1, version: position, leaf_hash: [position as u8; 32], record }
    });
    let streams = if first == 1 { vec![(1, Arc::from("counter-1"))] } else { Vec::new() };
    Arc::new(Group { streams, events: events.collect(), ..Group::default() })
}

/// A group of answers to so many requests.
fn answers(count: usize) -> Arc<Group> {
    let answer = StoredAnswer::Other(Bytes::from_static(b"refused"));
    let requests = (1..=count as u128).map(|number| RequestRow {
        id: Uuid::from_u128(number),
        fingerprint: [0; 16],
        answer: answer.clone(),
    });
    Arc::new(Group { requests: requests.collect(), ..Group::default() })
}

/// Another connection to the file, as another process would have.
fn other(directory: &TempDir) -> Connection {
    Connection::open(directory.path().join(FILE_NAME)).unwrap()
}

/// How many events and answers are in the file.
fn count(directory: &TempDir) -> usize {
    let sql = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM requests)";
    let count: u32 = other(directory).query_row(sql, [], |row| row.get(0)).unwrap();
    count as usize
}

#[tokio::test]
async fn a_small_group_is_committed_within_the_call_once_commits_are_quick() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, 0).await;
    for position in 1..=u64::from(QUICK_SCORE) {
        assert!(writer.commit_here(&group(position, 1, 10)).is_err());
        writer.commit(group(position, 1, 10)).await.unwrap();
    }
    let before = count(&directory);
    let next = before as u64 + 1;
    for group in [group(next, SMALL as u64, 10), answers(SMALL)] {
        let committed = writer.commit(group).now_or_never();
        assert!(matches!(committed, Some(Ok(()))), "{committed:?}");
    }
    assert_eq!(count(&directory), before + 2 * SMALL);
    let last = group(next + SMALL as u64, 1, SMALL_BYTES);
    assert!(writer.commit(last).now_or_never().is_some());
}

#[tokio::test]
async fn what_is_large_is_for_the_thread() {
    for large in [group(1, SMALL as u64 + 1, 10), answers(SMALL + 1), group(1, 1, SMALL_BYTES + 1)]
    {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = store(&directory, QUICK_SCORE).await;
        assert!(matches!(writer.commit_here(&large), Err(None)));
        let rows = large.events.len() + large.requests.len();
        writer.commit(large).await.unwrap();
        assert_eq!(count(&directory), rows);
    }
}

#[tokio::test]
async fn after_a_commit_that_took_very_long_the_next_ones_are_for_the_thread() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { quick_commit: Duration::ZERO, ..Options::new(directory.path()) };
    let Sqlite { mut writer, .. } = open(options).await.unwrap();
    writer.store.lock().unwrap().score = MOST_SCORE;
    assert!(writer.commit(group(1, 1, 10)).now_or_never().is_some());
    for position in 2..30 {
        assert!(matches!(writer.commit_here(&group(position, 1, 10)), Err(None)));
        writer.commit(group(position, 1, 10)).await.unwrap();
    }
}

#[tokio::test]
async fn commits_are_quick_while_no_more_than_a_third_of_them_is_late() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        Options { quick_commit: Duration::from_millis(1), ..Options::new(directory.path()) };
    let Sqlite { writer, .. } = open(options).await.unwrap();
    let mut store = writer.store.lock().unwrap();
    let [quick, late, very_late] = [1, 10, 11].map(Duration::from_millis);
    let mut quick_after = |times: &[Duration]| {
        times.iter().for_each(|time| store.took(*time));
        store.is_quick()
    };
    assert!(!quick_after(&[quick; 7]));
    assert!(quick_after(&[quick; 1]));
    assert!(quick_after(&[quick; 100]));
    // One of four is late: that stays so.
    for _ in 0..100 {
        assert!(quick_after(&[late, quick, quick, quick]));
    }
    // All are late, and it takes as many quick ones as at first.
    assert!(quick_after(&[late; 4]));
    assert!(!quick_after(&[late; 1]));
    assert!(!quick_after(&[late; 100]));
    assert!(!quick_after(&[quick; 7]));
    assert!(quick_after(&[quick; 1]));
    // One of three is late: it stays as it is, whatever that is.
    assert!(quick_after(&[quick; 100]));
    for _ in 0..100 {
        assert!(quick_after(&[late, quick, quick]));
    }
    // Two of three are late.
    for _ in 0..10 {
        quick_after(&[late, late, quick]);
    }
    assert!(!quick_after(&[]));
    // A single one that is very late is enough.
    assert!(quick_after(&[quick; 100]));
    assert!(!quick_after(&[very_late]));
    assert!(!quick_after(&[quick; 7]));
    assert!(quick_after(&[quick; 1]));
}

#[tokio::test]
async fn nobody_waits_within_the_call_for_another_process_that_writes() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_SCORE).await;
    writer.commit(group(1, 1, 10)).await.unwrap();
    let other = other(&directory);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The thread would wait for seconds.
    let began = Instant::now();
    let committing = writer.commit(group(2, 1, 10));
    assert!(began.elapsed() < BUSY_TIMEOUT / 2, "{:?}", began.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    committing.await.unwrap();
    assert_eq!(count(&directory), 2);
}

#[tokio::test]
async fn what_goes_wrong_within_the_call_is_settled_by_the_thread() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_SCORE).await;
    let refused = writer.commit(group(3, 1, 10));
    let refused = refused.await;
    assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    assert_eq!(writer.store.lock().unwrap().score, 0);
    writer.commit(group(1, 2, 10)).await.unwrap();
    // A full disk: the group is refused, and the one before is there.
    let pages: u32 =
        other(&directory).query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    {
        let mut store = writer.store.lock().unwrap();
        store.score = QUICK_SCORE;
        let connection = store.connection.as_ref().unwrap();
        connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
        store.options.max_pages = Some(pages);
    }
    let full = writer.commit(group(3, 1, SMALL_BYTES)).await;
    assert!(matches!(full, Err(Error::DiskFull)), "{full:?}");
    assert_eq!(count(&directory), 2);
    // The lock of the store is free when it is closed.
    Box::new(writer).close().await;
    store(&directory, 0).await;
}

/// Groups that are committed within the call leave what follows them to the thread, so that the WAL
/// begins anew and what gathers in memory is merged.
#[tokio::test]
async fn the_thread_tidies_up_after_groups_that_it_did_not_commit() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_SCORE).await;
    let wal = directory.path().join(format!("{FILE_NAME}-wal"));
    let mut here = 0;
    for position in 1..=800 {
        let mut committing = writer.commit(group(position, 1, 100 * 1024));
        match (&mut committing).now_or_never() {
            Some(committed) => {
                here += 1;
                committed.unwrap();
            }
            None => committing.await.unwrap(),
        }
    }
    assert!(here > 600, "{here}");
    // 16 MiB are moved at once; twice as much is written until they are, with room.
    let length = wal.metadata().unwrap().len();
    assert!(length < 50 << 20, "{length} bytes of 80 MiB");
    assert_eq!(count(&directory), 800);
}
