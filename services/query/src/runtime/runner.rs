//! Runs one projection, in its own task: it owns the writer of the live generation and is the only
//! one that changes which generation is live.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::{Batch, Cursor, Error as SourceError};
use daybook_contract::daybook::v1::{ErrorReason, RebuildReport, RebuildStage, RebuildStatus};
use daybook_contract::error::Error as ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::coop::unconstrained;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::Instant;

use super::engine::{self, Engine};
use super::feed::{self, Feed};
use super::files::Files;
use super::handle::{Answer, Command, Handle, Live, Progress, Shared, is_running};
use super::history::other_history;
use super::offload::Offload;
use super::projection::{Projection, panic_text};
use super::readers::Readers;
use super::rebuild::{self, Build, Handover, Ready};
use super::rest::Rest;
use super::store;
use super::{Environment, Settings};
use crate::time;

/// How many operations may wait for a runner.
const QUEUED_COMMANDS: usize = 16;

/// The pause after an error; it doubles with each that follows, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often the log is asked whether it is still the same one.
const ASK_LOG: Duration = Duration::from_secs(1);

/// How long queries of the old generation may take after a new one has taken over.
const FAREWELL: Duration = Duration::from_secs(30);

/// A projection that was started: what others see of it, and its task.
pub struct Started {
    /// What others see.
    pub handle: Handle,
    /// Runs until the service stops; ends at a batch boundary.
    pub task: BoxFuture<'static, ()>,
}

/// Makes the runner of a projection. It runs when the task is polled, if this process is to run it.
pub fn start<P: Projection>(environment: &Environment) -> Started {
    let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
    let runs = environment.settings.runs(P::NAME);
    let shared = Arc::new(Shared {
        runs,
        name: P::NAME,
        version: P::VERSION,
        source: environment.factory.kind(),
        cache_lifetime: environment.settings.cache_lifetime,
        progress: watch::Sender::new(Progress::default()),
        rest: Rest::new(environment.settings.rest),
        rebuild: watch::Sender::new(RebuildStatus::default()),
        commands,
        stop: environment.stop.clone(),
    });
    let runner = Runner::<P> {
        files: Files::new(&environment.settings.data_dir, P::NAME),
        environment: environment.clone(),
        stop: environment.stop.clone(),
        shared: shared.clone(),
        queue,
        handovers: mpsc::channel(1),
        rebuilds: JoinSet::new(),
        engine: None,
        pause: FIRST_PAUSE,
    };
    let handle = Handle { shared };
    if !runs {
        return Started { handle, task: Box::pin(std::future::ready(())) };
    }
    Started { handle, task: Box::pin(runner.run()) }
}

struct Runner<P: Projection> {
    files: Files,
    environment: Environment,
    stop: watch::Receiver<bool>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    handovers: (mpsc::Sender<Handover<P>>, mpsc::Receiver<Handover<P>>),
    rebuilds: JoinSet<()>,
    engine: Option<Offload<Engine<P>>>,
    /// How long to wait after the next error.
    pause: Duration,
}

/// What ends a stretch of running.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Rebuild(#[from] rebuild::Error),
    #[error("the projection's files: {0}")]
    Files(#[from] std::io::Error),
    #[error("{0}")]
    OtherHistory(String),
    #[error("{0}")]
    Panicked(String),
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::Engine(error.into())
    }
}

impl<P: Projection> Runner<P> {
    async fn run(mut self) {
        loop {
            // Whatever panics, the projection is started again, and its status says why.
            let served = AssertUnwindSafe(self.serve()).catch_unwind().await;
            let served = served.unwrap_or_else(|panic| Err(Error::Panicked(panic_text(&*panic))));
            self.shared.rest.end();
            let Err(error) = served else { break };
            tracing::error!(projection = P::NAME, %error, "projection stopped, will try again");
            if let Error::OtherHistory(problem) = &error {
                self.disown(problem).await;
            }
            // Whatever the connection is in the middle of ends with it; what was committed holds.
            if let Some(engine) = self.engine.take() {
                drop_engine(engine).await;
            }
            if self.rebuilds.is_empty() && is_running(&self.shared.rebuild.borrow()) {
                self.fail_rebuild(&error.to_string());
            }
            self.trouble(error.to_string());
            if self.wait().await {
                break;
            }
        }
        self.rebuilds.shutdown().await;
        self.queue.close();
        let live = self.shared.progress.borrow().live.clone();
        if let Some(live) = live {
            live.readers.close().await;
        }
        if let Some(engine) = self.engine.take()
            && let Err(error) = engine.end(Engine::close).await
        {
            tracing::warn!(projection = P::NAME, %error, "file not closed in order");
        }
        tracing::info!(projection = P::NAME, "projection stopped");
    }

    /// Opens the live generation, or builds the first one, and follows the source until the
    /// service stops.
    async fn serve(&mut self) -> Result<(), Error> {
        let paused = self.files.paused()?;
        self.shared.update(|progress| progress.paused = paused);
        if !is_running(&self.shared.rebuild.borrow()) {
            self.files.sweep()?;
        }
        let Some(engine) = self.open_or_build().await? else { return Ok(()) };
        let reached = engine.get().checkpoint();
        let other = other_history(self.environment.log.as_ref(), reached).await;
        self.engine = Some(engine);
        if let Some(problem) = other {
            return Err(Error::OtherHistory(problem));
        }
        if self.shared.progress.borrow().live.is_none() {
            let generation = self.engine().generation();
            let live = self.open_readers(generation);
            self.shared.update(|progress| progress.live = Some(Arc::new(live)));
        }
        self.publish();
        self.follow().await
    }

    fn engine(&mut self) -> &mut Engine<P> {
        self.offload().get_mut()
    }

    fn offload(&mut self) -> &mut Offload<Engine<P>> {
        self.engine.as_mut().expect("served while the engine is open")
    }

    /// `None` when the service stops before there is anything to serve.
    async fn open_or_build(&mut self) -> Result<Option<Offload<Engine<P>>>, Error> {
        let settings = self.environment.settings.clone();
        let mut cursor = None;
        if let Some(generation) = self.files.live()? {
            let path = self.files.path(generation);
            let file = path.clone();
            match Offload::make(move || Engine::open(&file, generation, &settings)).await {
                Ok(engine) => return Ok(Some(engine)),
                Err(engine::Error::Store(store::Error::Unusable(problem))) => {
                    tracing::warn!(projection = P::NAME, generation, %problem, "must be rebuilt");
                    // A reader that begins at the old place repeats nothing but what is new.
                    cursor = spawn_blocking(move || store::cursor_of(&path)).await?;
                    self.stop_readers().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let old = self.files.live()?;
        let Some(engine) = self.build_first(cursor).await? else { return Ok(None) };
        self.files.set_live(engine.get().generation())?;
        if let Some(old) = old {
            self.files.remove(old)?;
        }
        self.finish_rebuild(RebuildReport::default());
        Ok(Some(engine))
    }

    /// Builds the first generation; operations that need one are refused meanwhile.
    async fn build_first(
        &mut self,
        cursor: Option<Cursor>,
    ) -> Result<Option<Offload<Engine<P>>>, Error> {
        self.begin_rebuild();
        let build = self.build();
        let building = build.first(cursor);
        tokio::pin!(building);
        loop {
            tokio::select! {
                biased;
                _ = stopped(&mut self.stop) => return Ok(None),
                Some(command) = self.queue.recv() => {
                    refuse_or_note(&self.shared, &self.files, command);
                }
                result = &mut building => match result {
                    Ok(engine) => return Ok(Some(engine)),
                    Err(error) => {
                        self.fail_rebuild(&error.to_string());
                        return Err(error.into());
                    }
                },
            }
        }
    }

    fn build(&self) -> Build<P> {
        Build {
            files: self.files.clone(),
            environment: self.environment.clone(),
            shared: self.shared.clone(),
            handovers: self.handovers.0.clone(),
        }
    }

    fn open_readers(&self, generation: u64) -> Live {
        let file = self.files.path(generation);
        Live { readers: Readers::new(&file, self.environment.settings.readers) }
    }

    /// Stops serving what there is. What will be built may end before it, and have other rows.
    async fn stop_readers(&mut self) {
        let mut live = None;
        self.shared.update(|progress| {
            live = progress.live.take();
            *progress = Progress {
                paused: progress.paused,
                changes: progress.changes + 1,
                ..Progress::default()
            };
        });
        if let Some(live) = live {
            live.readers.close().await;
        }
    }

    /// Gives up a generation that was made from another log: it is not served any more, and the
    /// next attempt builds another one, as if it were of another version.
    async fn disown(&mut self, problem: &str) {
        self.stop_readers().await;
        if !self.rebuilds.is_empty() {
            self.rebuilds.shutdown().await;
            self.fail_rebuild(problem);
        }
        let text = problem.to_owned();
        if let Some(engine) = &mut self.engine
            && let Err(error) = engine.run(move |engine| engine.disown(&text)).await
        {
            tracing::error!(projection = P::NAME, %error, "file not marked as unusable");
        }
    }

    /// Asks the log, after a while, whether it is another one than that of the rows.
    fn ask_log(&self) -> BoxFuture<'static, Option<String>> {
        let engine = self.engine.as_ref().expect("served while the engine is open");
        let (log, reached) = (self.environment.log.clone(), engine.get().checkpoint().clone());
        Box::pin(async move {
            tokio::time::sleep(ASK_LOG).await;
            other_history(log.as_ref(), &reached).await
        })
    }

    /// Applies batches until the service stops.
    async fn follow(&mut self) -> Result<(), Error> {
        let settings: Arc<Settings> = self.environment.settings.clone();
        let log = self.environment.log.clone();
        let committed = self.engine().checkpoint().clone();
        let factory = self.environment.factory.clone();
        let mut feed = Feed::new(factory, log.clone(), settings.batch_size, committed);
        let reached = feed.reached();
        let mut answer = self.ask_log();
        let mut resume_at: Option<Instant> = None;
        let mut rest_until: Option<Instant> = None;
        // The end of what has come in a rest. A batch may not reach it, and its questions wait for
        // it.
        let mut backlog: Option<u64> = None;
        let shared = self.shared.clone();
        let rest = &shared.rest;
        loop {
            let questions = rest.open_questions();
            let (gathers, rests) = (rest.gathers(), rest_until.is_some());
            let paused = self.shared.progress.borrow().paused;
            if paused {
                feed.close();
            }
            let waiting = paused || resume_at.is_some();
            tokio::select! {
                biased;
                _ = stopped(&mut self.stop) => return Ok(()),
                Some(command) = self.queue.recv(), if !gathers => self.command(command).await?,
                Some(handover) = self.handovers.1.recv(), if !gathers => {
                    self.hand_over(handover).await?;
                }
                Some(ended) = self.rebuilds.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        self.fail_rebuild("the rebuild panicked");
                    }
                }
                other = &mut answer => {
                    if let Some(problem) = other {
                        return Err(Error::OtherHistory(problem));
                    }
                    answer = self.ask_log();
                }
                () = reached.notified() => self.connected(),
                _ = sleep_until(resume_at), if !paused && resume_at.is_some() => resume_at = None,
                () = rest.over(rest_until), if rests => rest_until = None,
                // Whether there is something must not depend on how much this task has done.
                batch = unconstrained(feed.next()), if !waiting && !rests => match batch {
                    Ok(batch) => {
                        let batch = self.apply(batch, &mut feed).await?;
                        self.connected();
                        self.shared.update(|progress| {
                            progress.head = progress.head.max(batch.head).max(batch.position);
                        });
                        self.publish();
                        feed.committed(self.engine().checkpoint());
                        if gathers && batch.position < *backlog.get_or_insert(batch.head) {
                            continue;
                        }
                        backlog = None;
                        rest_until = rest.begin(is_behind(&batch, settings.batch_size));
                        rest.answer(questions);
                    }
                    Err(feed::Error::OtherHistory(problem)) => {
                        return Err(Error::OtherHistory(problem));
                    }
                    Err(feed::Error::Source(error)) => {
                        tracing::warn!(projection = P::NAME, %error, "source failed");
                        if matches!(error, SourceError::Lost { .. }) {
                            self.engine().forget_partitions();
                        }
                        self.trouble(error.to_string());
                        resume_at = Some(Instant::now() + self.next_pause());
                    }
                },
                () = rest.unsettled(), if !rests => rest.settle(questions),
            }
        }
    }

    /// Applies a batch in one transaction; and when it is one of many, those after it as well, for
    /// a while and until somebody asks. Answers with the last.
    async fn apply(&mut self, mut batch: Batch, feed: &mut Feed) -> Result<Batch, Error> {
        if self.engine().pass(&batch) {
            return Ok(batch);
        }
        let until = Instant::now() + self.environment.settings.gathering;
        loop {
            let (environment, shared) = (self.environment.clone(), self.shared.clone());
            let work = move |engine: &mut Engine<P>| {
                let has_room = engine.gather(&batch, environment.log.as_ref())?;
                let goes_on = has_room
                    && is_behind(&batch, environment.settings.batch_size)
                    && Instant::now() < until
                    && shared.rest.open_questions().is_none();
                if !goes_on {
                    engine.settle()?;
                }
                Ok::<_, engine::Error>((batch, goes_on))
            };
            let (done, goes_on) = self.offload().run(work).await?;
            if !goes_on {
                return Ok(done);
            }
            let next = tokio::select! {
                biased;
                _ = stopped(&mut self.stop) => None,
                next = unconstrained(feed.next_until(until)) => next,
            };
            let Some(next) = next else {
                self.offload().run(Engine::settle).await?;
                return Ok(done);
            };
            batch = next;
        }
    }

    /// Tells everybody what was committed.
    fn publish(&mut self) {
        let engine = self.engine.as_mut().expect("served while the engine is open").get_mut();
        let changed = engine.take_changed();
        let checkpoint = engine.checkpoint();
        self.shared.update(|progress| {
            // After an error the stored place may be behind what the same rows were said to reflect.
            progress.position = progress.position.max(checkpoint.position);
            progress.head = progress.head.max(checkpoint.position);
            progress.quarantined = engine.quarantined();
            progress.last_event_ns = checkpoint.last_event_ns;
            progress.changes += u64::from(changed);
        });
    }

    /// The source is there (again).
    fn connected(&mut self) {
        self.pause = FIRST_PAUSE;
        self.shared.update(|progress| {
            progress.disconnected = false;
            progress.problem.clear();
        });
    }

    fn trouble(&self, problem: String) {
        self.shared.update(|progress| {
            progress.disconnected = true;
            progress.problem = problem;
        });
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// Waits after an error. True when the service stops.
    async fn wait(&mut self) -> bool {
        let until = Instant::now() + self.next_pause();
        loop {
            tokio::select! {
                biased;
                _ = stopped(&mut self.stop) => return true,
                Some(command) = self.queue.recv() => {
                    refuse_or_note(&self.shared, &self.files, command);
                }
                _ = tokio::time::sleep_until(until) => return false,
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Pause(answer) => self.set_paused(true, answer),
            Command::Resume(answer) => self.set_paused(false, answer),
            Command::Rebuild(answer) => {
                let _ = answer.send(Ok(self.rebuild()));
            }
            Command::Retry { stream, answer } => {
                let result = self.offload().run(move |engine| engine.retry(&stream)).await;
                self.answer(result, answer)?;
            }
            Command::Skip { id, answer } => {
                let result = self.offload().run(move |engine| engine.skip(id)).await;
                self.answer(result, answer)?;
            }
        }
        Ok(())
    }

    fn set_paused(&self, paused: bool, answer: Answer<()>) {
        set_paused(&self.shared, &self.files, paused, answer);
    }

    /// Answers a caller, who may have left. An error of the file ends the engine as well.
    fn answer<T>(
        &mut self,
        result: Result<T, engine::Error>,
        answer: Answer<T>,
    ) -> Result<(), Error> {
        let error = match result {
            Ok(value) => {
                self.publish();
                let _ = answer.send(Ok(value));
                return Ok(());
            }
            Err(error) => error,
        };
        let text = error.to_string();
        let reason = match error {
            engine::Error::NotQuarantined(_) | engine::Error::NoneQuarantined(_) => {
                ErrorReason::QuarantinedEventNotFound
            }
            engine::Error::NotFirst(..) => ErrorReason::ProjectionState,
            engine::Error::Store(_) | engine::Error::Source(_) | engine::Error::Lost(_) => {
                let reply = ApiError::new(ErrorReason::StoreUnavailable, text);
                let _ = answer.send(Err(reply.with("projection", P::NAME)));
                return Err(error.into());
            }
        };
        let _ = answer.send(Err(ApiError::new(reason, text).with("projection", P::NAME)));
        Ok(())
    }

    /// Begins a rebuild beside the live generation, unless one is under way.
    fn rebuild(&mut self) -> RebuildStatus {
        let under_way = is_running(&self.shared.rebuild.borrow());
        if !under_way {
            self.begin_rebuild();
            let build = self.build();
            let live = self.engine().generation();
            self.rebuilds.spawn(async move {
                if let Err(error) = build.beside(live).await {
                    fail_rebuild(&build.shared, &error.to_string());
                }
            });
        }
        self.shared.rebuild.borrow().clone()
    }

    /// Stands still until the new generation has taken over, or was given up.
    async fn hand_over(&mut self, handover: Handover<P>) -> Result<(), Error> {
        if handover.granted.send(self.engine().checkpoint().clone()).is_err() {
            return Ok(());
        }
        let ready = tokio::select! {
            biased;
            _ = stopped(&mut self.stop) => return Ok(()),
            ready = handover.ready => ready,
        };
        let Ok(Ready { engine, report }) = ready else { return Ok(()) };
        match self.take_over(engine).await {
            Ok(()) => self.finish_rebuild(report),
            Err((engine, error)) => {
                self.fail_rebuild(&error.to_string());
                let generation = engine.get().generation();
                drop_engine(engine).await;
                self.files.remove(generation)?;
            }
        }
        self.publish();
        Ok(())
    }

    /// Makes another generation the live one: first for the next start, then for queries.
    async fn take_over(
        &mut self,
        engine: Offload<Engine<P>>,
    ) -> Result<(), (Offload<Engine<P>>, Error)> {
        let live = self.open_readers(engine.get().generation());
        if let Err(error) = self.files.set_live(engine.get().generation()) {
            return Err((engine, error.into()));
        }
        let old_engine = self.engine.replace(engine).expect("served while the engine is open");
        let generation = old_engine.get().generation();
        let mut old_live = None;
        self.shared.update(|progress| old_live = progress.live.replace(Arc::new(live)));
        drop_engine(old_engine).await;
        let files = self.files.clone();
        tokio::spawn(async move {
            if let Some(old) = old_live
                && tokio::time::timeout(FAREWELL, old.readers.close()).await.is_err()
            {
                tracing::warn!(projection = P::NAME, generation, "a query is still reading");
            }
            if let Err(error) = files.remove(generation) {
                tracing::warn!(projection = P::NAME, generation, %error, "file left behind");
            }
        });
        Ok(())
    }

    fn begin_rebuild(&self) {
        let target = self.shared.progress.borrow().position;
        self.shared.rebuild.send_replace(RebuildStatus {
            stage: RebuildStage::Building.into(),
            target_position: target,
            start_time: Some(time::timestamp(time::now_ns())),
            ..RebuildStatus::default()
        });
    }

    fn finish_rebuild(&self, report: RebuildReport) {
        tracing::info!(
            projection = P::NAME,
            unchanged = report.unchanged_rows,
            changed = report.changed_rows,
            added = report.added_rows,
            removed = report.removed_rows,
            "rebuilt"
        );
        self.shared.update_rebuild(|status| {
            status.set_stage(RebuildStage::Done);
            status.end_time = Some(time::timestamp(time::now_ns()));
            status.report = Some(report);
        });
    }

    fn fail_rebuild(&self, problem: &str) {
        fail_rebuild(&self.shared, problem);
    }
}

/// Lets go of a file as it is.
pub(super) async fn drop_engine<P: Projection>(engine: Offload<Engine<P>>) {
    let last = |engine| {
        drop(engine);
        Ok::<_, engine::Error>(())
    };
    if let Err(error) = engine.end(last).await {
        tracing::error!(projection = P::NAME, %error, "file not closed");
    }
}

fn fail_rebuild(shared: &Shared, problem: &str) {
    tracing::error!(projection = shared.name, problem, "rebuild failed");
    shared.update_rebuild(|status| {
        status.set_stage(RebuildStage::Failed);
        status.end_time = Some(time::timestamp(time::now_ns()));
        status.problem = problem.to_owned();
    });
}

fn set_paused(shared: &Shared, files: &Files, paused: bool, answer: Answer<()>) {
    let result = files.set_paused(paused).map_err(|error| {
        tracing::error!(projection = shared.name, %error, "pause mark not written");
        ApiError::new(ErrorReason::StoreUnavailable, "the pause cannot be kept on the disk")
    });
    if result.is_ok() {
        shared.update(|progress| progress.paused = paused);
    }
    let _ = answer.send(result);
}

/// Handles an operation while there is no engine: a pause is noted for later, and a rebuild is the
/// one under way.
fn refuse_or_note(shared: &Shared, files: &Files, command: Command) {
    match command {
        Command::Pause(answer) => set_paused(shared, files, true, answer),
        Command::Resume(answer) => set_paused(shared, files, false, answer),
        Command::Rebuild(answer) => {
            let rebuild = shared.rebuild.borrow().clone();
            let _ = answer.send(match is_running(&rebuild) {
                true => Ok(rebuild),
                false => Err(not_open(shared)),
            });
        }
        Command::Retry { answer, .. } | Command::Skip { answer, .. } => {
            let _ = answer.send(Err(not_open(shared)));
        }
    }
}

fn not_open(shared: &Shared) -> ApiError {
    let text = format!("projection {} is not open: wait until it is live again", shared.name);
    ApiError::new(ErrorReason::ProjectionState, text).with("projection", shared.name)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // When the other side is gone, nobody can want anything any more either.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether a batch is one of many that are there already.
fn is_behind(batch: &Batch, batch_size: usize) -> bool {
    batch.records.len() >= batch_size
        || batch.head.saturating_sub(batch.position) >= batch_size as u64
}

async fn sleep_until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time).await;
    }
}
