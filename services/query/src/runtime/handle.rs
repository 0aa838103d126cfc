//! What the rest of the query side sees of a running projection: its status, its rows, and the
//! operations on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daybook_bus::source::Cursor;
use daybook_contract::daybook::v1::{
    ErrorReason, ProjectionState, ProjectionStatus, ReadContext, RebuildStage, RebuildStatus,
};
use daybook_contract::error::Error;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::engine::Retried;
use super::readers::{self, Readers};
use super::rest::Rest;
use super::store;
use crate::time;

/// How long a query waits for its `min_position` when it does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// The longest that a query can wait.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// When a query that came too early may try again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A generation that is served.
pub(crate) struct Live {
    pub readers: Readers,
}

/// What a projection is doing; changes with every batch.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    /// The generation that answers queries; `None` while the first one is being built.
    pub live: Option<Arc<Live>>,
    pub position: u64,
    pub head: u64,
    pub paused: bool,
    /// Whether the source, or the file, cannot be used at the moment.
    pub disconnected: bool,
    pub problem: String,
    /// Why the last query could not read the rows; empty when it could.
    pub unreadable: String,
    pub quarantined: u64,
    pub last_event_ns: i64,
    /// Goes up whenever rows may have changed.
    pub changes: u64,
    /// An end of the log that is not reached yet, and since when it is known. `None` when nothing
    /// is known to be missing.
    pub behind: Option<(u64, Instant)>,
}

impl Progress {
    /// Notes whether the end of the log is reached. Under a steady load it never is; what counts
    /// is that the ends known before are.
    fn note_lag(&mut self) {
        if self.behind.is_none_or(|(end, _)| self.position >= end) {
            self.behind = (self.position < self.head).then(|| (self.head, Instant::now()));
        }
    }
}

/// What a runner is asked to do.
pub(crate) enum Command {
    Pause(Answer<()>),
    Resume(Answer<()>),
    Rebuild(Answer<RebuildStatus>),
    Retry { stream: String, answer: Answer<Retried> },
    Skip { id: u64, answer: Answer<Retried> },
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A running projection.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub name: &'static str,
    pub version: u32,
    pub source: &'static str,
    pub cache_lifetime: Duration,
    /// False when this process leaves the projection to another one.
    pub runs: bool,
    pub progress: watch::Sender<Progress>,
    /// Whoever looks at the rows asks here first.
    pub rest: Rest,
    pub rebuild: watch::Sender<RebuildStatus>,
    pub commands: mpsc::Sender<Command>,
    /// Becomes true when the service stops.
    pub stop: watch::Receiver<bool>,
}

impl Shared {
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(|progress| {
            change(progress);
            progress.note_lag();
        });
    }

    pub fn update_rebuild(&self, change: impl FnOnce(&mut RebuildStatus)) {
        self.rebuild.send_modify(change);
    }
}

/// Whether a rebuild is under way.
pub(crate) fn is_running(rebuild: &RebuildStatus) -> bool {
    matches!(rebuild.stage(), RebuildStage::Building | RebuildStage::Comparing)
}

impl Handle {
    /// The name of the projection.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// How it is doing.
    pub fn status(&self) -> ProjectionStatus {
        let progress = self.shared.progress.borrow().clone();
        let head = progress.head.max(progress.position);
        let lag = head - progress.position;
        let last = progress.last_event_ns;
        let lag_seconds = progress.behind.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
        let rebuild = self.shared.rebuild.borrow().clone();
        ProjectionStatus {
            name: self.shared.name.to_owned(),
            version: self.shared.version,
            state: state(&progress).into(),
            position: progress.position,
            head_position: head,
            lag_events: lag,
            lag_seconds,
            quarantined_events: progress.quarantined,
            source: self.shared.source.to_owned(),
            problem: match progress.problem.is_empty() {
                true => progress.unreadable,
                false => progress.problem,
            },
            last_event_time: (last != 0).then(|| time::timestamp(last)),
            rebuild: (rebuild.stage() != RebuildStage::Unspecified).then_some(rebuild),
        }
    }

    /// The rebuild under way, or the last one; follows its progress.
    pub(crate) fn rebuild_status(&self) -> watch::Receiver<RebuildStatus> {
        self.shared.rebuild.subscribe()
    }

    /// What it is doing; follows every batch.
    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// How long an answer is remembered while its rows stay the same.
    pub(crate) fn cache_lifetime(&self) -> Duration {
        self.shared.cache_lifetime
    }

    /// Everything in the log up to this position is reflected.
    pub fn position(&self) -> u64 {
        self.shared.progress.borrow().position
    }

    /// Waits until the projection has come as far as a query wants. Answers with the generation
    /// to read.
    pub(crate) async fn wait_for(&self, read: Option<&ReadContext>) -> Result<Progress, Error> {
        if !self.shared.runs {
            return Err(self.left_out());
        }
        let min_position = read.map_or(0, |read| read.min_position);
        self.shared.rest.ask().await;
        let mut progress = self.shared.progress.subscribe();
        let ready = |p: &Progress| p.live.is_some() && p.position >= min_position;
        {
            let now = progress.borrow_and_update();
            if ready(&now) {
                return Ok(now.clone());
            }
            if min_position == 0 {
                return Err(self.rebuilding(&now));
            }
        }
        let wait = max_wait(read);
        let mut stop = self.shared.stop.clone();
        let _follows = self.shared.rest.follow();
        let waited = tokio::select! {
            waited = tokio::time::timeout(wait, progress.wait_for(ready)) => waited,
            _ = stop.wait_for(|stop| *stop) => return Err(not_serving()),
        };
        match waited {
            Ok(Ok(now)) => Ok(now.clone()),
            Ok(Err(_)) => Err(not_serving()),
            Err(_) => {
                let now = self.shared.progress.borrow().clone();
                match now.live {
                    None => Err(self.rebuilding(&now)),
                    Some(_) => Err(self.lagging(&now, min_position, wait)),
                }
            }
        }
    }

    /// Waits until rows may have changed since the number of changes `seen`, and brings that up to
    /// date. A projection that rests is left to it. Never returns when the projection has stopped.
    pub async fn changed(&self, seen: &mut u64) {
        let mut progress = self.shared.progress.subscribe();
        let waited = progress.wait_for(|progress| progress.changes != *seen).await;
        let changes = waited.ok().map(|progress| progress.changes);
        match changes {
            Some(changes) => *seen = changes,
            None => std::future::pending().await,
        }
    }

    /// Reads rows, all of one moment, and says which position they reflect.
    pub async fn read<T, F>(&self, read: Option<&ReadContext>, query: F) -> Result<(T, u64), Error>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + Sync + 'static,
    {
        let query = Arc::new(query);
        loop {
            let progress = self.wait_for(read).await?;
            if let Some(answer) = self.read_at(&progress, &query).await? {
                return Ok(answer);
            }
        }
    }

    /// Reads rows as they are, all of one moment, and says which position they reflect. A projection
    /// that rests is left to it, so what it has let come meanwhile is not in them.
    pub async fn glance<T, F>(&self, query: F) -> Result<(T, u64), Error>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + Sync + 'static,
    {
        let query = Arc::new(query);
        loop {
            let progress = self.shared.progress.borrow().clone();
            if let Some(answer) = self.read_at(&progress, &query).await? {
                return Ok(answer);
            }
        }
    }

    /// A place in the source, and the position that the rows reflect. The source may give what is in
    /// them again from there, and leaves nothing out.
    pub async fn cursor(&self) -> Result<(Cursor, u64), Error> {
        let (checkpoint, position) = self.glance(store::checkpoint).await?;
        Ok((checkpoint.cursor, position))
    }

    /// Whether somebody has paused the projection.
    pub fn is_paused(&self) -> bool {
        self.shared.progress.borrow().paused
    }

    /// `None` when another generation has taken over meanwhile.
    async fn read_at<T, F>(
        &self,
        progress: &Progress,
        query: &Arc<F>,
    ) -> Result<Option<(T, u64)>, Error>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + Sync + 'static,
    {
        let live = progress.live.as_ref().ok_or_else(|| self.rebuilding(progress))?;
        let query = Arc::clone(query);
        match live.readers.read(move |connection| query(connection)).await {
            Ok((answer, stored)) => {
                if !progress.unreadable.is_empty() {
                    self.shared.update(|progress| progress.unreadable.clear());
                }
                // The position moves without a transaction when no row changes.
                Ok(Some((answer, stored.max(progress.position))))
            }
            // Another generation has taken over in between, or will: read that one.
            Err(readers::Error::Closed) if self.has_moved(live) => Ok(None),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn has_moved(&self, from: &Arc<Live>) -> bool {
        let now = self.shared.progress.borrow();
        now.live.as_ref().is_none_or(|live| !Arc::ptr_eq(live, from))
    }

    fn left_out(&self) -> Error {
        let name = self.name();
        let text = format!(
            "this process does not run projection {name}: ask one that has it in --projections"
        );
        Error::new(ErrorReason::ProjectionState, text).with("projection", name)
    }

    fn rebuilding(&self, now: &Progress) -> Error {
        let text = format!("projection {} is being built and cannot answer yet", self.name());
        Error::new(ErrorReason::ProjectionRebuilding, text)
            .with("projection", self.name())
            .with("position", now.position)
            .with("head_position", now.head)
            .with_retry_after(RETRY_AFTER)
    }

    fn lagging(&self, now: &Progress, min_position: u64, waited: Duration) -> Error {
        let name = self.name();
        // To wait longer helps only when it moves.
        let why = match state(now) {
            ProjectionState::Paused => {
                format!("; it is paused: daybook projection resume {name}")
            }
            ProjectionState::Disconnected => {
                format!("; it is disconnected: {}", now.problem)
            }
            _ => String::new(),
        };
        let text = format!(
            "projection {name} is at position {}, not yet at {min_position}, after {} ms{why}",
            now.position,
            waited.as_millis()
        );
        let state = state(now).as_str_name().trim_start_matches("PROJECTION_STATE_");
        Error::new(ErrorReason::ProjectionLagging, text)
            .with("projection", name)
            .with("state", state)
            .with("problem", &now.problem)
            .with("position", now.position)
            .with("min_position", min_position)
            .with("head_position", now.head.max(now.position))
            .with_retry_after(RETRY_AFTER)
    }

    fn unreadable(&self, error: &readers::Error) -> Error {
        tracing::error!(projection = self.name(), %error, "query failed");
        if matches!(error, readers::Error::Busy) {
            let text = format!("too many queries wait for projection {}", self.name());
            return Error::new(ErrorReason::Overloaded, text).with_retry_after(RETRY_AFTER);
        }
        if matches!(error, readers::Error::Closed) {
            return not_serving();
        }
        // Whoever looks at the projection sees what its callers see.
        let problem = format!("its rows cannot be read: {error}");
        self.shared.update(|progress| progress.unreadable = problem);
        let text = format!("projection {} cannot be read", self.name());
        Error::new(ErrorReason::Internal, text).with("projection", self.name())
    }

    /// Stops applying events.
    pub(crate) async fn pause(&self) -> Result<(), Error> {
        self.ask(Command::Pause).await
    }

    /// Goes on applying events.
    pub(crate) async fn resume(&self) -> Result<(), Error> {
        self.ask(Command::Resume).await
    }

    /// Begins a rebuild, or answers with the one under way.
    pub(crate) async fn rebuild(&self) -> Result<RebuildStatus, Error> {
        self.ask(Command::Rebuild).await
    }

    /// Applies the quarantined events of a stream again.
    pub(crate) async fn retry(&self, stream: String) -> Result<Retried, Error> {
        self.ask(|answer| Command::Retry { stream, answer }).await
    }

    /// Gives up a quarantined event.
    pub(crate) async fn skip(&self, id: u64) -> Result<Retried, Error> {
        self.ask(|answer| Command::Skip { id, answer }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Error> {
        let (answer, reply) = oneshot::channel();
        // What is to be done begins with what is there.
        let _follows = self.shared.rest.follow();
        self.shared.commands.send(command(answer)).await.map_err(|_| not_serving())?;
        reply.await.unwrap_or_else(|_| Err(not_serving()))
    }
}

pub(crate) fn not_serving() -> Error {
    Error::new(ErrorReason::NotServing, "the query service is stopping")
        .with_retry_after(RETRY_AFTER)
}

fn max_wait(read: Option<&ReadContext>) -> Duration {
    let Some(wait) = read.and_then(|read| read.max_wait) else { return DEFAULT_WAIT };
    Duration::try_from(wait).unwrap_or(Duration::ZERO).min(MAX_WAIT)
}

fn state(progress: &Progress) -> ProjectionState {
    if progress.live.is_none() {
        return ProjectionState::Rebuilding;
    }
    if progress.paused {
        return ProjectionState::Paused;
    }
    if progress.disconnected {
        return ProjectionState::Disconnected;
    }
    match progress.position >= progress.head {
        true => ProjectionState::Live,
        false => ProjectionState::CatchingUp,
    }
}
