//! The writer: one task that takes every decision, in order, and commits them in groups.
//!
//! The way of a submission: queue → look-up of its request id, and of the one whose answer it is
//! told → (if a stream that it needs is not in memory: waits until the stream is loaded) → decided
//! against the latest accepted states (if it claims something whose holder is not in memory: waits
//! again) → committed with its group → answered. Nothing is answered before the commit, not even a
//! refusal, since it was decided on what the group adds. While a long group commits, the next is
//! decided; if the commit fails, so does everything that was decided on top of it.

mod answers;
mod claims;
mod lines;
mod load;
mod packed;
mod streams;
mod waiting;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daybook_contract::daybook::v1::Failure;
use daybook_kernel::StreamName;
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use prost_types::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use uuid::Uuid;

use crate::limits::{
    MAX_EVENTS_PER_SUBMISSION, MAX_GROUP_BYTES, MAX_GROUP_SUBMISSIONS, MAX_RECORD_BYTES,
    MAX_WAITING_SUBMISSIONS, RECENT_REQUESTS,
};
use crate::log::{Shared, StreamCache};
use crate::record::{self, Envelope};
use crate::storage::{ClaimKey, EventRow, Group, Recall, RequestRow, StorageReader, StorageWriter};
use crate::{Error, Facts, Folder, NewEvent, Receipt, Record, RequestKey, Submission, event_id};
use answers::{
    Told, recent_answer, replayed, reused, stored_answer, stored_answers, to_store, told,
};
use claims::{Claims, Unsettled};
use load::{Cold, Loaded};
use streams::{Entry, Streams};
use waiting::Waiting;

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

/// A submission on its way.
struct Job {
    /// Its place in the order of submissions.
    number: u64,
    submission: Box<Submission>,
    reply: Reply,
    /// What it claimed when it could not be decided, because the holders were not known.
    claims: Vec<ClaimKey>,
    /// How many requests had been answered when it was looked up.
    looked_up_at: u64,
    /// What was looked up of the request whose answer it is told. Few are told one, so it is not
    /// moved about with the others.
    stored: Option<Box<Told>>,
    /// What it is told, since it was taken up to be decided.
    told: Option<Box<Told>>,
}

impl Job {
    fn new(number: u64, submission: Box<Submission>, reply: Reply) -> Self {
        let (claims, looked_up_at) = (Vec::new(), 0);
        let (stored, told) = (None, None);
        Self { number, submission, reply, claims, looked_up_at, stored, told }
    }

    /// The stream that it may append to, then those that it reads, each with how its state is made.
    fn streams(&self) -> impl Iterator<Item = (&StreamName, Option<&'static dyn Folder>)> {
        let Submission { stream, reads, decider, .. } = self.submission.as_ref();
        let reads = reads.iter().map(|(stream, folder)| (stream, Some(*folder)));
        std::iter::once((stream, decider.folder())).chain(reads)
    }
}

/// What a decided job will be told once its group is durable.
struct Pending {
    outcome: Result<Receipt, Error>,
    reply: Reply,
    /// Set when the answer is kept under the request id.
    request: Option<RequestKey>,
    /// The same request again, in the same group.
    again: Vec<(RequestKey, Reply)>,
}

/// A group, and whom to tell when it is durable.
#[derive(Default)]
struct Batch {
    group: Group,
    bytes: usize,
    pending: Vec<Pending>,
    /// Where in `pending` a request is.
    requests: HashMap<Uuid, usize>,
    /// The streams it was decided about: what the storage says of them is out of date until the
    /// commit.
    streams: HashSet<StreamName>,
}

impl Batch {
    /// An empty one, with room for as much as this one has.
    fn like(&self) -> Self {
        let group = Group {
            events: Vec::with_capacity(self.group.events.len()),
            requests: Vec::with_capacity(self.group.requests.len()),
            ..Group::default()
        };
        Self {
            group,
            bytes: 0,
            pending: Vec::with_capacity(self.pending.len()),
            requests: HashMap::with_capacity(self.requests.len()),
            streams: HashSet::with_capacity(self.streams.len()),
        }
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= MAX_GROUP_SUBMISSIONS || self.bytes >= MAX_GROUP_BYTES
    }

    /// The pending job of a request.
    fn request(&mut self, id: &Uuid) -> Option<&mut Pending> {
        self.requests.get(id).and_then(|at| self.pending.get_mut(*at))
    }

    /// What a request will be answered.
    fn answer(&self, id: &Uuid) -> Option<Told> {
        let pending = self.pending.get(*self.requests.get(id)?)?;
        Some(told(pending.request?.fingerprint, pending.outcome.clone()))
    }
}

/// A batch whose group is with the storage.
struct Committing {
    batch: Batch,
    group: Arc<Group>,
    done: BoxFuture<'static, Result<(), Error>>,
}

/// Why a submission appends nothing.
enum Undecided {
    /// This is its answer.
    Error(Error),
    /// The holders of these claims have to be loaded first.
    Claims(Vec<ClaimKey>),
    /// The code of the domain panicked.
    Panicked,
}

impl From<Error> for Undecided {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Failure> for Undecided {
    fn from(failure: Failure) -> Self {
        Self::Error(Error::Refused { failure: Box::new(failure), replayed: false })
    }
}

type Looked = (Vec<Job>, Result<Vec<RequestRow>, Error>);

pub(crate) struct Writer {
    storage: Box<dyn StorageWriter>,
    reader: Arc<dyn StorageReader>,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Message>,
    received: u64,
    streams: Streams,
    claims: Claims,
    /// How many requests have been answered.
    answered: u64,
    /// What can be decided, in the order of submissions.
    ready: VecDeque<Job>,
    /// What waits for `loads`.
    waiting: Waiting,
    lookups: FuturesOrdered<BoxFuture<'static, Looked>>,
    loads: FuturesUnordered<BoxFuture<'static, Loaded>>,
    /// The streams of `loads` and of `delayed`.
    loading: HashSet<StreamName>,
    /// The claims of `loads`.
    loading_claims: HashSet<ClaimKey>,
    committing: Option<Committing>,
    /// What is decided on top of `committing`.
    open: Batch,
    /// Cold streams that are loaded once they are settled.
    delayed: Cold,
    /// The position of the last durable event.
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
    pub cache: StreamCache,
    pub last_stream_id: i64,
    pub last_time: Timestamp,
}

/// What the loop waits for.
enum Happening {
    Committed(Result<(), Error>),
    Loaded(Loaded),
    Looked(Looked),
    Received(usize),
    PublishedDue,
}

impl Writer {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            head: start.shared.head(),
            published: start.shared.published(),
            storage: start.storage,
            reader: start.reader,
            shared: start.shared,
            inbox: start.inbox,
            received: 0,
            streams: Streams::new(start.cache),
            claims: Claims::new(),
            answered: 0,
            ready: VecDeque::new(),
            waiting: Waiting::default(),
            lookups: FuturesOrdered::new(),
            loads: FuturesUnordered::new(),
            loading: HashSet::new(),
            loading_claims: HashSet::new(),
            committing: None,
            open: Batch::default(),
            delayed: Cold::new(),
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
            self.decide_ready();
            if self.committing.is_none() && !self.open.pending.is_empty() {
                self.gather(&mut buffer).await;
                self.commit_open();
                continue;
            }
            let idle = self.ready.is_empty()
                && self.waiting.is_empty()
                && self.lookups.is_empty()
                && self.committing.is_none();
            if !open && idle {
                break;
            }
            match self.next(&mut buffer, open).await {
                Happening::Committed(result) => {
                    self.shared.wrote(result.clone());
                    if let Some(Committing { batch, group, .. }) = self.committing.take() {
                        self.finish(batch, group, result);
                    }
                }
                Happening::Loaded(loaded) => self.loaded(loaded),
                Happening::Looked((jobs, found)) => self.looked(jobs, found),
                Happening::Received(0) => open = false,
                Happening::Received(_) => self.receive(&mut buffer),
                Happening::PublishedDue => self.commit(Batch::default()),
            }
        }
        self.close().await;
    }

    /// Takes up what is submitted by whatever can run right now: those who were just answered, and
    /// who comes with the next look at the network. What goes into one group shares its cost.
    async fn gather(&mut self, buffer: &mut Vec<Message>) {
        tokio::task::yield_now().await;
        if !self.has_room() {
            return;
        }
        while buffer.len() < MAX_GROUP_SUBMISSIONS
            && let Ok(message) = self.inbox.try_recv()
        {
            buffer.push(message);
        }
        self.receive(buffer);
        self.decide_ready();
    }

    /// Whether more may be taken from the queue.
    fn has_room(&self) -> bool {
        self.ready.len() < MAX_GROUP_SUBMISSIONS
            && self.lookups.len() < MAX_LOOKUPS
            && self.waiting.len() < MAX_WAITING_SUBMISSIONS
    }

    async fn next(&mut self, buffer: &mut Vec<Message>, open: bool) -> Happening {
        let room = self.has_room();
        let mark_moved = self.shared.published() > self.published && self.stopped.is_none();
        let committing = self.committing.is_some();
        tokio::select! {
            biased;
            committed = async {
                match &mut self.committing {
                    Some(committing) => (&mut committing.done).await,
                    None => std::future::pending().await,
                }
            } => Happening::Committed(committed),
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
                Message::Submit(submission, reply) => {
                    self.received += 1;
                    jobs.push(Job::new(self.received, submission, reply));
                }
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
        self.look_up(jobs);
    }

    /// Finds out whether requests have an answer already, and what is told of others; what is
    /// certain is not looked up.
    fn look_up(&mut self, mut jobs: Vec<Job>) {
        let mut unknown = Vec::new();
        for job in &mut jobs {
            job.looked_up_at = self.answered;
            if let Some(request) = job.submission.request
                && self.reader.recall(&request.id) == Recall::Unknown
            {
                unknown.push(request.id);
            }
            if let Some(id) = job.submission.answer_of
                && self.answer_at_hand(&id).is_none()
            {
                unknown.push(id);
            }
        }
        // A request, and what is told its answer, often come together.
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() && self.lookups.is_empty() {
            self.ready.extend(jobs);
            return;
        }
        let reader = self.reader.clone();
        self.lookups.push_back(Box::pin(async move {
            if unknown.is_empty() {
                return (jobs, Ok(Vec::new()));
            }
            let found = reader.find_requests(&unknown).await;
            let told: HashSet<Uuid> =
                jobs.iter().filter_map(|job| job.submission.answer_of).collect();
            let rows = found.iter().flatten().filter(|row| told.contains(&row.id));
            let answers = stored_answers(reader.as_ref(), rows).await;
            for job in &mut jobs {
                let id = job.submission.answer_of;
                job.stored = id.and_then(|id| answers.get(&id).cloned()).map(Box::new);
            }
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
        for job in jobs {
            match job.submission.request.and_then(|request| found.get(&request.id)) {
                Some(row) => self.answer_as_stored(job, row.clone()),
                None => self.ready.push_back(job),
            }
        }
    }

    /// Gives the first answer to a request again.
    fn answer_as_stored(&self, job: Job, row: RequestRow) {
        match job.submission.request {
            Some(request) if request.fingerprint != row.fingerprint => {
                answer(job.reply, Err(reused(&request)));
            }
            _ => {
                let reader = self.reader.clone();
                tokio::spawn(async move {
                    answer(job.reply, stored_answer(reader.as_ref(), &row).await);
                });
            }
        }
    }

    /// Whether all streams of a job are in memory. Those that are not, and on which nobody waits
    /// yet, are added to `cold`, or loaded when they are settled.
    fn find_cold(&mut self, job: &Job, cold: &mut Cold) -> bool {
        let mut warm = true;
        for (stream, folder) in job.streams() {
            if self.streams.unpack(stream, folder) {
                continue;
            }
            warm = false;
            if self.loading.insert(stream.clone()) {
                // An entry without the state that is needed now is as good as none.
                self.streams.forget(stream);
                let when = match self.is_unsettled(stream) {
                    true => &mut self.delayed,
                    false => &mut *cold,
                };
                when.insert(stream.clone(), folder);
            }
        }
        warm
    }

    /// Whether what is in the storage of a stream is out of date.
    fn is_unsettled(&self, stream: &StreamName) -> bool {
        let committing = self.committing.as_ref();
        self.open.streams.contains(stream)
            || committing.is_some_and(|committing| committing.batch.streams.contains(stream))
    }

    /// Takes up what has been loaded, and what waited for it.
    fn loaded(&mut self, loaded: Loaded) {
        let mut failed_streams: HashMap<StreamName, Error> = HashMap::new();
        let mut failed_claims: HashMap<ClaimKey, Error> = HashMap::new();
        match loaded {
            Loaded::Streams(streams) => {
                for (stream, result) in streams {
                    self.loading.remove(&stream);
                    match result {
                        Ok(entry) => self.streams.add(stream, entry),
                        Err(error) => drop(failed_streams.insert(stream, error)),
                    }
                }
            }
            Loaded::Claims(claims) => {
                for (claim, result) in claims {
                    self.loading_claims.remove(&claim);
                    match result {
                        Ok(holder) => self.claims.learn(claim, holder),
                        Err(error) => drop(failed_claims.insert(claim, error)),
                    }
                }
            }
        }
        for job in self.waiting.take() {
            let stream = job.streams().find_map(|(stream, _)| failed_streams.get(stream));
            let claim = || job.claims.iter().find_map(|claim| failed_claims.get(claim));
            match stream.or_else(claim) {
                Some(error) => answer(job.reply, Err(error.clone())),
                None => self.ready.push_back(job),
            }
        }
        // What has waited comes before what was submitted later.
        self.ready.make_contiguous().sort_by_key(|job| job.number);
    }

    /// Loads the holders of claims that a decision needs.
    fn find_claims(&mut self, claims: &[ClaimKey]) {
        let unknown: Vec<ClaimKey> = claims
            .iter()
            .filter(|claim| !self.claims.knows(claim))
            .filter(|claim| self.loading_claims.insert((*claim).clone()))
            .cloned()
            .collect();
        if !unknown.is_empty() {
            self.loads.push(Box::pin(load::claims(self.reader.clone(), unknown)));
        }
    }

    /// Packs streams that nobody waits for.
    fn trim(&mut self) {
        let Self { streams, waiting, open, committing, .. } = self;
        let committing = committing.as_ref().map(|committing| &committing.batch);
        streams.trim(|stream| {
            let decided = [Some(&*open), committing];
            waiting.need(stream)
                || decided.into_iter().flatten().any(|batch| batch.streams.contains(stream))
        });
    }

    /// Decides what is ready, up to the limits of a group. Jobs whose streams are not in memory
    /// wait until they are loaded, and so does what comes after them and names one of their
    /// streams.
    fn decide_ready(&mut self) {
        if let Some(stopped) = &self.stopped {
            for job in std::mem::take(&mut self.ready) {
                answer(job.reply, Err(stopped.clone()));
            }
            return;
        }
        // Nothing is packed either: what was just loaded is for jobs that are ready.
        if self.open.is_full() {
            return;
        }
        let mut cold = Cold::new();
        while !self.open.is_full()
            && let Some(job) = self.ready.pop_front()
        {
            let Some(job) = self.take_up(job) else { continue };
            let warm = self.find_cold(&job, &mut cold);
            let known = !job.claims.iter().any(|claim| self.loading_claims.contains(claim));
            match warm && known && !self.waiting.hold_up(&job) {
                true => self.decide(job),
                false => self.waiting.push(job),
            }
        }
        if !cold.is_empty() {
            self.loads.push(Box::pin(load::streams(self.reader.clone(), cold)));
        }
        self.trim();
    }

    /// Takes up a job to decide it: by now its request may have been answered, or be about to, and
    /// then it is answered the same; and the answer that it is told may be there. What was answered
    /// since it was looked up and is not at hand is looked up again.
    fn take_up(&mut self, mut job: Job) -> Option<Job> {
        let is_long_ago = self.answered - job.looked_up_at > RECENT_REQUESTS;
        let mut look_up_again = false;
        if let Some(request) = job.submission.request {
            let committing = self.committing.as_mut().map(|committing| &mut committing.batch);
            let pending = self.open.request(&request.id);
            if let Some(pending) = pending.or_else(|| committing?.request(&request.id)) {
                pending.again.push((request, job.reply));
                return None;
            }
            match self.reader.recall(&request.id) {
                Recall::Stored(row) => {
                    self.answer_as_stored(job, row);
                    return None;
                }
                Recall::Unknown => look_up_again = is_long_ago,
                Recall::New => {}
            }
        }
        if let Some(id) = job.submission.answer_of {
            job.told = job.stored.clone().or_else(|| self.answer_at_hand(&id).map(Box::new));
            let is_stored = || matches!(self.reader.recall(&id), Recall::Stored(_));
            look_up_again |= job.told.is_none() && (is_long_ago || is_stored());
        }
        if !look_up_again {
            return Some(job);
        }
        self.look_up(vec![job]);
        None
    }

    /// What was answered to a request just now, or so recently that it is in memory.
    fn answer_at_hand(&self, id: &Uuid) -> Option<Told> {
        let committing = || self.committing.as_ref()?.batch.answer(id);
        let recent = || match self.reader.recall(id) {
            Recall::Stored(row) => recent_answer(&self.shared, &row),
            Recall::New | Recall::Unknown => None,
        };
        self.open.answer(id).or_else(committing).or_else(recent)
    }

    fn decide(&mut self, mut job: Job) {
        let outcome = match self.try_decide(&mut job) {
            Ok(receipt) => Ok(receipt),
            Err(Undecided::Error(error)) => Err(error),
            Err(Undecided::Panicked) => Err(self.panicked(&job.submission.stream)),
            Err(Undecided::Claims(claims)) => {
                self.find_claims(&claims);
                self.waiting.push(Job { claims, ..job });
                return;
            }
        };
        for (stream, _) in job.streams() {
            self.streams.used(stream);
        }
        let mut request = None;
        if let Some(key) = job.submission.request
            && let Some(answer) = to_store(&outcome)
        {
            let row = RequestRow { id: key.id, fingerprint: key.fingerprint, answer };
            self.open.group.requests.push(row);
            self.open.requests.insert(key.id, self.open.pending.len());
            request = Some(key);
        }
        self.open.streams.insert(job.submission.stream);
        let (reply, again) = (job.reply, Vec::new());
        self.open.pending.push(Pending { outcome, reply, request, again });
    }

    /// The position of the last event that was decided.
    fn decided_head(&self) -> u64 {
        let last = |group: &Group| group.events.last().map(|row| row.record.position);
        let committing = || last(&self.committing.as_ref()?.group);
        last(&self.open.group).or_else(committing).unwrap_or(self.head)
    }

    fn try_decide(&mut self, job: &mut Job) -> Result<Receipt, Undecided> {
        let now = self.now();
        let head = self.decided_head();
        let stream = job.submission.stream.clone();
        let Some(entry) = self.streams.peek(&stream) else {
            unreachable!("what is decided is in memory")
        };
        let (id, version) = (entry.id, entry.version);
        if let Some(expected) = job.submission.expected_version
            && expected != version
        {
            let (stream, actual) = (stream.to_string(), version);
            return Err(Error::VersionConflict { stream, expected, actual }.into());
        }
        let events = ask(job, entry, &self.streams, now)?;
        if events.len() > MAX_EVENTS_PER_SUBMISSION {
            let (actual, limit) = (events.len(), MAX_EVENTS_PER_SUBMISSION);
            let what = "number of events";
            return Err(Error::LimitExceeded { what, actual, limit }.into());
        }
        let new = id == 0 && !events.is_empty();
        let stream_id = if new { self.last_stream_id + 1 } else { id };
        let claims = match self.claims.after(&events, stream_id) {
            Ok(claims) => claims,
            Err(Unsettled::Unknown(claims)) => return Err(Undecided::Claims(claims)),
            Err(Unsettled::Taken(claim)) => {
                let taken = || job.submission.decider.taken(&claim);
                let failure = catch_unwind(AssertUnwindSafe(taken));
                return Err(failure.map_or(Undecided::Panicked, Into::into));
            }
        };
        let mut rows = Vec::with_capacity(events.len());
        let mut event_ids = Vec::with_capacity(events.len());
        for (event, step) in events.iter().zip(1..) {
            let id = event_id::make(&self.shared.store_id, millis(&now), head + step);
            let version = version + step;
            let bytes = record::encode(
                event,
                &Envelope {
                    event_id: id,
                    stream: &job.submission.stream,
                    version,
                    position: head + step,
                    time: now,
                    metadata: &job.submission.metadata,
                },
            );
            if bytes.len() > MAX_RECORD_BYTES {
                let (actual, limit) = (bytes.len(), MAX_RECORD_BYTES);
                let what = "record (in bytes)";
                return Err(Error::LimitExceeded { what, actual, limit }.into());
            }
            let leaf_hash = record::leaf_hash(&bytes);
            let record = Record { position: head + step, bytes };
            rows.push(EventRow { stream_id, version, leaf_hash, record });
            event_ids.push(id);
        }
        let Some(entry) = self.streams.peek_mut(&stream) else {
            unreachable!("what is decided is in memory")
        };
        if let Some(folded) = &mut entry.state {
            let evolve = || job.submission.decider.evolve(&mut folded.state);
            if catch_unwind(AssertUnwindSafe(evolve)).is_err() {
                return Err(Undecided::Panicked);
            }
        }
        entry.id = stream_id;
        entry.version += rows.len() as u64;
        if new {
            self.last_stream_id = stream_id;
            self.open.group.streams.push((stream_id, stream.into()));
        }
        self.claims.apply(claims, &mut self.open.group.claims);
        let receipt = Receipt {
            version: version + rows.len() as u64,
            position: head + rows.len() as u64,
            aggregate_id: job.submission.stream.id().to_owned(),
            event_ids,
            recorded_time: now,
            replayed: false,
        };
        self.open.bytes += rows.iter().map(|row| row.record.bytes.len()).sum::<usize>();
        self.open.group.events.extend(rows);
        Ok(receipt)
    }

    /// A fault in the code of a domain stops one command, not the bank. What it did to the state
    /// is not known, so the stream is loaded anew.
    fn panicked(&mut self, stream: &StreamName) -> Error {
        error!(%stream, "the code of the domain panicked");
        self.streams.forget(stream);
        let (stream, problem) = (stream.to_string(), PANICKED.to_owned());
        Error::NotUnderstood { position: self.decided_head(), stream, problem }
    }

    fn with_published(&self, mut group: Group) -> Group {
        let published = self.shared.published();
        group.published = (published > self.published).then_some(published);
        group
    }

    fn commit_open(&mut self) {
        // The next one is likely to be as long.
        let next = self.open.like();
        let batch = std::mem::replace(&mut self.open, next);
        metrics::histogram!("daybook_group_submissions").record(batch.pending.len() as f64);
        match batch.group.events.is_empty() && batch.group.requests.is_empty() {
            true => self.finish(batch, Arc::default(), Ok(())),
            false => self.commit(batch),
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let group = Arc::new(self.with_published(std::mem::take(&mut batch.group)));
        let done = self.storage.commit(group.clone());
        self.committing = Some(Committing { batch, group, done });
    }

    fn finish(&mut self, batch: Batch, group: Arc<Group>, result: Result<(), Error>) {
        match result {
            Ok(()) => self.settle(batch, Arc::unwrap_or_clone(group)),
            Err(failed) => self.give_up(batch, &group, failed),
        }
        let delayed = std::mem::take(&mut self.delayed);
        let (later, now): (Cold, Cold) =
            delayed.into_iter().partition(|(stream, _)| self.is_unsettled(stream));
        self.delayed = later;
        if !now.is_empty() {
            self.loads.push(Box::pin(load::streams(self.reader.clone(), now)));
        }
    }

    fn settle(&mut self, batch: Batch, group: Group) {
        self.claims.trim(|claim| self.open.group.claims.contains_key(claim));
        if let Some(last) = group.events.last() {
            self.head = last.record.position;
            metrics::counter!("daybook_events_appended_total").increment(group.events.len() as u64);
            self.shared.appended(group.events.into_iter().map(|row| row.record));
        }
        if let Some(published) = group.published {
            self.published = published;
        }
        self.answered += batch.requests.len() as u64;
        for item in batch.pending {
            for (request, reply) in item.again {
                let same = item.request == Some(request);
                let outcome =
                    if same { replayed(item.outcome.clone()) } else { Err(reused(&request)) };
                answer(reply, outcome);
            }
            answer(item.reply, item.outcome);
        }
    }

    /// Nothing of a failed group may stay in memory, nor of what was decided on top of it.
    fn give_up(&mut self, batch: Batch, group: &Group, failed: Error) {
        let on_top = std::mem::take(&mut self.open);
        let submissions = batch.pending.len() + on_top.pending.len();
        error!(error = %failed, submissions, "a group failed");
        for stream in batch.streams.iter().chain(&on_top.streams) {
            self.streams.forget(stream);
        }
        self.claims.forget(group.claims.keys().chain(on_top.group.claims.keys()));
        for item in batch.pending.into_iter().chain(on_top.pending) {
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
        if group.published.is_some()
            && self.stopped.is_none()
            && let Err(error) = self.storage.commit(Arc::new(group)).await
        {
            error!(%error, "the published mark was not written; some events will be sent again");
        }
        self.storage.close().await;
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

/// Asks the domain what follows from a submission about a stream in memory.
fn ask(
    job: &mut Job,
    stream: &Entry,
    streams: &Streams,
    now: Timestamp,
) -> Result<Vec<NewEvent>, Undecided> {
    let reads = job.submission.reads.iter().map(|(read, _)| {
        let Some(state) = streams.peek(read).and_then(Entry::state) else {
            unreachable!("what is read is in memory")
        };
        state
    });
    let reads: Vec<_> = reads.collect();
    let answer = job.told.take().map(|told| *told).transpose()?;
    let facts = Facts { state: stream.state(), reads: &reads, now, answer };
    let decide = || job.submission.decider.decide(facts);
    match catch_unwind(AssertUnwindSafe(decide)) {
        Ok(Err(failure)) if !job.submission.decider.keeps_refusal() => {
            Err(Error::OutOfTurn { failure: Box::new(failure) }.into())
        }
        Ok(decided) => Ok(decided?),
        Err(_) => Err(Undecided::Panicked),
    }
}

fn millis(time: &Timestamp) -> u64 {
    u64::try_from(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap_or(0)
}

fn answer(reply: Reply, outcome: Result<Receipt, Error>) {
    // Whoever hung up does not get the answer; the effect stays.
    let _ = reply.send(outcome);
}
