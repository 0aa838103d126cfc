//! The rest of a projection that nobody asks. A transaction costs much the same for one event as
//! for a hundred, so after a batch the projection lets more events come.
//!
//! Law: no answer is older than without resting. Whoever looks at the rows for an answer asks first; that ends
//! the rest, and the question is answered when everything is applied that was there when it came.
//! While it is asked again and again, the projection does not rest at all.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long a question waits at most for what has come in a rest to be applied.
const PATIENCE: Duration = Duration::from_secs(1);

/// When a projection rests, and who wants it not to.
pub(crate) struct Rest {
    /// How long a rest is, and for how long after a question there is none.
    length: Duration,
    began: Instant,
    /// When it was last asked: milliseconds since the beginning, and one more; 0 for never.
    asked_ms: AtomicU64,
    /// How many are waiting for the rows to change.
    followers: AtomicUsize,
    /// Whether it rests, or applies what has come in a rest.
    gathers: AtomicBool,
    /// How many questions have waited for a batch.
    questions: AtomicU64,
    /// How many of them need not wait any more.
    answered: watch::Sender<u64>,
    wake: Notify,
}

/// Somebody who is waiting for the rows to change. The projection does not rest meanwhile.
pub(crate) struct Follower<'a>(&'a Rest);

impl Rest {
    /// Rests of this length.
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            began: Instant::now(),
            asked_ms: AtomicU64::new(0),
            followers: AtomicUsize::new(0),
            gathers: AtomicBool::new(false),
            questions: AtomicU64::new(0),
            answered: watch::Sender::new(0),
            wake: Notify::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Asks: when this returns, the rows are as new as if there were no rests.
    pub async fn ask(&self) {
        self.asked_ms.store(self.now_ms(), Ordering::SeqCst);
        if !self.gathers.load(Ordering::SeqCst) {
            return;
        }
        let question = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.notify_one();
        let mut answered = self.answered.subscribe();
        let answer = answered.wait_for(|answered| *answered >= question);
        // What is there is shown when the batch takes too long.
        let _ = tokio::time::timeout(PATIENCE, answer).await;
    }

    /// Lets nobody rest until the follower is dropped, and for a while after it.
    pub fn follow(&self) -> Follower<'_> {
        self.followers.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
        Follower(self)
    }

    /// After a batch: when the rest ends that begins now, if there is one. Who is behind has none.
    pub fn begin(&self, is_behind: bool) -> Option<Instant> {
        let asked_ms = self.asked_ms.load(Ordering::SeqCst);
        let since = Duration::from_millis(self.now_ms().saturating_sub(asked_ms));
        let is_asked = self.is_followed() || (asked_ms > 0 && since <= self.length);
        let rests = !is_behind && !is_asked && !self.length.is_zero();
        self.gathers.store(rests, Ordering::SeqCst);
        rests.then(|| Instant::now() + self.length)
    }

    /// Waits for the end of a rest.
    pub async fn over(&self, until: Option<Instant>) {
        let asked = async {
            while !self.is_followed() && self.open_questions().is_none() {
                self.wake.notified().await;
            }
        };
        let Some(until) = until else { return };
        tokio::select! {
            () = asked => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Whether it rests, or has not applied yet what has come in a rest.
    pub fn gathers(&self) -> bool {
        self.gathers.load(Ordering::SeqCst)
    }

    /// Waits until somebody must be told that there is nothing to apply.
    pub async fn unsettled(&self) {
        while !self.gathers() && self.open_questions().is_none() {
            self.wake.notified().await;
        }
    }

    /// There was nothing to apply when these questions were there.
    pub fn settle(&self, questions: Option<u64>) {
        self.gathers.store(false, Ordering::SeqCst);
        self.answer(questions);
    }

    /// The questions so far, if there are some to answer.
    pub fn open_questions(&self) -> Option<u64> {
        let questions = self.questions.load(Ordering::SeqCst);
        (questions > *self.answered.borrow()).then_some(questions)
    }

    /// Everything is applied that was there when these questions came.
    pub fn answer(&self, questions: Option<u64>) {
        if let Some(questions) = questions {
            self.answered.send_replace(questions);
        }
    }

    /// Lets nobody wait for a batch, because none may come.
    pub fn end(&self) {
        self.settle(self.open_questions());
    }

    fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.asked_ms.store(self.0.now_ms(), Ordering::SeqCst);
        self.0.followers.fetch_sub(1, Ordering::SeqCst);
    }
}
