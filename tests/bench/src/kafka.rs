//! Kafka with nothing around it: the ceiling of what publishes and consumes.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use daybook_contract::bank::v1::DepositRequest;
use daybook_testing::unique;
use prost::Message as _;
use rdkafka::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use rusqlite::Connection;
use tokio::sync::oneshot;

/// The partitions of a topic, as many as daybook makes.
const PARTITIONS: i32 = 1;

/// The records that a broker gets before it is measured.
const WARM_UP: u64 = 300_000;

/// How many records are written as rows at once at most, and how long they gather.
const BATCH: usize = 4_000;
const GATHERED: Duration = Duration::from_millis(500);

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a topic with as many partitions as those of daybook.
pub async fn make_topic(brokers: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create()?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let made = admin.create_topics(&[new], &AdminOptions::new()).await?;
    let failed = made.into_iter().find_map(Result::err);
    ensure!(failed.is_none(), "the topic cannot be made: {failed:?}");
    let began = Instant::now();
    let is_there = || {
        let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE)?;
        let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        let led = partitions.iter().all(|partition| partition.leader() >= 0);
        anyhow::Ok(led && partitions.len() == PARTITIONS as usize)
    };
    while !is_there()? {
        ensure!(began.elapsed() < PATIENCE, "the new topic has no leaders");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Lets a broker write and hand out some records, so that its code is compiled before it matters.
pub async fn warm_up(brokers: &str) -> Result<()> {
    let topic = unique("bench-warm-up");
    make_topic(brokers, &topic).await?;
    let mut sink = Sink::open(brokers, &topic)?;
    for first in (0..WARM_UP).step_by(5_000) {
        let mut are_kept = sink.send((first..first + 5_000).map(|number| {
            let mut content = vec![0x5a; 400];
            content[..8].copy_from_slice(&number.to_le_bytes());
            content
        }));
        // `flush` looks every 100 ms, which would be most of the warm-up.
        let began = Instant::now();
        while are_kept || sink.producer.in_flight_count() > 0 {
            ensure!(began.elapsed() < PATIENCE, "the broker does not take what is sent to it");
            std::thread::sleep(Duration::from_millis(1));
            are_kept = sink.send([]);
        }
    }
    Reading::begin(brokers, &topic)?.rate(WARM_UP)?;
    let admin: AdminClient<DefaultClientContext> = client(brokers).create()?;
    admin.delete_topics(&[&topic], &AdminOptions::new()).await?;
    Ok(())
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("socket.nagle.disable", "true");
    config
}

/// The records on the way to the broker with which more of them wait, as in daybook: with as many
/// for a partition librdkafka takes a processor to wait for their arrival.
const UNDER_WAY: i32 = 5;

/// After so many at once, the next ones gather for so long from then on, as in daybook.
const GATHER: [(usize, Duration); 2] =
    [(300, Duration::from_millis(50)), (32, Duration::from_millis(20))];

/// A producer with the settings of daybook's, which nobody waits for.
pub struct Sink {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    waiting: Vec<Vec<u8>>,
    sent_at: Instant,
    sent_count: usize,
}

impl Sink {
    /// Opens it.
    pub fn open(brokers: &str, topic: &str) -> Result<Self> {
        let producer = client(brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("linger.ms", "1")
            .set("queue.buffering.max.kbytes", "65536")
            .create()?;
        let (topic, sent_at) = (topic.to_owned(), Instant::now());
        Ok(Self { producer, topic, waiting: Vec::new(), sent_at, sent_count: 0 })
    }

    /// Hands records over, or keeps them for the next call. Says whether some are kept.
    pub fn send(&mut self, contents: impl IntoIterator<Item = Vec<u8>>) -> bool {
        self.waiting.extend(contents);
        let gather = GATHER.into_iter().find(|(records, _)| self.sent_count >= *records);
        let gathers = gather.is_some_and(|(_, pause)| self.sent_at.elapsed() < pause);
        if self.waiting.is_empty() || gathers || self.producer.in_flight_count() >= UNDER_WAY {
            return !self.waiting.is_empty();
        }
        (self.sent_at, self.sent_count) = (Instant::now(), self.waiting.len());
        for content in self.waiting.drain(..) {
            let key = &content[..content.len().min(16)];
            let mut record =
                BaseRecord::<[u8], [u8]>::to(&self.topic).key(key).payload(&content[..]);
            while let Err((_, back)) = self.producer.send(record) {
                record = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        false
    }
}

/// Reads the topics of a prefix from their beginning.
pub struct Reading {
    consumer: BaseConsumer,
}

impl Reading {
    /// Begins with the first record of every partition.
    pub fn begin(brokers: &str, prefix: &str) -> Result<Self> {
        let consumer: BaseConsumer = client(brokers)
            .set("group.id", "daybook-bench")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("check.crcs", "true")
            .set("queued.min.messages", "20000")
            .create()?;
        let metadata = consumer.fetch_metadata(None, PATIENCE)?;
        let mut partitions = TopicPartitionList::new();
        for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)) {
            for partition in topic.partitions() {
                let (topic, partition) = (topic.name(), partition.id());
                partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        ensure!(partitions.count() > 0, "there are no topics {prefix}*");
        consumer.assign(&partitions)?;
        Ok(Self { consumer })
    }

    /// The rate at which so many records are read, from the first on, and nothing done with them.
    pub fn rate(&self, records: u64) -> Result<f64> {
        let mut began = Instant::now();
        let mut read = 0;
        while read < records {
            ensure!(began.elapsed() < PATIENCE, "there are {read} records, not {records}");
            let Some(record) = self.consumer.poll(Duration::from_millis(100)) else { continue };
            record.context("reading from Kafka")?;
            if read == 0 {
                began = Instant::now();
            }
            read += 1;
        }
        Ok(records as f64 / began.elapsed().as_secs_f64())
    }
}

/// Follows a topic of deposits, and tells who waits for one that it has come. Deposits are known by
/// their units.
#[derive(Default)]
pub struct Arrivals {
    awaited: Mutex<HashMap<i64, oneshot::Sender<()>>>,
}

impl Arrivals {
    /// Begins with the first record, until nobody holds it any more.
    pub fn follow(brokers: &str, topic: &str) -> Result<Arc<Self>> {
        let reading = Reading::begin(brokers, topic)?;
        let arrivals = Arc::new(Self::default());
        let weak = Arc::downgrade(&arrivals);
        std::thread::spawn(move || {
            while let Some(arrivals) = weak.upgrade() {
                let record = reading.consumer.poll(Duration::from_millis(100));
                let Some(Ok(record)) = record else { continue };
                let deposit = DepositRequest::decode(record.payload().unwrap_or_default());
                let units = deposit.ok().and_then(|deposit| Some(deposit.amount?.units));
                let awaited = units.and_then(|units| arrivals.awaited().remove(&units));
                // Who has left need not be told.
                let _ = awaited.map(|awaited| awaited.send(()));
            }
        });
        Ok(arrivals)
    }

    /// Awaits the deposit of so many units, which is not sent yet.
    pub fn expect(&self, units: i64) -> oneshot::Receiver<()> {
        let (arrived, has_arrived) = oneshot::channel();
        self.awaited().insert(units, arrived);
        has_arrived
    }

    fn awaited(&self) -> std::sync::MutexGuard<'_, HashMap<i64, oneshot::Sender<()>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a topic as a process of its own, until standard input ends. With a directory it also writes
/// what projections of deposits would have to.
pub fn consume(brokers: &str, topic: &str, directory: Option<&Path>) -> Result<()> {
    let reading = Reading::begin(brokers, topic)?;
    let mut rows = directory.map(Rows::open).transpose()?;
    println!("reading");
    std::thread::spawn(move || {
        loop {
            let until = Instant::now() + GATHERED;
            let mut deposits = Vec::new();
            while deposits.len() < BATCH
                && let left = until.saturating_duration_since(Instant::now())
                && !left.is_zero()
            {
                let Some(Ok(record)) = reading.consumer.poll(left) else { continue };
                if rows.is_some() {
                    deposits.push(DepositRequest::decode(record.payload().unwrap_or_default()));
                }
            }
            let deposits: Result<Vec<_>, _> = deposits.into_iter().collect();
            let written = deposits.map_err(Into::into).and_then(|deposits| match &mut rows {
                Some(rows) => rows.write(&deposits),
                None => Ok(()),
            });
            if let Err(error) = written {
                eprintln!("the rows are not written: {error:#}");
                std::process::exit(1);
            }
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The least that projections of deposits write: a row for each, and one for each account that
/// changes with it.
struct Rows(Connection);

impl Rows {
    fn open(directory: &Path) -> Result<Self> {
        let connection = Connection::open(directory.join("rows.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE deposits (number INTEGER PRIMARY KEY, account TEXT, units INTEGER);
             CREATE TABLE balances (account TEXT PRIMARY KEY, units INTEGER) WITHOUT ROWID;",
        )?;
        Ok(Self(connection))
    }

    fn write(&mut self, deposits: &[DepositRequest]) -> Result<()> {
        let transaction = self.0.transaction()?;
        for deposit in deposits {
            let row = (&deposit.account_id, deposit.amount.as_ref().map(|amount| amount.units));
            let insert = "INSERT INTO deposits (account, units) VALUES (?, ?)";
            transaction.prepare_cached(insert)?.execute(row)?;
            let change = "INSERT INTO balances (account, units) VALUES (?, ?)
                          ON CONFLICT DO UPDATE SET units = units + excluded.units";
            transaction.prepare_cached(change)?.execute(row)?;
        }
        transaction.commit()?;
        Ok(())
    }
}
