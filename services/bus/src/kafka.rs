//! Kafka as a source.
//!
//! A reader owns its partitions by manual assignment and begins where its own cursor says: the
//! broker's consumer groups and offsets play no part. Its position moves with the events: it is the
//! last before the first that has not come. Where there is no event to wait for, because it is on a
//! topic that is not read or came before the cursor, it is the least watermark over all partitions.
//!
//! Anybody may write to a topic. What counts is what our store has signed with its header: a record
//! of another store, or an event that no store has signed, is dropped and counted in
//! `daybook_foreign_records_total`, since it would take the place of the true event with its
//! version. A record without the header that cannot be an event is handed on all the same, so that
//! the reader keeps it as evidence.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daybook_contract::daybook::v1::RecordedEvent;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use prost::Message as _;
use rdkafka::consumer::StreamConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::assignment;
use crate::envelope::Envelope;
use crate::partition::fnv1a_64;
use crate::reached::Reached;
use crate::record::{
    PARTITIONS_HEADER, STORE_ID_HEADER, believed_watermark, header, watermark_position,
};
use crate::settings::Kafka;
use crate::source::{Batch, Cursor, Error, Origin, PartitionCursor, Record, Source, SourceFactory};

/// How the Kafka source reads.
#[derive(Debug, Clone)]
pub struct KafkaSourceConfig {
    /// Where Kafka is.
    pub kafka: Kafka,
    /// The topics to read.
    pub topics: Vec<String>,
    /// The id of the store whose events are wanted; `None` as long as it is not known, or not
    /// known to be the one on the topics. Without it no source is opened; when it changes, the open
    /// ones end.
    pub store_id: watch::Receiver<Option<String>>,
    /// The most records in a batch.
    pub max_batch: usize,
    /// When nothing comes for so long although there is something, the source gives up, and the
    /// reader opens another.
    pub stall_timeout: Duration,
}

impl KafkaSourceConfig {
    /// The defaults, for these topics.
    pub fn new(
        kafka: Kafka,
        topics: Vec<String>,
        store_id: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { kafka, topics, store_id, max_batch: 2000, stall_timeout: Duration::from_secs(30) }
    }
}

/// Opens sources over Kafka.
#[derive(Debug, Clone)]
pub struct KafkaSourceFactory {
    config: KafkaSourceConfig,
}

impl KafkaSourceFactory {
    /// A factory for these topics.
    pub fn new(config: KafkaSourceConfig) -> Self {
        Self { config }
    }
}

impl SourceFactory for KafkaSourceFactory {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    /// A partition that the cursor does not know is read from its first record. When records have
    /// been deleted before that, they must be ones which the cursor's log position covers; else
    /// the source is lost as soon as it notices.
    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        let (config, cursor) = (self.config.clone(), cursor.clone());
        async move {
            let stall_timeout = config.stall_timeout;
            let store_id = config.store_id.borrow().clone();
            let store_id = store_id
                .ok_or_else(|| unavailable(&"the log does not say which store is on the topics; `daybook doctor` tells why publishing waits"))?;
            let reading = {
                let config = config.clone();
                spawn_blocking(move || assignment::open(&config, &cursor))
            };
            let opened = reading.await.map_err(|error| unavailable(&error))??;
            let reader = Reader::new(config, store_id, opened.log_position, opened.partitions);
            let source: Box<dyn Source> = Box::new(KafkaSource {
                consumer: Some(Arc::new(opened.consumer)),
                reader,
                failed: None,
                check: None,
                check_at: Instant::now() + stall_timeout,
                offsets_at_check: Vec::new(),
                behind_at_check: false,
            });
            Ok(source)
        }
        .boxed()
    }
}

/// Reads the assigned partitions.
struct KafkaSource {
    /// Always there, until this is dropped.
    consumer: Option<Arc<StreamConsumer>>,
    reader: Reader,
    /// What came after the batch that was returned last.
    failed: Option<Error>,
    /// Looks whether there is something that does not come.
    check: Option<JoinHandle<Result<bool, KafkaError>>>,
    check_at: Instant,
    offsets_at_check: Vec<i64>,
    /// The last check found something. It may have been written just then, so the next one decides.
    behind_at_check: bool,
}

/// What has been read, and how far that brings the reader.
struct Reader {
    config: KafkaSourceConfig,
    /// The store whose events are read.
    store_id: String,
    /// For each topic its partitions.
    partitions: HashMap<Arc<str>, Vec<Partition>>,
    records: Vec<Arc<Record>>,
    /// The position that the cursor came with.
    begin: u64,
    reached: Reached,
    /// The position of the last batch.
    returned: Option<u64>,
    head: u64,
}

/// A partition under way.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub next_offset: i64,
    pub watermark: u64,
    /// Records before the first have been deleted, and it is not proved yet that the reader knows
    /// them.
    pub unproved: bool,
    /// The record before `next_offset`, as the cursor knows it, is still to be seen.
    pub unconfirmed: bool,
    /// The record before `next_offset`.
    pub last_record: LastRecord,
    /// A record of another store has been reported.
    pub foreign_seen: bool,
    /// An event without a store has been reported.
    pub unsigned_seen: bool,
}

/// A record, as far as it must be known again. Few are ever hashed.
#[derive(Debug, Clone)]
pub(crate) enum LastRecord {
    Payload(Bytes),
    Hash(u64),
}

impl LastRecord {
    fn hash(&mut self) -> u64 {
        if let Self::Payload(payload) = self {
            *self = Self::Hash(fnv1a_64(payload).max(1));
        }
        match self {
            Self::Hash(hash) => *hash,
            Self::Payload(_) => unreachable!("hashed just now"),
        }
    }
}

impl Source for KafkaSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.reader.config.store_id.borrow().as_ref() != Some(&self.reader.store_id) {
                return Err(another_store());
            }
            loop {
                self.drain()?;
                if let Some(batch) = self.reader.batch() {
                    return Ok(batch);
                }
                if let Some(error) = self.failed.take() {
                    return Err(error);
                }
                self.wait().await?;
            }
        }
        .boxed()
    }
}

impl KafkaSource {
    /// Takes what is there. What went wrong after some records is kept for the next call.
    fn drain(&mut self) -> Result<(), Error> {
        let consumer = self.consumer.as_ref().expect("it is there until the drop");
        let mut stream = consumer.stream();
        while self.failed.is_none() && self.reader.records.len() < self.reader.config.max_batch {
            let Some(Some(result)) = stream.next().now_or_never() else { break };
            self.failed = self.reader.take(result).err();
        }
        Ok(())
    }

    /// Waits for the next record. Cancel-safe: a record that comes is taken at once.
    async fn wait(&mut self) -> Result<(), Error> {
        let consumer = self.consumer.as_ref().expect("it is there until the drop");
        tokio::select! {
            result = consumer.recv() => return self.reader.take(result),
            () = self.reader.store_changed() => return Err(another_store()),
            () = sleep_until(self.check_at), if self.check.is_none() => {}
            result = finished(&mut self.check) => {
                self.check = None;
                self.check_at = Instant::now() + self.reader.config.stall_timeout;
                let is_behind = result.map_err(|error| unavailable(&error))?
                    && self.reader.offsets() == self.offsets_at_check;
                if is_behind && self.behind_at_check {
                    return Err(unavailable(&format!(
                        "there are records that have not come for {:?}",
                        self.reader.config.stall_timeout
                    )));
                }
                self.behind_at_check = is_behind;
                return Ok(());
            }
        }
        let offsets = self.reader.offsets();
        if offsets == self.offsets_at_check {
            // Nothing has come since the last check.
            let (consumer, expected) = (Arc::clone(consumer), self.reader.places());
            self.check = Some(spawn_blocking(move || assignment::is_behind(&consumer, &expected)));
        } else {
            self.check_at = Instant::now() + self.reader.config.stall_timeout;
            self.behind_at_check = false;
        }
        self.offsets_at_check = offsets;
        Ok(())
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        // Closing a consumer waits for its threads.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(consumer));
        }
    }
}

impl Reader {
    fn new(
        config: KafkaSourceConfig,
        store_id: String,
        begin: u64,
        partitions: HashMap<Arc<str>, Vec<Partition>>,
    ) -> Self {
        let mut reader = Self {
            config,
            store_id,
            partitions,
            records: Vec::new(),
            begin,
            reached: Reached::new(begin),
            returned: None,
            head: begin,
        };
        reader.advance_to_watermarks();
        reader
    }

    /// Waits until the log is another store than the one that is read.
    async fn store_changed(&mut self) {
        let ours = Some(&self.store_id);
        if self.config.store_id.wait_for(|now| now.as_ref() != ours).await.is_err() {
            // Nobody asks any more, so it stays as it is.
            std::future::pending().await
        }
    }

    /// Takes one record from Kafka.
    fn take(&mut self, result: Result<BorrowedMessage<'_>, KafkaError>) -> Result<(), Error> {
        let message = match result {
            Ok(message) => message,
            Err(error) => return trouble(&error),
        };
        let index = usize::try_from(message.partition()).ok();
        let topic = self.partitions.get_key_value(message.topic()).map(|found| found.0.clone());
        let partitions = self.partitions.get_mut(message.topic());
        let count = partitions.as_ref().map_or(0, |partitions| partitions.len());
        let Some((topic, partition)) = topic
            .zip(partitions.zip(index))
            .and_then(|(topic, (all, index))| Some((topic, all.get_mut(index)?)))
        else {
            return Ok(());
        };
        if partition.unconfirmed {
            partition.confirm(&message)?;
        }
        if message.offset() < partition.next_offset {
            return Ok(());
        }
        let headers = message.headers();
        let store_id = header(headers, STORE_ID_HEADER);
        let payload = message.payload().unwrap_or_default();
        let is_ours = store_id == Some(&self.store_id);
        if is_ours && watermark_position(payload).is_some() {
            let Some(position) = believed_watermark(&message) else {
                partition.took(&message, Bytes::copy_from_slice(payload));
                return Ok(());
            };
            let known = header(headers, PARTITIONS_HEADER).and_then(|text| text.parse().ok());
            if known.is_some_and(|known: usize| known > count) {
                // Events may be in a partition that is not read here: the watermark, read again
                // with all partitions, is right.
                return Err(unavailable(&format!(
                    "topic {} has more than {count} partitions now",
                    message.topic()
                )));
            }
            partition.prove(position, self.begin, &message)?;
            partition.took(&message, Bytes::copy_from_slice(payload));
            partition.watermark = partition.watermark.max(position);
            self.head = self.head.max(position);
            self.advance_to_watermarks();
            return Ok(());
        }
        let bytes = Bytes::copy_from_slice(payload);
        let (number, offset) = (message.partition(), message.offset());
        let record = Record::new(bytes, Origin::Kafka { topic, partition: number, offset });
        if is_ours && let Some(Envelope { position, .. }) = record.event() {
            // The events before it on this partition.
            partition.prove(position.saturating_sub(1), self.begin, &message)?;
            self.head = self.head.max(*position);
            self.reached.saw(*position);
        }
        partition.took(&message, record.bytes.clone());
        if !is_ours && (store_id.is_some() || is_event(payload)) {
            metrics::counter!("daybook_foreign_records_total", "topic" => message.topic().to_owned())
                .increment(1);
            partition.report_foreign(&origin(&message), store_id);
            return Ok(());
        }
        self.records.push(Arc::new(record));
        Ok(())
    }

    /// Nothing is missing up to the least watermark.
    fn advance_to_watermarks(&mut self) {
        let least = self.partitions.values().flatten().map(|p| p.watermark).min().unwrap_or(0);
        self.reached.nothing_missing(least);
        self.head = self.head.max(self.reached.position());
    }

    /// What there is to hand on: records, or a new position.
    fn batch(&mut self) -> Option<Batch> {
        let position = self.reached.position();
        if self.records.is_empty() && self.returned == Some(position) {
            return None;
        }
        self.returned = Some(position);
        let cursor = Cursor { log_position: position, partitions: self.places().into() };
        let records = std::mem::take(&mut self.records).into();
        Some(Batch { records, position, head: self.head, cursor })
    }

    fn places(&mut self) -> Vec<PartitionCursor> {
        let mut places = Vec::new();
        for (topic, partitions) in &mut self.partitions {
            for (partition, state) in (0..).zip(partitions) {
                // What is not proved yet must be proved by the next source too.
                if !state.unproved {
                    places.push(PartitionCursor {
                        topic: Arc::clone(topic),
                        partition,
                        next_offset: state.next_offset,
                        watermark: state.watermark,
                        last_record: state.last_record.hash(),
                    });
                }
            }
        }
        places
    }

    fn offsets(&self) -> Vec<i64> {
        self.partitions.values().flatten().map(|partition| partition.next_offset).collect()
    }
}

impl Partition {
    /// A partition whose first record is this one.
    pub fn from_first(next_offset: i64) -> Self {
        Self {
            next_offset,
            watermark: 0,
            unproved: next_offset > 0,
            unconfirmed: false,
            last_record: LastRecord::Hash(0),
            foreign_seen: false,
            unsigned_seen: false,
        }
    }

    /// A partition that has been read up to a place. `unproved` when the record before is gone.
    pub fn from_place(place: &PartitionCursor, unproved: bool) -> Self {
        Self {
            watermark: place.watermark,
            unproved,
            unconfirmed: place.last_record != 0 && !unproved,
            last_record: LastRecord::Hash(place.last_record),
            ..Self::from_first(place.next_offset)
        }
    }

    /// Sees whether the record before the place is the one that was there. Brokers that lose their
    /// data get the events again, at other offsets.
    fn confirm(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Error> {
        let found = LastRecord::Payload(Bytes::copy_from_slice(message.payload().unwrap_or(b"")));
        if message.offset() != self.next_offset - 1
            || found.clone().hash() != self.last_record.hash()
        {
            return Err(lost(format!(
                "{} is not the record that was there before offset {}",
                origin(message),
                self.next_offset
            )));
        }
        self.unconfirmed = false;
        Ok(())
    }

    /// A record has been taken.
    fn took(&mut self, message: &BorrowedMessage<'_>, payload: Bytes) {
        self.next_offset = message.offset() + 1;
        self.last_record = LastRecord::Payload(payload);
    }

    /// Sees whether the reader knows what was deleted before the first record: at most the events
    /// up to `deleted`, since the records of a partition come in order of position, and what was
    /// repeated comes again later.
    fn prove(
        &mut self,
        deleted: u64,
        known: u64,
        message: &BorrowedMessage<'_>,
    ) -> Result<(), Error> {
        if self.unproved && deleted > known {
            return Err(lost(format!(
                "records before {} have been deleted, with events up to position {deleted}; the \
                 reader knows those up to {known}",
                origin(message)
            )));
        }
        self.unproved = false;
        Ok(())
    }

    /// Reports a dropped record, the first of its kind: somebody may write many.
    fn report_foreign(&mut self, origin: &str, store_id: Option<&str>) {
        let seen = match store_id {
            Some(_) => &mut self.foreign_seen,
            None => &mut self.unsigned_seen,
        };
        if std::mem::replace(seen, true) {
            return;
        }
        match store_id {
            Some(store_id) => {
                warn!(%origin, store_id, "dropped a record of another store; more are not reported");
            }
            None => {
                warn!(%origin, "dropped an event without a store id; more are not reported");
            }
        }
    }
}

/// What an error of the consumer means. Most of them are news about connections, which it mends
/// itself.
fn trouble(error: &KafkaError) -> Result<(), Error> {
    use RDKafkaErrorCode::{
        AllBrokersDown, AutoOffsetReset, BrokerTransportFailure, OffsetOutOfRange,
        OperationTimedOut, RequestTimedOut, Resolve,
    };
    match error.rdkafka_error_code() {
        Some(AutoOffsetReset | OffsetOutOfRange) => {
            Err(lost(format!("an offset is not there any more: {error}")))
        }
        Some(BrokerTransportFailure | OperationTimedOut | RequestTimedOut | Resolve) => {
            debug!(%error, "the consumer has a problem");
            Ok(())
        }
        // A new consumer begins when all partitions have a leader. To let this one go on while a
        // broker starts is a danger: librdkafka 2.12 reads memory that it never wrote when a broker
        // knows some new leaders and others not yet (confluentinc/librdkafka#5280).
        Some(AllBrokersDown) => Err(unavailable(&"no broker answers")),
        _ => Err(unavailable(error)),
    }
}

/// Whether a reader might take these bytes for an event or a watermark. No bytes at all are an
/// empty message, and nobody's event.
fn is_event(payload: &[u8]) -> bool {
    !payload.is_empty() && RecordedEvent::decode(payload).is_ok()
}

fn origin(message: &BorrowedMessage<'_>) -> String {
    format!("{}/{}@{}", message.topic(), message.partition(), message.offset())
}

/// Waits for a check, if there is one.
async fn finished(
    check: &mut Option<JoinHandle<Result<bool, KafkaError>>>,
) -> Result<bool, KafkaError> {
    match check {
        Some(handle) => handle.await.unwrap_or(Err(KafkaError::Canceled)),
        None => std::future::pending().await,
    }
}

fn another_store() -> Error {
    unavailable(&"another store is to be read now, or none")
}

pub(crate) fn unavailable(problem: &impl ToString) -> Error {
    Error::Unavailable { source_name: "Kafka".to_owned(), problem: problem.to_string() }
}

pub(crate) fn lost(problem: String) -> Error {
    Error::Lost { source_name: "Kafka".to_owned(), problem }
}
