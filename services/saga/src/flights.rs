//! The steps that this process is carrying out, or has tried in vain. Nothing here has to survive it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

/// How long after its answer was recorded the event may take to come back. After that the step is
/// taken up again, which does no harm.
const RETURN: Duration = Duration::from_secs(30);

/// How long after its pause a step may be left alone before it is forgotten that it was tried: by
/// then it is not to be done any more.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How long the rows may take to show a step that was taken before they did.
const SHOWN: Duration = Duration::from_secs(1);

/// The pause after a failed attempt; it doubles with each that follows, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most attempts at once, each with its task. A step that pauses is no attempt: it leaves its
/// place to others, and stays in the rows.
pub(crate) const MAX_ATTEMPTS: usize = 10_000;

/// How many of them may be calls of their own: a part of the streams of one connection.
const MAX_ALONE: usize = 256;

/// The steps that are remembered, a few hundred bytes each. Of those beyond it is not known that
/// they were tried.
const MAX_REMEMBERED: usize = 100_000;

/// The steps under way, by the request id of their command.
#[derive(Default)]
pub(crate) struct Flights {
    all: Mutex<All>,
    /// The sagas whose steps somebody wants taken up at once, whoever's they are, and who it is.
    asked: Mutex<HashMap<String, String>>,
    /// Says that there are some.
    pub is_asked: Notify,
}

#[derive(Default)]
struct All {
    by_id: HashMap<Uuid, Flight>,
    /// How many attempts there are, and how many of them are calls of their own.
    attempts: usize,
    alone: usize,
}

/// A step under way.
struct Flight {
    failed_attempts: u32,
    /// What happened at the last attempt.
    problem: String,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// An attempt is being made.
    Attempt,
    /// The last one has failed, and this is how long nothing is done.
    Pause { until: Instant, way: Way },
    /// Its answer was recorded at this time.
    Recorded(Instant),
}

/// How a command is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the line, with all others.
    Line,
    /// By a call of its own: when it has got no answer before, nobody else is to wait behind it.
    Alone,
}

/// Why an attempt has failed.
pub(crate) struct Failure {
    /// What happened.
    pub problem: String,
    /// How the next one is made.
    pub way: Way,
}

/// An attempt. When it is dropped without an end, the step is taken up again: one that panics.
pub(crate) struct Attempt {
    flights: Arc<Flights>,
    id: Uuid,
    /// How its commands are sent.
    pub way: Way,
    has_ended: bool,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt; `None` when there is nothing to do yet, or as many are under way as may
    /// be. What somebody has asked for does not wait for the end of its pause, and goes alone.
    pub fn begin(self: &Arc<Self>, id: Uuid, is_asked: bool, now: Instant) -> Option<Attempt> {
        let mut all = self.lock();
        let before = match all.by_id.get(&id).map(|flight| flight.phase) {
            None => Way::Line,
            Some(Phase::Pause { until, way }) if is_asked || until <= now => way,
            Some(_) => return None,
        };
        let way = if is_asked { Way::Alone } else { before };
        let is_full = all.attempts >= MAX_ATTEMPTS
            || (way == Way::Alone && !is_asked && all.alone >= MAX_ALONE);
        if is_full {
            return None;
        }
        all.attempts += 1;
        all.alone += usize::from(way == Way::Alone);
        let phase = Phase::Attempt;
        all.by_id.entry(id).and_modify(|flight| flight.phase = phase).or_insert(Flight {
            failed_attempts: 0,
            problem: String::new(),
            phase,
        });
        Some(Attempt { flights: self.clone(), id, way, has_ended: false })
    }

    /// Whether there are places for sagas that begin beside those for sagas that have waited.
    pub fn has_room(&self) -> bool {
        self.lock().attempts < MAX_ATTEMPTS / 2
    }

    /// When each of these may be tried again, so that those who have waited longest come first:
    /// `None` when it was not tried yet.
    pub fn due(&self, ids: impl Iterator<Item = Uuid>) -> Vec<Option<Instant>> {
        let all = self.lock();
        let due = |id| match all.by_id.get(&id)?.phase {
            Phase::Pause { until, .. } => Some(until),
            _ => None,
        };
        ids.map(due).collect()
    }

    /// Forgets the steps whose answers have come back, which are those that are not open any more,
    /// and those whose answers should have. `open` is `None` when not all open steps are known. A
    /// step may have been taken before the rows show it, so one that they do not show is forgotten
    /// a while later.
    pub fn forget(&self, open: Option<&HashSet<Uuid>>, now: Instant) {
        self.lock().by_id.retain(|id, flight| {
            let is_gone = open.is_some_and(|open| !open.contains(id));
            let (since, limit) = match flight.phase {
                Phase::Attempt => return true,
                Phase::Pause { until, .. } => (until, FORGOTTEN),
                Phase::Recorded(at) => (at, RETURN),
            };
            now.saturating_duration_since(since) < if is_gone { SHOWN } else { limit }
        });
    }

    /// How often a step was tried in vain, and what happened last.
    pub fn trouble(&self, id: Uuid) -> Option<(u32, String)> {
        let all = self.lock();
        let flight = all.by_id.get(&id).filter(|f| !matches!(f.phase, Phase::Recorded(_)))?;
        Some((flight.failed_attempts, flight.problem.clone()))
    }

    /// Asks for the steps of a saga, in the name of an actor; an empty one for nobody's.
    pub fn retry(&self, stream: &str, actor: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(stream.to_owned(), actor.to_owned());
        drop(asked);
        self.is_asked.notify_one();
    }

    /// The sagas that were asked for since the last call, and by whom.
    pub fn take_asked(&self) -> HashMap<String, String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many steps were tried in vain and have no answer, and what happened to one of them.
    pub fn waiting(&self) -> (usize, String) {
        let all = self.lock();
        let mut waiting = all.by_id.values().filter(|flight| !flight.problem.is_empty());
        let Some(first) = waiting.next() else { return (0, String::new()) };
        let problem = first.problem.clone();
        (waiting.count() + 1, problem)
    }
}

impl Attempt {
    /// The answer is recorded. The step counts as under way until its event is seen.
    pub fn recorded(mut self, now: Instant) {
        self.end(|flight| {
            flight.phase = Phase::Recorded(now);
            flight.problem.clear();
        });
    }

    /// It has failed: the step pauses. Says how many attempts have.
    pub fn failed(mut self, failure: Failure, now: Instant) -> u32 {
        let spread = f64::from(self.id.as_bytes()[0]) / 512.0;
        let mut attempts = 1;
        self.end(|flight| {
            attempts = flight.failed_attempts.saturating_add(1);
            flight.failed_attempts = attempts;
            // Many that fail at once must not come back at once.
            let until = now + pause(attempts).mul_f64(0.5 + spread);
            flight.phase = Phase::Pause { until, way: failure.way };
            flight.problem = failure.problem;
        });
        attempts
    }

    fn end(&mut self, change: impl FnOnce(&mut Flight)) {
        self.has_ended = true;
        let mut all = self.flights.lock();
        all.attempts -= 1;
        all.alone -= usize::from(self.way == Way::Alone);
        let has_room = all.by_id.len() <= MAX_REMEMBERED;
        match all.by_id.get_mut(&self.id) {
            Some(flight) if has_room => change(flight),
            _ => {
                all.by_id.remove(&self.id);
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            let again = Phase::Pause { until: Instant::now(), way: Way::Alone };
            self.end(|flight| flight.phase = again);
        }
    }
}

/// The pause after so many failed attempts.
fn pause(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn down(way: Way) -> Failure {
        Failure { problem: "down".to_owned(), way }
    }

    #[test]
    fn a_step_is_under_way_until_its_answer_has_come_back() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let id = Uuid::now_v7();
        let attempt = flights.begin(id, false, now).unwrap();
        assert!(flights.begin(id, true, now).is_none(), "taken up twice");
        flights.forget(Some(&HashSet::new()), now);
        assert!(flights.begin(id, true, now).is_none(), "it has no answer yet");
        attempt.recorded(now);
        flights.forget(Some(&HashSet::from([id])), now);
        flights.forget(None, now);
        assert!(flights.begin(id, true, now).is_none(), "its event was not seen yet");
        flights.forget(None, now + 2 * RETURN);
        flights.begin(id, false, now).unwrap().recorded(now);
        flights.forget(Some(&HashSet::new()), now);
        assert!(flights.begin(id, false, now).is_none(), "the rows may show it later");
        flights.forget(Some(&HashSet::new()), now + 2 * SHOWN);
        assert!(flights.begin(id, false, now).is_some());
    }

    #[test]
    fn a_step_that_failed_pauses_for_longer_each_time() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let id = Uuid::now_v7();
        let mut before = Duration::ZERO;
        for attempts in 1..=7 {
            let later = now + Duration::from_secs(3_600);
            let attempt = flights.begin(id, false, later).unwrap();
            assert_eq!(attempt.failed(down(Way::Line), now), attempts);
            assert_eq!(flights.waiting(), (1, "down".to_owned()));
            assert_eq!(flights.trouble(id), Some((attempts, "down".to_owned())));
            assert!(flights.begin(id, false, now).is_none(), "it was sent again at once");
            let until = flights.due([id].into_iter())[0].unwrap();
            let pause = until.duration_since(now);
            assert!(pause > before + before / 2, "{pause:?} after {before:?}");
            assert!(pause < LONGEST_PAUSE + Duration::from_secs(60), "{pause:?}");
            before = pause;
        }
        flights.forget(Some(&HashSet::new()), now + Duration::from_secs(7_200));
        assert_eq!(flights.waiting().0, 0, "it is not to be done any more");
    }

    #[tokio::test]
    async fn what_is_asked_for_does_not_wait() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let id = Uuid::now_v7();
        flights.begin(id, false, now).unwrap().failed(down(Way::Line), now);
        assert!(flights.is_asked.notified().now_or_never().is_none());
        flights.retry("s", "ada");
        flights.is_asked.notified().await;
        let asked = HashMap::from([("s".to_owned(), "ada".to_owned())]);
        assert_eq!(flights.take_asked(), asked);
        assert!(flights.take_asked().is_empty());
        assert_eq!(flights.begin(id, true, now).unwrap().way, Way::Alone);
    }

    #[test]
    fn an_attempt_that_breaks_off_is_made_again() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let id = Uuid::now_v7();
        drop(flights.begin(id, false, now));
        assert!(flights.begin(id, false, Instant::now()).is_some());
    }

    #[test]
    fn steps_that_fail_leave_their_places_to_others() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let begin = |_| flights.begin(Uuid::now_v7(), false, now);
        let attempts: Vec<_> = (0..MAX_ATTEMPTS).filter_map(begin).collect();
        assert_eq!(attempts.len(), MAX_ATTEMPTS);
        assert!(begin(0).is_none(), "more than may be");
        for attempt in attempts {
            attempt.failed(down(Way::Line), now);
        }
        assert_eq!((0..MAX_ATTEMPTS).filter_map(begin).count(), MAX_ATTEMPTS);
    }

    #[test]
    fn those_that_go_alone_leave_room_on_the_connection_for_the_line() {
        let (flights, now) = (Arc::new(Flights::default()), Instant::now());
        let later = now + Duration::from_secs(3_600);
        let ids: Vec<_> = (0..=MAX_ALONE).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            flights.begin(*id, false, now).unwrap().failed(down(Way::Alone), now);
        }
        let mut alone: Vec<_> =
            ids.iter().filter_map(|id| flights.begin(*id, false, later)).collect();
        assert_eq!(alone.len(), MAX_ALONE);
        assert!(flights.begin(Uuid::now_v7(), false, later).is_some());
        alone.pop().unwrap().recorded(now);
        assert!(flights.begin(ids[MAX_ALONE], false, later).is_some());
    }
}
