//! The WAL is moved into the main file while the log is written.

use std::path::Path;

use daybook_log::sqlite::FILE_NAME;
use daybook_log::{Direction, EventLog};
use rusqlite::{Connection, OpenFlags};

use crate::fixture::{Ask, all_events, open, submission};

const MEGABYTE: u64 = 1 << 20;

/// The bytes of the WAL's file, which keeps its length when the WAL begins anew.
fn wal(dir: &Path) -> u64 {
    dir.join(format!("{FILE_NAME}-wal")).metadata().unwrap().len()
}

/// Writes so many megabytes, a group each.
async fn write(log: &EventLog, megabytes: u64) {
    for number in 0..megabytes {
        let events =
            (0..5).map(|event| submission(number * 5 + event, Ask::Bytes(200 * 1024), None));
        let written = futures::future::join_all(events.map(|event| log.submit(event))).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
    }
}

/// 16 MB are moved at once; twice as much is what is written until they are, with room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wal_that_is_written_all_the_time_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    write(&log, 80).await;
    assert!(wal(dir.path()) < 50 * MEGABYTE, "{}", wal(dir.path()));
    assert_eq!(all_events(&log).await.len(), 400);
    log.close().await;
    let findings = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap();
    assert_eq!((findings.events, findings.problems), (400, vec![]));
}

/// What a reader needs stays in the WAL; when it is gone, the WAL begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_the_way_does_not_stop_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    write(&log, 1).await;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = Connection::open_with_flags(dir.path().join(FILE_NAME), flags).unwrap();
    let count = || -> i64 {
        reader.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
    };
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), 5);
    write(&log, 30).await;
    assert!(wal(dir.path()) > 30 * MEGABYTE, "{}", wal(dir.path()));
    assert_eq!(count(), 5, "the reader sees its moment");
    reader.execute_batch("COMMIT").unwrap();
    write(&log, 60).await;
    assert!(wal(dir.path()) < 75 * MEGABYTE, "{}", wal(dir.path()));
    assert_eq!(count(), 5 * 91);
    assert_eq!(log.read_all(1, Direction::Forward, 1).await.unwrap().len(), 1);
    log.close().await;
}
