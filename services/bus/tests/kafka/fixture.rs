//! A log in memory, a publisher over it, and what must hold on the topics afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use daybook_bus::kafka::{KafkaSourceConfig, KafkaSourceFactory};
use daybook_bus::outbox::{BoxError, Outbox};
use daybook_bus::source::{Batch, Cursor, Error, Source, SourceFactory};
use daybook_bus::{Kafka, Publisher, PublisherConfig, PublisherStatus, Topics};
use daybook_contract::daybook::v1::recorded_event::Payload;
use daybook_contract::daybook::v1::{EventMetadata, RawPayload, RecordedEvent};
use daybook_testing::{TopicReader, TopicRecord, eventually, unique};
use prost::Message;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A guard against hanging; nothing takes so long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The aggregate whose events go to the first topic of the tests; others go to the second.
pub const ACCOUNT: &str = "bank.account";

/// The partitions of a topic; more than a topic gets by itself.
pub const PARTITIONS: u32 = 12;

/// An event log in memory.
pub struct MemoryLog {
    store_id: String,
    events: Mutex<Vec<Bytes>>,
    versions: Mutex<HashMap<String, u64>>,
    head: watch::Sender<u64>,
    mark: Mutex<u64>,
    /// The last position that a publisher has read.
    read: Mutex<u64>,
}

impl MemoryLog {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            store_id: Uuid::now_v7().to_string(),
            events: Mutex::default(),
            versions: Mutex::default(),
            head: watch::Sender::new(0),
            mark: Mutex::default(),
            read: Mutex::default(),
        })
    }

    /// What a restored backup is: the same store as it was after so many events.
    pub fn copy(&self, end: u64, mark: u64) -> Arc<Self> {
        let events: Vec<_> = self.events().into_iter().take(end as usize).collect();
        let mut versions = HashMap::new();
        for event in events.iter().map(|bytes| RecordedEvent::decode(bytes.clone()).unwrap()) {
            let stream = format!("{}-{}", event.aggregate_type, event.aggregate_id);
            versions.insert(stream, event.version);
        }
        Arc::new(Self {
            store_id: self.store_id.clone(),
            events: Mutex::new(events),
            versions: Mutex::new(versions),
            head: watch::Sender::new(end),
            mark: Mutex::new(mark),
            read: Mutex::default(),
        })
    }

    /// Records an event; returns its position.
    pub fn append(&self, aggregate_type: &str, aggregate_id: &str) -> u64 {
        let mut events = self.events.lock().unwrap();
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry(format!("{aggregate_type}-{aggregate_id}")).or_default();
        *version += 1;
        let position = events.len() as u64 + 1;
        let event = RecordedEvent {
            event_id: Uuid::now_v7().to_string(),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
            version: *version,
            position,
            event_name: "SomethingHappened".to_owned(),
            event_version: 1,
            recorded_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5_000_000,
            }),
            metadata: Some(EventMetadata { actor: "tester".to_owned(), ..Default::default() }),
            payload: Some(Payload::Raw(RawPayload {
                content_type: "application/octet-stream".to_owned(),
                data: Bytes::from(vec![7; 100]),
            })),
        };
        events.push(event.encode_to_vec().into());
        self.head.send_replace(position);
        position
    }

    /// Records events of some accounts in turn.
    pub fn append_accounts(&self, accounts: usize, events: usize) {
        for n in 0..events {
            self.append(ACCOUNT, &format!("a{}", n % accounts));
        }
    }

    pub fn events(&self) -> Vec<Bytes> {
        self.events.lock().unwrap().clone()
    }

    pub fn end(&self) -> u64 {
        *self.head.borrow()
    }

    pub fn mark(&self) -> u64 {
        *self.mark.lock().unwrap()
    }

    /// How far it has been read to be published.
    pub fn read(&self) -> u64 {
        *self.read.lock().unwrap()
    }

    /// What a crash does: an older mark is found.
    pub fn forget_mark(&self, mark: u64) {
        *self.mark.lock().unwrap() = mark;
    }
}

impl Outbox for MemoryLog {
    fn store_id(&self) -> String {
        self.store_id.clone()
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    async fn read_after(&self, position: u64, limit: usize) -> Result<Vec<Bytes>, BoxError> {
        let events = self.events.lock().unwrap();
        let found: Vec<_> = events.iter().skip(position as usize).take(limit).cloned().collect();
        let mut read = self.read.lock().unwrap();
        *read = read.max(position + found.len() as u64);
        Ok(found)
    }

    async fn published(&self) -> Result<u64, BoxError> {
        Ok(self.mark())
    }

    async fn set_published(&self, position: u64) -> Result<(), BoxError> {
        let mut mark = self.mark.lock().unwrap();
        *mark = position.max(*mark);
        Ok(())
    }
}

/// Two topics of a test.
pub struct World {
    pub bootstrap: String,
    pub bank: String,
    pub raw: String,
    pub log: Arc<MemoryLog>,
}

impl World {
    pub fn new(bootstrap: &str) -> Self {
        let (bank, raw) = (unique("bank-events"), unique("raw-events"));
        Self { bootstrap: bootstrap.to_owned(), bank, raw, log: MemoryLog::new() }
    }

    /// Over a broker that only acts as one, into which faults can be put.
    pub fn mocked() -> (MockCluster<'static, DefaultProducerContext>, Self) {
        let cluster = MockCluster::new(1).unwrap();
        let world = Self::new(&cluster.bootstrap_servers());
        cluster.create_topic(&world.bank, 2, 1).unwrap();
        cluster.create_topic(&world.raw, 1, 1).unwrap();
        (cluster, world)
    }

    pub fn publisher_config(&self) -> PublisherConfig {
        let mut config = PublisherConfig::new(Kafka::new(&self.bootstrap));
        config.topic_check_interval = Duration::from_millis(200);
        config.partitions = PARTITIONS;
        config
    }

    pub fn publish(&self) -> Publishing {
        self.publish_with(self.publisher_config())
    }

    pub fn publish_with(&self, config: PublisherConfig) -> Publishing {
        let topics = Topics::new([(ACCOUNT, self.bank.as_str())], &self.raw);
        let publisher = Publisher::new(config, Arc::clone(&self.log), topics);
        let status = publisher.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // A dropped sender is a wish to stop too.
            let _ = stopped.await;
        };
        Publishing { status, stop, task: tokio::spawn(publisher.run(shutdown)) }
    }

    pub fn source_config(&self) -> KafkaSourceConfig {
        let topics = vec![self.bank.clone(), self.raw.clone()];
        let store_id = watch::Sender::new(Some(self.log.store_id())).subscribe();
        KafkaSourceConfig::new(Kafka::new(&self.bootstrap), topics, store_id)
    }

    pub fn factory(&self) -> KafkaSourceFactory {
        KafkaSourceFactory::new(self.source_config())
    }

    pub async fn open(&self, cursor: &Cursor) -> Result<Box<dyn Source>, Error> {
        self.factory().open(cursor).await
    }

    /// What is on both topics.
    pub async fn records(&self) -> Vec<(String, TopicRecord)> {
        let reader = TopicReader::new(&self.bootstrap);
        let mut all = Vec::new();
        for topic in [&self.bank, &self.raw] {
            let records = reader.read_all(topic).await.unwrap();
            all.extend(records.into_iter().map(|record| (topic.clone(), record)));
        }
        all
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().unwrap()
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let results = self.admin().create_topics([&new], &AdminOptions::new()).await.unwrap();
        results.into_iter().for_each(|result| assert!(result.is_ok(), "{result:?}"));
    }
}

/// A publisher under way.
pub struct Publishing {
    pub status: watch::Receiver<PublisherStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Waits until everything up to here is published.
    pub async fn reaches(&mut self, position: u64) {
        let wanted = |status: &PublisherStatus| status.published_position >= position;
        tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.unwrap().unwrap();
    }

    /// Waits until its problem says this.
    pub async fn has_the_problem(&mut self, text: &str) -> String {
        let wanted = |status: &PublisherStatus| {
            status.problem.as_ref().is_some_and(|problem| problem.contains(text))
        };
        let status = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.unwrap();
        status.unwrap().problem.clone().unwrap()
    }

    /// Waits until it has a problem.
    pub async fn has_problem(&mut self) -> String {
        let wanted = |status: &PublisherStatus| status.problem.is_some();
        let status = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.unwrap();
        status.unwrap().problem.clone().unwrap()
    }

    /// Waits until it has none.
    pub async fn is_well(&mut self) {
        let wanted = |status: &PublisherStatus| status.connected && status.problem.is_none();
        tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.unwrap().unwrap();
    }

    /// Lets it finish.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }

    /// Takes it away in the middle of whatever it does.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A record as an event; `None` for a watermark.
pub fn event_of(record: &TopicRecord) -> Option<RecordedEvent> {
    RecordedEvent::decode(record.payload.clone()).ok().filter(|event| !event.event_id.is_empty())
}

/// The positions of the events on the topics.
pub fn positions(records: &[(String, TopicRecord)]) -> BTreeSet<u64> {
    records.iter().filter_map(|(_, record)| Some(event_of(record)?.position)).collect()
}

/// What must always hold on the topics: events up to `complete` are all there; the events of a
/// stream come in order, apart from repetitions; before a watermark everything up to it is there.
pub fn check(records: &[(String, TopicRecord)], complete: u64) {
    let there = positions(records);
    for position in 1..=complete {
        assert!(there.contains(&position), "position {position} of {complete} is missing");
    }
    let mut versions = HashMap::<String, u64>::new();
    for (_, record) in records {
        if let Some(event) = event_of(record) {
            let seen = versions.entry(record.key.clone().unwrap()).or_default();
            assert!(event.version <= *seen + 1, "{:?} skips version {}", record.key, *seen + 1);
            *seen = event.version.max(*seen);
        }
    }
    check_watermarks(records);
}

/// Before a watermark everything up to it is there, unless it stands where it is not believed.
pub fn check_watermarks(records: &[(String, TopicRecord)]) {
    let mut partitions = BTreeMap::<(String, i32), Vec<&TopicRecord>>::new();
    for (topic, record) in records {
        partitions.entry((topic.clone(), record.partition)).or_default().push(record);
    }
    for ((topic, partition), records) in partitions {
        let all: BTreeSet<_> =
            records.iter().filter_map(|r| event_of(r)).map(|event| event.position).collect();
        let mut seen = BTreeSet::new();
        for record in records {
            match event_of(record) {
                Some(event) => {
                    seen.insert(event.position);
                }
                None if record.headers["daybook_after"].parse::<i64>().unwrap()
                    >= record.offset => {}
                None => {
                    let watermark = RecordedEvent::decode(record.payload.clone()).unwrap().position;
                    let before: BTreeSet<_> = all.range(..=watermark).copied().collect();
                    assert!(
                        before.is_subset(&seen),
                        "{topic}/{partition}@{}: watermark {watermark} comes too early",
                        record.offset
                    );
                }
            }
        }
    }
}

/// Reads until a position, checking the law of sources; returns the events by position and the
/// last batch.
pub async fn read_until(
    source: &mut dyn Source,
    position: u64,
    seen: &mut BTreeSet<u64>,
) -> Result<Batch, Error> {
    let mut last = 0;
    loop {
        let batch = tokio::time::timeout(PATIENCE, source.next()).await.expect("a batch comes")?;
        assert!(batch.position >= last, "the position went back");
        assert!(batch.head >= batch.position);
        last = batch.position;
        for record in batch.records.iter() {
            if let Ok(event) = RecordedEvent::decode(record.bytes.clone()) {
                seen.insert(event.position);
            }
        }
        for position in 1..=batch.position {
            assert!(seen.contains(&position), "{position} of {} is missing", batch.position);
        }
        if batch.position >= position {
            return Ok(batch);
        }
    }
}

/// Opens a source, waiting until that is possible.
pub async fn open_when_ready(world: &World, cursor: &Cursor) -> Box<dyn Source> {
    open_with(world.source_config(), cursor).await
}

/// Opens a source that is set up in its own way, waiting until that is possible.
pub async fn open_with(config: KafkaSourceConfig, cursor: &Cursor) -> Box<dyn Source> {
    let factory = KafkaSourceFactory::new(config);
    eventually(PATIENCE, || async { factory.open(cursor).await.ok() }).await
}
