//! Where a group is committed: what is small and likely to be short by the caller, the rest by the
//! thread.

use bytes::Bytes;
use futures::FutureExt;

use super::super::{Sqlite, open};
use super::*;
use crate::Record;

/// A store whose last commits were quick, so many of them.
async fn store(directory: &tempfile::TempDir, quick: u32) -> SqliteWriter {
    let Sqlite { writer, .. } = open(Options::new(directory.path())).await.unwrap();
    writer.store.lock().unwrap().quick = quick;
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

/// Another process that writes to the file.
fn other(directory: &tempfile::TempDir) -> Connection {
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// How many events are in the file.
fn count(directory: &tempfile::TempDir) -> i64 {
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_small_group_is_committed_at_once_while_commits_are_quick() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_ONES).await;
    let committed = writer.commit(group(1, SMALL as u64, 10)).now_or_never();
    assert!(matches!(committed, Some(Ok(()))), "{committed:?}");
    assert_eq!(count(&directory), SMALL as i64);
}

#[tokio::test]
async fn what_is_large_or_follows_a_slow_commit_is_for_the_thread() {
    let many = SMALL as u64 + 1;
    for (quick, group) in [
        (QUICK_ONES - 1, group(1, 1, 10)),
        (QUICK_ONES, group(1, many, 10)),
        (QUICK_ONES, group(1, 1, SMALL_BYTES + 1)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = store(&directory, quick).await;
        let events = group.events.len() as i64;
        let here = writer.commit_here(&group);
        assert!(here.is_none(), "{quick} quick commits, {events} events");
        writer.commit(group).await.unwrap();
        assert_eq!(count(&directory), events);
    }
}

#[tokio::test]
async fn nobody_waits_here_for_another_process_that_writes() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_ONES).await;
    writer.commit(group(1, 1, 10)).await.unwrap();
    writer.store.lock().unwrap().quick = QUICK_ONES;
    let other = other(&directory);
    let mut committing = writer.commit(group(2, 1, 10));
    assert!((&mut committing).now_or_never().is_none());
    std::thread::sleep(2 * QUICK);
    other.execute_batch("ROLLBACK").unwrap();
    committing.await.unwrap();
    assert_eq!(count(&directory), 2);
    // That was not quick.
    assert_eq!(writer.store.lock().unwrap().quick, 0);
}

#[tokio::test]
async fn a_failed_commit_is_not_quick_and_the_next_one_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = store(&directory, QUICK_ONES).await;
    let refused = writer.commit(group(3, 1, 10)).now_or_never();
    assert!(matches!(refused, Some(Err(Error::NotWritten { .. }))), "{refused:?}");
    assert_eq!(writer.store.lock().unwrap().quick, 0);
    writer.commit(group(1, 2, 10)).await.unwrap();
    assert_eq!(count(&directory), 2);
    // The lock of the store is free when it is closed.
    Box::new(writer).close().await;
    store(&directory, 0).await;
}
