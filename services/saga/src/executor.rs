//! Carries out what the rows say is to be done: steps without an answer, sagas to be started,
//! sagas to be woken.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::LogReader;
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{CommandContext, ReadContext, StepAnswer};
use daybook_contract::error::Error;
use daybook_kernel::Step;
use daybook_query::runtime::Handle;
use daybook_query::runtime::row::read_rows;
use daybook_query::time;
use futures::FutureExt;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, warn};
use uuid::Uuid;

use crate::Share;
use crate::flights::{Flights, MAX_FLIGHTS};
use crate::line::WINDOW;
use crate::projection::{SagaRow, StartRow, StepRow};
use crate::sender::{Outgoing, Sender, outcome};
use crate::{ids, kind, metrics};

/// The commands that are on their way at once.
const MAX_SENT: usize = WINDOW;

/// How many open steps are taken up at a look at the rows.
const MAX_TAKEN: usize = 1_000;

/// How often all rows are looked at: for deadlines, for what nobody else has done, and for the
/// metrics. In between, only what has come since.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long another process may leave a step of its share undone.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// The pause after a failed attempt; it doubles with each that follows, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How many failed attempts are worth a line in the log.
const WARN_AFTER: u32 = 5;

pub(crate) struct Executor {
    sagas: Handle,
    log: Arc<dyn LogReader>,
    share: Share,
    worker: Arc<Worker>,
}

/// What carries out one thing.
struct Worker {
    sender: Sender,
    flights: Arc<Flights>,
    room: Semaphore,
}

/// What is to be done, as the rows say.
struct Work {
    steps: Vec<StepRow>,
    starts: Vec<StartRow>,
    due: Vec<SagaRow>,
    /// How many of each were asked for.
    limit: usize,
    /// The position that the rows reflect.
    position: u64,
}

/// Which rows are looked at, beside those of the sagas that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All that is to be done.
    All,
    /// What follows from the events after a position: the rest was seen before.
    After(u64),
}

/// One thing to do.
struct Task {
    /// The request id of the command.
    id: Uuid,
    /// The stream of the saga.
    stream: String,
    since_ns: i64,
    kind: TaskKind,
}

enum TaskKind {
    Step(Box<StepRow>),
    Start(Box<StartRow>),
    Wake(Box<SagaRow>),
}

impl Executor {
    pub fn new(
        sagas: Handle,
        log: Arc<dyn LogReader>,
        sender: Sender,
        flights: Arc<Flights>,
        share: Share,
    ) -> Self {
        let worker = Arc::new(Worker { sender, flights, room: Semaphore::new(MAX_SENT) });
        Self { sagas, log, share, worker }
    }

    /// Works until it is told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        tokio::select! {
            () = self.work(&mut tasks) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tasks.shutdown().await;
    }

    async fn work(&self, tasks: &mut JoinSet<()>) {
        self.catch_up().await;
        let mut seen = 0;
        let mut reached = 0;
        let mut all_at = Instant::now();
        loop {
            let look = match Instant::now() >= all_at {
                true => Look::All,
                false => Look::After(reached),
            };
            match self.look(look).await {
                Ok(work) => {
                    reached = work.reached();
                    self.take_up(work, look, tasks);
                }
                Err(error) => warn!(%error, "the sagas cannot be read"),
            }
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    error!(%error, "a step panicked and will be taken up again");
                }
            }
            if look == Look::All {
                all_at = Instant::now() + INTERVAL;
                self.measure().await;
            }
            tokio::select! {
                _ = tokio::time::timeout_at(all_at, self.sagas.changed(&mut seen)) => {}
                () = self.worker.flights.is_asked.notified() => all_at = Instant::now(),
            }
        }
    }

    /// Waits until the rows reflect the log as it is now. What was answered long ago would
    /// otherwise be sent again, to no effect.
    async fn catch_up(&self) {
        loop {
            if let Ok(head) = self.log.head().await {
                let read = ReadContext {
                    min_position: head,
                    max_wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
                    ..Default::default()
                };
                if self.sagas.read(Some(&read), |_| async { Ok(()) }.boxed()).await.is_ok() {
                    return;
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn look(&self, look: Look) -> Result<Work, Error> {
        let limit = match look {
            Look::All => MAX_FLIGHTS.min(self.worker.flights.len() + MAX_TAKEN),
            Look::After(_) => MAX_TAKEN,
        };
        let now = time::now_ns();
        let (work, position) = self
            .sagas
            .read(None, |connection| select(connection, look, limit, now).boxed())
            .await?;
        Ok(Work { position, ..work })
    }

    fn take_up(&self, work: Work, look: Look, tasks: &mut JoinSet<()>) {
        let complete = work.is_complete();
        let todo: Vec<Task> = work.tasks();
        let mut asked = HashSet::new();
        if look == Look::All {
            let open: HashSet<Uuid> = todo.iter().map(|task| task.id).collect();
            self.worker.flights.forget(complete.then_some(&open));
            asked = self.worker.flights.take_asked();
        }
        let now = time::now_ns();
        for task in todo {
            if !self.share.takes(&task.stream, task.since_ns, &asked, now) {
                continue;
            }
            let Some(wake) = self.worker.flights.begin(task.id, &task.stream) else { continue };
            let worker = self.worker.clone();
            tasks.spawn(async move { worker.carry_out(task, &wake).await });
        }
    }

    async fn measure(&self) {
        if let Ok(((counts, oldest), _)) =
            self.sagas.read(None, |connection| metrics::select(connection).boxed()).await
        {
            metrics::set(&counts, &oldest, self.worker.flights.waiting().0);
        }
    }
}

async fn select(
    connection: &mut SqliteConnection,
    look: Look,
    limit: usize,
    now: i64,
) -> Result<Work, sqlx::Error> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let after = match look {
        Look::All => 0,
        Look::After(position) => i64::try_from(position).unwrap_or(i64::MAX),
    };
    let steps = "SELECT * FROM steps WHERE is_open = 1 AND position > ? ORDER BY position LIMIT ?";
    let steps = sqlx::query(steps).bind(after).bind(most).fetch_all(&mut *connection).await?;
    let starts = "SELECT * FROM starts WHERE position > ? ORDER BY position LIMIT ?";
    let starts = sqlx::query(starts).bind(after).bind(most).fetch_all(&mut *connection).await?;
    let due = "SELECT * FROM sagas WHERE due_time <= ? ORDER BY due_time LIMIT ?";
    let due = sqlx::query(due).bind(now).bind(most).fetch_all(connection).await?;
    Ok(Work {
        steps: read_rows(&steps)?,
        starts: read_rows(&starts)?,
        due: read_rows(&due)?,
        limit,
        position: 0,
    })
}

impl Work {
    /// Whether there is nothing more to be done than this.
    fn is_complete(&self) -> bool {
        [self.steps.len(), self.starts.len(), self.due.len()]
            .iter()
            .all(|found| *found < self.limit)
    }

    /// Up to where everything to be done is in it or was seen before.
    fn reached(&self) -> u64 {
        // Of what was cut off, some may follow from the same event as the last that is here.
        let cut = |found: usize, last: Option<i64>| {
            let last = last.filter(|_| found >= self.limit)?;
            u64::try_from(last - 1).ok()
        };
        let steps = cut(self.steps.len(), self.steps.last().map(|row| row.position));
        let starts = cut(self.starts.len(), self.starts.last().map(|row| row.position));
        [steps, starts].into_iter().flatten().fold(self.position, u64::min)
    }

    fn tasks(self) -> Vec<Task> {
        let steps = self.steps.into_iter().map(|row| Task {
            id: ids::step(&row.stream, row.version, row.number),
            stream: row.stream.clone(),
            since_ns: row.event_time,
            kind: TaskKind::Step(Box::new(row)),
        });
        let starts = self.starts.into_iter().map(|row| Task {
            id: ids::start(&row.stream, &row.event_id),
            stream: row.stream.clone(),
            since_ns: row.event_time,
            kind: TaskKind::Start(Box::new(row)),
        });
        let due = self.due.into_iter().map(|row| {
            let due_time = row.due_time.unwrap_or_default();
            Task {
                id: ids::wake(&row.stream, due_time),
                stream: row.stream.clone(),
                since_ns: due_time,
                kind: TaskKind::Wake(Box::new(row)),
            }
        });
        // A saga that is due is woken before it takes another step.
        due.chain(steps).chain(starts).collect()
    }
}

impl Share {
    /// Whether a process with this share does what a saga has waited for since then: its own, what
    /// another process has left undone, and what it was asked for.
    fn takes(self, stream: &str, since_ns: i64, asked: &HashSet<String>, now: i64) -> bool {
        let is_left = since_ns <= now - TAKE_OVER.as_nanos() as i64;
        is_left || self.has(stream) || asked.contains(stream)
    }

    /// Whether a saga is in it.
    fn has(self, stream: &str) -> bool {
        // FNV-1a: stable over processes and versions.
        let hash = stream.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash % u64::from(self.of.max(1)) == u64::from(self.index)
    }
}

impl Worker {
    async fn carry_out(&self, task: Task, wake: &tokio::sync::Notify) {
        let Task { id, stream, kind, .. } = task;
        let _end = self.flights.until_dropped(id);
        match kind {
            TaskKind::Step(row) => self.step(id, *row, wake).await,
            TaskKind::Start(row) => {
                let (type_name, request) = (row.type_name, row.request);
                let context = context(&row.saga_id, &row.event_id);
                let command = Outgoing { type_name, request, context };
                self.to_itself(id, &stream, &command, wake).await;
            }
            TaskKind::Wake(row) => {
                let step = kind::find(&row.kind).and_then(|k| k.wake(&row.saga_id, &row.state));
                let Some(step) = step else {
                    error!(%stream, "the saga is due and cannot be woken");
                    return;
                };
                let context = context(&row.saga_id, "");
                // A server whose clock is behind refuses. The saga is due still: it is taken up
                // again.
                if !self.to_itself(id, &stream, &outgoing(step, context), wake).await {
                    return;
                }
            }
        }
        self.flights.recorded(id);
    }

    /// Sends the command of a step, then has its answer recorded, which the log knows.
    async fn step(&self, id: Uuid, row: StepRow, wake: &tokio::sync::Notify) {
        let StepRow { stream, version, number, event_id, .. } = row;
        let (kind, saga_id) = stream.split_once('-').unwrap_or((&stream, ""));
        let Some(kind) = kind::find(kind) else {
            error!(%stream, "there is no such kind of saga");
            return;
        };
        let command = Outgoing {
            type_name: row.type_name,
            request: row.request,
            context: CommandContext { request_id: id.to_string(), ..context(saga_id, &event_id) },
        };
        self.insist(id, &stream, &command, wake).await;
        let answer = StepAnswer {
            version: u64::try_from(version).unwrap_or_default(),
            index: u32::try_from(number).unwrap_or_default(),
            outcome: None,
        };
        let context = context(saga_id, &event_id);
        let command = outgoing(kind.record(saga_id, answer), context);
        self.to_itself(id, &stream, &command, wake).await;
    }

    /// Sends a command to the saga's own stream, and says whether it was accepted. It has no request
    /// id: the saga knows by itself what it has recorded, and what is refused today may be right
    /// tomorrow.
    async fn to_itself(
        &self,
        id: Uuid,
        stream: &str,
        command: &Outgoing,
        wake: &tokio::sync::Notify,
    ) -> bool {
        let Outcome::Refusal(refusal) = self.insist(id, stream, command, wake).await else {
            return true;
        };
        let (reason, message) = (&refusal.reason, &refusal.message);
        warn!(%stream, command = %command.type_name, %reason, %message, "a saga refused");
        false
    }

    /// Sends a command until it has an outcome.
    async fn insist(
        &self,
        id: Uuid,
        stream: &str,
        command: &Outgoing,
        wake: &tokio::sync::Notify,
    ) -> Outcome {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = {
                let _room = self.room.acquire().await.expect("it is never closed");
                outcome(self.sender.send(command).await)
            };
            let status = match answer {
                Ok(outcome) => return outcome,
                Err(status) => status,
            };
            let problem = format!("{:?}: {}", status.code(), status.message());
            let attempts = self.flights.failed(id, &problem);
            if attempts.is_multiple_of(WARN_AFTER) {
                warn!(%stream, command = %command.type_name, attempts, %problem, "will try again");
            }
            // Many that fail at once must not come back at once.
            let part = pause.mul_f64(0.5 + f64::from(id.as_bytes()[0]) / 512.0);
            let _ = tokio::time::timeout(part, wake.notified()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn outgoing(step: Step, context: CommandContext) -> Outgoing {
    Outgoing { type_name: step.type_name.to_owned(), request: step.request, context }
}

fn context(saga_id: &str, causation_id: &str) -> CommandContext {
    CommandContext {
        correlation_id: saga_id.to_owned(),
        causation_id: causation_id.to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_saga_is_in_one_share() {
        for of in 1..5 {
            for n in 0..100 {
                let stream = format!("bank.transfer-{n}");
                let owners = (0..of).filter(|index| Share { index: *index, of }.has(&stream));
                assert_eq!(owners.count(), 1, "{stream} of {of}");
            }
        }
    }

    #[test]
    fn a_saga_of_another_process_is_taken_when_it_was_left_or_asked_for() {
        let of = |index| Share { index, of: 2 };
        let stream = "bank.transfer-1";
        let (own, other) = match of(0).has(stream) {
            true => (of(0), of(1)),
            false => (of(1), of(0)),
        };
        let later = 1 + TAKE_OVER.as_nanos() as i64;
        let (nobody, asked) = (HashSet::new(), HashSet::from([stream.to_owned()]));
        assert!(own.takes(stream, 1, &nobody, 2));
        assert!(!other.takes(stream, 1, &nobody, later - 1));
        assert!(other.takes(stream, 1, &nobody, later));
        assert!(other.takes(stream, 1, &asked, 2));
    }
}
