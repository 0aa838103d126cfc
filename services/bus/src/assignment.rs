//! Opening a consumer at a cursor: which partitions there are, and where to begin in each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::{End, PartitionCounts, offsets, partition_counts};
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
    pub partitions: HashMap<Arc<str>, Vec<Partition>>,
}

/// Opens a consumer that begins at a cursor. Blocks.
pub(crate) fn open(config: &KafkaSourceConfig, cursor: &Cursor) -> Result<Opened, Error> {
    let consumer = consumer(&config.kafka).map_err(|error| unavailable(&error))?;
    let counts =
        partition_counts(consumer.client(), &config.topics).map_err(|error| unavailable(&error))?;
    if let Some(missing) = config.topics.iter().find(|topic| !counts.contains_key(*topic)) {
        return Err(unavailable(&format!("there is no topic {missing} yet")));
    }
    let firsts = offsets(&consumer, &counts, End::First).map_err(|error| unavailable(&error))?;
    let ends = ends_for(&consumer, &counts, cursor)?;
    let mut partitions = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for (topic, &count) in &counts {
        let mut all = Vec::new();
        for index in 0..i32::try_from(count).expect("Kafka counts partitions in an i32") {
            let place = (topic.clone(), index);
            let (Some(&first), Some(&end)) = (firsts.get(&place), ends.get(&place)) else {
                return Err(unavailable(&format!("{topic}/{index} has no offsets")));
            };
            let known =
                cursor.partitions.iter().find(|p| p.partition == index && *p.topic == **topic);
            let partition = begin(&place, first, end, known)?;
            let before = i64::from(partition.unconfirmed);
            let offset = Offset::Offset(partition.next_offset - before);
            assignment
                .add_partition_offset(topic, index, offset)
                .map_err(|error| unavailable(&error))?;
            all.push(partition);
        }
        partitions.insert(topic.as_str().into(), all);
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

/// The ends of the partitions, which a broker that has just started may not know at once.
fn ends_for(
    consumer: &StreamConsumer,
    counts: &PartitionCounts,
    cursor: &Cursor,
) -> Result<HashMap<(String, i32), i64>, Error> {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let ends = offsets(consumer, counts, End::Last).map_err(|error| unavailable(&error))?;
        let beyond = |place: &PartitionCursor| {
            let end = ends.get(&(place.topic.to_string(), place.partition));
            end.is_some_and(|end| place.next_offset > *end)
        };
        if !cursor.partitions.iter().any(beyond) || Instant::now() > deadline {
            return Ok(ends);
        }
        sleep(Duration::from_millis(50));
    }
}

/// Where to begin in a partition with these offsets.
fn begin(
    (topic, partition): &(String, i32),
    first: i64,
    end: i64,
    known: Option<&PartitionCursor>,
) -> Result<Partition, Error> {
    let Some(known) = known else { return Ok(Partition::from_first(first)) };
    let next_offset = known.next_offset;
    if next_offset < first || next_offset > end {
        return Err(lost(format!(
            "{topic}/{partition} has offsets {first} to {end}, and {next_offset} is wanted"
        )));
    }
    Ok(Partition::from_place(known, next_offset == first && first > 0))
}

/// Whether some partition has records at or after the expected offsets. Blocks.
pub(crate) fn is_behind(
    consumer: &StreamConsumer,
    expected: &[PartitionCursor],
) -> Result<bool, KafkaError> {
    let topics: BTreeSet<_> = expected.iter().map(|cursor| cursor.topic.to_string()).collect();
    let counts = partition_counts(consumer.client(), &topics.into_iter().collect::<Vec<_>>())?;
    let ends = offsets(consumer, &counts, End::Last)?;
    Ok(expected.iter().any(|cursor| {
        let end = ends.get(&(cursor.topic.to_string(), cursor.partition));
        end.is_some_and(|end| *end > cursor.next_offset)
    }))
}
