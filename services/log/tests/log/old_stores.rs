//! Stores of earlier formats open, with everything that is in them. The files under `stores` were
//! written by the versions of that time and are never made anew.

use std::path::Path;

use daybook_log::{Config, Error, EventLog, sqlite};
use sqlx::Connection;
use uuid::Uuid;

use crate::fixture::{Ask, add, add_as, all_events, claim_all, copy_of, submission};

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

async fn sqlite_verify(dir: &Path) -> daybook_log::verify::Findings {
    daybook_log::verify::verify(dir, None, |_| ()).await.unwrap()
}
