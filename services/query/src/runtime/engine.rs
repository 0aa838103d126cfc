//! Applies batches of records to one generation of a projection, each in one transaction: rows,
//! stream versions, quarantine and checkpoint change together or not at all.
//!
//! It blocks, so it works on threads where that may happen: see [`super::offload`].
//!
//! *Not* here: where batches come from, and what happens after an error. After any error the
//! engine is of no use any more; whoever holds it drops it and opens another one, which begins at
//! what was committed last.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daybook_bus::source::{self, Batch, LogReader, Origin, Record};
use daybook_bus::{Content, Envelope};
use foldhash::{HashMap, HashSet};
use rusqlite::OptionalExtension;

use super::IndexMap;
use super::projection::{Projection, guarded};
use super::row::{ApplyError, Tables, chunks, marks, select};
use super::store::{self, Anchor, Checkpoint, Quarantined, Store, from_i64};
use super::versions::{Seen, Versions};

mod records;
mod retry;

use records::{Work, evidence, insert_quarantined, waits_for};
pub(crate) use retry::Retried;

/// The most events of one stream that a gap may have; more are fetched in several reads.
const GAP_READ: u64 = 1_000;

/// How long a place that has moved over no event of the projection may stay in memory alone.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// What ends the work of an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be written or read.
    #[error("the projection's file: {0}")]
    Store(#[from] store::Error),
    /// It panicked, or the runtime has ended.
    #[error(transparent)]
    Lost(#[from] tokio::task::JoinError),
    /// The log cannot fill a gap.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// There is no such event in quarantine.
    #[error("there is no quarantined event {0}")]
    NotQuarantined(u64),
    /// Nothing of this stream is in quarantine.
    #[error("no event of {0} is in quarantine")]
    NoneQuarantined(String),
    /// Only the first quarantined event of a stream can be skipped.
    #[error("event {0} waits behind another one of {1}; skip that one first")]
    NotFirst(u64, String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// One generation of a projection, with its only writer.
pub(crate) struct Engine<P: Projection> {
    store: Store,
    generation: u64,
    tables: P::Tables,
    /// The last version seen of each stream: applied, skipped or in quarantine.
    versions: Versions,
    /// The streams with quarantined events, and the version of the first of them.
    blocked: HashMap<String, u64>,
    /// How many events are in quarantine.
    quarantined: u64,
    /// Events that an operator has given up. They are applied if they can be, and else ignored.
    skipped: HashSet<(String, u64)>,
    /// How far it is. The stored one may be behind, with the same rows but for what is pending.
    checkpoint: Checkpoint,
    unstored: bool,
    /// What is in memory alone, as are changed rows.
    pending: Effects,
    /// How many rows and versions of streams may be pending.
    most_pending: usize,
    stored_at: Instant,
    attempts: u32,
    /// Whether rows may have changed since somebody asked.
    changed: bool,
}

/// What batches do beside changing rows.
#[derive(Default)]
struct Effects {
    streams: IndexMap<String, Seen>,
    quarantine: Vec<Quarantined>,
    applied: u64,
    last_event_ns: i64,
    /// The event with the highest position among those that were read.
    anchor: Anchor,
}

impl Seen {
    fn now(&mut self, event: &Envelope) {
        *self = Self { version: event.version, position: Some(event.position) };
    }
}

impl Anchor {
    fn saw(&mut self, event: &Envelope) {
        if event.position > self.position {
            let event_id = event.event_id().unwrap_or_default().to_owned();
            *self = Self { position: event.position, event_id };
        }
    }
}

impl Effects {
    fn is_empty(&self) -> bool {
        self.streams.values().all(|seen| seen.position.is_none()) && self.quarantine.is_empty()
    }
}

impl<P: Projection> Engine<P> {
    /// Makes a new generation, with nothing in it.
    pub fn create(path: &Path, generation: u64, settings: &super::Settings) -> Result<Self, Error> {
        let store = Store::create::<P>(path, generation, settings.max_page_count)?;
        Self::load(store, generation, settings)
    }

    /// Opens a generation where its last transaction has left it.
    pub fn open(path: &Path, generation: u64, settings: &super::Settings) -> Result<Self, Error> {
        let store = Store::open::<P>(path, settings.max_page_count)?;
        Self::load(store, generation, settings)
    }

    fn load(store: Store, generation: u64, settings: &super::Settings) -> Result<Self, Error> {
        let checkpoint = store.checkpoint()?;
        let sql = "SELECT stream, min(version), count(*) FROM quarantine GROUP BY stream";
        let mut blocked = HashMap::default();
        let mut quarantined = 0;
        let read = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, from_i64(row.get(1)?), from_i64(row.get(2)?)))
        };
        for (stream, first, count) in select(store.connection(), sql, &[], read)? {
            quarantined += count;
            if !stream.is_empty() {
                blocked.insert(stream, first);
            }
        }
        let sql = "SELECT stream, version FROM skipped";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, from_i64(row.get(1)?)));
        let skipped = select(store.connection(), sql, &[], read)?.into_iter().collect();
        let versions = Versions::load(store.connection(), settings.waiting_streams)?;
        Ok(Self {
            store,
            generation,
            tables: P::Tables::default(),
            versions,
            blocked,
            quarantined,
            skipped,
            checkpoint,
            unstored: false,
            pending: Effects::default(),
            most_pending: settings.waiting_rows,
            stored_at: Instant::now(),
            attempts: settings.attempts.max(1),
            changed: true,
        })
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    /// Whether rows may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Forgets the place in the partitions, which the source has lost.
    pub fn forget_partitions(&mut self) {
        self.checkpoint.cursor.partitions = Arc::default();
    }

    /// Makes the file unusable, because its rows are not those of the log.
    pub fn disown(&mut self, problem: &str) -> Result<(), Error> {
        Ok(self.store.disown(problem)?)
    }

    /// Closes the file in order, with the place that was reached.
    pub fn close(mut self) -> Result<(), Error> {
        self.flush()?;
        Ok(self.store.close()?)
    }

    /// Moves on over a batch that has nothing for the projection, in memory alone and without
    /// blocking. False when there is something to do, which is left to [`Engine::gather`].
    pub fn pass(&mut self, batch: &Batch) -> bool {
        let has_own = batch.records.of(P::AGGREGATES).next().is_some();
        if has_own || !self.pending.is_empty() || self.stored_at.elapsed() >= STORE_INTERVAL {
            return false;
        }
        let mut effects = Effects::default();
        Self::sort_out(batch, &mut effects);
        self.reach(batch, &effects);
        true
    }

    /// Applies a batch in memory. Nothing of it is in the file, nor may be told to anybody, before
    /// [`Engine::settle`] or [`Engine::flush`]. Whether there is room for more.
    pub fn gather(&mut self, batch: &Batch, log: &dyn LogReader) -> Result<bool, Error> {
        let mut effects = std::mem::take(&mut self.pending);
        let candidates = Self::sort_out(batch, &mut effects);
        let places = self.look_up(&candidates, &mut effects.streams)?;
        let works = self.put_in_order(candidates, places, &mut effects, log)?;
        self.fold(&works, &mut effects)?;
        self.reach(batch, &effects);
        let rows: usize = self.tables.all().map(|table| table.rows()).sum();
        let pending = rows + effects.streams.len() + effects.quarantine.len();
        self.pending = effects;
        Ok(pending < self.most_pending)
    }

    /// Writes what is in memory alone, or sees that there is nothing which is worth it.
    pub fn settle(&mut self) -> Result<(), Error> {
        // To read on from an older place does no harm, so it is not worth a transaction of its own.
        if self.pending.is_empty() && self.stored_at.elapsed() < STORE_INTERVAL {
            self.pending = Effects::default();
            return Ok(());
        }
        self.flush()
    }

    /// Writes what is in memory alone, in one transaction.
    pub fn flush(&mut self) -> Result<(), Error> {
        if !self.unstored {
            return Ok(());
        }
        let mut effects = std::mem::take(&mut self.pending);
        let checkpoint = Checkpoint {
            applied_events: self.checkpoint.applied_events + effects.applied,
            commits: self.checkpoint.commits + 1,
            ..self.checkpoint.clone()
        };
        self.store.begin()?;
        self.write(&mut effects, &checkpoint)?;
        self.store.commit()?;
        self.committed(effects, checkpoint);
        Ok(())
    }

    /// The events of the projection. What is no event goes into quarantine as evidence.
    fn sort_out(batch: &Batch, effects: &mut Effects) -> Vec<Arc<Record>> {
        let mut candidates = Vec::new();
        for record in batch.records.of(P::AGGREGATES) {
            match &record.content {
                Content::Event(_) => candidates.push(Arc::clone(record)),
                Content::Strange(problem) => {
                    effects.quarantine.push(evidence(record, problem.clone()));
                }
                Content::Watermark => {}
            }
        }
        // An event of others is not applied, but tells as well which log this is.
        if let Some(last) = batch.records.last_event(batch.position) {
            effects.anchor.saw(last);
        }
        candidates
    }

    /// Adds the versions seen so far of the streams at hand, and says where that of each is.
    fn look_up(
        &mut self,
        candidates: &[Arc<Record>],
        streams: &mut IndexMap<String, Seen>,
    ) -> rusqlite::Result<Vec<usize>> {
        let (mut places, mut unknown) = (Vec::with_capacity(candidates.len()), Vec::new());
        for stream in candidates.iter().filter_map(|record| Some(record.event()?.stream())) {
            if let Some(place) = streams.get_index_of(stream) {
                places.push(place);
                continue;
            }
            let cached = self.versions.get(stream);
            if cached.is_none() {
                unknown.push(stream.to_owned());
            }
            let seen = Seen { version: cached.unwrap_or_default(), position: None };
            places.push(streams.insert_full(stream.to_owned(), seen).0);
        }
        unknown.sort_unstable();
        for chunk in chunks(&unknown) {
            let wanted = marks("?", chunk.len());
            let sql =
                format!("SELECT stream, version FROM stream_versions WHERE stream IN ({wanted})");
            let values: Vec<_> =
                chunk.iter().map(|stream| stream as &dyn rusqlite::ToSql).collect();
            let seen = select(self.store.connection(), &sql, &values, |row| {
                Ok((row.get(0)?, Seen { version: from_i64(row.get(1)?), position: None }))
            })?;
            streams.extend(seen);
        }
        Ok(places)
    }

    /// Leaves out what was seen, and fills gaps from the log: afterwards the events of each
    /// stream follow one another and what was seen before.
    fn put_in_order(
        &self,
        candidates: Vec<Arc<Record>>,
        places: Vec<usize>,
        effects: &mut Effects,
        log: &dyn LogReader,
    ) -> Result<Vec<Work<P::Event>>, Error> {
        let mut works = Vec::with_capacity(candidates.len());
        for (candidate, place) in candidates.into_iter().zip(places) {
            let Some(event) = candidate.event() else { continue };
            let (stream, version) = (event.stream(), event.version);
            let (_, seen) = effects.streams.get_index_mut(place).expect("looked up before");
            if version <= seen.version {
                continue;
            }
            while seen.version + 1 < version {
                let (from, to) = (seen.version + 1, (version - 1).min(seen.version + GAP_READ));
                let missing = wait_for(log.read_stream(stream.to_owned(), from, to))?;
                let (projection, found) = (P::NAME, missing.len());
                tracing::info!(projection, stream, from, to, found, "filled a gap from the log");
                for bytes in missing {
                    let next = seen.version + 1;
                    let origin = Origin::Text(format!("log: {stream} {next}"));
                    let record = Arc::new(Record::new(bytes, origin));
                    let Some(found) = record.event() else { break };
                    if found.stream() != stream || found.version != next {
                        break;
                    }
                    seen.now(found);
                    effects.anchor.saw(found);
                    works.extend(Work::new::<P>(&record));
                }
                if seen.version < from {
                    break;
                }
            }
            if seen.version + 1 < version {
                // The log has no such events, so this record is none of its own.
                let problem = format!(
                    "version {version} of {stream} follows {}, and the log has nothing in between",
                    seen.version
                );
                effects.quarantine.push(evidence(&candidate, problem));
                continue;
            }
            seen.now(event);
            effects.anchor.saw(event);
            works.extend(Work::new::<P>(&candidate));
        }
        Ok(works)
    }

    /// Wants the rows of some events, so that a few statements load all of them. A panic does no
    /// harm here: a row that is not wanted is loaded when its event is applied.
    fn want(&mut self, works: &[Work<P::Event>]) {
        for event in works.iter().filter_map(|work| work.event.as_ref().ok()) {
            if let Err(panic) = guarded(|| P::want(event, &mut self.tables)) {
                let (projection, position) = (P::NAME, event.position);
                tracing::warn!(projection, position, %panic, "the rows of an event not wanted");
            }
        }
    }

    fn load_wanted(&mut self) -> Result<(), Error> {
        for table in self.tables.all() {
            table.load(self.store.connection())?;
        }
        Ok(())
    }

    fn fold(&mut self, works: &[Work<P::Event>], effects: &mut Effects) -> Result<(), Error> {
        let mut wanted = false;
        for (at, work) in works.iter().enumerate() {
            if !self.blocked.is_empty()
                && let Some(first) = self.blocked.get(work.envelope().stream())
            {
                let problem = waits_for(*first);
                effects.quarantine.push(work.quarantined(problem, 0));
                continue;
            }
            let problem = match self.try_first(&works[at..], &mut wanted)? {
                Ok(time_ns) => {
                    effects.applied += 1;
                    effects.last_event_ns = effects.last_event_ns.max(time_ns);
                    continue;
                }
                Err(problem) => problem,
            };
            let (stream, version) = (work.envelope().stream(), work.envelope().version);
            if self.skipped.contains(&(stream.to_owned(), version)) {
                continue;
            }
            let (projection, position) = (P::NAME, work.envelope().position);
            tracing::warn!(
                projection, stream, version, position, %problem, "event put in quarantine"
            );
            self.blocked.insert(stream.to_owned(), version);
            effects.quarantine.push(work.quarantined(problem, self.attempts));
        }
        Ok(())
    }

    /// Applies the first of some events, with as many attempts as are allowed. The rows are
    /// unchanged when it fails. The outer error ends the batch; the inner one concerns the event
    /// alone. Most rows are in memory already; when the first one is not, those of all the events
    /// are loaded, unless they were `wanted` before.
    fn try_first(
        &mut self,
        works: &[Work<P::Event>],
        wanted: &mut bool,
    ) -> Result<Result<i64, String>, Error> {
        let event = match &works[0].event {
            Ok(event) => event,
            // Decoding depends on nothing but the bytes: more attempts change nothing.
            Err(problem) => return Ok(Err(problem.clone())),
        };
        let mut attempt = 1;
        loop {
            // A bug in a projection must not stop it: a panic concerns the event alone, whose
            // changes are taken back like those of any other that fails.
            let tables = &mut self.tables;
            let result = guarded(|| P::apply(event, tables))
                .unwrap_or_else(|panic| Err(ApplyError::Failed(panic)));
            match result {
                Ok(()) => {
                    self.tables.all().for_each(|table| table.keep());
                    return Ok(Ok(event.time_ns));
                }
                Err(error) => {
                    self.tables.all().for_each(|table| table.undo());
                    match error {
                        ApplyError::NotLoaded => {
                            if !std::mem::replace(wanted, true) {
                                self.want(works);
                            }
                            self.load_wanted()?;
                        }
                        ApplyError::Failed(_) if attempt < self.attempts => attempt += 1,
                        ApplyError::Failed(problem) => return Ok(Err(problem)),
                    }
                }
            }
        }
    }

    /// Moves the place that is reached; how many events were applied is counted when it is stored.
    fn reach(&mut self, batch: &Batch, effects: &Effects) {
        let reached = &mut self.checkpoint;
        reached.position = reached.position.max(batch.position);
        // Everything up to the position is in the rows, so the log source may begin there.
        reached.cursor.log_position = reached.position;
        if !batch.cursor.partitions.is_empty() {
            reached.cursor.partitions.clone_from(&batch.cursor.partitions);
        }
        reached.last_event_ns = reached.last_event_ns.max(effects.last_event_ns);
        if effects.anchor.position > reached.anchor.position {
            reached.anchor.clone_from(&effects.anchor);
        }
        self.unstored = true;
    }

    fn write(&mut self, effects: &mut Effects, checkpoint: &Checkpoint) -> Result<(), Error> {
        for table in self.tables.all() {
            table.write(self.store.connection())?;
        }
        let streams = std::mem::take(&mut effects.streams);
        self.versions.write(self.store.connection(), streams)?;
        for chunk in chunks(&effects.quarantine) {
            insert_quarantined(self.store.connection(), chunk)?;
        }
        Ok(self.store.set_checkpoint(checkpoint)?)
    }

    fn committed(&mut self, effects: Effects, checkpoint: Checkpoint) {
        self.changed |= effects.applied > 0;
        metrics::counter!("daybook_projection_events_total", "projection" => P::NAME)
            .increment(effects.applied);
        self.quarantined += effects.quarantine.len() as u64;
        self.checkpoint = checkpoint;
        self.unstored = false;
        self.stored_at = Instant::now();
        self.tables.all().for_each(|table| table.written());
    }

    /// The last version seen of a stream; 0 when there is none.
    pub fn seen(&mut self, stream: &str) -> Result<u64, Error> {
        let pending = self.pending.streams.get(stream).map(|seen| seen.version);
        if let Some(version) = pending.or_else(|| self.versions.get(stream)) {
            return Ok(version);
        }
        let sql = "SELECT version FROM stream_versions WHERE stream = ?";
        let mut statement = self.store.connection().prepare_cached(sql)?;
        let version = statement.query_row([stream], |row| row.get(0)).optional()?;
        Ok(version.map_or(0, from_i64))
    }

    /// Takes over the place in the source, and makes the file ready to be served.
    pub fn finish(&mut self, cursor: Option<source::Cursor>) -> Result<(), Error> {
        self.flush()?;
        if let Some(cursor) = cursor {
            let mut checkpoint = self.checkpoint.clone();
            checkpoint.cursor.partitions = cursor.partitions;
            checkpoint.commits += 1;
            self.store.begin()?;
            self.store.set_checkpoint(&checkpoint)?;
            self.store.commit()?;
            self.checkpoint = checkpoint;
        }
        self.store.finish()?;
        Ok(())
    }
}

/// Waits for the log, on a thread where that may block.
fn wait_for<T>(read: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(read)
}
