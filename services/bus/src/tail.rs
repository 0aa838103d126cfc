//! What the topics say about how far they have been published: the last watermarks and events on
//! them.
//!
//! The broker may have lost what it acknowledged, with a disk or a topic, while the published mark
//! stands. The watermarks tell: what is before a watermark in a partition is there.
//!
//! And the log may be an older copy of the one that was published, with a mark as old as itself.
//! Then there are watermarks or events of its store beyond its end, or, once it has grown again,
//! other events than its own.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use daybook_contract::daybook::v1::RecordedEvent;
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::{End, PartitionCounts, offsets};
use crate::outbox::Outbox;
use crate::record::{
    EVENT_ID_HEADER, STORE_ID_HEADER, believed_watermark, header, watermark_position,
};
use crate::settings::Kafka;

/// How many records before the end to look at first. While there are events there are watermarks,
/// some a second, so mostly there is one among so many.
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
    last_event: Option<EventAt>,
}

/// What the end of a topic says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail {
    /// Up to here nothing is missing on it; at most the mark.
    pub published: u64,
    /// The greatest position of a watermark or an event of the store.
    pub furthest: u64,
    /// The last event of the store that an event or a watermark near the end names.
    pub last_event: Option<EventAt>,
    /// The last offset of each partition that is not empty.
    pub last_offsets: HashMap<i32, i64>,
}

/// An event and its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventAt {
    pub position: u64,
    pub event_id: String,
}

/// What the end of each topic says. Blocks.
pub(crate) fn tails(
    kafka: &Kafka,
    counts: &PartitionCounts,
    store_id: &str,
    mark: u64,
) -> Result<BTreeMap<String, Tail>, String> {
    let unread = Tail { published: mark, ..Tail::default() };
    let mut tails: BTreeMap<_, _> =
        counts.keys().map(|topic| (topic.clone(), unread.clone())).collect();
    let consumer = consumer(kafka).map_err(|error| error.to_string())?;
    let mut ranges = ranges(&consumer, counts).map_err(|error| error.to_string())?;
    let mut look = FIRST_LOOK;
    loop {
        let (open, done): (Vec<_>, Vec<_>) = ranges
            .into_iter()
            .partition(|range| range.watermark.is_none() && range.from > range.low);
        for range in done {
            tails.get_mut(&range.topic).expect("ranges are of these topics").add(range, mark);
        }
        if open.is_empty() {
            return Ok(tails);
        }
        ranges = open;
        for range in &mut ranges {
            range.from = (range.end - look).max(range.low);
        }
        read(&consumer, &mut ranges, store_id)?;
        look *= NEXT_LOOK;
    }
}

/// Refuses a log that is an older copy of the one that was published: its next events would
/// stand on the topics beside others with the same positions and versions.
///
/// A crash raises no false alarm: an event is published only when it is durable, and a
/// watermark is written only for what was delivered, so the end of the log after a restart is
/// never before what is on the topics. The end alone is no proof that all is well, since such
/// a log grows while this refuses it: so the last event that each topic names must be that of the
/// log.
pub(crate) async fn refuse_older_copy<O: Outbox>(
    outbox: &O,
    tails: &BTreeMap<String, Tail>,
    end: u64,
) -> Result<(), String> {
    const ADVICE: &str = "this log is an older copy of the one that was published; restore \
                          the newer copy, or publish under another --topic-prefix";
    for (topic, tail) in tails {
        let furthest = tail.furthest;
        if furthest > end {
            return Err(format!(
                "the topic {topic} holds events of this store up to {furthest}, the log ends \
                 at {end}: {ADVICE}"
            ));
        }
        let Some(EventAt { position, event_id }) = &tail.last_event else { continue };
        let ours = read_at(outbox, *position).await?;
        if ours.event_id != *event_id {
            return Err(format!(
                "the topic {topic} holds event {event_id} of this store at position \
                 {position}, the log has {} there: {ADVICE}",
                ours.event_id
            ));
        }
    }
    Ok(())
}

/// The event at a position of the log.
pub(crate) async fn read_at<O: Outbox>(outbox: &O, position: u64) -> Result<RecordedEvent, String> {
    let read = outbox.read_after(position.saturating_sub(1), 1).await;
    let events = read.map_err(|error| format!("reading position {position}: {error}"))?;
    let bytes = events.into_iter().next();
    let bytes = bytes.ok_or_else(|| format!("the log has nothing at position {position}"))?;
    RecordedEvent::decode(bytes)
        .map_err(|error| format!("the event at position {position} is malformed: {error}"))
}

impl Tail {
    /// Takes in the end of one partition.
    fn add(&mut self, range: Range, mark: u64) {
        let published = match range.watermark {
            Some(watermark) => watermark,
            // Old records have been deleted, and the watermark with them.
            None if range.low > 0 => mark,
            None => 0,
        };
        self.published = self.published.min(published);
        let event = range.last_event.as_ref().map_or(0, |event| event.position);
        self.furthest = self.furthest.max(event).max(range.watermark.unwrap_or(0));
        self.last_event = self.last_event.take().max(range.last_event);
        if range.end > 0 {
            self.last_offsets.insert(range.partition, range.end - 1);
        }
    }
}

impl Range {
    /// Takes in a record of the store.
    fn add(&mut self, message: &impl Message) {
        let payload = message.payload().unwrap_or_default();
        let at = match watermark_position(payload) {
            Some(position) => {
                self.watermark = self.watermark.max(believed_watermark(message));
                let event_id = header(message.headers(), EVENT_ID_HEADER);
                event_id.map(|event_id| EventAt { position, event_id: event_id.to_owned() })
            }
            // What is no event is somebody's poison, and says nothing about ours.
            None => {
                let event = RecordedEvent::decode(payload).ok().filter(|e| e.position > 0);
                event.map(|e| EventAt { position: e.position, event_id: e.event_id })
            }
        };
        self.last_event = self.last_event.take().max(at);
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
        Range { topic, partition, low, from: end, end, watermark: None, last_event: None }
    };
    Ok(ends.into_iter().map(range).collect())
}

/// Reads the ranges and notes the greatest watermark and the last event of each.
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
            range.add(&message);
        }
        if message.offset() + 1 == range.end {
            unread -= 1;
        }
    }
    Ok(())
}
