//! What is under way to the broker: the records given to a producer, and what becomes of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, ToBytes};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use crate::prefix::Prefix;

/// How long to wait when the queue of the producer is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);

/// The opaque value of an event is its position, that of a watermark counts down from here by the
/// topic. The log is shorter than that.
pub(crate) const FIRST_WATERMARK: usize = usize::MAX;

/// What the delivery callbacks and the session share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The prefix has grown, or something is wrong.
    pub changed: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub prefix: Prefix,
    /// For each topic, how many watermarks are under way. The next ones wait for them, so that a
    /// slow broker is not given more than it can take.
    pub watermarks: Vec<u32>,
    /// How far the partitions have been written.
    pub offsets: Offsets,
    /// The session must end.
    pub failure: Option<String>,
    /// The broker cannot be reached; the producer goes on trying.
    pub problem: Option<String>,
}

/// How far the partitions have been written, by topic.
#[derive(Debug, Default)]
pub(crate) struct Offsets(HashMap<String, HashMap<i32, Written>>);

/// How far a partition has been written.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// The greatest offset that is known.
    last: i64,
    /// How many records are under way to it.
    under_way: i64,
}

impl Offsets {
    /// There is a record at this offset.
    pub fn found(&mut self, topic: &str, partition: i32, offset: i64) {
        self.written(topic, partition).last = offset;
    }

    /// A record is on its way. Returns an offset that it comes after, if the broker loses nothing.
    pub fn sent(&mut self, topic: &str, partition: i32) -> i64 {
        let written = self.written(topic, partition);
        let after = written.last + written.under_way;
        written.under_way += 1;
        after
    }

    /// Offsets only grow, unless the broker has lost records that it had acknowledged.
    fn delivered(&mut self, message: &impl Message) -> Result<(), String> {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let written = self.written(topic, partition);
        if written.last >= offset {
            return Err(format!(
                "the broker has lost records: {topic}/{partition} was at offset {} and is at \
                 {offset}",
                written.last
            ));
        }
        *written = Written { last: offset, under_way: written.under_way - 1 };
        Ok(())
    }

    fn written(&mut self, topic: &str, partition: i32) -> &mut Written {
        if !self.0.contains_key(topic) {
            self.0.insert(topic.to_owned(), HashMap::new());
        }
        let partitions = self.0.get_mut(topic).expect("it is there by now");
        partitions.entry(partition).or_insert(Written { last: -1, under_way: 0 })
    }
}

/// The callbacks of the producer. They run on its thread.
pub(crate) struct Callbacks(pub Arc<Shared>);

impl Shared {
    pub fn new() -> Self {
        let state = State {
            prefix: Prefix::new(0),
            watermarks: Vec::new(),
            offsets: Offsets::default(),
            failure: None,
            problem: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: String) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_one();
    }
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        let problem = format!("{error}: {reason}");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.fail(problem);
            return;
        }
        debug!(%problem, "the producer has a problem");
        self.0.lock().problem = Some(problem);
        self.0.changed.notify_one();
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let message = match result {
            Ok(message) => message,
            Err((error, _)) => {
                self.0.fail(format!("a delivery failed: {error}"));
                return;
            }
        };
        let mut state = self.0.lock();
        if let Err(problem) = state.offsets.delivered(message) {
            drop(state);
            self.0.fail(problem);
            return;
        }
        let mut changed = state.problem.take().is_some();
        match state.watermarks.get_mut(FIRST_WATERMARK - opaque) {
            Some(under_way) => {
                *under_way -= 1;
                changed |= *under_way == 0;
            }
            None => changed |= state.prefix.deliver(opaque as u64),
        }
        drop(state);
        if changed {
            self.0.changed.notify_one();
        }
    }
}

/// Gives a record to the producer, waiting while its queue is full.
pub(crate) async fn produce<K, P>(
    producer: &ThreadedProducer<Callbacks>,
    shared: &Shared,
    mut record: BaseRecord<'_, K, P, usize>,
) -> Result<(), String>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    loop {
        let (error, returned) = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(format!("the producer refuses a record: {error}"));
        }
        if let Some(failure) = shared.lock().failure.clone() {
            return Err(failure);
        }
        record = returned;
        sleep(QUEUE_FULL_WAIT).await;
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;

    fn at(topic: &str, partition: i32, offset: i64) -> OwnedMessage {
        let (topic, time) = (topic.to_owned(), Timestamp::NotAvailable);
        OwnedMessage::new(None, None, topic, time, partition, offset, None)
    }

    #[test]
    fn an_offset_that_runs_back_says_that_records_were_lost() {
        let mut offsets = Offsets::default();
        offsets.found("a", 0, 4);
        for (topic, partition, offset) in [("a", 0, 5), ("a", 1, 0), ("b", 0, 1), ("a", 0, 7)] {
            offsets.delivered(&at(topic, partition, offset)).unwrap();
        }
        for offset in [7, 0] {
            let problem = offsets.delivered(&at("a", 0, offset)).unwrap_err();
            assert!(problem.contains("has lost records: a/0"), "{problem}");
        }
        offsets.found("c", 0, 4);
        let problem = offsets.delivered(&at("c", 0, 0)).unwrap_err();
        assert!(problem.contains("has lost records: c/0 was at offset 4"), "{problem}");
    }

    #[test]
    fn a_record_comes_after_those_under_way() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.sent("a", 0), -1);
        offsets.delivered(&at("a", 0, 0)).unwrap();
        offsets.found("a", 0, 6);
        assert_eq!(offsets.sent("a", 0), 6);
        assert_eq!(offsets.sent("a", 0), 7);
        assert_eq!(offsets.sent("a", 1), -1);
        offsets.delivered(&at("a", 0, 7)).unwrap();
        assert_eq!(offsets.sent("a", 0), 8);
    }
}
