//! The way into the log.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use prost_types::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::limits::{
    CACHED_STREAMS, CHECKED_AT_OPEN, INDEX_AFTER, MAX_EVENTS_PER_SUBMISSION,
    MAX_QUEUED_SUBMISSIONS, MAX_READ_EVENTS, PACKED_STREAM_BYTES, RECENT_BYTES,
};
use crate::sqlite::{self, Sqlite};
use crate::storage::{Direction, StorageReader, StorageWriter, StoreInfo};
use crate::writer::{Message, Start, Writer};
use crate::{Error, Receipt, Record, Submission, event_id};

/// How a log is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory; made when missing.
    pub directory: PathBuf,
    /// The largest size of the database in pages of 4 KiB; `None` for what the disk holds.
    pub max_pages: Option<u32>,
    /// What is kept in memory of the streams.
    pub cache: StreamCache,
    /// How many events are appended before they become a run of their index; requests are merged
    /// four times as often.
    pub index_after: NonZeroUsize,
}

impl Config {
    /// The usual settings, in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_pages: None,
            cache: StreamCache::default(),
            index_after: NonZeroUsize::new(INDEX_AFTER).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// What is kept in memory of the streams, so that a decision need not read them. Where there is no
/// room for a stream, it is read when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCache {
    /// The streams that are kept as they are; beside those of the groups under way.
    pub streams: usize,
    /// The bytes of the others, which are kept packed; a microsecond to unpack. The table that finds
    /// them is not counted: 10 to 20 bytes for each.
    pub packed_bytes: usize,
}

impl Default for StreamCache {
    fn default() -> Self {
        Self { streams: CACHED_STREAMS, packed_bytes: PACKED_STREAM_BYTES }
    }
}

/// An open event log. Clones are the same log.
#[derive(Clone)]
pub struct EventLog {
    inner: Arc<Inner>,
}

struct Inner {
    queue: mpsc::Sender<Message>,
    reader: Arc<dyn StorageReader>,
    shared: Arc<Shared>,
    info: StoreInfo,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
pub(crate) struct Shared {
    pub store_id: Uuid,
    head: watch::Sender<u64>,
    stopped: watch::Sender<Option<Error>>,
    write_problem: RwLock<Option<Error>>,
    published: AtomicU64,
    recent: RwLock<Recent>,
}

/// The last records, for those who follow the log.
#[derive(Default)]
struct Recent {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Shared {
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    pub(crate) fn stopped(&self, why: Error) {
        self.stopped.send_replace(Some(why));
    }

    /// How the last group went.
    pub(crate) fn wrote(&self, result: Result<(), Error>) {
        *self.write_problem.write().unwrap_or_else(PoisonError::into_inner) = result.err();
    }

    /// Shows durable records to the readers.
    pub(crate) fn appended(&self, records: impl Iterator<Item = Record>) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            recent.bytes += record.bytes.len();
            recent.records.push_back(record);
        }
        while recent.bytes > RECENT_BYTES {
            let Some(oldest) = recent.records.pop_front() else { break };
            recent.bytes -= oldest.bytes.len();
        }
        let head = recent.records.back().map(|record| record.position);
        drop(recent);
        if let Some(head) = head {
            self.head.send_replace(head);
        }
    }

    /// The records up to a position, newest first: as many as a submission may have, if all of them
    /// are in memory.
    pub(crate) fn recent_until(&self, position: u64) -> Option<Vec<Record>> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        let first = recent.records.front()?.position;
        let most = MAX_EVENTS_PER_SUBMISSION as u64;
        let from = position.saturating_sub(most - 1).max(1);
        let (skip, end) = (from.checked_sub(first)?, (position + 1).checked_sub(first)?);
        let range = usize::try_from(skip).ok()?..usize::try_from(end).ok()?;
        (range.end <= recent.records.len())
            .then(|| recent.records.range(range).rev().cloned().collect())
    }

    /// The records after a position, if all of them are in memory.
    fn recent_after(&self, position: u64, limit: usize) -> Option<Vec<Record>> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        let first = recent.records.front()?.position;
        let skip = usize::try_from((position + 1).checked_sub(first)?).ok()?;
        Some(recent.records.iter().skip(skip).take(limit).cloned().collect())
    }
}

impl EventLog {
    /// Opens a log in SQLite, makes it when there is none, and checks its end. When it returns,
    /// no other process can open it.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let Config { directory, max_pages, cache, index_after } = config;
        let usual = sqlite::Options::new(directory);
        let options = sqlite::Options { max_pages, index_after, ..usual };
        let Sqlite { info, writer, reader } = sqlite::open(options).await?;
        Self::start(info, Box::new(writer), Arc::new(reader), cache).await
    }

    /// Starts a log on a storage.
    pub async fn start(
        info: StoreInfo,
        storage: Box<dyn StorageWriter>,
        reader: Arc<dyn StorageReader>,
        cache: StreamCache,
    ) -> Result<Self, Error> {
        let last_time = check_end(reader.as_ref(), &info).await?;
        let shared = Arc::new(Shared {
            store_id: info.store_id,
            head: watch::Sender::new(info.head),
            stopped: watch::Sender::new(None),
            write_problem: RwLock::default(),
            published: AtomicU64::new(info.published),
            recent: RwLock::default(),
        });
        let (queue, inbox) = mpsc::channel(MAX_QUEUED_SUBMISSIONS);
        let writer = Writer::new(Start {
            storage,
            reader: reader.clone(),
            shared: shared.clone(),
            inbox,
            cache,
            last_stream_id: info.last_stream_id,
            last_time,
        });
        let writer = std::sync::Mutex::new(Some(tokio::spawn(run(writer, shared.clone()))));
        Ok(Self { inner: Arc::new(Inner { queue, reader, shared, info, writer }) })
    }

    /// Submits a decision and waits for its answer. `Ok` says that its events are durable.
    /// Dropping the future does not take the submission back. When the queue is full it is
    /// refused with [`Error::Overloaded`].
    pub async fn submit(&self, submission: Submission) -> Result<Receipt, Error> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Submit(Box::new(submission), reply);
        self.inner.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => self.closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// As [`Self::submit`] in two steps: this one waits for room in the queue and fixes the order;
    /// what it returns waits for the answer. For pipelines.
    pub async fn enqueue(&self, submission: Submission) -> Result<Submitted, Error> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Submit(Box::new(submission), reply);
        self.inner.queue.send(message).await.map_err(|_| self.closed())?;
        Ok(Submitted { answer, log: self.clone() })
    }

    fn closed(&self) -> Error {
        self.inner.shared.stopped.borrow().clone().unwrap_or(Error::Closing)
    }

    /// The id of the store.
    pub fn store_id(&self) -> Uuid {
        self.inner.info.store_id
    }

    /// When the store was made.
    pub fn created_time(&self) -> Timestamp {
        let micros = self.inner.info.created_micros;
        Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
        }
    }

    /// The position of the last durable event; changes as events are recorded.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.inner.shared.head.subscribe()
    }

    /// Becomes `Some` when the log has stopped because its storage cannot be trusted any more. The
    /// process should then end.
    pub fn stopped(&self) -> watch::Receiver<Option<Error>> {
        self.inner.shared.stopped.subscribe()
    }

    /// Why the last group could not be written, such as a full disk; `None` when it was.
    pub fn write_problem(&self) -> Option<Error> {
        self.inner.shared.write_problem.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything up to here has been delivered to Kafka.
    pub fn published(&self) -> u64 {
        self.inner.shared.published()
    }

    /// Moves the published mark. It is written with the next group, or within a second, or when
    /// the log is closed.
    pub fn set_published(&self, position: u64) {
        let before = self.inner.shared.published.fetch_max(position, Ordering::AcqRel);
        if position > before {
            // A full queue means that a group is on its way, and the mark goes with it.
            let _ = self.inner.queue.try_send(Message::Published);
        }
    }

    /// At most `limit` (and at most 500) events from a position, inclusive.
    pub async fn read_all(
        &self,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let limit = limit.min(MAX_READ_EVENTS);
        if direction == Direction::Forward
            && let Some(after) = from.checked_sub(1)
            && let Some(records) = self.inner.shared.recent_after(after, limit)
        {
            return Ok(records);
        }
        self.inner.reader.read_all(from, direction, limit).await
    }

    /// At most `limit` (and at most 500) events of a stream from a version, inclusive. Empty when
    /// there is no such stream.
    pub async fn read_stream(
        &self,
        stream: &str,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        self.inner.reader.read_stream(stream, from, direction, limit.min(MAX_READ_EVENTS)).await
    }

    /// The event at a position.
    pub async fn get(&self, position: u64) -> Result<Option<Record>, Error> {
        let found = self.read_all(position, Direction::Forward, 1).await?.pop();
        Ok(found.filter(|record| record.position == position))
    }

    /// The event with an id.
    pub async fn find(&self, id: &Uuid) -> Result<Option<Record>, Error> {
        let Some(position) = event_id::position(&self.store_id(), id) else { return Ok(None) };
        let Some(record) = self.get(position).await? else { return Ok(None) };
        let same = record.decode()?.event_id == id.to_string();
        Ok(same.then_some(record))
    }

    /// Answers everything submitted so far, writes the published mark and closes the storage.
    pub async fn close(&self) {
        let _ = self.inner.queue.send(Message::Close).await;
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }
}

/// A submission that is on its way; a future of its answer. Dropping it does not take the
/// submission back.
pub struct Submitted {
    answer: oneshot::Receiver<Result<Receipt, Error>>,
    log: EventLog,
}

impl Future for Submitted {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(self.log.closed())))
    }
}

/// Runs the writer. Should it end by a fault of its own, the log has stopped, and says so.
async fn run(writer: Writer, shared: Arc<Shared>) {
    if let Err(error) = tokio::spawn(writer.run()).await {
        shared.stopped(Error::Stopped { problem: format!("the writer has ended: {error}") });
    }
}

/// Checks the last records: hashes, positions, and that time does not run back. Returns the time
/// of the last.
async fn check_end(reader: &dyn StorageReader, info: &StoreInfo) -> Result<Timestamp, Error> {
    let mut expected = info.head;
    let mut last_time = None;
    let mut left = CHECKED_AT_OPEN;
    while expected > 0 && left > 0 {
        let page = left.min(MAX_READ_EVENTS);
        let records = reader.read_all(expected, Direction::Backward, page).await?;
        if records.is_empty() {
            let problem = "it is missing".to_owned();
            return Err(Error::Damaged { position: expected, stream: String::new(), problem });
        }
        for record in records {
            let event = record.decode()?;
            if record.position != expected || event.position != expected {
                return Err(Error::Damaged {
                    position: expected,
                    stream: crate::record::stream_name(&event),
                    problem: format!(
                        "the record of position {} stands at {}",
                        event.position, record.position
                    ),
                });
            }
            last_time = last_time.or(event.recorded_time);
            expected -= 1;
            left -= 1;
        }
    }
    Ok(last_time.unwrap_or_default())
}
