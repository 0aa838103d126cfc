//! What every storage must do. SQLite is one; another adds a line to `every_storage!`.

use std::time::Duration;

use bytes::Bytes;
use daybook_log::record::leaf_hash;
use daybook_log::sqlite::{self, Options};
use daybook_log::storage::{
    ClaimKey, Direction, EventRow, Group, Holders, RequestRow, StorageReader, StorageWriter,
    StoredAnswer, StoredStream,
};
use daybook_log::{Error, Record};
use uuid::Uuid;

/// A storage under test, and what keeps its files.
struct Opened {
    writer: Box<dyn StorageWriter>,
    reader: Box<dyn StorageReader>,
    _files: tempfile::TempDir,
}

/// SQLite, where commits of up to a time are quick.
async fn sqlite(quick_commit: Duration) -> Opened {
    let files = tempfile::tempdir().unwrap();
    let options = Options { quick_commit, ..Options::new(files.path()) };
    let opened = sqlite::open(options).await.unwrap();
    Opened { writer: Box::new(opened.writer), reader: Box::new(opened.reader), _files: files }
}

/// Commits small groups until commits are quick.
async fn warm_up(storage: &mut Opened) {
    for id in 1_000_000..1_000_020 {
        let requests = vec![request(id, StoredAnswer::Other(Bytes::from_static(b"no")))];
        storage.writer.commit(Group { requests, ..Group::default() }.into()).await.unwrap();
    }
}

fn event(position: u64, stream_id: i64, version: u64) -> EventRow {
    let bytes = Bytes::from(format!("event {position}"));
    EventRow {
        stream_id,
        version,
        leaf_hash: leaf_hash(&bytes),
        record: Record { position, bytes },
    }
}

fn two_streams() -> Group {
    Group {
        streams: vec![(1, "a.b-x".into()), (2, "a.b-y".into())],
        events: vec![event(1, 1, 1), event(2, 2, 1), event(3, 1, 2), event(4, 1, 3)],
        requests: vec![
            request(1, StoredAnswer::Recorded(3)),
            request(2, StoredAnswer::Other(Bytes::from_static(b"no"))),
        ],
        claims: [(name("x"), Holders { before: None, after: Some(1) })].into(),
        published: None,
    }
}

fn name(key: &str) -> ClaimKey {
    ClaimKey { scope: "a.name", key: key.to_owned() }
}

fn request(id: u128, answer: StoredAnswer) -> RequestRow {
    RequestRow { id: Uuid::from_u128(id), fingerprint: [7; 16], answer }
}

fn positions(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position).collect()
}

async fn reads_back_what_was_committed(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    let reader = &storage.reader;
    let (forward, backward) = (Direction::Forward, Direction::Backward);
    let all = reader.read_all(1, forward, 10).await.unwrap();
    assert_eq!(positions(&all), [1, 2, 3, 4]);
    assert_eq!(all[2].bytes, Bytes::from("event 3"));
    assert_eq!(positions(&reader.read_all(2, forward, 2).await.unwrap()), [2, 3]);
    assert_eq!(positions(&reader.read_all(3, backward, 2).await.unwrap()), [3, 2]);
    assert!(reader.read_all(5, forward, 10).await.unwrap().is_empty());
    assert_eq!(positions(&reader.read_stream("a.b-x", 1, forward, 10).await.unwrap()), [1, 3, 4]);
    assert_eq!(positions(&reader.read_stream("a.b-x", 2, backward, 10).await.unwrap()), [3, 1]);
    assert!(reader.read_stream("a.b-z", 1, forward, 10).await.unwrap().is_empty());
    let wanted = [("a.b-y", 10), ("no-no", 10), ("a.b-x", 0), ("a.b-x", 2), ("a.b-x", 3)];
    let wanted = wanted.map(|(name, events)| (name.into(), events));
    let loaded = reader.load_streams(wanted.into()).await.unwrap();
    let loaded = loaded.into_iter().map(|stream| {
        let StoredStream { id, version, events } = stream?;
        Some((id, version, positions(&events.unwrap())))
    });
    assert_eq!(
        loaded.collect::<Vec<_>>(),
        [
            Some((2, 1, vec![2])),
            None,
            Some((1, 3, vec![])),
            Some((1, 3, vec![1, 3])),
            Some((1, 3, vec![1, 3, 4])),
        ]
    );
}

async fn finds_requests_by_id(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    let ids = [1, 2, 3].map(Uuid::from_u128);
    let mut found = storage.reader.find_requests(&ids).await.unwrap();
    found.sort_by_key(|row| row.id);
    assert_eq!(found, two_streams().requests);
    assert!(storage.reader.find_requests(&[]).await.unwrap().is_empty());
}

async fn refuses_a_second_event_of_a_version_and_writes_nothing_of_the_group(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    let group = Group {
        streams: vec![(3, "a.b-z".into())],
        events: vec![event(5, 3, 1), event(6, 1, 3)],
        requests: vec![request(9, StoredAnswer::Recorded(6))],
        claims: [(name("z"), Holders { before: None, after: Some(3) })].into(),
        published: Some(4),
    };
    let refused = storage.writer.commit(group.into()).await;
    assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    assert_eq!(storage.reader.read_all(5, Direction::Forward, 10).await.unwrap(), []);
    assert!(storage.reader.find_requests(&[Uuid::from_u128(9)]).await.unwrap().is_empty());
    let loaded = storage.reader.load_streams(vec![("a.b-z".into(), 10)]).await.unwrap();
    assert!(matches!(loaded[..], [None]), "{loaded:?}");
    assert_eq!(storage.reader.published().await.unwrap(), 0);
    assert_eq!(storage.reader.claim_holders(&[name("z")]).await.unwrap(), [None]);
    // The storage goes on with the next group.
    let group = Group { events: vec![event(5, 2, 2)], ..Group::default() };
    storage.writer.commit(group.into()).await.unwrap();
}

async fn refuses_a_position_that_is_taken_and_writes_nothing_of_the_group(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    // Enough events that several go with one statement, the last of which is in the way.
    let mut events: Vec<EventRow> = (5..12).map(|at| event(at, 3, at - 4)).collect();
    events.push(event(4, 3, 8));
    let streams = vec![(3, "a.b-z".into())];
    let group = Group { streams, events, published: Some(4), ..Group::default() };
    let refused = storage.writer.commit(group.into()).await;
    assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    assert_eq!(storage.reader.read_all(5, Direction::Forward, 10).await.unwrap(), []);
    assert!(
        storage.reader.read_stream("a.b-z", 1, Direction::Forward, 10).await.unwrap().is_empty()
    );
    assert_eq!(storage.reader.published().await.unwrap(), 0);
    let group = Group { events: vec![event(5, 2, 2)], ..Group::default() };
    storage.writer.commit(group.into()).await.unwrap();
}

async fn knows_after_a_failed_group_which_version_comes_next(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    // Its events are in order; what fails comes after them.
    let claims = [(name("x"), Holders { before: Some(2), after: None })].into();
    let events = vec![event(5, 1, 4), event(6, 2, 2)];
    let group = Group { events: events.clone(), claims, ..Group::default() };
    let refused = storage.writer.commit(group.into()).await;
    assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    let skips = Group { events: vec![event(5, 1, 5)], ..Group::default() };
    let refused = storage.writer.commit(skips.into()).await;
    assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    storage.writer.commit(Group { events, ..Group::default() }.into()).await.unwrap();
}

async fn keeps_who_holds_a_claim(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    let asked = [name("y"), name("x"), name("it's \"quoted\"")];
    assert_eq!(storage.reader.claim_holders(&asked).await.unwrap(), [None, Some(1), None]);
    let change = |key, before, after| Group {
        claims: [(name(key), Holders { before, after })].into(),
        ..Group::default()
    };
    storage.writer.commit(change("x", Some(1), Some(2)).into()).await.unwrap();
    storage.writer.commit(change("it's \"quoted\"", None, Some(1)).into()).await.unwrap();
    assert_eq!(storage.reader.claim_holders(&asked).await.unwrap(), [None, Some(2), Some(1)]);
    for wrong in [change("x", Some(1), None), change("x", None, Some(1))] {
        let refused = storage.writer.commit(wrong.into()).await;
        assert!(matches!(refused, Err(Error::NotWritten { .. })), "{refused:?}");
    }
    storage.writer.commit(change("x", Some(2), None).into()).await.unwrap();
    assert_eq!(storage.reader.claim_holders(&asked).await.unwrap(), [None, None, Some(1)]);
}

async fn keeps_the_published_mark(mut storage: Opened) {
    storage.writer.commit(two_streams().into()).await.unwrap();
    assert_eq!(storage.reader.published().await.unwrap(), 0);
    let group = Group { published: Some(3), ..Group::default() };
    storage.writer.commit(group.into()).await.unwrap();
    assert_eq!(storage.reader.published().await.unwrap(), 3);
}

async fn takes_a_group_of_any_size(mut storage: Opened) {
    let events: Vec<EventRow> = (1..=5003).map(|at| event(at, 1, at)).collect();
    let streams = vec![(1, "a.b-x".into())];
    storage.writer.commit(Group { streams, events, ..Group::default() }.into()).await.unwrap();
    let last = storage.reader.read_all(u64::MAX, Direction::Backward, 1).await.unwrap();
    assert_eq!(positions(&last), [5003]);
}

macro_rules! every_storage {
    ($($law:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test] async fn $law() {
                super::$law(super::sqlite(super::Duration::ZERO).await).await;
            })*
        }
        mod over_sqlite_that_commits_within_the_call {
            $(#[tokio::test] async fn $law() {
                let mut opened = super::sqlite(super::Duration::MAX).await;
                super::warm_up(&mut opened).await;
                super::$law(opened).await;
            })*
        }
    };
}

every_storage!(
    reads_back_what_was_committed,
    finds_requests_by_id,
    refuses_a_second_event_of_a_version_and_writes_nothing_of_the_group,
    refuses_a_position_that_is_taken_and_writes_nothing_of_the_group,
    knows_after_a_failed_group_which_version_comes_next,
    keeps_who_holds_a_claim,
    keeps_the_published_mark,
    takes_a_group_of_any_size,
);

/// `.cargo/config.toml` says why; without it everything works, but threads wait for each other.
#[test]
fn sqlite_is_built_without_one_lock_for_all_files() {
    let memory = rusqlite::Connection::open_in_memory().expect("a store in memory");
    let mut statement = memory.prepare("PRAGMA compile_options").expect("a pragma");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("options");
    let options: Vec<String> = rows.collect::<Result<_, _>>().expect("options");
    assert!(options.iter().any(|option| option == "DEFAULT_MEMSTATUS=0"), "{options:?}");
    for option in ["ENABLE_MEMORY_MANAGEMENT", "ENABLE_STAT4"] {
        assert!(!options.iter().any(|found| found == option), "{option} in {options:?}");
    }
}

/// `.cargo/config.toml` says why, too: otherwise each read of a page would compile its statement.
#[test]
fn sqlite_compiles_a_statement_once_whatever_its_limit() {
    let memory = rusqlite::Connection::open_in_memory().expect("a store in memory");
    let sql = "SELECT value FROM json_each('[1, 2, 3]') WHERE value > ? LIMIT ?";
    let mut statement = memory.prepare(sql).expect("a statement");
    for limit in 1..4 {
        let rows = statement.query_map([0, limit], |row| row.get::<_, i64>(0)).expect("rows");
        assert_eq!(rows.count() as i64, limit);
    }
    assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
}
