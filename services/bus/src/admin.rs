//! The topics on the broker: made when they are missing, and looked at.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};
use tracing::info;

use crate::settings::Kafka;

/// How long the broker may take to answer one question.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a new topic may take to have leaders for its partitions.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// For each topic the number of its partitions.
pub(crate) type PartitionCounts = BTreeMap<String, u32>;

/// Makes the topics that are missing.
pub(crate) async fn create_missing(
    kafka: &Kafka,
    missing: &[String],
    partitions: u32,
    replication: u32,
) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> =
        kafka.client().create().map_err(|error| error.to_string())?;
    let partitions = i32::try_from(partitions).map_err(|error| error.to_string())?;
    let replication = i32::try_from(replication).map_err(|error| error.to_string())?;
    let new: Vec<_> = missing
        .iter()
        .map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(replication)))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let results = admin
        .create_topics(&new, &options)
        .await
        .map_err(|error| format!("creating topics: {error}"))?;
    for result in results {
        match result {
            Ok(topic) => info!(%topic, partitions, replication, "created a topic"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(format!("creating topic {topic}: {code}")),
        }
    }
    Ok(())
}

/// How many partitions the topics have; those that do not exist are left out. Blocks.
pub(crate) fn partition_counts<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
) -> Result<PartitionCounts, KafkaError> {
    // All topics are asked for: asking for one by name makes some brokers create it.
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT)?;
    Ok(topics.iter().filter_map(|topic| Some((topic.clone(), count(&metadata, topic)?))).collect())
}

/// The number of partitions of a topic, if all of them have a leader.
fn count(metadata: &Metadata, topic: &str) -> Option<u32> {
    let found = metadata.topics().iter().find(|found| found.name() == topic)?;
    let led = found.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none());
    if found.error().is_some() || found.partitions().is_empty() || !led {
        return None;
    }
    u32::try_from(found.partitions().len()).ok()
}

/// Waits until all topics are there and have leaders. Blocks.
pub(crate) fn await_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
) -> Result<PartitionCounts, String> {
    let deadline = Instant::now() + LEADERS_TIMEOUT;
    loop {
        let counts = partition_counts(client, topics).map_err(|error| error.to_string())?;
        if counts.len() == topics.len() {
            return Ok(counts);
        }
        if Instant::now() > deadline {
            let missing = topics.iter().find(|topic| !counts.contains_key(*topic));
            return Err(format!(
                "topic {} has no leader after {LEADERS_TIMEOUT:?}",
                missing.map_or("", |topic| topic)
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// For each partition of the topics, its first offset or the one after its last. Blocks.
///
/// `fetch_watermarks` is not used: when one of its two requests fails for a moment, librdkafka
/// 2.12 says that the partition is empty.
pub(crate) fn offsets<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    counts: &PartitionCounts,
    end: End,
) -> Result<HashMap<(String, i32), i64>, KafkaError> {
    let offset = match end {
        End::First => Offset::Beginning,
        End::Last => Offset::End,
    };
    let mut wanted = TopicPartitionList::new();
    for (topic, &count) in counts {
        for partition in 0..i32::try_from(count).expect("Kafka counts partitions in an i32") {
            wanted.add_partition_offset(topic, partition, offset)?;
        }
    }
    let answer = consumer.offsets_for_times(wanted, REQUEST_TIMEOUT)?;
    let mut offsets = HashMap::new();
    for element in answer.elements() {
        element.error()?;
        let Offset::Offset(offset) = element.offset() else {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BadMessage));
        };
        offsets.insert((element.topic().to_owned(), element.partition()), offset);
    }
    Ok(offsets)
}

/// One end of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    First,
    Last,
}
