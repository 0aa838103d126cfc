//! The steps that this process is carrying out. Nothing here has to survive it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

/// How long after its answer was recorded the event may take to come back. After that the step is
/// taken up again, which does no harm.
const RETURN: Duration = Duration::from_secs(30);

/// The most steps under way, each with its task: without the command service none of them ends. The
/// others stay in the rows.
pub(crate) const MAX_FLIGHTS: usize = 10_000;

/// The steps under way, by the request id of their command.
#[derive(Default)]
pub(crate) struct Flights {
    by_id: Mutex<HashMap<Uuid, Flight>>,
    /// The streams of sagas whose steps somebody wants taken up at once, whoever's they are.
    asked: Mutex<HashSet<String>>,
    /// Says that there are some.
    pub is_asked: Notify,
}

/// A step under way.
struct Flight {
    /// The stream of the saga.
    stream: String,
    failed_attempts: u32,
    /// What happened at the last attempt.
    problem: String,
    /// Wakes it from a pause.
    wake: Arc<Notify>,
    /// When its answer was recorded.
    recorded: Option<Instant>,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Flight>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step up; `None` when it is under way already, or as many are as may be.
    pub fn begin(&self, id: Uuid, stream: &str) -> Option<Arc<Notify>> {
        let mut flights = self.lock();
        if flights.len() >= MAX_FLIGHTS || flights.contains_key(&id) {
            return None;
        }
        let wake = Arc::new(Notify::new());
        let flight = Flight {
            stream: stream.to_owned(),
            failed_attempts: 0,
            problem: String::new(),
            wake: wake.clone(),
            recorded: None,
        };
        flights.insert(id, flight);
        Some(wake)
    }

    /// Forgets the step when the guard is dropped before its answer is recorded: a step that
    /// panics is taken up again.
    pub fn until_dropped(&self, id: Uuid) -> impl Drop + '_ {
        Guard { flights: self, id }
    }

    /// Notes that an attempt failed, and says how many have.
    pub fn failed(&self, id: Uuid, problem: &str) -> u32 {
        let mut flights = self.lock();
        let Some(flight) = flights.get_mut(&id) else { return 1 };
        flight.failed_attempts = flight.failed_attempts.saturating_add(1);
        problem.clone_into(&mut flight.problem);
        flight.failed_attempts
    }

    /// Notes that the answer is recorded. The step counts as under way until its event is seen.
    pub fn recorded(&self, id: Uuid) {
        if let Some(flight) = self.lock().get_mut(&id) {
            flight.recorded = Some(Instant::now());
            flight.problem.clear();
        }
    }

    /// Forgets the steps whose answers have come back, which are those that are not open any more,
    /// and those whose answers should have. `open` is `None` when not all open steps are known.
    pub fn forget(&self, open: Option<&HashSet<Uuid>>) {
        self.lock().retain(|id, flight| match flight.recorded {
            None => true,
            Some(_) if open.is_some_and(|open| !open.contains(id)) => false,
            Some(recorded) => recorded.elapsed() < RETURN,
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// How often a step was tried in vain, and what happened last.
    pub fn trouble(&self, id: Uuid) -> Option<(u32, String)> {
        let flights = self.lock();
        let flight = flights.get(&id).filter(|flight| flight.recorded.is_none())?;
        Some((flight.failed_attempts, flight.problem.clone()))
    }

    /// Wakes the steps of a saga that pause here, and asks for those that are another process's.
    pub fn retry(&self, stream: &str) {
        let flights = self.lock();
        let waiting = flights.values().filter(|flight| flight.stream == stream && flight.waits());
        waiting.for_each(|flight| flight.wake.notify_one());
        drop(flights);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.to_owned());
        self.is_asked.notify_one();
    }

    /// The sagas that were asked for since the last call.
    pub fn take_asked(&self) -> HashSet<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many steps pause, and what happened to one of them.
    pub fn waiting(&self) -> (usize, String) {
        let flights = self.lock();
        let mut waiting = flights.values().filter(|flight| flight.waits());
        let Some(first) = waiting.next() else { return (0, String::new()) };
        (waiting.count() + 1, first.problem.clone())
    }
}

struct Guard<'a> {
    flights: &'a Flights,
    id: Uuid,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if flights.get(&self.id).is_some_and(|flight| flight.recorded.is_none()) {
            flights.remove(&self.id);
        }
    }
}

impl Flight {
    fn waits(&self) -> bool {
        self.recorded.is_none() && !self.problem.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_step_is_under_way_until_its_answer_has_come_back() {
        let flights = Flights::default();
        let id = Uuid::now_v7();
        assert!(flights.begin(id, "s").is_some());
        assert!(flights.begin(id, "s").is_none(), "taken up twice");
        flights.forget(Some(&HashSet::new()));
        assert_eq!(flights.len(), 1, "it has no answer yet");
        assert_eq!(flights.failed(id, "down"), 1);
        assert_eq!(flights.waiting(), (1, "down".to_owned()));
        flights.recorded(id);
        assert_eq!(flights.waiting().0, 0);
        flights.forget(Some(&HashSet::from([id])));
        flights.forget(None);
        assert_eq!(flights.len(), 1, "its event was not seen yet");
        flights.forget(Some(&HashSet::new()));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_retry_wakes_what_pauses_and_asks_for_the_rest() {
        let flights = Flights::default();
        let id = Uuid::now_v7();
        let wake = flights.begin(id, "s").unwrap();
        flights.failed(id, "down");
        flights.retry("t");
        assert!(wake.notified().now_or_never().is_none(), "another saga was retried");
        flights.retry("s");
        wake.notified().await;
        flights.is_asked.notified().await;
        assert_eq!(flights.take_asked(), HashSet::from(["s".to_owned(), "t".to_owned()]));
        assert!(flights.take_asked().is_empty());
    }

    #[test]
    fn no_more_steps_are_under_way_than_may_be() {
        let flights = Flights::default();
        let ids: Vec<_> = (0..MAX_FLIGHTS).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            assert!(flights.begin(*id, "s").is_some());
        }
        assert!(flights.begin(Uuid::now_v7(), "s").is_none());
        drop(flights.until_dropped(ids[0]));
        assert!(flights.begin(Uuid::now_v7(), "s").is_some());
    }
}
