//! Builds a new generation of a projection from the log: the first one, or one beside the
//! generation that is served. It writes nothing but the new file; who makes it the live one is the
//! runner.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::ahead;
use daybook_bus::source::{self, Batch, Cursor, LogReader, Origin, Record, Source};
use daybook_contract::daybook::v1::{RebuildReport, RebuildStage};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};

use super::compare::compare;
use super::engine::{self, Engine};
use super::feed::merge;
use super::files::Files;
use super::handle::Shared;
use super::history::other_history;
use super::offload::Offload;
use super::projection::Projection;
use super::row::{Tables, select};
use super::runner::drop_engine;
use super::store::{self, Checkpoint, Quarantined, from_i64};
use super::versions::seen_after;
use super::{Environment, Settings};

/// How long the log may be silent although it has more to tell.
const SILENCE: Duration = Duration::from_secs(30);

/// How often the log is tried before a rebuild beside a live generation fails. The first build
/// has nothing to fall back on and tries for ever.
const TRIES: u32 = 8;

/// The pause after the first failure; it doubles each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a rebuild failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("the projection's files: {0}")]
    Files(#[from] std::io::Error),
    #[error(
        "the log ends at {head}, before the projection's position {position}: it is another log, or an older copy"
    )]
    LogTooShort { head: u64, position: u64 },
    #[error("{0}")]
    OtherHistory(String),
    #[error("the log has sent nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the service is stopping")]
    Stopping,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::Engine(error.into())
    }
}

/// Asks the runner to stop at a batch boundary, so that the new generation can be brought to
/// exactly the state of the old one.
pub(crate) struct Handover<P: Projection> {
    /// Where the runner says how far it is.
    pub granted: oneshot::Sender<Checkpoint>,
    /// What takes over; when it is dropped, the runner goes on with the old generation.
    pub ready: oneshot::Receiver<Ready<P>>,
}

/// A new generation that can take over.
pub(crate) struct Ready<P: Projection> {
    pub engine: Offload<Engine<P>>,
    pub report: RebuildReport,
}

/// What a build needs.
pub(crate) struct Build<P: Projection> {
    pub files: Files,
    pub environment: Environment,
    pub shared: Arc<Shared>,
    pub handovers: mpsc::Sender<Handover<P>>,
}

/// A generation that is being built.
struct Builder<P: Projection> {
    generation: u64,
    engine: Offload<Engine<P>>,
    log: Arc<dyn LogReader>,
    shared: Arc<Shared>,
    source: Option<Box<dyn Source>>,
    /// What the source has sent and is not applied yet.
    waiting: Option<Batch>,
    batch_size: usize,
    /// How often the log was out of reach since it last answered.
    failures: u32,
}

impl<P: Projection> Build<P> {
    /// Builds the first generation, or the first one of a new version or of another log, up to the
    /// end of the log.
    /// The place in the source is taken over from `cursor`, which is of the generation before.
    pub async fn first(&self, cursor: Option<Cursor>) -> Result<Offload<Engine<P>>, Error> {
        let mut builder = self.builder().await?;
        let result = async {
            let head = builder.head().await?;
            builder.advance(head, false).await?;
            builder.engine.run(move |engine| engine.finish(cursor)).await?;
            Ok(())
        };
        let result: Result<(), Error> = result.await;
        self.end(builder, result).await
    }

    /// Builds a generation beside the one that is served, compares the two, and hands the new one
    /// to the runner.
    pub async fn beside(&self, live_generation: u64) -> Result<(), Error> {
        let old = self.files.path(live_generation);
        let mut builder = self.builder().await?;
        let result = self.bring_level(&mut builder, &old).await;
        let (report, hand_over) = match result {
            Ok(done) => done,
            Err(error) => return self.end(builder, Err(error)).await.map(drop),
        };
        let ready = Ready { engine: builder.engine, report };
        let Err(ready) = hand_over.send(ready) else { return Ok(()) };
        drop_engine(ready.engine).await;
        Err(Error::Stopping)
    }

    async fn builder(&self) -> Result<Builder<P>, Error> {
        let settings: Arc<Settings> = self.environment.settings.clone();
        let batch_size = settings.rebuild_batch_size.max(1);
        let generation = self.files.next_generation()?;
        let path = self.files.path(generation);
        self.files.remove(generation)?;
        tracing::info!(projection = P::NAME, generation, "building from the log");
        let made = Offload::make(move || Engine::create(&path, generation, &settings)).await;
        let engine = match made {
            Ok(engine) => engine,
            Err(error) => {
                self.files.remove(generation)?;
                return Err(error.into());
            }
        };
        Ok(Builder {
            generation,
            engine,
            log: self.environment.log.clone(),
            shared: self.shared.clone(),
            source: None,
            waiting: None,
            batch_size,
            failures: 0,
        })
    }

    /// Answers with the engine, or removes its file.
    async fn end(
        &self,
        builder: Builder<P>,
        result: Result<(), Error>,
    ) -> Result<Offload<Engine<P>>, Error> {
        let Err(error) = result else { return Ok(builder.engine) };
        let generation = builder.generation;
        drop_engine(builder.engine).await;
        if let Err(error) = self.files.remove(generation) {
            tracing::warn!(projection = P::NAME, generation, %error, "file left behind");
        }
        Err(error)
    }

    async fn bring_level(
        &self,
        builder: &mut Builder<P>,
        old: &Path,
    ) -> Result<(RebuildReport, oneshot::Sender<Ready<P>>), Error> {
        let file = old.to_owned();
        let take_over = move |engine: &mut Engine<P>| engine.take_over(&skipped(&file)?, &[]);
        builder.engine.run(take_over).await?;
        // Follow the live generation until it is no more than a batch away. The new one never
        // goes beyond it: it could not be compared then.
        let close = self.environment.settings.batch_size as u64;
        loop {
            let target = self.live_position();
            let head = builder.head().await?;
            if head < target {
                return Err(Error::LogTooShort { head, position: target });
            }
            builder.advance(target, true).await?;
            if self.live_position() <= target + close {
                break;
            }
        }
        let (granted, grant) = oneshot::channel();
        let (hand_over, ready) = oneshot::channel();
        let handover = Handover { granted, ready };
        self.handovers.send(handover).await.map_err(|_| Error::Stopping)?;
        let live = grant.await.map_err(|_| Error::Stopping)?;

        // The live generation stands still from here on.
        builder.advance(live.position, true).await?;
        builder.catch_up_streams(old, live.position).await?;
        let file = old.to_owned();
        let take_over =
            move |engine: &mut Engine<P>| engine.take_over(&skipped(&file)?, &evidence(&file)?);
        builder.engine.run(take_over).await?;
        self.shared.update_rebuild(|status| status.set_stage(RebuildStage::Comparing));
        builder.engine.run(move |engine| engine.finish(Some(live.cursor))).await?;
        let (old, new) = (old.to_owned(), self.files.path(builder.generation));
        let report = spawn_blocking(move || compare(&old, &new, P::Tables::INFO)).await??;
        Ok((report, hand_over))
    }

    fn live_position(&self) -> u64 {
        self.shared.progress.borrow().position
    }
}

impl<P: Projection> Builder<P> {
    /// Applies the log up to a position: exactly, or at least.
    async fn advance(&mut self, to: u64, exactly: bool) -> Result<(), Error> {
        while self.engine.get().checkpoint().position < to {
            let limit = if exactly { to } else { u64::MAX };
            let batch = self.batch(limit).await?;
            self.apply(batch).await?;
            let position = self.engine.get().checkpoint().position;
            self.shared.update_rebuild(|status| {
                status.position = position;
                status.target_position = to.max(status.target_position).max(position);
            });
        }
        Ok(())
    }

    /// The next batch, or the part of it that does not go beyond the limit.
    async fn batch(&mut self, limit: u64) -> Result<Batch, Error> {
        let batch = match self.waiting.take() {
            Some(batch) => batch,
            None => self.read_patiently().await?,
        };
        if batch.position <= limit {
            return Ok(batch);
        }
        let Batch { records, position, head, cursor } = batch;
        let place = |record: &Arc<Record>| record.event().map_or(0, |event| event.position);
        let (now, later): (Vec<_>, Vec<_>) =
            records.iter().cloned().partition(|record| place(record) <= limit);
        self.waiting = Some(Batch { records: later.into(), position, head, cursor });
        Ok(Batch { records: now.into(), position: limit, head, cursor: Cursor::default() })
    }

    /// Reads, again after the log was out of reach. The source is gone with the error; the next
    /// one begins after what is applied.
    async fn read_patiently(&mut self) -> Result<Batch, Error> {
        loop {
            match self.read().await {
                Ok(batch) => {
                    self.answered();
                    return Ok(batch);
                }
                Err(error) => self.wait(error).await?,
            }
        }
    }

    async fn read(&mut self) -> Result<Batch, Error> {
        let mut source = match self.source.take() {
            Some(source) => source,
            None => {
                let reached = self.engine.get().checkpoint();
                if let Some(problem) = other_history(self.log.as_ref(), reached).await {
                    return Err(Error::OtherHistory(problem));
                }
                ahead(self.log.subscribe(reached.position).await?)
            }
        };
        let next = tokio::time::timeout(SILENCE, source.next());
        let mut batch = next.await.map_err(|_| Error::Silent)??;
        while batch.records.len() < self.batch_size {
            match source.next().now_or_never() {
                Some(Ok(more)) => merge(&mut batch, more),
                // The batch is good. The next read opens the source again and sees the error.
                Some(Err(_)) => return Ok(batch),
                None => break,
            }
        }
        self.source = Some(source);
        Ok(batch)
    }

    /// The end of the log.
    async fn head(&mut self) -> Result<u64, Error> {
        loop {
            match self.log.head().await {
                Ok(head) => {
                    self.answered();
                    return Ok(head);
                }
                Err(error) => self.wait(error.into()).await?,
            }
        }
    }

    /// Waits before the next try, or gives up.
    async fn wait(&mut self, error: Error) -> Result<(), Error> {
        self.failures += 1;
        let passing = matches!(error, Error::Source(source::Error::Unavailable { .. }));
        let is_first = self.shared.progress.borrow().live.is_none();
        if !passing || (self.failures == TRIES && !is_first) {
            return Err(error);
        }
        tracing::warn!(projection = P::NAME, %error, "rebuild waits for the log");
        if is_first {
            self.shared.update(|progress| progress.problem = error.to_string());
        }
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures - 1).min(1 << 10);
        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        Ok(())
    }

    fn answered(&mut self) {
        if self.failures > 0 && self.shared.progress.borrow().live.is_none() {
            self.shared.update(|progress| progress.problem.clear());
        }
        self.failures = 0;
    }

    /// Applies what the old generation has seen beyond its position: a reader of several
    /// partitions is ahead on some of them.
    async fn catch_up_streams(&mut self, old: &Path, position: u64) -> Result<(), Error> {
        let old = old.to_owned();
        let find = move |engine: &mut Engine<P>| {
            let mut missing = Vec::new();
            for (stream, to) in seen_after(&store::read_only(&old)?, position)? {
                let from = engine.seen(&stream)? + 1;
                if from <= to {
                    missing.push((stream, from, to));
                }
            }
            Ok::<_, engine::Error>(missing)
        };
        for (stream, from, to) in self.engine.run(find).await? {
            let records = self.log.read_stream(stream.clone(), from, to).await?;
            let records = records
                .into_iter()
                .map(|bytes| Record::new(bytes, Origin::Text(format!("log: {stream}"))))
                .collect();
            let batch = Batch { records, ..Batch::default() };
            self.apply(batch).await?;
        }
        Ok(())
    }

    /// Applies a batch in memory as long as there is room: what is being built is worth nothing
    /// after a crash.
    async fn apply(&mut self, batch: Batch) -> Result<(), Error> {
        let log = Arc::clone(&self.log);
        let work = move |engine: &mut Engine<P>| match engine.gather(&batch, log.as_ref())? {
            true => Ok(()),
            false => engine.flush(),
        };
        Ok(self.engine.run(work).await?)
    }
}

fn skipped(file: &Path) -> rusqlite::Result<Vec<(String, u64)>> {
    let sql = "SELECT stream, version FROM skipped";
    select(&store::read_only(file)?, sql, &[], |row| Ok((row.get(0)?, from_i64(row.get(1)?))))
}

/// The records in quarantine that are no events; they are not in the log.
fn evidence(file: &Path) -> rusqlite::Result<Vec<Quarantined>> {
    let sql = "SELECT * FROM quarantine WHERE stream = '' ORDER BY quarantine_id";
    select(&store::read_only(file)?, sql, &[], store::quarantined)
}
