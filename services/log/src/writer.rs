//! The writer: one task that takes every decision, in order, and commits them in groups.
//!
//! The way of a submission: queue → look-up of its request id → (if its stream is not in memory:
//! parked until the stream is loaded) → decided against the latest accepted state → committed with
//! its group → answered. Nothing is answered before the commit, not even a refusal, since it was
//! decided on what the group adds. While one group commits, the next gathers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daybook_contract::daybook::v1::execute_stream_response::Outcome as StoredOutcome;
use daybook_contract::daybook::v1::{CommandReceipt, ExecuteStreamResponse};
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use lru::LruCache;
use prost::Message as _;
use prost_types::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use uuid::Uuid;

use crate::limits::{
    MAX_EVENTS_PER_SUBMISSION, MAX_GROUP_BYTES, MAX_GROUP_SUBMISSIONS, MAX_PARKED_SUBMISSIONS,
    MAX_READ_EVENTS, MAX_RECORD_BYTES, RECENT_REQUESTS,
};
use crate::log::Shared;
use crate::record::{self, Envelope, stream_name};
use crate::storage::{
    Direction, EventRow, Group, RequestRow, StorageReader, StorageWriter, StoredAnswer, StreamHead,
};
use crate::{Error, Folder, Receipt, Record, RequestKey, State, Submission, event_id};

/// The look-ups under way at most. What comes meanwhile is looked up together: many small look-ups
/// cost more than they save, since the commit is what takes the time.
const MAX_LOOKUPS: usize = 1;

/// How long a moved published mark waits for a group to go with, before it is written alone.
const PUBLISHED_DELAY: Duration = Duration::from_secs(1);

/// What is said of a command whose domain has a fault.
const PANICKED: &str = "the code of the domain panicked; its message is in the server's log";

type Reply = oneshot::Sender<Result<Receipt, Error>>;

/// What reaches the writer.
pub(crate) enum Message {
    /// Something to decide.
    Submit(Box<Submission>, Reply),
    /// The published mark has moved; its value is in [`Shared`].
    Published,
    /// No more after this.
    Close,
}

struct Job {
    submission: Box<Submission>,
    reply: Reply,
}

/// A stream in memory. `id` is 0 until it has an event.
struct Entry {
    id: i64,
    version: u64,
    state: Option<State>,
}

/// What a decided job will be told once its group is durable.
struct Pending {
    stream: String,
    outcome: Result<Receipt, Error>,
    reply: Reply,
    /// Set when the answer is kept under the request id.
    request: Option<RequestKey>,
    /// The same request again, in the same group.
    again: Vec<(RequestKey, Reply)>,
}

type Committing = BoxFuture<'static, (Box<dyn StorageWriter>, Group, Result<(), Error>)>;
type Looked = (Vec<Job>, Result<Vec<RequestRow>, Error>);
type Loaded = Vec<(String, Result<Entry, Error>)>;

pub(crate) struct Writer {
    storage: Option<Box<dyn StorageWriter>>,
    reader: Arc<dyn StorageReader>,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Message>,
    /// Streams in memory. Every stream of `ready` and of `unsettled` is among them: pushed out of
    /// memory in between, its jobs would lose their order, or be decided on what is out of date.
    streams: LruCache<String, Entry>,
    cached_streams: usize,
    recent: LruCache<Uuid, (RequestKey, Result<Receipt, Error>)>,
    ready: VecDeque<Job>,
    parked: HashMap<String, Vec<Job>>,
    parked_jobs: usize,
    lookups: FuturesOrdered<BoxFuture<'static, Looked>>,
    loads: FuturesUnordered<BoxFuture<'static, Loaded>>,
    committing: Option<Committing>,
    pending: Vec<Pending>,
    /// The streams of `pending`: what the storage says of them is out of date until the commit.
    unsettled: HashSet<String>,
    /// Cold streams that are loaded once they are settled.
    delayed: HashMap<String, Option<Arc<dyn Folder>>>,
    head: u64,
    last_stream_id: i64,
    last_time: Timestamp,
    published: u64,
    stopped: Option<Error>,
}

/// What a writer starts from.
pub(crate) struct Start {
    pub storage: Box<dyn StorageWriter>,
    pub reader: Arc<dyn StorageReader>,
    pub shared: Arc<Shared>,
    pub inbox: mpsc::Receiver<Message>,
    pub cached_streams: NonZeroUsize,
    pub last_stream_id: i64,
    pub last_time: Timestamp,
}

/// What the loop waits for.
enum Happening {
    Committed(Box<dyn StorageWriter>, Group, Result<(), Error>),
    Loaded(Loaded),
    Looked(Looked),
    Received(usize),
    PublishedDue,
}

impl Writer {
    pub(crate) fn new(start: Start) -> Self {
        let recent = NonZeroUsize::new(RECENT_REQUESTS).unwrap_or(NonZeroUsize::MIN);
        Self {
            head: start.shared.head(),
            published: start.shared.published(),
            storage: Some(start.storage),
            reader: start.reader,
            shared: start.shared,
            inbox: start.inbox,
            streams: LruCache::unbounded(),
            cached_streams: start.cached_streams.get(),
            recent: LruCache::new(recent),
            ready: VecDeque::new(),
            parked: HashMap::new(),
            parked_jobs: 0,
            lookups: FuturesOrdered::new(),
            loads: FuturesUnordered::new(),
            committing: None,
            pending: Vec::new(),
            unsettled: HashSet::new(),
            delayed: HashMap::new(),
            last_stream_id: start.last_stream_id,
            last_time: start.last_time,
            stopped: None,
        }
    }

    /// Runs until it is closed; then everything submitted has been answered and the storage is
    /// closed.
    pub(crate) async fn run(mut self) {
        let mut open = true;
        let mut buffer = Vec::new();
        loop {
            if self.committing.is_none() && !self.ready.is_empty() {
                self.decide_group();
            }
            let idle = self.ready.is_empty()
                && self.parked.is_empty()
                && self.lookups.is_empty()
                && self.committing.is_none();
            if !open && idle {
                break;
            }
            match self.next(&mut buffer, open).await {
                Happening::Committed(storage, group, result) => {
                    self.storage = Some(storage);
                    self.shared.wrote(result.clone());
                    self.finish_group(group, result);
                }
                Happening::Loaded(loaded) => self.unpark(loaded),
                Happening::Looked((jobs, found)) => self.looked(jobs, found),
                Happening::Received(0) => open = false,
                Happening::Received(_) => self.receive(&mut buffer),
                Happening::PublishedDue => self.commit(self.with_published(Group::default())),
            }
        }
        self.close().await;
    }

    async fn next(&mut self, buffer: &mut Vec<Message>, open: bool) -> Happening {
        let room = self.ready.len() < MAX_GROUP_SUBMISSIONS
            && self.lookups.len() < MAX_LOOKUPS
            && self.parked_jobs < MAX_PARKED_SUBMISSIONS;
        let mark_moved = self.shared.published() > self.published && self.stopped.is_none();
        let committing = self.committing.is_some();
        tokio::select! {
            biased;
            (storage, group, result) = async {
                match &mut self.committing {
                    Some(commit) => commit.await,
                    None => std::future::pending().await,
                }
            } => {
                self.committing = None;
                Happening::Committed(storage, group, result)
            }
            Some(loaded) = self.loads.next() => Happening::Loaded(loaded),
            Some(looked) = self.lookups.next() => Happening::Looked(looked),
            count = self.inbox.recv_many(buffer, MAX_GROUP_SUBMISSIONS), if open && room => {
                Happening::Received(count)
            }
            () = tokio::time::sleep(PUBLISHED_DELAY), if open && mark_moved && !committing => {
                Happening::PublishedDue
            }
        }
    }

    fn receive(&mut self, buffer: &mut Vec<Message>) {
        let mut jobs = Vec::with_capacity(buffer.len());
        for message in buffer.drain(..) {
            match message {
                Message::Submit(submission, reply) => jobs.push(Job { submission, reply }),
                Message::Published => {}
                Message::Close => self.inbox.close(),
            }
        }
        if let Some(stopped) = &self.stopped {
            for job in jobs {
                answer(job.reply, Err(stopped.clone()));
            }
            return;
        }
        let unknown: Vec<Uuid> = jobs
            .iter()
            .filter_map(|job| job.submission.request)
            // `get` also keeps the answer in memory until the request is decided.
            .filter(|request| self.recent.get(&request.id).is_none())
            .map(|request| request.id)
            .collect();
        if unknown.is_empty() && self.lookups.is_empty() {
            self.ready_or_park(jobs);
            return;
        }
        let reader = self.reader.clone();
        self.lookups.push_back(Box::pin(async move {
            let found = match unknown.is_empty() {
                true => Ok(Vec::new()),
                false => reader.find_requests(&unknown).await,
            };
            (jobs, found)
        }));
    }

    /// Answers what has an answer already; the rest goes on.
    fn looked(&mut self, jobs: Vec<Job>, found: Result<Vec<RequestRow>, Error>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                for job in jobs {
                    answer(job.reply, Err(error.clone()));
                }
                return;
            }
        };
        let found: HashMap<Uuid, RequestRow> = found.into_iter().map(|row| (row.id, row)).collect();
        let mut fresh = Vec::with_capacity(jobs.len());
        for job in jobs {
            let row = job.submission.request.and_then(|request| found.get(&request.id));
            match (row, job.submission.request) {
                (Some(row), Some(request)) if row.fingerprint != request.fingerprint => {
                    answer(job.reply, Err(reused(&request)));
                }
                (Some(row), _) => {
                    let (reader, row) = (self.reader.clone(), row.clone());
                    tokio::spawn(async move {
                        answer(job.reply, stored_answer(reader.as_ref(), &row).await);
                    });
                }
                _ => fresh.push(job),
            }
        }
        self.ready_or_park(fresh);
    }

    fn ready_or_park(&mut self, jobs: Vec<Job>) {
        let mut cold: HashMap<String, Option<Arc<dyn Folder>>> = HashMap::new();
        for job in jobs {
            let stream = job.submission.stream.to_string();
            if let Some(parked) = self.parked.get_mut(&stream) {
                parked.push(job);
                self.parked_jobs += 1;
                continue;
            }
            let folder = job.submission.decider.folder();
            let warm = self
                .streams
                .peek(&stream)
                .is_some_and(|entry| folder.is_none() || entry.state.is_some());
            if warm {
                self.ready.push_back(job);
                continue;
            }
            // An entry without the state that is needed now is as good as none.
            self.streams.pop(&stream);
            let when = match self.unsettled.contains(&stream) {
                true => &mut self.delayed,
                false => &mut cold,
            };
            when.insert(stream.clone(), folder);
            self.parked.insert(stream, vec![job]);
            self.parked_jobs += 1;
        }
        if !cold.is_empty() {
            self.loads.push(Box::pin(load(self.reader.clone(), cold)));
        }
    }

    fn unpark(&mut self, loaded: Loaded) {
        for (stream, result) in loaded {
            let jobs = self.parked.remove(&stream).unwrap_or_default();
            self.parked_jobs -= jobs.len();
            match result {
                Ok(entry) => {
                    self.streams.put(stream, entry);
                    self.ready.extend(jobs);
                }
                Err(error) => {
                    for job in jobs {
                        answer(job.reply, Err(error.clone()));
                    }
                }
            }
        }
        self.trim();
    }

    /// Pushes streams out of memory that nobody waits for, the longest unused first.
    fn trim(&mut self) {
        let Some(mut excess) = self.streams.len().checked_sub(self.cached_streams) else { return };
        if excess == 0 {
            return;
        }
        let ready = self.ready.iter().map(|job| job.submission.stream.to_string());
        let needed: HashSet<String> = ready.chain(self.unsettled.iter().cloned()).collect();
        let mut kept = Vec::new();
        while excess > 0
            && let Some((stream, entry)) = self.streams.pop_lru()
        {
            match needed.contains(&stream) {
                true => kept.push((stream, entry)),
                false => excess -= 1,
            }
        }
        for (stream, entry) in kept {
            self.streams.put(stream, entry);
        }
    }

    /// Forgets streams whose state in memory cannot be trusted; what waits for them is parked
    /// until they are loaded anew.
    fn forget(&mut self, streams: &HashSet<String>) {
        for stream in streams {
            self.streams.pop(stream);
        }
        let ready = std::mem::take(&mut self.ready);
        let (stale, fresh): (Vec<Job>, Vec<Job>) =
            ready.into_iter().partition(|job| streams.contains(&job.submission.stream.to_string()));
        self.ready = fresh.into();
        self.ready_or_park(stale);
    }

    /// Decides what is ready, up to the limits of a group, and begins to commit it.
    fn decide_group(&mut self) {
        if let Some(stopped) = self.stopped.clone() {
            for job in std::mem::take(&mut self.ready) {
                answer(job.reply, Err(stopped.clone()));
            }
            return;
        }
        let mut group = Group::default();
        let mut requests: HashMap<Uuid, usize> = HashMap::new();
        let mut bytes = 0;
        while let Some(job) = self.ready.pop_front() {
            let Some(job) = self.replay_recent(job, &requests) else { continue };
            let rows = group.events.len();
            self.decide(job, &mut group, &mut requests);
            bytes += group.events[rows..].iter().map(|row| row.record.bytes.len()).sum::<usize>();
            if self.pending.len() >= MAX_GROUP_SUBMISSIONS || bytes >= MAX_GROUP_BYTES {
                break;
            }
        }
        if group.events.is_empty() && group.requests.is_empty() {
            self.finish_group(group, Ok(()));
            return;
        }
        metrics::histogram!("daybook_group_submissions").record(self.pending.len() as f64);
        let group = self.with_published(group);
        self.commit(group);
    }

    /// Answers a request that was answered moments ago, or that is in this very group.
    fn replay_recent(&mut self, job: Job, requests: &HashMap<Uuid, usize>) -> Option<Job> {
        let Some(request) = job.submission.request else { return Some(job) };
        if let Some((first, outcome)) = self.recent.get(&request.id) {
            let outcome = match *first == request {
                true => replayed(outcome.clone()),
                false => Err(reused(&request)),
            };
            answer(job.reply, outcome);
            return None;
        }
        if let Some(pending) = requests.get(&request.id).and_then(|at| self.pending.get_mut(*at)) {
            pending.again.push((request, job.reply));
            return None;
        }
        Some(job)
    }

    fn decide(&mut self, job: Job, group: &mut Group, requests: &mut HashMap<Uuid, usize>) {
        let Job { mut submission, reply } = job;
        let stream = submission.stream.to_string();
        self.unsettled.insert(stream.clone());
        let (rows, outcome) = self.try_decide(&mut submission, &stream, group);
        let mut request = None;
        if let Some(key) = submission.request
            && let Some(answer) = to_store(&outcome)
        {
            group.requests.push(RequestRow { id: key.id, fingerprint: key.fingerprint, answer });
            requests.insert(key.id, self.pending.len());
            request = Some(key);
        }
        group.events.extend(rows);
        self.pending.push(Pending { stream, outcome, reply, request, again: Vec::new() });
    }

    fn try_decide(
        &mut self,
        submission: &mut Submission,
        stream: &str,
        group: &mut Group,
    ) -> (Vec<EventRow>, Result<Receipt, Error>) {
        let now = self.now();
        let head = self.head + group.events.len() as u64;
        let Some(entry) = self.streams.get_mut(stream) else {
            unreachable!("what is ready is in memory")
        };
        if let Some(expected) = submission.expected_version
            && expected != entry.version
        {
            let (stream, actual) = (stream.to_owned(), entry.version);
            return (Vec::new(), Err(Error::VersionConflict { stream, expected, actual }));
        }
        let decided =
            catch_unwind(AssertUnwindSafe(|| submission.decider.decide(entry.state.as_ref(), now)));
        let events = match decided {
            Ok(Ok(events)) => events,
            Ok(Err(failure)) => {
                let failure = Box::new(failure);
                return (Vec::new(), Err(Error::Refused { failure, replayed: false }));
            }
            Err(_) => return (Vec::new(), Err(self.panicked(stream, head))),
        };
        if events.len() > MAX_EVENTS_PER_SUBMISSION {
            let (actual, limit) = (events.len(), MAX_EVENTS_PER_SUBMISSION);
            let what = "number of events";
            return (Vec::new(), Err(Error::LimitExceeded { what, actual, limit }));
        }
        let new = entry.id == 0 && !events.is_empty();
        let stream_id = if new { self.last_stream_id + 1 } else { entry.id };
        let mut rows = Vec::with_capacity(events.len());
        let mut event_ids = Vec::with_capacity(events.len());
        for (event, step) in events.into_iter().zip(1..) {
            let id = event_id::make(&self.shared.store_id, millis(&now), head + step).to_string();
            let version = entry.version + step;
            let bytes = record::encode(
                event,
                Envelope {
                    event_id: id.clone(),
                    stream: &submission.stream,
                    version,
                    position: head + step,
                    time: now,
                    metadata: &submission.metadata,
                },
            );
            if bytes.len() > MAX_RECORD_BYTES {
                let (actual, limit) = (bytes.len(), MAX_RECORD_BYTES);
                let what = "record (in bytes)";
                return (Vec::new(), Err(Error::LimitExceeded { what, actual, limit }));
            }
            let leaf_hash = record::leaf_hash(&bytes);
            let record = Record { position: head + step, bytes };
            rows.push(EventRow { stream_id, version, leaf_hash, record });
            event_ids.push(id);
        }
        if let Some(state) = &mut entry.state
            && catch_unwind(AssertUnwindSafe(|| submission.decider.evolve(state))).is_err()
        {
            return (Vec::new(), Err(self.panicked(stream, head)));
        }
        if new {
            self.last_stream_id = stream_id;
            group.streams.push((stream_id, stream.to_owned()));
        }
        entry.id = stream_id;
        entry.version += rows.len() as u64;
        let receipt = Receipt {
            version: entry.version,
            position: head + rows.len() as u64,
            aggregate_id: submission.stream.id().to_owned(),
            event_ids,
            recorded_time: now,
            replayed: false,
        };
        (rows, Ok(receipt))
    }

    /// A fault in the code of a domain stops one command, not the bank. What it did to the state
    /// is not known, so the stream is loaded anew.
    fn panicked(&mut self, stream: &str, position: u64) -> Error {
        error!(%stream, "the code of the domain panicked");
        self.forget(&HashSet::from([stream.to_owned()]));
        Error::NotUnderstood { position, stream: stream.to_owned(), problem: PANICKED.to_owned() }
    }

    fn with_published(&self, mut group: Group) -> Group {
        let published = self.shared.published();
        group.published = (published > self.published).then_some(published);
        group
    }

    fn commit(&mut self, group: Group) {
        let Some(mut storage) = self.storage.take() else { unreachable!("one commit at a time") };
        self.committing = Some(Box::pin(async move {
            let result = storage.commit(&group).await;
            (storage, group, result)
        }));
    }

    fn finish_group(&mut self, group: Group, result: Result<(), Error>) {
        let pending = std::mem::take(&mut self.pending);
        self.unsettled.clear();
        let delayed = std::mem::take(&mut self.delayed);
        if !delayed.is_empty() {
            self.loads.push(Box::pin(load(self.reader.clone(), delayed)));
        }
        if let Err(failed) = result {
            self.give_up(pending, failed);
            return;
        }
        if let Some(last) = group.events.last() {
            self.head = last.record.position;
            metrics::counter!("daybook_events_appended_total").increment(group.events.len() as u64);
            self.shared.appended(group.events.into_iter().map(|row| row.record));
        }
        if let Some(published) = group.published {
            self.published = published;
        }
        for item in pending {
            for (request, reply) in item.again {
                let same = item.request == Some(request);
                let outcome =
                    if same { replayed(item.outcome.clone()) } else { Err(reused(&request)) };
                answer(reply, outcome);
            }
            if let Some(request) = item.request {
                self.recent.put(request.id, (request, item.outcome.clone()));
            }
            answer(item.reply, item.outcome);
        }
    }

    /// Nothing of a failed group may stay in memory.
    fn give_up(&mut self, pending: Vec<Pending>, failed: Error) {
        error!(error = %failed, submissions = pending.len(), "a group failed");
        self.forget(&pending.iter().map(|item| item.stream.clone()).collect());
        for item in pending {
            for (_, reply) in item.again {
                answer(reply, Err(failed.clone()));
            }
            answer(item.reply, Err(failed.clone()));
        }
        if matches!(failed, Error::Stopped { .. }) {
            self.shared.stopped(failed.clone());
            self.stopped = Some(failed);
        }
    }

    async fn close(mut self) {
        let group = self.with_published(Group::default());
        let Some(mut storage) = self.storage.take() else { return };
        if group.published.is_some()
            && self.stopped.is_none()
            && let Err(error) = storage.commit(&group).await
        {
            error!(%error, "the published mark was not written; some events will be sent again");
        }
        storage.close().await;
        info!(head = self.head, "the log is closed");
    }

    /// The time, which never goes back from one record to the next.
    fn now(&mut self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        // Microseconds: what most clocks and databases keep.
        let nanos = i32::try_from(since.subsec_micros() * 1000).unwrap_or(0);
        if (seconds, nanos) > (self.last_time.seconds, self.last_time.nanos) {
            self.last_time = Timestamp { seconds, nanos };
        }
        self.last_time
    }
}

fn millis(time: &Timestamp) -> u64 {
    u64::try_from(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap_or(0)
}

fn answer(reply: Reply, outcome: Result<Receipt, Error>) {
    // Whoever hung up does not get the answer; the effect stays.
    let _ = reply.send(outcome);
}

fn reused(request: &RequestKey) -> Error {
    Error::RequestIdReused { request_id: request.id.to_string() }
}

fn replayed(outcome: Result<Receipt, Error>) -> Result<Receipt, Error> {
    match outcome {
        Ok(receipt) => Ok(Receipt { replayed: true, ..receipt }),
        Err(Error::Refused { failure, .. }) => Err(Error::Refused { failure, replayed: true }),
        other => other,
    }
}

/// What is kept of an answer under the request id; `None` when a retry is to be decided anew.
fn to_store(outcome: &Result<Receipt, Error>) -> Option<StoredAnswer> {
    let kept = match outcome {
        Ok(receipt) if !receipt.event_ids.is_empty() => {
            return Some(StoredAnswer::Recorded(receipt.position));
        }
        Ok(receipt) => StoredOutcome::Receipt(CommandReceipt {
            aggregate_id: receipt.aggregate_id.clone(),
            version: receipt.version,
            position: receipt.position,
            event_ids: Vec::new(),
            replayed: true,
            recorded_time: Some(receipt.recorded_time),
        }),
        Err(Error::Refused { failure, .. }) => StoredOutcome::Failure(failure.as_ref().clone()),
        Err(_) => return None,
    };
    let encoded = ExecuteStreamResponse { outcome: Some(kept) }.encode_to_vec();
    Some(StoredAnswer::Other(encoded.into()))
}

/// The first answer to a request, from what is stored.
async fn stored_answer(reader: &dyn StorageReader, row: &RequestRow) -> Result<Receipt, Error> {
    let position = match &row.answer {
        StoredAnswer::Recorded(position) => *position,
        StoredAnswer::Other(bytes) => {
            let decoded = ExecuteStreamResponse::decode(bytes.clone());
            return match decoded.ok().and_then(|stored| stored.outcome) {
                Some(StoredOutcome::Receipt(receipt)) => Ok(Receipt {
                    version: receipt.version,
                    position: receipt.position,
                    aggregate_id: receipt.aggregate_id,
                    event_ids: Vec::new(),
                    recorded_time: receipt.recorded_time.unwrap_or_default(),
                    replayed: true,
                }),
                Some(StoredOutcome::Failure(failure)) => {
                    Err(Error::Refused { failure: Box::new(failure), replayed: true })
                }
                None => Err(Error::Read { problem: "a stored answer is damaged".to_owned() }),
            };
        }
    };
    // The events of one request follow one another and carry its id.
    let records = reader.read_all(position, Direction::Backward, MAX_EVENTS_PER_SUBMISSION).await?;
    let mut events = Vec::new();
    for record in &records {
        let event = record.decode()?;
        let by = event.metadata.as_ref().map_or("", |metadata| metadata.request_id.as_str());
        if by.parse() != Ok(row.id) {
            break;
        }
        events.push(event);
    }
    let Some(last) = events.first() else {
        let problem = "it does not carry the id of the request that recorded it".to_owned();
        return Err(Error::Damaged { position, stream: String::new(), problem });
    };
    Ok(Receipt {
        version: last.version,
        position,
        aggregate_id: last.aggregate_id.clone(),
        event_ids: events.iter().rev().map(|event| event.event_id.clone()).collect(),
        recorded_time: last.recorded_time.unwrap_or_default(),
        replayed: true,
    })
}

/// Brings streams into memory.
async fn load(
    reader: Arc<dyn StorageReader>,
    streams: HashMap<String, Option<Arc<dyn Folder>>>,
) -> Loaded {
    let (names, folders): (Vec<String>, Vec<_>) = streams.into_iter().unzip();
    let heads = match reader.stream_heads(&names).await {
        Ok(heads) => heads,
        Err(error) => return names.into_iter().map(|name| (name, Err(error.clone()))).collect(),
    };
    // The pool of readers bounds how many are read at the same time.
    let mut each: Vec<BoxFuture<'static, (String, Result<Entry, Error>)>> = Vec::new();
    for ((name, folder), head) in names.into_iter().zip(folders).zip(heads) {
        let reader = reader.clone();
        each.push(Box::pin(async move {
            let entry = load_one(reader.as_ref(), &name, head, folder).await;
            (name, entry)
        }));
    }
    join_all(each).await
}

async fn load_one(
    reader: &dyn StorageReader,
    stream: &str,
    head: Option<StreamHead>,
    folder: Option<Arc<dyn Folder>>,
) -> Result<Entry, Error> {
    let StreamHead { id, version } = head.unwrap_or(StreamHead { id: 0, version: 0 });
    let Some(folder) = folder else { return Ok(Entry { id, version, state: None }) };
    let mut state = folder.empty();
    let mut folded = 0;
    while folded < version {
        let records =
            reader.read_stream(stream, folded + 1, Direction::Forward, MAX_READ_EVENTS).await?;
        if records.is_empty() {
            break;
        }
        for record in records {
            let event = record.decode()?;
            if event.version != folded + 1 || stream_name(&event) != stream {
                return Err(Error::Damaged {
                    position: record.position,
                    stream: stream.to_owned(),
                    problem: format!(
                        "version {} stands where {} belongs",
                        event.version,
                        folded + 1
                    ),
                });
            }
            // As with decisions: a fault in the code of a domain concerns its stream alone.
            let done = catch_unwind(AssertUnwindSafe(|| folder.fold(&mut state, &event)));
            done.unwrap_or_else(|_| Err(PANICKED.to_owned())).map_err(|problem| {
                let (position, stream) = (record.position, stream.to_owned());
                Error::NotUnderstood { position, stream, problem }
            })?;
            folded = event.version;
        }
    }
    if folded != version {
        return Err(Error::Damaged {
            position: 0,
            stream: stream.to_owned(),
            problem: format!("it ends at version {folded}, not {version}"),
        });
    }
    Ok(Entry { id, version, state: Some(state) })
}
