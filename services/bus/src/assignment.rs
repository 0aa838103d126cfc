//! Opening a consumer at a cursor: which partitions there are, and where to begin in each.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::{REQUEST_TIMEOUT, partition_counts};
use crate::kafka::{KafkaSourceConfig, Partition, lost, unavailable};
use crate::settings::Kafka;
use crate::source::{Cursor, Error, PartitionCursor};

/// A broker that has just started may not know the end of a partition for a moment.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// The memory for records that have been fetched and not taken yet, in KiB, for each reader.
const QUEUE_KIB: &str = "16384";

/// A consumer at its place.
pub(crate) struct Opened {
    pub consumer: StreamConsumer,
    pub log_position: u64,
    pub partitions: HashMap<String, Vec<Partition>>,
}

/// Opens a consumer that begins at a cursor. Blocks.
pub(crate) fn open(config: &KafkaSourceConfig, cursor: &Cursor) -> Result<Opened, Error> {
    let consumer = consumer(&config.kafka).map_err(|error| unavailable(&error))?;
    let counts =
        partition_counts(consumer.client(), &config.topics).map_err(|error| unavailable(&error))?;
    let mut partitions = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for topic in &config.topics {
        let Some(&count) = counts.get(topic) else {
            return Err(unavailable(&format!("there is no topic {topic} yet")));
        };
        let mut all = Vec::new();
        for index in 0..i32::try_from(count).expect("Kafka counts partitions in an i32") {
            let known =
                cursor.partitions.iter().find(|p| p.partition == index && p.topic == *topic);
            let partition = begin(&consumer, topic, index, known)?;
            let offset = Offset::Offset(partition.next_offset);
            assignment
                .add_partition_offset(topic, index, offset)
                .map_err(|error| unavailable(&error))?;
            all.push(partition);
        }
        partitions.insert(topic.clone(), all);
    }
    consumer.assign(&assignment).map_err(|error| unavailable(&error))?;
    Ok(Opened { consumer, log_position: cursor.log_position, partitions })
}

fn consumer(kafka: &Kafka) -> Result<StreamConsumer, KafkaError> {
    kafka
        .client()
        // Required by librdkafka; no group is joined and no offset is committed.
        .set("group.id", "daybook-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("allow.auto.create.topics", "false")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", QUEUE_KIB)
        // The defaults of half a second and a second would be seen by whoever waits for an event.
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "5")
        .create()
}

/// Where to begin in a partition.
fn begin(
    consumer: &StreamConsumer,
    topic: &str,
    partition: i32,
    known: Option<&PartitionCursor>,
) -> Result<Partition, Error> {
    let ends = || {
        consumer
            .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
            .map_err(|error| unavailable(&error))
    };
    let (low, mut end) = ends()?;
    let Some(known) = known else {
        let unproved = low > 0;
        return Ok(Partition { next_offset: low, watermark: 0, unproved, foreign_seen: false });
    };
    let next_offset = known.next_offset;
    let deadline = Instant::now() + END_TIMEOUT;
    while next_offset > end && Instant::now() < deadline {
        sleep(Duration::from_millis(50));
        (_, end) = ends()?;
    }
    if next_offset < low || next_offset > end {
        return Err(lost(format!(
            "{topic}/{partition} has offsets {low} to {end}, and {next_offset} is wanted"
        )));
    }
    let watermark = known.watermark;
    Ok(Partition { next_offset, watermark, unproved: false, foreign_seen: false })
}

/// Whether some partition has records at or after the expected offsets. Blocks.
pub(crate) fn is_behind(
    consumer: &StreamConsumer,
    expected: &[PartitionCursor],
) -> Result<bool, KafkaError> {
    for cursor in expected {
        let (_, end) =
            consumer.fetch_watermarks(&cursor.topic, cursor.partition, REQUEST_TIMEOUT)?;
        if end > cursor.next_offset {
            return Ok(true);
        }
    }
    Ok(false)
}
