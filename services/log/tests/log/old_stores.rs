//! Stores of earlier formats open, with everything that is in them. The files under `stores` were
//! written by the versions of that time and are never made anew.

use std::path::Path;

use daybook_log::{Config, Error, EventLog, sqlite};
use sqlx::Connection;
use uuid::Uuid;

use crate::fixture::{Ask, add, add_as, all_events, claim_all, copy_of, submission};
use crate::writer_laws::check_stream;

/// A copy of a store.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log/stores").join(name);
    std::fs::copy(from, dir.path().join(sqlite::FILE_NAME)).unwrap();
    dir
}

/// The n-th request that the store has an answer to.
fn request(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

#[tokio::test]
async fn a_store_of_the_first_format_opens_with_all_it_has() {
    let dir = copy("format-1.db");
    let unopened = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap_err();
    assert!(unopened.to_string().contains("start this version on it once"), "{unopened}");
    for (opened, added) in [(1, 0), (2, 2)] {
        let log = EventLog::open(Config::new(dir.path())).await.unwrap();
        assert_eq!(all_events(&log).await.len(), 23 + added, "opened for the {opened}. time");
        assert_eq!(log.published(), 17);
        let first = add_as(&log, "a", 3, request(1)).await.unwrap();
        assert_eq!((first.version, first.position, first.replayed), (1, 1, true));
        let both = submission("b", Ask::Add(vec![3, 4]), Some(request(2)));
        let both = log.submit(both).await.unwrap();
        assert_eq!((both.version, both.position, both.event_ids.len()), (2, 3, 2));
        let refused = add_as(&log, "a", -50, request(3)).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { replayed: true, .. }), "{refused}");
        let nothing = submission("a", Ask::Add(vec![]), Some(Uuid::from_u128(4)));
        let nothing = log.submit(nothing).await.unwrap();
        assert_eq!((nothing.version, nothing.replayed), (1, true));
        let reused = add_as(&log, "a", 4, request(1)).await.unwrap_err();
        assert!(matches!(reused, Error::RequestIdReused { .. }), "{reused}");
        // The sums go on from what is stored: a has 3 and 7 times 1.
        assert!(add(&log, "a", -11).await.is_err());
        if added == 0 {
            assert_eq!(add(&log, "a", -10).await.unwrap().version, 9);
            claim_all(&log, "d", &["+name"]).await.unwrap();
        }
        assert!(claim_all(&log, "c", &["+name"]).await.is_err());
        log.close().await;
    }
    let findings = sqlite_verify(dir.path()).await;
    assert_eq!((findings.events, findings.problems), (25, vec![]));
}

/// The third format has no mark of its own for the requests: those after `indexed` are in no table.
#[tokio::test]
async fn a_store_of_the_third_format_opens_with_all_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(Config::new(dir.path())).await.unwrap();
    for number in 1..=20 {
        add_as(&log, "a", 1, request(number)).await.unwrap();
    }
    // As it is while it is open: nothing is merged yet.
    let old = copy_of(&dir);
    let url = format!("sqlite://{}", old.path().join(sqlite::FILE_NAME).display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    back_to_the_fourth_format(&mut connection).await;
    let back = "ALTER TABLE store DROP COLUMN requests_indexed;
                DELETE FROM _sqlx_migrations WHERE version = 4";
    sqlx::raw_sql(back).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let opened = EventLog::open(Config::new(old.path())).await.unwrap();
    for number in (1..=20).rev() {
        let receipt = add_as(&opened, "a", 1, request(number)).await.unwrap();
        assert_eq!((receipt.position, receipt.replayed), (number as u64, true));
    }
    assert_eq!(add(&opened, "a", 1).await.unwrap().version, 21);
    opened.close().await;
    let findings = sqlite_verify(old.path()).await;
    assert_eq!((findings.events, findings.problems), (21, vec![]));
}

/// The fourth format has the index of the streams in a tree, with some entries beyond the mark from
/// what was being merged.
#[tokio::test]
async fn a_store_of_the_fourth_format_opens_with_all_it_has() {
    let new = tempfile::tempdir().unwrap();
    let log = EventLog::open(Config::new(new.path())).await.unwrap();
    for number in 0..60_u64 {
        let some = submission(number % 7, Ask::Add(vec![1; 50]), None);
        log.submit(some).await.unwrap();
    }
    log.close().await;
    drop(log);
    for (indexed, migrated) in [(2500, false), (2500, true), (0, false), (3000, false)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(sqlite::FILE_NAME);
        std::fs::copy(new.path().join(sqlite::FILE_NAME), &file).unwrap();
        let url = format!("sqlite://{}", file.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("UPDATE store SET indexed = ?")
            .bind(indexed)
            .execute(&mut connection)
            .await
            .unwrap();
        if migrated {
            // The process has ended between the migrations and the conversion.
            sqlx::raw_sql("DELETE FROM runs; DELETE FROM run_chunks")
                .execute(&mut connection)
                .await
                .unwrap();
            fill_tree(&mut connection).await;
        } else {
            back_to_the_fourth_format(&mut connection).await;
        }
        connection.close().await.unwrap();
        let unopened = daybook_log::verify::verify(dir.path(), None, |_| ()).await.unwrap_err();
        assert!(unopened.to_string().contains("start this version on it once"), "{unopened}");
        for opened in 0..2 {
            let log = EventLog::open(Config::new(dir.path())).await.unwrap();
            assert_eq!(all_events(&log).await.len(), 3000 + opened);
            if opened == 0 {
                check_stream(&log, 1, 450).await;
                check_stream(&log, 6, 400).await;
            }
            assert_eq!(add(&log, 0, 1).await.unwrap().version, 451 + opened as u64);
            log.close().await;
        }
        let findings = sqlite_verify(dir.path()).await;
        assert_eq!((findings.events, findings.problems), (3002, vec![]));
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'stream_events'";
        let trees: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(trees, 0);
        connection.close().await.unwrap();
    }
}

/// Makes of a store what the version before would have left.
async fn back_to_the_fourth_format(connection: &mut sqlx::SqliteConnection) {
    fill_tree(connection).await;
    let back = "DROP TABLE runs; DROP TABLE run_chunks; DROP TABLE compactions;
                DELETE FROM _sqlx_migrations WHERE version = 5";
    sqlx::raw_sql(back).execute(connection).await.unwrap();
}

/// The table of the fourth format, with the first streams of what is beyond the mark.
async fn fill_tree(connection: &mut sqlx::SqliteConnection) {
    let tree = "CREATE TABLE stream_events (
                    stream_id INTEGER NOT NULL,
                    version   INTEGER NOT NULL,
                    position  INTEGER NOT NULL,
                    PRIMARY KEY (stream_id, version)
                ) STRICT, WITHOUT ROWID;
                INSERT INTO stream_events
                SELECT stream_id, version, position FROM events, store
                WHERE position <= indexed OR stream_id < 3";
    sqlx::raw_sql(tree).execute(connection).await.unwrap();
}

async fn sqlite_verify(dir: &Path) -> daybook_log::verify::Findings {
    daybook_log::verify::verify(dir, None, |_| ()).await.unwrap()
}
