//! What is claimed has one holder, ever.

use daybook_contract::daybook::v1::RecordedEvent;
use daybook_log::verify::verify;
use daybook_log::{Claim, ClaimChange, Error, EventLog, Receipt, sqlite};
use futures::future::join_all;
use sqlx::Connection;
use uuid::Uuid;

use crate::fixture::{Ask, add, all_events, claim_all, claims, open, submission};
use crate::writer_laws::faulty;

fn is_taken(answer: &Result<Receipt, Error>) -> bool {
    matches!(answer, Err(Error::Refused { failure, .. }) if failure.message.ends_with("is taken"))
}

/// Who gets `name`, of some streams that claim it at the same time.
async fn winners(log: &EventLog, streams: std::ops::Range<u32>, name: &str) -> Vec<u32> {
    let change = format!("+{name}");
    let changes = [change.as_str()];
    let answers = join_all(streams.clone().map(|id| claim_all(log, id, &changes))).await;
    assert!(answers.iter().all(|answer| answer.is_ok() || is_taken(answer)), "{answers:?}");
    streams.zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(id, _)| id).collect()
}

#[tokio::test]
async fn one_of_many_that_claim_at_once_wins_and_keeps_it_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let won = winners(&log, 0..32, "ada").await;
    assert_eq!(won.len(), 1, "{won:?}");
    assert!(winners(&log, 32..64, "ada").await.is_empty());
    log.close().await;
    drop(log);
    let log = open(&dir).await;
    assert_eq!(winners(&log, 0..64, "ada").await, won, "its holder may claim it again");
    assert_eq!(winners(&log, 0..4, "grace").await.len(), 1);
}

#[tokio::test]
async fn what_is_freed_can_be_taken_by_another() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(&dir).await;
        claim_all(&log, "a", &["+ada"]).await.unwrap();
        claim_all(&log, "a", &["-ada", "+grace"]).await.unwrap();
        if restart {
            log.close().await;
            drop(log);
            log = open(&dir).await;
        }
        // What another holds is not freed.
        claim_all(&log, "b", &["-grace", "+ada"]).await.unwrap();
        assert!(is_taken(&claim_all(&log, "a", &["+ada"]).await));
        assert!(is_taken(&claim_all(&log, "b", &["+grace"]).await));
        // To give up and to claim again within one command, and in one group.
        claim_all(&log, "a", &["-grace", "+grace", "-grace"]).await.unwrap();
        let (taken, freed) =
            tokio::join!(claim_all(&log, "c", &["+grace"]), claim_all(&log, "c", &["-grace"]));
        taken.unwrap();
        freed.unwrap();
        claim_all(&log, "b", &["+grace"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_that_cannot_have_all_it_claims_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    claim_all(&log, "a", &["+ada"]).await.unwrap();
    let request = Uuid::now_v7();
    let both = || submission("b", Ask::Claim(claims(&["+grace", "+ada"])), Some(request));
    assert!(is_taken(&log.submit(both()).await));
    assert!(is_taken(&claim_all(&log, "b", &["+grace", "+ada", "+new"]).await));
    assert_eq!(winners(&log, 1..2, "grace").await, [1]);
    assert_eq!(winners(&log, 1..2, "new").await, [1]);
    claim_all(&log, "a", &["-ada"]).await.unwrap();
    let again = log.submit(both()).await.unwrap_err();
    assert!(matches!(again, Error::Refused { replayed: true, .. }), "a refusal is an answer");
    let events = all_events(&log).await;
    assert_eq!(events.iter().filter(|event| event.aggregate_id == "b").count(), 0);
}

#[tokio::test]
async fn a_group_that_fails_gives_its_claims_back() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Error::NotWritten { problem: "as the test wants it".into() };
    let log = faulty(&dir, 2, fault.clone(), false).await;
    claim_all(&log, "a", &["+ada"]).await.unwrap();
    // From here on the holders are in memory, and both go into one group.
    assert!(is_taken(&claim_all(&log, "b", &["+grace", "+ada"]).await));
    let (freed, taken) =
        tokio::join!(claim_all(&log, "a", &["-ada"]), claim_all(&log, "b", &["+ada", "+grace"]));
    assert_eq!((freed, taken), (Err(fault.clone()), Err(fault)));
    assert!(is_taken(&claim_all(&log, "b", &["+ada"]).await), "a holds it as before");
    claim_all(&log, "c", &["+grace"]).await.unwrap();
}

#[tokio::test]
async fn commands_behind_one_whose_claims_are_looked_up_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    add(&log, "a", 1).await.unwrap();
    let (claimed, added) = tokio::join!(claim_all(&log, "a", &["+ada"]), add(&log, "a", 1));
    assert_eq!((claimed.unwrap().version, added.unwrap().version), (2, 3));
}

/// What the events of these tests claim: the first of a stream takes the name of the stream.
fn claims_of(event: &RecordedEvent) -> Vec<Claim> {
    let change = ClaimChange::Take;
    let key = event.aggregate_id.clone();
    (event.version == 1)
        .then_some(Claim { scope: "counter.name", key, change })
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_check_of_the_whole_log_compares_claims_with_events() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    claim_all(&log, "a", &["+a"]).await.unwrap();
    claim_all(&log, "b", &["+b"]).await.unwrap();
    log.close().await;
    drop(log);
    let found_after = async |change: &'static str| {
        let url = format!("sqlite://{}", dir.path().join(sqlite::FILE_NAME).display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let findings = verify(dir.path(), Some(&claims_of), |_| ()).await.unwrap();
        findings.problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(found_after("SELECT 1").await, "");
    let found = found_after("UPDATE claims SET stream_id = 2 WHERE key = 'a'").await;
    assert!(found.contains("belongs to counter-a by the events, to counter-b"), "{found}");
    let found = found_after("UPDATE claims SET key = 'c' WHERE key = 'a'").await;
    assert!(found.contains("\"c\" of counter.name belongs to nobody by the events"), "{found}");
    assert!(found.contains("\"a\" of counter.name is missing in the table"), "{found}");
    let found = found_after("PRAGMA foreign_keys = OFF; UPDATE claims SET stream_id = 9").await;
    assert!(found.contains("held by an unknown stream"), "{found}");
}
