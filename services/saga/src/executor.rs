//! Carries out what the rows say is to be done: steps without an answer, sagas to be started,
//! sagas to be woken; and the first step of a saga as soon as its first event is there.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::Envelope;
use daybook_bus::source::{LogReader, Record, SourceFactory};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, ReadContext, StepAnswer, StepRefusal,
};
use daybook_kernel::Step;
use daybook_query::runtime::row::rows;
use daybook_query::runtime::{EncodedEvent, Handle};
use daybook_query::time;
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{error, warn};
use uuid::Uuid;

use crate::Share;
use crate::flights::{Attempt, Failure, Flights, Way};
use crate::projection::{SagaRow, StartRow};
use crate::sender::{Outgoing, Sender, outcome};
use crate::{ids, kind, line, metrics};

/// How many open steps are taken up at a look at those that are new.
const MAX_NEW: usize = 1_000;

/// How many are looked at when it is the turn of all. Of those beyond, it is at the next time.
const PAGE: usize = 10_000;

/// How often all rows are looked at: for deadlines, for what has failed, for what nobody else has
/// done, and for the metrics. In between, only what has come since.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long another process may leave a step of its share undone.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// How many failed attempts are worth a line in the log.
const WARN_AFTER: u32 = 5;

pub(crate) struct Executor {
    sagas: Handle,
    factory: Arc<dyn SourceFactory>,
    log: Arc<dyn LogReader>,
    share: Share,
    sender: Sender,
    flights: Arc<Flights>,
}

/// What is to be done, as the rows say.
struct Work {
    steps: Vec<SagaRow>,
    starts: Vec<StartRow>,
    due: Vec<SagaRow>,
    /// How many of each were asked for.
    limit: usize,
    /// The position that the rows reflect.
    position: u64,
}

/// Which rows are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// A page of all that is to be done; it begins after these places.
    Page(Place),
    /// What follows from the events after a position: the rest was seen before. Sagas that are due
    /// can wait for their page.
    After(u64),
    /// What one saga waits for.
    Saga(String),
}

/// Up to where there is nothing more to be done, or it was seen: a position, and a due time in
/// nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Place {
    position: u64,
    due_ns: i64,
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
    /// The record of the first event of a saga. Its rules are asked in the task: a fault in them
    /// stops that alone.
    Begun(Arc<Record>),
    Step(Box<OpenStep>),
    Start(Box<StartRow>),
    Wake(Box<SagaRow>),
}

/// A saga that waits for the answer to a step.
struct OpenStep {
    /// The version of its stream with the event that the step follows from.
    version: u64,
    /// The id of that event.
    event_id: String,
    /// The version of its stream.
    saga_version: u64,
    /// Its encoded state at that version, which says what the step is.
    state: Vec<u8>,
}

impl Executor {
    pub fn new(
        sagas: Handle,
        factory: Arc<dyn SourceFactory>,
        log: Arc<dyn LogReader>,
        sender: Sender,
        flights: Arc<Flights>,
        share: Share,
    ) -> Self {
        Self { sagas, factory, log, share, sender, flights }
    }

    /// Works until it is told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut tasks, mut begun) = (JoinSet::new(), JoinSet::new());
        let work = async {
            self.catch_up().await;
            tokio::join!(self.work(&mut tasks), self.follow(&mut begun));
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tasks.shutdown().await;
        begun.shutdown().await;
    }

    /// Takes the first step of every saga when its first event comes. What is missed here, the rows
    /// will show; what is in them, or was seen before, may come again.
    async fn follow(&self, tasks: &mut JoinSet<()>) {
        let (mut seen, mut told) = (0, String::new());
        loop {
            let problem = match self.follow_source(&mut seen, tasks).await {
                Ok(never) => match never {},
                Err(problem) => problem,
            };
            if problem != told {
                warn!(%problem, "sagas begin later, by their rows");
                told = problem;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Follows the source that the rows are made from, from their place in it, until it fails.
    async fn follow_source(
        &self,
        seen: &mut u64,
        tasks: &mut JoinSet<()>,
    ) -> Result<Infallible, String> {
        let (cursor, position) = self.sagas.cursor().await.map_err(|error| error.to_string())?;
        *seen = position.max(*seen);
        let opened = self.factory.open(&cursor).await;
        let mut source = opened.map_err(|error| error.to_string())?;
        loop {
            let batch = source.next().await.map_err(|error| error.to_string())?;
            // While the rows stand still because somebody wants it so, no saga begins. Nor when there
            // is hardly a place left: the rows say who has waited longest.
            if !self.sagas.is_paused() && self.flights.has_room() {
                let events = batch.records.of(daybook_domain::SAGA_AGGREGATES);
                let begun = events.filter_map(|record| Task::begun(record, *seen));
                self.take_up(begun, None, tasks);
            }
            reap(tasks);
            *seen = batch.position.max(*seen);
        }
    }

    async fn work(&self, tasks: &mut JoinSet<()>) {
        let mut seen = 0;
        let mut reached = 0;
        let mut page = Place::default();
        let mut page_at = Instant::now();
        loop {
            let mut is_cut = false;
            if let Some(work) = self.look(&Look::After(reached)).await {
                reached = work.reached();
                is_cut = reached < work.position;
                self.take_up(work.tasks(), None, tasks);
            }
            for (stream, actor) in self.flights.take_asked() {
                if let Some(work) = self.look(&Look::Saga(stream)).await {
                    self.take_up(work.tasks(), Some(&actor), tasks);
                }
            }
            if Instant::now() >= page_at {
                if let Some(work) = self.look(&Look::Page(page)).await {
                    page = self.take_page(work, page, tasks);
                }
                self.measure().await;
                page_at = Instant::now() + INTERVAL;
            }
            reap(tasks);
            if is_cut {
                continue;
            }
            tokio::select! {
                _ = tokio::time::timeout_at(page_at, self.sagas.changed(&mut seen)) => {}
                () = self.flights.is_asked.notified() => {}
            }
        }
    }

    /// Waits until the rows reflect the log as it is now. What was answered long ago would
    /// otherwise be sent again, to no effect.
    async fn catch_up(&self) {
        let head = loop {
            match self.log.head().await {
                Ok(head) => break head,
                Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        };
        let mut read = ReadContext {
            min_position: head,
            max_wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            ..Default::default()
        };
        while self.sagas.read(Some(&read), |_| Ok(())).await.is_err() {
            tokio::time::sleep(INTERVAL).await;
            // It may be an older copy now.
            if let Ok(head) = self.log.head().await {
                read.min_position = head.min(read.min_position);
            }
        }
    }

    async fn look(&self, look: &Look) -> Option<Work> {
        let limit = match look {
            Look::Page(_) => PAGE,
            Look::After(_) | Look::Saga(_) => MAX_NEW,
        };
        let (look, now) = (look.clone(), time::now_ns());
        let found = self.sagas.glance(move |connection| select(connection, &look, limit, now));
        match found.await {
            Ok((work, position)) => Some(Work { position, ..work }),
            Err(error) => {
                warn!(%error, "the sagas cannot be read");
                None
            }
        }
    }

    /// Takes up what there is on a page, and says where the next one begins.
    fn take_page(&self, work: Work, page: Place, tasks: &mut JoinSet<()>) -> Place {
        let next = work.next_page(page);
        let is_all = page == Place::default() && next == page;
        let mut todo = work.tasks();
        let open: HashSet<Uuid> = todo.iter().map(|task| task.id).collect();
        self.flights.forget(is_all.then_some(&open), std::time::Instant::now());
        // A place that is free is for who has waited longest.
        let due = self.flights.due(todo.iter().map(|task| task.id));
        let mut ordered: Vec<_> = due.into_iter().zip(todo.drain(..)).collect();
        ordered.sort_by_key(|(due, _)| *due);
        self.take_up(ordered.into_iter().map(|(_, task)| task), None, tasks);
        next
    }

    /// Begins what is this process's and was not begun yet; and whatever somebody has asked for.
    fn take_up(
        &self,
        todo: impl IntoIterator<Item = Task>,
        asked: Option<&str>,
        tasks: &mut JoinSet<()>,
    ) {
        let (now, now_ns) = (std::time::Instant::now(), time::now_ns());
        let actor = asked.filter(|actor| !actor.is_empty()).unwrap_or(line::ACTOR);
        for task in todo {
            if asked.is_none() && !self.share.takes(&task.stream, task.since_ns, now_ns) {
                continue;
            }
            let Some(attempt) = self.flights.begin(task.id, asked.is_some(), now) else { continue };
            let (sender, flights) = (self.sender.clone(), self.flights.clone());
            let worker = Worker { sender, flights, way: attempt.way, actor: actor.to_owned() };
            tasks.spawn(worker.carry_on(task, attempt));
        }
    }

    async fn measure(&self) {
        if let Ok(((counts, oldest), _)) = self.sagas.glance(metrics::select).await {
            metrics::set(&counts, &oldest, self.flights.waiting().0);
        }
    }
}

/// Lets go of the tasks that have ended.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended {
            error!(%error, "a step panicked and will be taken up again");
        }
    }
}

fn select(connection: &Connection, look: &Look, limit: usize, now: i64) -> rusqlite::Result<Work> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let (place, stream) = match look {
        Look::Page(place) => (*place, ""),
        Look::After(position) => (Place { position: *position, due_ns: i64::MAX }, ""),
        Look::Saga(stream) => (Place::default(), stream.as_str()),
    };
    let after = i64::try_from(place.position).unwrap_or(i64::MAX);
    let [steps, starts, due] = statements(matches!(look, Look::Saga(_)));
    Ok(Work {
        steps: rows(connection, steps, &[&after, &most, &stream])?,
        starts: rows(connection, starts, &[&after, &most, &stream])?,
        due: rows(connection, due, &[&place.due_ns, &most, &stream, &now])?,
        limit,
        position: 0,
    })
}

/// What reads open steps, starts and sagas that are due: of all sagas, or of one.
fn statements(of_one: bool) -> [&'static str; 3] {
    match of_one {
        false => [
            "SELECT * FROM sagas WHERE step_position > ?1 ORDER BY step_position LIMIT ?2",
            "SELECT * FROM starts WHERE position > ?1 ORDER BY position LIMIT ?2",
            "SELECT * FROM sagas WHERE due_time > ?1 AND due_time <= ?4 ORDER BY due_time LIMIT ?2",
        ],
        true => [
            "SELECT * FROM sagas WHERE step_position > ?1 AND stream = ?3 LIMIT ?2",
            "SELECT * FROM starts WHERE position > ?1 AND stream = ?3 LIMIT ?2",
            "SELECT * FROM sagas
             WHERE due_time > ?1 AND due_time <= ?4 AND stream = ?3 LIMIT ?2",
        ],
    }
}

impl Work {
    /// Up to where everything to be done is in it, when something was cut off.
    fn cut(&self) -> Option<u64> {
        // Of what was cut off, some may follow from the same event as the last that is here.
        let cut = |found: usize, last: Option<i64>| {
            let last = last.filter(|_| found >= self.limit)?;
            u64::try_from(last - 1).ok()
        };
        let steps = cut(self.steps.len(), self.steps.last().and_then(|row| row.step_position));
        let starts = cut(self.starts.len(), self.starts.last().map(|row| row.position));
        [steps, starts].into_iter().flatten().min()
    }

    /// Up to where everything to be done is in it or was seen before.
    fn reached(&self) -> u64 {
        self.cut().map_or(self.position, |cut| cut.min(self.position))
    }

    /// Where the page after this one begins: where something was cut off, else at the beginning.
    fn next_page(&self, page: Place) -> Place {
        let last_due = self.due.last().and_then(|row| row.due_time);
        let due_ns = match last_due.filter(|_| self.due.len() >= self.limit) {
            // Never the same page again.
            Some(last) if last - 1 <= page.due_ns => last,
            Some(last) => last - 1,
            None => 0,
        };
        Place { position: self.cut().unwrap_or(0), due_ns }
    }

    fn tasks(self) -> Vec<Task> {
        let steps = self.steps.into_iter().map(|row| {
            let step = OpenStep {
                version: row.step_version.unsigned_abs(),
                event_id: row.step_event_id,
                saga_version: row.version.unsigned_abs(),
                state: row.state,
            };
            Task::step(row.stream, row.step_time, step)
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
    /// Whether a process with this share does what a saga has waited for since then: its own, and
    /// what another process has left undone.
    fn takes(self, stream: &str, since_ns: i64, now: i64) -> bool {
        let is_left = since_ns <= now - TAKE_OVER.as_nanos() as i64;
        is_left || self.has(stream)
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

impl Task {
    /// The first step of a saga, if this is the record of its first event, after a position.
    fn begun(record: &Arc<Record>, after: u64) -> Option<Self> {
        let event = record.event().filter(|it| it.version == 1 && it.position > after)?;
        kind::find(event.aggregate_type())?;
        let stream = event.stream().to_owned();
        let id = ids::step(&stream, event.version, 0);
        let (since_ns, kind) = (time::now_ns(), TaskKind::Begun(Arc::clone(record)));
        Some(Self { id, stream, since_ns, kind })
    }

    fn step(stream: String, since_ns: i64, step: OpenStep) -> Self {
        let id = ids::step(&stream, step.version, 0);
        Self { id, stream, since_ns, kind: TaskKind::Step(Box::new(step)) }
    }
}

impl OpenStep {
    /// The step that follows from the first event of a saga.
    fn first(event: &Envelope) -> Option<Self> {
        let kind = kind::find(event.aggregate_type())?;
        let first = EncodedEvent {
            aggregate_type: event.aggregate_type(),
            name: event.event_name()?,
            version: event.event_version,
            bytes: event.message.clone()?,
        };
        let folded = kind.fold(event.aggregate_id(), &[], &kind.decode(first).ok()?).ok()?;
        folded.awaited.filter(|awaited| awaited.version == event.version)?;
        let (version, event_id) = (event.version, event.event_id()?.to_owned());
        Some(Self { version, event_id, saga_version: version, state: folded.state })
    }
}

/// What carries on one saga.
struct Worker {
    sender: Sender,
    flights: Arc<Flights>,
    way: Way,
    /// In whose name, when it goes alone.
    actor: String,
}

impl Worker {
    /// Makes an attempt at a thing, and then at what follows from it, and so on until something
    /// fails, or the saga has to wait, or stands elsewhere than expected. The rows say where, to
    /// whoever takes it up again.
    async fn carry_on(mut self, mut task: Task, mut attempt: Attempt) {
        loop {
            let stream = task.stream.clone();
            let next = match self.carry_out(task).await {
                Ok(next) => next,
                Err(failure) => {
                    let problem = failure.problem.clone();
                    let attempts = attempt.failed(failure, std::time::Instant::now());
                    if attempts.is_multiple_of(WARN_AFTER) {
                        warn!(%stream, attempts, %problem, "will try again");
                    }
                    return;
                }
            };
            attempt.recorded(std::time::Instant::now());
            let Some(next) = next else { return };
            // Whoever has begun it before goes on with it.
            let begun = self.flights.begin(next.id, false, std::time::Instant::now());
            let Some(begun) = begun else { return };
            self.way = begun.way;
            (task, attempt) = (next, begun);
        }
    }

    /// Does one thing, and says what follows from it, as far as that is known here.
    async fn carry_out(&self, task: Task) -> Result<Option<Task>, Failure> {
        match task.kind {
            TaskKind::Begun(record) => match record.event().and_then(OpenStep::first) {
                Some(step) => self.step(task.id, task.stream, step).await,
                None => Ok(None),
            },
            TaskKind::Step(step) => self.step(task.id, task.stream, *step).await,
            TaskKind::Start(row) => {
                let (type_name, request) = (row.type_name, row.request);
                let context = context(&row.saga_id, &row.event_id);
                self.to_itself(&Outgoing { type_name, request, context }).await?;
                Ok(None)
            }
            TaskKind::Wake(row) => {
                let step = kind::find(&row.kind).and_then(|k| k.wake(&row.saga_id, &row.state));
                let step = step.ok_or_else(|| fault("the saga is due and cannot be woken"))?;
                // A server whose clock is behind refuses.
                self.to_itself(&outgoing(step, context(&row.saga_id, ""))).await?;
                Ok(None)
            }
        }
    }

    /// Sends the command of a step, and the one that has its answer recorded, which the log knows.
    /// The step that follows is found by the saga's own rules, if the saga stands where they expect
    /// it.
    async fn step(
        &self,
        id: Uuid,
        stream: String,
        step: OpenStep,
    ) -> Result<Option<Task>, Failure> {
        let (kind, saga_id) = stream.split_once('-').unwrap_or((&stream, ""));
        let kind = kind::find(kind).ok_or_else(|| fault("there is no such kind of saga"))?;
        let awaited = kind.awaited(saga_id, &step.state);
        let awaited = awaited.filter(|awaited| awaited.version == step.version);
        let awaited = awaited.ok_or_else(|| fault("the saga does not say what its step is"))?;
        let context = context(saga_id, &step.event_id);
        let of_step = CommandContext { request_id: id.to_string(), ..context.clone() };
        let command = outgoing(awaited.step, of_step);
        let answer = StepAnswer { version: step.version, index: 0, outcome: None };
        let record = outgoing(kind.record(saga_id, answer.clone()), context);
        let (outcome, recorded) = match self.way {
            // What comes right after it is written with it.
            Way::Line => {
                let (answer, recorded) = self.sender.send_both(&command, &record).await;
                (answered(answer)?, self.accepted(answered(recorded)?)?)
            }
            Way::Alone => (self.send(&command).await?, self.to_itself(&record).await?),
        };
        let answer = StepAnswer { outcome: Some(outcome), ..answer };
        let now = time::timestamp(time::now_ns());
        let Some(advanced) = kind.advance(saga_id, &step.state, answer, now) else {
            return Ok(None);
        };
        // Somebody else's event in between, and the saga stands elsewhere.
        let is_expected = recorded.event_ids.len() == advanced.events
            && recorded.version == step.saga_version + advanced.events as u64;
        let Some(awaited) = advanced.awaited.filter(|_| is_expected) else { return Ok(None) };
        let place = awaited.version.checked_sub(step.saga_version + 1);
        let event_id = place.and_then(|at| recorded.event_ids.get(usize::try_from(at).ok()?));
        let Some(event_id) = event_id.cloned() else { return Ok(None) };
        let next = OpenStep {
            version: awaited.version,
            event_id,
            saga_version: recorded.version,
            state: advanced.state,
        };
        Ok(Some(Task::step(stream, time::now_ns(), next)))
    }

    /// Sends a command to the saga's own stream. It has no request id: the saga knows by itself what
    /// it has recorded, and what is refused today may be right tomorrow.
    async fn to_itself(&self, command: &Outgoing) -> Result<CommandReceipt, Failure> {
        self.accepted(self.send(command).await?)
    }

    /// What was refused by the saga's own stream has failed.
    fn accepted(&self, outcome: Outcome) -> Result<CommandReceipt, Failure> {
        match outcome {
            Outcome::Receipt(receipt) => Ok(receipt),
            Outcome::Refusal(StepRefusal { reason, message, .. }) => {
                Err(Failure { problem: format!("{reason}: {message}"), way: self.way })
            }
        }
    }

    /// Sends a command once.
    async fn send(&self, command: &Outgoing) -> Result<Outcome, Failure> {
        let answer = match self.way {
            Way::Line => self.sender.send(command).await,
            Way::Alone => self.sender.call(command, &self.actor).await,
        };
        answered(answer)
    }
}

/// The outcome of a command. It has failed when it has none.
fn answered(answer: Result<CommandReceipt, Status>) -> Result<Outcome, Failure> {
    outcome(answer).map_err(|status| {
        let way = match status.code() {
            Code::DeadlineExceeded => Way::Alone,
            _ => Way::Line,
        };
        let (code, text) = (status.code(), status.message());
        Failure { problem: format!("{code:?}: {text}"), way }
    })
}

fn fault(problem: &str) -> Failure {
    Failure { problem: problem.to_owned(), way: Way::Line }
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
    use daybook_query::runtime::{Projection, row};

    use super::*;
    use crate::projection::Sagas;

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
    fn a_saga_of_another_process_is_taken_when_it_was_left() {
        let of = |index| Share { index, of: 2 };
        let stream = "bank.transfer-1";
        let (own, other) = match of(0).has(stream) {
            true => (of(0), of(1)),
            false => (of(1), of(0)),
        };
        let later = 1 + TAKE_OVER.as_nanos() as i64;
        assert!(own.takes(stream, 1, 2));
        assert!(!other.takes(stream, 1, later - 1));
        assert!(other.takes(stream, 1, later));
    }

    const HEAD: u64 = 30;

    /// Rows in memory: a step at every second position up to the head, of which one is not open,
    /// two starts at every third, and sagas that are due, three at the same time.
    fn rows() -> Connection {
        let rows = Connection::open_in_memory().unwrap();
        rows.execute_batch(Sagas::SCHEMA).unwrap();
        add(&rows, 1..=HEAD / 2);
        rows
    }

    fn add(rows: &Connection, positions: std::ops::RangeInclusive<u64>) {
        for at in positions {
            let mut sql = String::new();
            if at % 2 == 0 {
                let step = if at == 4 { "NULL".to_owned() } else { at.to_string() };
                sql += &format!(
                    "INSERT INTO sagas VALUES
                     ('k-{at}', 'k', 's', 1, 1, x'', 1, 1, NULL, NULL, NULL, {at}, {step}, 1, 'e', 1);"
                );
            }
            if at % 3 == 0 {
                for which in ["x", "y"] {
                    sql += &format!(
                        "INSERT INTO starts VALUES ('{which}-{at}', 'k', 's', 't', x'', 'e', 1, {at});"
                    );
                }
            }
            let due = at.div_ceil(3);
            sql += &format!(
                "INSERT INTO sagas VALUES
                 ('due-{at}', 'k', 's', 1, 1, x'', 1, 1, NULL, {due}, NULL, {}, NULL, 0, '', 0);",
                HEAD + at
            );
            rows.execute_batch(&sql).unwrap();
        }
    }

    fn at(rows: &Connection, look: &Look, limit: usize, position: u64) -> Work {
        Work { position, ..select(rows, look, limit, i64::MAX).unwrap() }
    }

    /// What there is to do up to the head.
    fn everything() -> Vec<String> {
        let steps = (1..=HEAD).filter(|at| at % 2 == 0 && *at != 4).map(|at| format!("k-{at}"));
        let starts = (1..=HEAD).filter(|at| at % 3 == 0);
        let starts = starts.flat_map(|at| [format!("x-{at}"), format!("y-{at}")]);
        let mut all: Vec<_> = steps.chain(starts).collect();
        all.sort();
        all
    }

    #[test]
    fn no_row_is_skipped_however_few_are_read_at_once() {
        for limit in 3..=40 {
            let rows = rows();
            let (mut reached, mut head, mut seen) = (0, HEAD / 2, Vec::new());
            while reached < HEAD {
                let work = at(&rows, &Look::After(reached), limit, head);
                assert!(work.due.is_empty(), "a saga that is due waits for its page");
                let next = work.reached();
                assert!(next > reached, "stands still at {reached} of {head}, {limit} at once");
                reached = next;
                seen.extend(work.tasks().into_iter().map(|task| task.stream));
                // What was read reflects its moment; more comes after it.
                if reached == head && head < HEAD {
                    add(&rows, head + 1..=HEAD);
                    head = HEAD;
                }
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen, everything(), "{limit} at once");
        }
    }

    #[test]
    fn page_after_page_everything_is_looked_at_again_and_again() {
        for limit in 3..=40 {
            let rows = rows();
            add(&rows, HEAD / 2 + 1..=HEAD);
            let (mut page, mut seen) = (Place::default(), Vec::new());
            for turn in 0..200 {
                let work = at(&rows, &Look::Page(page), limit, HEAD);
                page = work.next_page(page);
                if turn >= 100 {
                    seen.extend(work.tasks().into_iter().map(|task| task.stream));
                }
            }
            seen.sort();
            seen.dedup();
            let due = (1..=HEAD).map(|at| format!("due-{at}"));
            let expected = everything().into_iter().chain(due);
            for stream in expected {
                assert!(seen.contains(&stream), "{stream} is not seen, {limit} at once");
            }
        }
    }

    #[test]
    fn one_saga_is_looked_at_alone() {
        let rows = rows();
        for stream in ["k-2", "x-3", "due-1"] {
            let work = at(&rows, &Look::Saga(stream.to_owned()), 10, HEAD);
            let found: Vec<_> = work.tasks().into_iter().map(|task| task.stream).collect();
            assert_eq!(found, [stream]);
        }
        assert!(at(&rows, &Look::Saga("k-4".to_owned()), 10, HEAD).tasks().is_empty());
    }

    #[test]
    fn every_look_goes_over_an_index() {
        let rows = rows();
        for sql in [false, true].into_iter().flat_map(statements) {
            let explain = format!("EXPLAIN QUERY PLAN {sql}");
            let steps = row::select(&rows, &explain, &[], |row| row.get::<_, String>("detail"));
            for plan in steps.unwrap() {
                assert!(plan.starts_with("SEARCH"), "{sql}: {plan}");
            }
        }
    }
}
