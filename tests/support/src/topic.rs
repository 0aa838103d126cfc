//! What is on a topic, for assertions.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

/// How long the broker may take to hand out what it has.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Reads whole topics.
#[derive(Debug, Clone)]
pub struct TopicReader {
    bootstrap: String,
}

/// A record as it is on the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The key, as text.
    pub key: Option<String>,
    /// The headers, as text.
    pub headers: BTreeMap<String, String>,
    /// The payload; empty when there is none.
    pub payload: Bytes,
}

impl TopicReader {
    /// A reader of the topics of this broker.
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned() }
    }

    /// The number of partitions of a topic; 0 when there is no such topic.
    pub async fn partition_count(&self, topic: &str) -> Result<usize> {
        let (this, topic) = (self.clone(), topic.to_owned());
        spawn_blocking(move || Ok(partitions(&this.consumer()?, &topic)?.len())).await?
    }

    /// Every record that is on the topic now, in order of partition and offset.
    pub async fn read_all(&self, topic: &str) -> Result<Vec<TopicRecord>> {
        let (this, topic) = (self.clone(), topic.to_owned());
        spawn_blocking(move || this.read_all_blocking(&topic)).await?
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "daybook-testing")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "20")
            .create()?)
    }

    fn read_all_blocking(&self, topic: &str) -> Result<Vec<TopicRecord>> {
        let consumer = self.consumer()?;
        let partitions = partitions(&consumer, topic)?;
        let firsts = offsets(&consumer, topic, &partitions, Offset::Beginning)?;
        let mut ends = offsets(&consumer, topic, &partitions, Offset::End)?;
        ends.retain(|partition, end| firsts.get(partition).is_some_and(|first| first < end));
        let mut assignment = TopicPartitionList::new();
        for partition in ends.keys() {
            let first = Offset::Offset(firsts[partition]);
            assignment.add_partition_offset(topic, *partition, first)?;
        }
        consumer.assign(&assignment)?;
        let mut records = Vec::new();
        let deadline = Instant::now() + TIMEOUT;
        while !ends.is_empty() {
            ensure!(Instant::now() < deadline, "{topic} gave not everything within {TIMEOUT:?}");
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.with_context(|| format!("reading {topic}"))?;
            let partition = message.partition();
            let Some(&end) = ends.get(&partition) else { continue };
            if message.offset() + 1 >= end {
                ends.remove(&partition);
            }
            if message.offset() < end {
                records.push(TopicRecord::new(&message));
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }
}

impl TopicRecord {
    fn new(message: &impl Message) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().map_or(BTreeMap::new(), |headers| {
            let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                (header.key.to_owned(), text(header.value.unwrap_or_default()))
            };
            headers.iter().map(pair).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(text),
            headers,
            payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        }
    }
}

/// The offsets at one end of the partitions. A broker that has just started may have no leader for
/// a moment. `fetch_watermarks` is not used: when one of its two requests fails, librdkafka 2.12
/// says that the partition is empty.
fn offsets(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: &[i32],
    end: Offset,
) -> Result<BTreeMap<i32, i64>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match try_offsets(consumer, topic, partitions, end) {
            Ok(offsets) => return Ok(offsets),
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)),
            Err(error) => return Err(error),
        }
    }
}

fn try_offsets(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: &[i32],
    end: Offset,
) -> Result<BTreeMap<i32, i64>> {
    let mut wanted = TopicPartitionList::new();
    for partition in partitions {
        wanted.add_partition_offset(topic, *partition, end)?;
    }
    let mut offsets = BTreeMap::new();
    for element in consumer.offsets_for_times(wanted, TIMEOUT)?.elements() {
        element.error()?;
        let Offset::Offset(offset) = element.offset() else { bail!("no offset") };
        offsets.insert(element.partition(), offset);
    }
    Ok(offsets)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    Ok(found.map_or(Vec::new(), |t| t.partitions().iter().map(|p| p.id()).collect()))
}
