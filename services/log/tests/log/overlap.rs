//! The next group is decided while the last one commits.

use std::sync::Arc;
use std::time::Duration;

use daybook_log::sqlite::{self, Options};
use daybook_log::storage::{Group, StorageWriter};
use daybook_log::{Error, EventLog, StreamCache, Submission};
use futures::future::{BoxFuture, join_all};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::fixture::{
    Ask, Sum, add, add_answer, add_as, add_reads, all_events, open, stream, submission,
};
use crate::reads::added;

/// A storage whose second commit takes until it is told to go on, and may then fail.
struct Held {
    inner: Box<dyn StorageWriter>,
    commits: usize,
    go_on: Arc<Notify>,
    fault: Option<Error>,
}

impl StorageWriter for Held {
    fn commit(&mut self, group: Arc<Group>) -> BoxFuture<'static, Result<(), Error>> {
        self.commits += 1;
        if self.commits != 2 {
            return self.inner.commit(group);
        }
        let go_on = self.go_on.clone();
        let done = match &self.fault {
            None => self.inner.commit(group),
            Some(fault) => Box::pin(std::future::ready(Err(fault.clone()))),
        };
        Box::pin(async move {
            go_on.notified().await;
            done.await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

async fn held(dir: &tempfile::TempDir, fault: Option<Error>) -> (EventLog, Arc<Notify>) {
    let opened = sqlite::open(Options::new(dir.path())).await.unwrap();
    let go_on = Arc::new(Notify::new());
    let inner = Box::new(opened.writer);
    let storage = Box::new(Held { inner, commits: 0, go_on: go_on.clone(), fault });
    let cached = StreamCache::default();
    let log = EventLog::start(opened.info, storage, Arc::new(opened.reader), cached).await.unwrap();
    (log, go_on)
}

/// Lets the writer take up what was submitted.
async fn taken_up() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

#[tokio::test]
async fn what_is_decided_on_top_of_a_group_that_fails_fails_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Error::NotWritten { problem: "as the test wants it".into() };
    let (log, go_on) = held(&dir, Some(fault.clone())).await;
    // The first commit. From here on both streams and the claim are in memory.
    let both = tokio::join!(add(&log, "a", 5), add_reads(&log, "b", &["a"]));
    assert!(both.0.is_ok() && both.1.is_ok());
    let id = Uuid::now_v7();
    let first = tokio::spawn({
        let log = log.clone();
        async move { add_as(&log, "a", 10, id).await }
    });
    taken_up().await;
    let on_top = tokio::spawn({
        let log = log.clone();
        async move {
            let repeated = submission("a", Ask::Add(vec![10]), Some(id));
            let answers = join_all([
                log.submit(submission("a", Ask::Add(vec![-12]), None)),
                log.submit(submission("a", Ask::Add(vec![-99]), None)),
                log.submit(repeated),
                log.submit(submission("b", Ask::Add(vec![1]), Some(Uuid::now_v7()))),
                log.submit(Submission {
                    answer_of: Some(id),
                    ..submission("b", Ask::AddAnswer, None)
                }),
            ]);
            (answers.await, add_reads(&log, "b", &["a"]).await)
        }
    });
    taken_up().await;
    assert!(!first.is_finished() && !on_top.is_finished(), "nothing is answered before the commit");
    go_on.notify_one();
    assert_eq!(first.await.unwrap(), Err(fault.clone()));
    let (answers, later) = on_top.await.unwrap();
    assert_eq!(answers, vec![Err(fault); 5], "even the refusal was decided on what failed");
    assert_eq!(later.unwrap().version, 2, "what comes after is decided anew");
    assert!(add(&log, "a", -6).await.is_err(), "nothing of them is in the state");
    let again = add_as(&log, "a", 10, id).await.unwrap();
    assert_eq!((again.version, again.replayed), (2, false));
    assert_eq!(all_events(&log).await.len(), 4);
}

#[tokio::test]
async fn what_is_decided_while_a_group_commits_goes_into_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (log, go_on) = held(&dir, None).await;
    add(&log, "a", 5).await.unwrap();
    let id = Uuid::now_v7();
    let under_way = tokio::spawn({
        let log = log.clone();
        async move { add_as(&log, "a", 10, id).await }
    });
    taken_up().await;
    let waiting = tokio::spawn({
        let log = log.clone();
        async move {
            tokio::join!(
                add_as(&log, "a", 10, id),
                add(&log, "a", -15),
                add(&log, "a", -1),
                add(&log, "cold", 1),
            )
        }
    });
    taken_up().await;
    assert!(!waiting.is_finished());
    go_on.notify_one();
    let first = under_way.await.unwrap().unwrap();
    let (repeated, last, refused, cold) = waiting.await.unwrap();
    let repeated = repeated.unwrap();
    assert!(repeated.replayed && repeated.event_ids == first.event_ids);
    assert_eq!(last.unwrap().version, 3);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert_eq!(cold.unwrap().version, 1);
    assert_eq!(all_events(&log).await.len(), 4);
}

#[tokio::test]
async fn an_answer_is_told_to_what_is_decided_on_it_before_and_after_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (log, go_on) = held(&dir, None).await;
    let (_, _) = tokio::join!(add(&log, "a", 5), add(&log, "b", 5));
    let [first, next, refused] = [(); 3].map(|()| Uuid::now_v7());
    let under_way = tokio::spawn({
        let log = log.clone();
        async move { add_as(&log, "a", 10, first).await }
    });
    taken_up().await;
    // Of the group that commits, and of the one that is open.
    let on_top = tokio::spawn({
        let log = log.clone();
        async move {
            tokio::join!(
                add_answer(&log, "b", first),
                add_answer(&log, "b", next),
                add_as(&log, "a", 1, next),
                add_answer(&log, "b", next),
                add_as(&log, "a", -99, refused),
                add_answer(&log, "b", refused),
            )
        }
    });
    taken_up().await;
    assert!(!under_way.is_finished() && !on_top.is_finished(), "told before it is durable");
    go_on.notify_one();
    assert_eq!(under_way.await.unwrap().unwrap().version, 2);
    let (of_first, too_early, next_added, of_next, no, of_refused) = on_top.await.unwrap();
    for (told, expected) in [(of_first, 2), (of_next, 3), (of_refused, -1)] {
        assert_eq!(added(&log, told.unwrap()).await, expected);
    }
    next_added.unwrap();
    assert!(matches!(no, Err(Error::Refused { .. })), "{no:?}");
    let Err(Error::Refused { failure, .. }) = too_early else { panic!("{too_early:?}") };
    assert_eq!(failure.message, "no answer");
    // From the memory of what was recorded last, then from the tables.
    tell_all(&log, [(first, 2), (next, 3), (refused, -1)]).await;
    log.close().await;
    tell_all(&open(&dir).await, [(first, 2), (next, 3), (refused, -1)]).await;
}

async fn tell_all(log: &EventLog, answers: [(Uuid, i64); 3]) {
    for (id, expected) in answers {
        let told = add_answer(log, "b", id).await.unwrap();
        assert_eq!(added(log, told).await, expected);
    }
}

/// As when a step and the record of its answer are sent once more after a restart, with nothing in
/// memory: neither the answer nor the streams.
#[tokio::test]
async fn an_answer_is_told_whatever_has_to_be_loaded_first() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    let log = open(&dir).await;
    add(&log, "b", 5).await.unwrap();
    add_as(&log, "a", 10, old).await.unwrap();
    log.close().await;
    let log = open(&dir).await;
    // What is told the answer reads the stream that is answered about, and so comes after it.
    let after = |of| Submission {
        answer_of: Some(of),
        reads: vec![(stream("a"), &Sum)],
        ..submission("b", Ask::AddAnswer, None)
    };
    let (again, of_old, added_new, of_new) = tokio::join!(
        add_as(&log, "a", 10, old),
        log.submit(after(old)),
        add_as(&log, "a", 7, new),
        log.submit(after(new)),
    );
    assert!(again.unwrap().replayed && !added_new.unwrap().replayed);
    assert_eq!(added(&log, of_old.unwrap()).await, 1);
    assert_eq!(added(&log, of_new.unwrap()).await, 2);
}
