//! The life of one producer, from the published mark to its first failure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::admin::{self, PartitionCounts};
use crate::delivery::{Callbacks, FIRST_WATERMARK, Shared, produce};
use crate::envelope::Content;
use crate::outbox::Outbox;
use crate::partition::partition_of;
use crate::prefix::Prefix;
use crate::publisher::{PublisherConfig, PublisherStatus, Stop};
use crate::record::{event_headers, watermark, watermark_headers};
use crate::settings::Topics;
use crate::tail;

/// How many events are read from the log at a time.
const READ_LIMIT: usize = 500;

/// How often the broker is asked for a sign of life while there is a problem.
const PROBLEM_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two moves of the published mark while much is under way.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// With so many records on their way, the next ones wait in the log. A partition takes no request
/// while it has as many (librdkafka 2.12 counts records where Kafka's limit is for requests), and
/// the producer's thread, which has records whose time has come, looks again and again without a
/// pause. The limit is one for all partitions: a group may be for one of them, and one that is late
/// holds up the others. A group that takes longer to hand over than the producer lingers, a
/// millisecond, still finds the thread so for a round trip.
const UNDER_WAY: usize = 5;

/// After so many records at once, the next ones are gathered for so long from then on: a busy
/// broker needs fewer requests, not sooner ones. The longer one begins at some 15,000 events a
/// second and ends below 6,000, so that fewer than 300 who each wait for their own event do not
/// keep it up. The most records first.
const GATHER: [(u64, Duration); 2] =
    [(300, Duration::from_millis(50)), (32, Duration::from_millis(20))];

/// How long the next records are gathered after so many at once.
fn pause_after(sent: u64) -> Duration {
    let found = GATHER.into_iter().find(|(records, _)| sent >= *records);
    found.map_or(Duration::ZERO, |(_, pause)| pause)
}

/// The bytes with which a group is complete, but for what one read of the log brings.
const GROUP_BYTES: usize = 8 << 20;

/// The memory for records that wait to be sent, in KiB.
const QUEUE_KIB: &str = "65536";

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As wished, at shutdown.
    Done,
    /// A topic has another number of partitions.
    TopicsChanged(String),
    /// A delivery failed, or what is needed cannot be reached.
    Failed(String),
}

/// What a session works with.
pub(crate) struct Session<'a, O> {
    pub config: &'a PublisherConfig,
    pub outbox: &'a O,
    pub topics: &'a Topics,
    pub status: &'a watch::Sender<PublisherStatus>,
}

/// A topic, and the watermarks on it.
struct Topic {
    name: String,
    partitions: u32,
    /// Up to here events need not be sent: they are there.
    skip_until: u64,
    /// The last watermark sent to it.
    watermark: u64,
    /// When it was sent, or the session began.
    watermark_at: Instant,
}

/// A session under way.
struct Running<'a, O> {
    session: &'a Session<'a, O>,
    producer: Arc<ThreadedProducer<Callbacks>>,
    shared: Arc<Shared>,
    topics: Vec<Topic>,
    counts: PartitionCounts,
    head: watch::Receiver<u64>,
    store_id: String,
    source: String,
    /// When records were given to the producer for the last time, and how many.
    sent_at: Instant,
    sent_count: u64,
    reported: Option<u64>,
    reported_at: Instant,
    check: Option<JoinHandle<Result<PartitionCounts, KafkaError>>>,
    checked_at: Instant,
}

impl<O: Outbox> Session<'_, O> {
    pub async fn run(&self, stop: &mut Stop<'_>) -> Outcome {
        let started = tokio::select! {
            started = self.start() => started,
            () = stop.over() => return Outcome::Done,
        };
        let mut running = match started {
            Ok(running) => running,
            Err(problem) => return Outcome::Failed(problem),
        };
        let outcome = running.run(stop).await;
        let producer = running.producer;
        // Dropping a producer waits for its thread.
        let _ = spawn_blocking(move || drop(producer)).await;
        outcome
    }

    async fn start(&self) -> Result<Running<'_, O>, String> {
        let shared = Arc::new(Shared::new());
        let producer = Arc::new(self.producer(&shared).map_err(|error| error.to_string())?);
        let counts = self.prepare_topics(&producer).await?;
        let store_id = self.outbox.store_id();
        let mark = self.outbox.published().await.map_err(|e| format!("reading the mark: {e}"))?;
        let head = self.outbox.head();
        let end = *head.borrow();
        if mark > end {
            return Err(format!(
                "the published mark {mark} is beyond the end of the log, {end}: this log is an \
                 older copy of the one that was published"
            ));
        }
        let tails = {
            let (kafka, counts, id) = (self.config.kafka.clone(), counts.clone(), store_id.clone());
            blocking(move || tail::tails(&kafka, &counts, &id, mark)).await?
        };
        let verified = tail::refuse_older_copy(self.outbox, &tails, end).await;
        self.status.send_modify(|status| {
            status.verified_topics = match verified {
                Ok(()) => tails.keys().cloned().collect(),
                Err(_) => Vec::new(),
            };
        });
        verified?;
        let least = tails.iter().min_by_key(|(_, tail)| tail.published);
        let begin = least.map_or(mark, |(_, tail)| tail.published);
        if let Some((topic, _)) = least.filter(|_| mark > 0 && begin == 0) {
            warn!(%topic, mark, "nothing of the log is on the topic; publishing it all again");
        }
        info!(begin, mark, end, brokers = %self.config.kafka.brokers, "publishing");
        {
            let mut state = shared.lock();
            state.prefix = Prefix::new(begin);
            state.watermarks = vec![0; counts.len()];
            for (topic, tail) in &tails {
                for (&partition, &offset) in &tail.last_offsets {
                    state.offsets.found(topic, partition, offset);
                }
            }
        }
        let topics = counts
            .iter()
            .map(|(name, &partitions)| Topic::new(name, partitions, tails[name].published))
            .collect();
        let source = format!("/daybook/{store_id}");
        let now = Instant::now();
        Ok(Running {
            session: self,
            producer,
            shared,
            topics,
            counts,
            head,
            store_id,
            source,
            sent_at: now,
            sent_count: 0,
            reported: None,
            reported_at: now,
            check: None,
            checked_at: now,
        })
    }

    fn producer(&self, shared: &Arc<Shared>) -> Result<ThreadedProducer<Callbacks>, KafkaError> {
        let mut config = self.config.kafka.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // After a refused record the next ones must not go out: the session ends.
            .set("enable.gapless.guarantee", "true")
            .set("linger.ms", "1")
            .set("queue.buffering.max.kbytes", QUEUE_KIB)
            .set("message.timeout.ms", self.config.delivery_timeout.as_millis().to_string());
        ThreadedProducer::from_config_and_context(&config, Callbacks(Arc::clone(shared)))
    }

    /// Makes the missing topics; returns how many partitions each has.
    async fn prepare_topics(
        &self,
        producer: &Arc<ThreadedProducer<Callbacks>>,
    ) -> Result<PartitionCounts, String> {
        let names = self.topics.all();
        let found = {
            let (producer, names) = (Arc::clone(producer), names.clone());
            blocking(move || {
                admin::partition_counts(producer.client(), &names).map_err(|e| e.to_string())
            })
            .await?
        };
        let missing: Vec<_> =
            names.iter().filter(|name| !found.contains_key(*name)).cloned().collect();
        let config = self.config;
        admin::create_missing(&config.kafka, &missing, config.partitions, config.replication)
            .await?;
        let producer = Arc::clone(producer);
        let counts = blocking(move || admin::await_topics(producer.client(), &names)).await?;
        for (topic, &partitions) in &counts {
            if partitions != config.partitions {
                let configured = config.partitions;
                warn!(%topic, partitions, configured, "the topic has its own number of partitions");
            }
        }
        Ok(counts)
    }
}

impl<O: Outbox> Running<'_, O> {
    async fn run(&mut self, stop: &mut Stop<'_>) -> Outcome {
        match self.publish(stop).await {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::Failed(problem),
        }
    }

    async fn publish(&mut self, stop: &mut Stop<'_>) -> Result<Outcome, String> {
        let mut until = None;
        loop {
            let (delivered, sent, in_flight) = {
                let mut state = self.shared.lock();
                if let Some(failure) = state.failure.take() {
                    return Err(failure);
                }
                (state.prefix.delivered(), state.prefix.sent(), state.prefix.in_flight())
            };
            let head = *self.head.borrow_and_update();
            if stop.has_begun() && until.is_none() {
                until = Some(head);
            }
            self.report(delivered, head).await?;
            let has_room = in_flight < UNDER_WAY;
            if has_room {
                self.write_watermarks(delivered, false).await?;
            }
            if until.is_some_and(|until| delivered >= until) {
                self.finish(delivered, stop.time_left()).await?;
                return Ok(Outcome::Done);
            }
            let waiting = until.unwrap_or(head).saturating_sub(sent);
            let next_group = (waiting > 0 && has_room).then(|| self.next_group());
            if next_group.is_some_and(|at| at <= Instant::now()) {
                self.send_group(sent, waiting).await?;
                continue;
            }
            if let Some(outcome) = self.wait(stop, delivered, waiting > 0, next_group).await? {
                return Ok(outcome);
            }
        }
    }

    /// When records may be given to the producer again, if few enough are on their way.
    fn next_group(&self) -> Instant {
        self.sent_at + pause_after(self.sent_count)
    }

    /// Waits until there is something to do. When events are waiting, more of them are no news.
    async fn wait(
        &mut self,
        stop: &mut Stop<'_>,
        delivered: u64,
        are_waiting: bool,
        next_group: Option<Instant>,
    ) -> Result<Option<Outcome>, String> {
        let problem = self.shared.lock().problem.clone();
        self.show_problem(problem.clone());
        let config = self.session.config;
        let interval = match problem {
            Some(_) => PROBLEM_CHECK_INTERVAL.min(config.topic_check_interval),
            None => config.topic_check_interval,
        };
        let next_check = self.checked_at + interval;
        let next_write = self.next_write(delivered);
        // At shutdown the log may be closed before us; what is wanted of it is known.
        let stopping = stop.has_begun();
        tokio::select! {
            () = self.shared.changed.notified() => {}
            () = sleep_until(next_group.unwrap_or(next_check)), if next_group.is_some() => {}
            changed = self.head.changed(), if !stopping && !are_waiting => {
                if changed.is_err() {
                    return Err("the log has been closed".to_owned());
                }
            }
            () = sleep_until(next_write.unwrap_or(next_check)), if next_write.is_some() => {}
            over = stop.next() => {
                if over {
                    warn!(delivered, "not all events were published in time");
                    return Ok(Some(Outcome::Done));
                }
            }
            () = sleep_until(next_check), if self.check.is_none() => self.begin_check(),
            result = finished(&mut self.check) => return self.end_check(result),
        }
        Ok(None)
    }

    /// Gives the next of the waiting events to the producer, as many as make a group. They are read
    /// before the first is sent, so that they travel together.
    async fn send_group(&mut self, after: u64, waiting: u64) -> Result<(), String> {
        let most = waiting.min(self.session.config.max_group.max(1));
        let most = usize::try_from(most).map_err(|error| error.to_string())?;
        let mut group: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        while group.len() < most && bytes < GROUP_BYTES {
            let last = after + group.len() as u64;
            let events = self
                .session
                .outbox
                .read_after(last, READ_LIMIT.min(most - group.len()))
                .await
                .map_err(|error| format!("reading the log after position {last}: {error}"))?;
            if events.is_empty() {
                return Err(format!("the log has nothing after position {last}, before its end"));
            }
            bytes += events.iter().map(Bytes::len).sum::<usize>();
            group.extend(events);
        }
        self.sent_at = Instant::now();
        self.sent_count = group.len() as u64;
        for (position, event) in (after + 1..).zip(group) {
            self.send(position, event).await?;
        }
        Ok(())
    }

    /// Sends the event at a position, the one after those sent before.
    async fn send(&mut self, position: u64, bytes: Bytes) -> Result<(), String> {
        let event = match Content::of(&bytes) {
            Content::Event(event) if event.event_id().is_none() || event.type_name().is_none() => {
                return Err(format!(
                    "the event at position {position} has an id or a type that is no text"
                ));
            }
            Content::Event(event) => event,
            Content::Watermark => return Err(format!("there is no event at position {position}")),
            Content::Strange(problem) => {
                return Err(format!("the event at position {position} is malformed: {problem}"));
            }
        };
        if event.position != position {
            return Err(format!(
                "the log gives position {} where {position} belongs",
                event.position
            ));
        }
        let name = self.session.topics.of(event.aggregate_type());
        let topic = self
            .topics
            .iter_mut()
            .find(|topic| topic.name == name)
            .expect("all topics were looked up at the start");
        let partition = partition_of(event.stream(), topic.partitions);
        {
            let mut state = self.shared.lock();
            state.prefix.send(position);
            if position <= topic.skip_until {
                state.prefix.deliver(position);
                return Ok(());
            }
            state.offsets.sent(&topic.name, partition);
        }
        let opaque = usize::try_from(position).map_err(|error| error.to_string())?;
        let record = BaseRecord::with_opaque_to(&topic.name, opaque)
            .partition(partition)
            .key(event.stream())
            .payload(bytes.as_ref())
            .headers(event_headers(&event, &self.store_id, &self.source));
        produce(&self.producer, &self.shared, record).await
    }

    /// Moves the published mark, and tells how far we are.
    async fn report(&mut self, delivered: u64, head: u64) -> Result<(), String> {
        metrics::gauge!("daybook_publisher_lag_events").set(head.saturating_sub(delivered) as f64);
        let moved = self.reported != Some(delivered);
        let due = self.reported.is_none()
            || self.reported_at.elapsed() >= REPORT_INTERVAL
            || delivered == head;
        if !moved || !due {
            return Ok(());
        }
        self.session
            .outbox
            .set_published(delivered)
            .await
            .map_err(|error| format!("moving the published mark: {error}"))?;
        self.reported = Some(delivered);
        self.reported_at = Instant::now();
        metrics::gauge!("daybook_published_position").set(delivered as f64);
        self.session.status.send_if_modified(|status| {
            let before = status.published_position;
            status.published_position = delivered;
            before != delivered
        });
        Ok(())
    }

    fn show_problem(&self, problem: Option<String>) {
        self.session.status.send_if_modified(|status| {
            let connected = problem.is_none();
            let changed = status.connected != connected || status.problem != problem;
            status.connected = connected;
            status.problem = problem;
            changed
        });
    }

    /// Writes watermarks to the topics where they are due.
    async fn write_watermarks(&mut self, position: u64, all: bool) -> Result<(), String> {
        let now = Instant::now();
        let under_way = self.shared.lock().watermarks.clone();
        for (index, &under_way) in under_way.iter().enumerate() {
            let topic = &self.topics[index];
            let due = topic.due(position, self.session.config).is_some_and(|due| due <= now)
                && under_way == 0;
            let wanted = due || (all && topic.watermark < position);
            if !wanted {
                continue;
            }
            let payload = watermark(position);
            let event_id = self.event_id_at(position).await?;
            self.shared.lock().watermarks[index] += topic.partitions;
            for partition in 0..topic.partitions {
                let partition = i32::try_from(partition).expect("Kafka counts them in an i32");
                let after = self.shared.lock().offsets.sent(&topic.name, partition);
                let headers = watermark_headers(&self.store_id, &event_id, topic.partitions, after);
                let opaque = FIRST_WATERMARK - index;
                let record = BaseRecord::<str, [u8], usize>::with_opaque_to(&topic.name, opaque)
                    .partition(partition)
                    .payload(&payload)
                    .headers(headers);
                produce(&self.producer, &self.shared, record).await?;
            }
            let topic = &mut self.topics[index];
            topic.watermark = position;
            topic.watermark_at = now;
        }
        Ok(())
    }

    async fn event_id_at(&self, position: u64) -> Result<String, String> {
        Ok(tail::read_at(self.session.outbox, position).await?.event_id)
    }

    /// When the mark or a watermark is to be written next, if one is.
    fn next_write(&self, delivered: u64) -> Option<Instant> {
        let config = self.session.config;
        let report =
            (self.reported != Some(delivered)).then_some(self.reported_at + REPORT_INTERVAL);
        let state = self.shared.lock();
        let has_room = state.prefix.in_flight() < UNDER_WAY;
        let topics = self.topics.iter().zip(&state.watermarks).filter(|_| has_room);
        // When those under way have arrived, there is a notification.
        let idle = topics.filter(|(_, under_way)| **under_way == 0);
        idle.filter_map(|(topic, _)| topic.due(delivered, config)).chain(report).min()
    }

    /// Everything has been delivered: the last watermarks, so that readers need not wait for the
    /// next start.
    async fn finish(&mut self, delivered: u64, time_left: Duration) -> Result<(), String> {
        self.write_watermarks(delivered, true).await?;
        let producer = Arc::clone(&self.producer);
        blocking(move || producer.flush(time_left).map_err(|error| error.to_string())).await
    }

    fn begin_check(&mut self) {
        let (producer, names) = (Arc::clone(&self.producer), self.session.topics.all());
        self.check =
            Some(spawn_blocking(move || admin::partition_counts(producer.client(), &names)));
    }

    fn end_check(
        &mut self,
        result: Result<PartitionCounts, KafkaError>,
    ) -> Result<Option<Outcome>, String> {
        self.check = None;
        self.checked_at = Instant::now();
        let counts = match result {
            Ok(counts) => counts,
            Err(error) => {
                self.shared.lock().problem = Some(format!("the broker does not answer: {error}"));
                return Ok(None);
            }
        };
        self.shared.lock().problem = None;
        for (topic, count) in &self.counts {
            match counts.get(topic) {
                Some(now) if now != count => {
                    let change = format!("topic {topic} had {count} partitions and has {now}");
                    return Ok(Some(Outcome::TopicsChanged(change)));
                }
                Some(_) => {}
                None => return Err(format!("topic {topic} is not there any more")),
            }
        }
        Ok(None)
    }
}

impl Topic {
    fn new(name: &str, partitions: u32, skip_until: u64) -> Self {
        Self {
            name: name.to_owned(),
            partitions,
            skip_until,
            watermark: 0,
            watermark_at: Instant::now(),
        }
    }

    /// When a watermark for this position is to be written; `None` when there is no need.
    fn due(&self, position: u64, config: &PublisherConfig) -> Option<Instant> {
        if self.watermark >= position {
            return None;
        }
        Some(self.watermark_at + config.watermark_interval)
    }
}

/// Waits for a check, if there is one.
async fn finished(
    check: &mut Option<JoinHandle<Result<PartitionCounts, KafkaError>>>,
) -> Result<PartitionCounts, KafkaError> {
    match check {
        Some(handle) => handle.await.unwrap_or(Err(KafkaError::Canceled)),
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the records are gathered in the end that come so often, when the broker needs a time
    /// for each group and so many came at once at first.
    fn settles_at(per_second: u64, broker_ms: u64, first: u64) -> Duration {
        let mut sent = first;
        for _ in 0..100 {
            let group = pause_after(sent).max(Duration::from_millis(broker_ms));
            sent = per_second * u64::try_from(group.as_millis()).unwrap() / 1000;
        }
        pause_after(sent)
    }

    #[test]
    fn the_more_records_come_the_longer_they_are_gathered() {
        let [none, short, long] = [0, 20, 50].map(Duration::from_millis);
        let after = [0, 31, 32, 299, 300, 5_000].map(pause_after);
        assert_eq!(after, [none, none, short, short, long, long]);
        // Few do not stay gathered, however many came once.
        for first in [1, 100, 10_000] {
            assert_eq!(settles_at(1_000, 5, first), none);
            assert_eq!(settles_at(5_000, 10, first), short);
            assert_eq!(settles_at(16_000, 10, first), long);
        }
        assert_eq!([1, 10_000].map(|first| settles_at(10_000, 10, first)), [short, long]);
    }
}
