//! A log and a Kafka topic in memory, as far as readers see them, and what the tests do with a
//! running query side.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use daybook_bus::source::{
    Batch, Cursor, Error, LogReader, Origin, PartitionCursor, Record, Source, SourceFactory,
};
use daybook_contract::bank::v1::account::Event;
use daybook_contract::bank::v1::{
    AccountClosed, AccountOpened, MoneyDeposited, MoneyDepositedV1, MoneyDepositedV2,
    MoneyWithdrawn, MovementMethod,
};
use daybook_contract::contract::{AggregateState, EventSet};
use daybook_contract::daybook::v1::{
    EventMetadata, Money, ProjectionState, ProjectionStatus, ReadContext, RecordedEvent,
    recorded_event,
};
use daybook_domain::account::Account;
use daybook_kernel::Aggregate;
use daybook_query::runtime::row::select;
use daybook_query::runtime::{Environment, Handle, Host, Settings, Started};
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use prost_types::{Any, Timestamp};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use crate::random::Random;

/// 2026-11-21, when the first event of a test is recorded.
pub const START: i64 = 1_795_219_200;

/// The most records that a fake source gives at once.
const BATCH: usize = 100;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(180);

/// An event log. Clones are the same log.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
    head: Arc<watch::Sender<u64>>,
}

/// What is in a log at a moment.
#[derive(Default, Clone)]
pub struct Inner {
    events: Vec<Bytes>,
    versions: BTreeMap<String, u64>,
    seconds: i64,
    down: bool,
    lost: bool,
    damaged: bool,
    panics: bool,
    /// Where the live source says no more, although it knows that there is more.
    held_at: Option<usize>,
    /// Where the live source has fallen silent.
    silent_at: Option<usize>,
    /// How often `read_stream` was called: how often a gap was filled.
    gap_reads: u64,
    /// How often its files were replaced. Sources of before see the connection end.
    replaced: u64,
}

/// Makes the ids of events unique over all logs.
static APPENDED: AtomicU64 = AtomicU64::new(0);

impl Log {
    pub fn new() -> Self {
        Self { inner: Arc::default(), head: Arc::new(watch::Sender::new(0)) }
    }

    /// Appends an event to `bank.account-<id>`. Answers with its record.
    pub fn append(&self, id: &str, event: Event) -> Bytes {
        self.append_to::<Account>(id, event)
    }

    /// Appends an event to the stream of any aggregate. Answers with its record.
    pub fn append_to<A: Aggregate>(&self, id: &str, event: impl Into<A::Event>) -> Bytes {
        let event = event.into();
        let (name, version, value) = (event.name(), event.version(), event.encode());
        self.record(A::State::AGGREGATE, id, name, version, event.type_name(), value)
    }

    /// Appends an event of any name and schema version to `bank.account-<id>`.
    pub fn append_bytes(
        &self,
        id: &str,
        name: &str,
        version: u32,
        type_name: &str,
        value: Vec<u8>,
    ) -> Bytes {
        self.record("bank.account", id, name, version, type_name, value)
    }

    /// Appends an event that no projection of the bank takes.
    pub fn append_note(&self) -> Bytes {
        self.record("notes", "mine", "Noted", 1, "notes.v1.Noted", Vec::new())
    }

    fn record(
        &self,
        aggregate_type: &str,
        id: &str,
        name: &str,
        version: u32,
        type_name: &str,
        value: Vec<u8>,
    ) -> Bytes {
        let mut inner = self.inner.lock().unwrap();
        let position = inner.events.len() as u64 + 1;
        let stream_version = inner.versions.entry(format!("{aggregate_type}-{id}")).or_default();
        *stream_version += 1;
        let event = RecordedEvent {
            event_id: format!("event-{position}-{}", APPENDED.fetch_add(1, Ordering::Relaxed)),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: id.to_owned(),
            version: *stream_version,
            position,
            event_name: name.to_owned(),
            event_version: version,
            recorded_time: Some(Timestamp {
                seconds: START + inner.seconds,
                nanos: (position % 1000) as i32,
            }),
            metadata: Some(EventMetadata::default()),
            payload: Some(recorded_event::Payload::Event(Any {
                type_url: format!("type.googleapis.com/{type_name}"),
                value,
            })),
        };
        let bytes = Bytes::from(event.encode_to_vec());
        inner.events.push(bytes.clone());
        drop(inner);
        self.head.send_replace(position);
        bytes
    }

    /// Lets time pass between two events.
    pub fn pass_seconds(&self, seconds: i64) {
        self.inner.lock().unwrap().seconds += seconds;
    }

    pub fn position(&self) -> u64 {
        *self.head.borrow()
    }

    pub fn events(&self) -> Vec<Bytes> {
        self.inner.lock().unwrap().events.clone()
    }

    pub fn gap_reads(&self) -> u64 {
        self.inner.lock().unwrap().gap_reads
    }

    /// A copy of the files.
    pub fn copy(&self) -> Inner {
        self.inner.lock().unwrap().clone()
    }

    /// Stops the log, puts a copy in the place of the files, and starts it again.
    pub fn restore(&self, copy: &Inner) {
        let mut inner = self.inner.lock().unwrap();
        let (down, replaced) = (inner.down, inner.replaced + 1);
        *inner = Inner { down, replaced, ..copy.clone() };
        let position = inner.events.len() as u64;
        drop(inner);
        self.head.send_replace(position);
    }

    /// Makes the log unreachable, or reachable again.
    pub fn set_down(&self, down: bool) {
        self.inner.lock().unwrap().down = down;
        // Wakes the sources.
        self.head.send_modify(|_| {});
    }

    /// Makes the live source say that it has lost the place. The log itself goes on.
    pub fn set_lost(&self, lost: bool) {
        self.inner.lock().unwrap().lost = lost;
        self.head.send_modify(|_| {});
    }

    /// Makes every read other than that of the live source find a damaged record.
    pub fn set_damaged(&self, damaged: bool) {
        self.inner.lock().unwrap().damaged = damaged;
    }

    /// Makes the live source fall silent at a position before the end, or go on.
    pub fn hold_at(&self, position: Option<u64>) {
        self.inner.lock().unwrap().held_at = position.map(|position| position as usize);
        self.head.send_modify(|_| {});
    }

    /// Waits until the live source has given all that it may.
    pub async fn until_silent(&self) {
        let mut head = self.head.subscribe();
        loop {
            head.borrow_and_update();
            let (silent_at, held_at) = {
                let inner = self.inner.lock().unwrap();
                (inner.silent_at, inner.held_at)
            };
            if silent_at == held_at {
                return;
            }
            head.changed().await.unwrap();
        }
    }

    /// Remembers where the live source has nothing more to give; says whether that is new.
    fn fell_silent_at(&self, position: Option<usize>) -> bool {
        let before = std::mem::replace(&mut self.inner.lock().unwrap().silent_at, position);
        let is_new = before != position;
        if is_new {
            self.head.send_modify(|_| {});
        }
        is_new
    }

    /// Makes every source panic.
    pub fn set_panics(&self, panics: bool) {
        self.inner.lock().unwrap().panics = panics;
        self.head.send_modify(|_| {});
    }

    fn check(&self) -> Result<(), Error> {
        match self.inner.lock().unwrap().down {
            true => Err(Error::Unavailable {
                source_name: "the log".to_owned(),
                problem: "it is down".to_owned(),
            }),
            false => Ok(()),
        }
    }

    fn source(&self, after: u64, is_live: bool) -> Result<Box<dyn Source>, Error> {
        self.check()?;
        let head = self.head.subscribe();
        let replaced = self.inner.lock().unwrap().replaced;
        Ok(Box::new(LogSource { log: self.clone(), after, head, first: true, is_live, replaced }))
    }
}

struct LogSource {
    log: Log,
    after: u64,
    head: watch::Receiver<u64>,
    first: bool,
    is_live: bool,
    replaced: u64,
}

impl Source for LogSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async move {
            loop {
                self.head.borrow_and_update();
                self.log.check()?;
                if self.log.inner.lock().unwrap().replaced != self.replaced {
                    return Err(Error::Unavailable {
                        source_name: "the log".to_owned(),
                        problem: "the connection was lost".to_owned(),
                    });
                }
                let panics = self.log.inner.lock().unwrap().panics;
                assert!(!panics, "a bug in the source");
                if !self.is_live && self.log.inner.lock().unwrap().damaged {
                    return Err(Error::Damaged { problem: "record 17 is damaged".to_owned() });
                }
                if self.is_live && self.log.inner.lock().unwrap().lost {
                    return Err(Error::Lost {
                        source_name: "the source".to_owned(),
                        problem: "it forgot".to_owned(),
                    });
                }
                let events = self.log.events();
                let held_at = self.log.inner.lock().unwrap().held_at.filter(|_| self.is_live);
                let given = &events[..held_at.unwrap_or(events.len()).min(events.len())];
                let new: Vec<_> =
                    given.iter().skip(self.after as usize).take(BATCH).cloned().collect();
                if !new.is_empty() || self.first {
                    self.first = false;
                    let from = self.after;
                    self.after += new.len() as u64;
                    let records = (from + 1..).zip(new);
                    return Ok(Batch {
                        records: records
                            .map(|(at, bytes)| {
                                Record::new(bytes, Origin::Text(format!("log@{at}")))
                            })
                            .collect(),
                        position: self.after,
                        head: events.len() as u64,
                        cursor: Cursor { log_position: self.after, ..Cursor::default() },
                    });
                }
                if held_at.is_some() && self.log.fell_silent_at(held_at) {
                    continue;
                }
                let _ = self.head.changed().await;
            }
        }
        .boxed()
    }
}

impl SourceFactory for Log {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        let after = cursor.log_position;
        async move { self.source(after, true) }.boxed()
    }
}

impl LogReader for Log {
    fn read_stream(
        &self,
        stream: String,
        from: u64,
        to: u64,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, Error>> {
        async move {
            self.check()?;
            self.inner.lock().unwrap().gap_reads += 1;
            let mut found = self.events();
            found.retain(|bytes| {
                let event = RecordedEvent::decode(bytes.clone()).unwrap();
                stream == format!("{}-{}", event.aggregate_type, event.aggregate_id)
                    && (from..=to).contains(&event.version)
            });
            Ok(found)
        }
        .boxed()
    }

    fn event_id_at(&self, position: u64) -> BoxFuture<'_, Result<Option<String>, Error>> {
        async move {
            self.check()?;
            let found = self.events().get(position as usize - 1).cloned();
            Ok(found.map(|bytes| RecordedEvent::decode(bytes).unwrap().event_id))
        }
        .boxed()
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        async move {
            self.check()?;
            Ok(self.position())
        }
        .boxed()
    }

    fn subscribe(&self, after: u64) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        async move { self.source(after, false) }.boxed()
    }
}

/// A topic whose records a test writes, partition by partition. Clones are the same topic.
#[derive(Clone)]
pub struct Topic {
    partitions: Arc<Mutex<Vec<Partition>>>,
    written: Arc<watch::Sender<u64>>,
}

#[derive(Default, Clone)]
struct Partition {
    records: Vec<Bytes>,
    /// Records before this offset are gone.
    start: usize,
    /// The highest position among them.
    gone: u64,
}

impl Topic {
    pub fn new(partitions: usize) -> Self {
        Self {
            partitions: Arc::new(Mutex::new(vec![Partition::default(); partitions])),
            written: Arc::new(watch::Sender::new(0)),
        }
    }

    pub fn write(&self, partition: usize, record: impl Into<Bytes>) {
        self.partitions.lock().unwrap()[partition].records.push(record.into());
        self.written.send_modify(|count| *count += 1);
    }

    /// Writes each stream to a partition that chance chooses, and mixes those of a partition. Only the
    /// records of one stream keep their order.
    pub fn write_mixed(&self, streams: &[Vec<Bytes>], random: &mut Random) {
        let partitions = self.partitions.lock().unwrap().len();
        let mut below = |limit: usize| random.below(limit as u64) as usize;
        let mut left: Vec<_> =
            streams.iter().map(|stream| (below(partitions), stream.iter())).collect();
        while !left.is_empty() {
            let next = below(left.len());
            let (partition, records) = &mut left[next];
            match records.next() {
                Some(record) => self.write(*partition, record.clone()),
                None => drop(left.swap_remove(next)),
            }
        }
    }

    /// Says on one partition that the log is published up to a position.
    pub fn watermark(&self, partition: usize, position: u64) {
        let watermark = RecordedEvent { position, ..Default::default() };
        self.write(partition, watermark.encode_to_vec());
    }

    /// Says so on all of them.
    pub fn watermarks(&self, position: u64) {
        let partitions = self.partitions.lock().unwrap().len();
        (0..partitions).for_each(|partition| self.watermark(partition, position));
    }

    /// Forgets all that was written so far, as retention does.
    pub fn forget(&self) {
        for partition in self.partitions.lock().unwrap().iter_mut() {
            partition.start = partition.records.len();
            let positions = partition.records.iter().map(|bytes| {
                RecordedEvent::decode(bytes.clone()).map_or(0, |event| event.position)
            });
            partition.gone = positions.max().unwrap_or(0);
        }
    }
}

struct TopicSource {
    topic: Topic,
    written: watch::Receiver<u64>,
    places: Vec<PartitionCursor>,
    turn: usize,
}

impl SourceFactory for Topic {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        let cursor = cursor.clone();
        async move {
            let partitions = self.partitions.lock().unwrap().clone();
            let mut places = Vec::new();
            for (number, partition) in partitions.iter().enumerate() {
                let known = cursor.partitions.iter().find(|p| p.partition == number as i32);
                if known.is_none() && cursor.log_position < partition.gone {
                    return Err(Error::Lost {
                        source_name: "the topic".to_owned(),
                        problem: format!("events after {} are gone", cursor.log_position),
                    });
                }
                let place = known.cloned().unwrap_or(PartitionCursor {
                    topic: "bank-events".into(),
                    partition: number as i32,
                    next_offset: partition.start as i64,
                    watermark: 0,
                    last_record: 0,
                });
                if (place.next_offset as usize) < partition.start {
                    return Err(Error::Lost {
                        source_name: "the topic".to_owned(),
                        problem: format!("offset {} is gone", place.next_offset),
                    });
                }
                places.push(place);
            }
            let written = self.written.subscribe();
            Ok(Box::new(TopicSource { topic: self.clone(), written, places, turn: 0 }) as _)
        }
        .boxed()
    }
}

impl Source for TopicSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async move {
            loop {
                self.written.borrow_and_update();
                let partitions = self.topic.partitions.lock().unwrap().clone();
                for _ in 0..partitions.len() {
                    self.turn = (self.turn + 1) % partitions.len();
                    let place = &mut self.places[self.turn];
                    let from = place.next_offset as usize;
                    let new: Vec<_> =
                        partitions[self.turn].records.iter().skip(from).take(7).collect();
                    if new.is_empty() {
                        continue;
                    }
                    let mut records = Vec::new();
                    for (offset, bytes) in (from..).zip(new) {
                        place.next_offset += 1;
                        match RecordedEvent::decode(bytes.clone()) {
                            Ok(event) if event.version == 0 && event.position > 0 => {
                                place.watermark = event.position;
                            }
                            _ => {
                                let at = format!("bank-events/{}@{offset}", place.partition);
                                let record = Record::new(bytes.clone(), Origin::Text(at));
                                records.push(Arc::new(record));
                            }
                        }
                    }
                    let watermarks = || self.places.iter().map(|place| place.watermark);
                    return Ok(Batch {
                        records: records.into(),
                        position: watermarks().min().unwrap_or(0),
                        head: watermarks().max().unwrap_or(0),
                        cursor: Cursor { log_position: 0, partitions: self.places.clone().into() },
                    });
                }
                let _ = self.written.changed().await;
            }
        }
        .boxed()
    }
}

// ---- Events -----------------------------------------------------------------------------------

pub fn usd(cents: i64) -> Money {
    money(cents, "USD")
}

pub fn money(minor: i64, currency: &str) -> Money {
    daybook_contract::money::from_minor(minor, currency).unwrap()
}

pub fn opened(owner: &str, initial: Money) -> Event {
    Event::AccountOpened(AccountOpened {
        owner_name: owner.to_owned(),
        initial_balance: Some(initial),
        opened_time: Some(Timestamp { seconds: START, nanos: 0 }),
    })
}

pub fn deposited(amount: Money) -> Event {
    Event::MoneyDeposited(MoneyDeposited {
        amount: Some(amount),
        description: "wages".to_owned(),
        method: MovementMethod::Transfer.into(),
    })
}

pub fn withdrawn(amount: Money) -> Event {
    Event::MoneyWithdrawn(MoneyWithdrawn {
        amount: Some(amount),
        description: "rent".to_owned(),
        method: MovementMethod::Cash.into(),
    })
}

pub fn closed() -> Event {
    Event::AccountClosed(AccountClosed {
        reason: "moved".to_owned(),
        closed_time: Some(Timestamp { seconds: START + 1, nanos: 0 }),
    })
}

impl Log {
    /// Appends a deposit as it was recorded before there were currencies.
    pub fn append_deposit_v1(&self, id: &str, amount_minor: i64) -> Bytes {
        let event = MoneyDepositedV1 { amount_minor, description: "old".to_owned() };
        let value = event.encode_to_vec();
        self.append_bytes(id, "MoneyDeposited", 1, "bank.v1.MoneyDepositedV1", value)
    }

    /// Appends a deposit as it was recorded before there were methods.
    pub fn append_deposit_v2(&self, id: &str, amount_minor: i64, currency: &str) -> Bytes {
        let event = MoneyDepositedV2 {
            amount_minor,
            currency_code: currency.to_owned(),
            description: "older".to_owned(),
        };
        let value = event.encode_to_vec();
        self.append_bytes(id, "MoneyDeposited", 2, "bank.v1.MoneyDepositedV2", value)
    }

    /// Appends an event that no projection knows.
    pub fn append_unknown(&self, id: &str) -> Bytes {
        self.append_bytes(id, "AccountFrozen", 1, "bank.v1.AccountFrozen", Vec::new())
    }
}

/// The decoded events of a log, in order.
pub fn decoded(log: &Log) -> Vec<(RecordedEvent, Event)> {
    let decode = |bytes: Bytes| {
        let record = RecordedEvent::decode(bytes).unwrap();
        let Some(recorded_event::Payload::Event(any)) = &record.payload else { panic!() };
        let value = any.value.clone().into();
        let event =
            <Event as EventSet<Account>>::decode(&record.event_name, record.event_version, value);
        let event = event.unwrap();
        (record, event)
    };
    log.events().into_iter().map(decode).collect()
}

// ---- Running ----------------------------------------------------------------------------------

pub fn settings(dir: &tempfile::TempDir) -> Settings {
    Settings {
        batch_size: 16,
        rebuild_batch_size: 50,
        waiting_rows: 30,
        waiting_streams: 7,
        ..Settings::new(dir.path())
    }
}

/// Runs projections over a source and a log.
pub fn run(
    dir: &tempfile::TempDir,
    source: &(impl SourceFactory + Clone),
    log: &Log,
    start: impl FnOnce(&Environment) -> Vec<Started>,
) -> Host {
    Host::open(settings(dir), Arc::new(source.clone()), Arc::new(log.clone()), start).unwrap()
}

/// Runs the projections of the bank over a log.
pub fn run_bank(dir: &tempfile::TempDir, log: &Log) -> Host {
    run(dir, log, log, daybook_query::projections::start_all)
}

pub fn handle<'a>(host: &'a Host, name: &str) -> &'a Handle {
    host.handles().iter().find(|handle| handle.name() == name).unwrap()
}

/// Waits until a projection is as it should be.
pub async fn until(
    host: &Host,
    name: &str,
    what: impl Fn(&ProjectionStatus) -> bool,
) -> ProjectionStatus {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = handle(host, name).status();
        if what(&status) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {status:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until all projections reflect the log up to a position.
pub async fn until_position(host: &Host, position: u64) {
    let names: HashSet<_> = host.handles().iter().map(Handle::name).collect();
    for name in names {
        until(host, name, |status| {
            status.position >= position && status.state() == ProjectionState::Live
        })
        .await;
    }
}

/// The position of the last event that was applied, which the log writes into its time.
pub fn last_event(status: &ProjectionStatus) -> i32 {
    status.last_event_time.map_or(0, |time| time.nanos)
}

/// The live file of a projection.
pub fn live_file(dir: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let pointer = std::fs::read_to_string(dir.path().join(format!("{name}.live"))).unwrap();
    dir.path().join(format!("{name}.g{}.db", pointer.trim()))
}

/// The live file of a projection, to be read.
pub fn reader(dir: &tempfile::TempDir, projection: &str) -> Connection {
    let file = live_file(dir, projection);
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// All rows of a table of a projection, as text, in order.
pub async fn dump(dir: &tempfile::TempDir, projection: &str, table: &str) -> Vec<String> {
    let reader = reader(dir, projection);
    let columns = "SELECT name FROM pragma_table_info(?)";
    let columns = select(&reader, columns, &[&table], |row| row.get::<_, String>(0)).unwrap();
    let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
    let sql = format!("SELECT {} FROM {table} ORDER BY 1", quoted.join(" || ' ' || "));
    select(&reader, &sql, &[], |row| row.get(0)).unwrap()
}

/// Asks for an answer that reflects the log up to a position, however slow the machine is.
pub fn reflecting(min_position: u64) -> ReadContext {
    let max_wait = Some(prost_types::Duration { seconds: 30, nanos: 0 });
    ReadContext { min_position, max_wait, ..Default::default() }
}
