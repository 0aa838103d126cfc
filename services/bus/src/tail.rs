//! What the topics say about how far they have been published: the last watermarks on them.
//!
//! The broker may have lost what it acknowledged, with a disk or a topic, while the published mark
//! stands. The watermarks tell: what is before a watermark in a partition is there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::{End, PartitionCounts, offsets};
use crate::record::{STORE_ID_HEADER, header, watermark_position};
use crate::settings::Kafka;

/// How many records before the end to look at first. Watermarks come every few milliseconds, so
/// there is nearly always one.
const FIRST_LOOK: i64 = 200;

/// How much further each next look goes.
const NEXT_LOOK: i64 = 50;

/// How long reading the tails may take without anything coming.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A part of a partition.
struct Range {
    topic: String,
    partition: i32,
    /// The first offset there is.
    low: i64,
    /// Where to begin to read.
    from: i64,
    end: i64,
    watermark: Option<u64>,
}

/// For each topic, up to which position nothing is missing on it; at most the mark. Blocks.
pub(crate) fn published_positions(
    kafka: &Kafka,
    counts: &PartitionCounts,
    store_id: &str,
    mark: u64,
) -> Result<BTreeMap<String, u64>, String> {
    let mut positions: BTreeMap<_, _> = counts.keys().map(|topic| (topic.clone(), mark)).collect();
    if mark == 0 {
        return Ok(positions);
    }
    let consumer = consumer(kafka).map_err(|error| error.to_string())?;
    let mut ranges = ranges(&consumer, counts).map_err(|error| error.to_string())?;
    let mut look = FIRST_LOOK;
    loop {
        let (open, done): (Vec<_>, Vec<_>) = ranges
            .into_iter()
            .partition(|range| range.watermark.is_none() && range.from > range.low);
        for range in done {
            let position = match range.watermark {
                Some(watermark) => watermark,
                // Old records have been deleted, and the watermark with them.
                None if range.low > 0 => mark,
                None => 0,
            };
            let least = positions.get_mut(&range.topic).expect("ranges are of these topics");
            *least = position.min(*least);
        }
        if open.is_empty() {
            return Ok(positions);
        }
        ranges = open;
        for range in &mut ranges {
            range.from = (range.end - look).max(range.low);
        }
        read(&consumer, &mut ranges, store_id)?;
        look *= NEXT_LOOK;
    }
}

fn consumer(kafka: &Kafka) -> Result<BaseConsumer, rdkafka::error::KafkaError> {
    kafka
        .client()
        .set("group.id", "daybook-publisher")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .create()
}

fn ranges(
    consumer: &BaseConsumer,
    counts: &PartitionCounts,
) -> Result<Vec<Range>, rdkafka::error::KafkaError> {
    let ends = offsets(consumer, counts, End::Last)?;
    let firsts = offsets(consumer, counts, End::First)?;
    let range = |((topic, partition), end)| {
        let low = firsts.get(&(String::clone(&topic), partition)).copied().unwrap_or(end);
        Range { topic, partition, low, from: end, end, watermark: None }
    };
    Ok(ends.into_iter().map(range).collect())
}

/// Reads the ranges and notes the greatest watermark of each.
fn read(consumer: &BaseConsumer, ranges: &mut [Range], store_id: &str) -> Result<(), String> {
    let mut assignment = TopicPartitionList::new();
    for range in ranges.iter() {
        assignment
            .add_partition_offset(&range.topic, range.partition, Offset::Offset(range.from))
            .map_err(|error| error.to_string())?;
    }
    consumer.assign(&assignment).map_err(|error| error.to_string())?;
    let mut unread = ranges.iter().filter(|range| range.from < range.end).count();
    let mut deadline = Instant::now() + IDLE_TIMEOUT;
    while unread > 0 {
        if Instant::now() > deadline {
            return Err(format!("{unread} partitions cannot be read to their end"));
        }
        let Some(result) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = result.map_err(|error| error.to_string())?;
        deadline = Instant::now() + IDLE_TIMEOUT;
        let range = ranges
            .iter_mut()
            .find(|range| range.partition == message.partition() && range.topic == message.topic())
            .expect("only these partitions are assigned");
        if message.offset() >= range.end {
            continue;
        }
        if header(message.headers(), STORE_ID_HEADER) == Some(store_id) {
            let watermark = watermark_position(message.payload().unwrap_or_default());
            range.watermark = range.watermark.max(watermark);
        }
        if message.offset() + 1 == range.end {
            unread -= 1;
        }
    }
    Ok(())
}
