//! The indexes, which follow the log: in memory, in their tables, and after a crash.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use daybook_log::sqlite::{self, Options, Sqlite};
use daybook_log::storage::{
    EventRow, Group, Recall, RequestRow, StorageReader, StorageWriter, StoredAnswer,
};
use daybook_log::{Config, EventLog, Record};
use sqlx::Connection;
use uuid::Uuid;

use crate::fixture::{LITTLE, add_as, copy_of};

/// A merge goes on where it was, over many groups; and whenever the process is killed, the tables
/// and the end of the log are the whole index.
#[tokio::test]
async fn an_index_is_merged_a_slice_at_a_time_and_is_whole_after_every_crash() {
    let dir = tempfile::tempdir().unwrap();
    let index_after = NonZeroUsize::new(400).unwrap();
    let config = Config { index_after, cache: LITTLE[0], ..Config::new(dir.path()) };
    let log = EventLog::open(config.clone()).await.unwrap();
    let mut requests = Vec::new();
    let mut marks = HashSet::new();
    for number in 0..1500 {
        let (counter, request) = ((number % 7) as u8, Uuid::now_v7());
        let receipt = add_as(&log, counter, 1, request).await.unwrap();
        requests.push((counter, request, receipt.position));
        if number % 61 > 0 {
            continue;
        }
        let crashed = copy_of(&dir);
        let findings = daybook_log::verify::verify(crashed.path(), None, |_| ()).await.unwrap();
        assert_eq!((findings.events, findings.problems), (number + 1, vec![]));
        marks.insert(store_marks(crashed.path()).await);
        let again = Config { directory: crashed.path().into(), ..config.clone() };
        let again = EventLog::open(again).await.unwrap();
        for (counter, request, position) in requests.iter().rev().step_by(40) {
            let receipt = add_as(&again, *counter, 1, *request).await.unwrap();
            assert_eq!((receipt.position, receipt.replayed), (*position, true));
        }
        again.close().await;
    }
    // Events have been merged at least twice, requests more often.
    let events: HashSet<_> = marks.iter().map(|(events, _)| events).collect();
    let requests: HashSet<_> = marks.iter().map(|(_, requests)| requests).collect();
    assert!(events.len() > 2 && requests.len() > events.len(), "{marks:?}");
    log.close().await;
    let findings = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap();
    assert_eq!((findings.events, findings.problems), (1500, vec![]));
}

/// How far the tables of events and of requests go.
async fn store_marks(dir: &std::path::Path) -> (i64, i64) {
    let url = format!("sqlite://{}", dir.join(sqlite::FILE_NAME).display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let sql = "SELECT indexed, requests_indexed FROM store";
    let marks = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    marks
}

/// With many events for each request, what was merged would soon have few requests in memory.
#[tokio::test]
async fn recent_requests_are_recalled_however_many_events_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let index_after = NonZeroUsize::new(800).unwrap();
    let opened = sqlite::open(Options { index_after, ..Options::new(dir.path()) });
    let Sqlite { mut writer, reader, .. } = opened.await.unwrap();
    let requests: Vec<_> = (0..150).map(|_| Uuid::now_v7()).collect();
    for (request, first) in requests.iter().zip((1..).step_by(50)) {
        let rows = (first..first + 50).map(event_row);
        let answer = StoredAnswer::Recorded(first + 49);
        let group = Group {
            streams: (first == 1).then(|| (1, "a-b".into())).into_iter().collect(),
            events: rows.collect(),
            requests: vec![RequestRow { id: *request, fingerprint: [1; 16], answer }],
            ..Group::default()
        };
        writer.commit(group.into()).await.unwrap();
    }
    for request in requests.iter().rev().take(100) {
        assert!(matches!(reader.recall(request), Recall::Stored(_)), "{request}");
    }
    Box::new(writer).close().await;
}

/// The event of the first stream at a position.
fn event_row(position: u64) -> EventRow {
    let bytes = bytes::Bytes::from_static(b"event");
    let record = Record { position, bytes };
    EventRow { stream_id: 1, version: position, leaf_hash: [0; 32], record }
}
