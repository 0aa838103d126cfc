//! The publisher: brings every event of the log to Kafka, in order for each stream.
//!
//! Law: the published mark moves over a contiguous delivered prefix only, so a crash repeats
//! records and never skips one. When a delivery fails, the producer is dropped and a new one
//! begins after the mark. A watermark for a position is written only when everything up to it has
//! been delivered, and then to every partition of every topic.
//!
//! Not here: what the events mean. Their bytes go out as they come from the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::outbox::Outbox;
use crate::session::{Outcome, Session};
use crate::settings::{Kafka, Topics};

/// The waits between attempts; the broker may be down for a second or for a day.
const BACK_OFF_FIRST: Duration = Duration::from_millis(200);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);

/// How many partitions a topic gets: one, as brokers make by default. The readers of Daybook read
/// all of them, whatever their number, and a broker works for each that is written or read, since
/// events travel together only if they are on the same one. With three the broker takes half as
/// much again to nearly twice the processor (docs/performance.md).
pub const PARTITIONS: u32 = 1;

/// How the publisher publishes.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Where Kafka is.
    pub kafka: Kafka,
    /// How many partitions a topic gets that does not exist yet.
    pub partitions: u32,
    /// On how many brokers they are kept.
    pub replication: u32,
    /// The most records that are given to the producer at a time, and so about the most that are on
    /// their way, since the next ones follow when nearly all have been delivered; bounds memory,
    /// and what is repeated after a failure. Large records make smaller groups.
    pub max_group: u64,
    /// The least time between two watermarks on a topic. Readers follow the events themselves, and
    /// need a watermark only where an event does not come to them.
    pub watermark_interval: Duration,
    /// How often the number of partitions is looked up.
    pub topic_check_interval: Duration,
    /// How long a record may wait for its delivery before the producer is given up.
    pub delivery_timeout: Duration,
    /// How long to go on publishing at shutdown.
    pub shutdown_timeout: Duration,
}

impl PublisherConfig {
    /// The defaults, for a cluster.
    pub fn new(kafka: Kafka) -> Self {
        Self {
            kafka,
            partitions: PARTITIONS,
            replication: 1,
            max_group: 5_000,
            watermark_interval: Duration::from_millis(250),
            topic_check_interval: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// How the publisher is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherStatus {
    /// Everything up to here is on the broker.
    pub published_position: u64,
    /// The topics that have been seen to hold the history of this log and no other.
    pub verified_topics: Vec<String>,
    /// Whether the broker answers, as far as is known.
    pub connected: bool,
    /// Why publishing does not progress; `None` when all is well.
    pub problem: Option<String>,
    /// How many times it began again with a new producer.
    pub restarts: u64,
}

/// Publishes the events of a log.
#[derive(Debug)]
pub struct Publisher<O> {
    config: PublisherConfig,
    outbox: Arc<O>,
    topics: Topics,
    status: watch::Sender<PublisherStatus>,
}

impl<O: Outbox> Publisher<O> {
    /// A publisher, which begins with [`run`](Self::run).
    pub fn new(config: PublisherConfig, outbox: Arc<O>, topics: Topics) -> Self {
        let status = watch::Sender::new(PublisherStatus::default());
        Self { config, outbox, topics, status }
    }

    /// How it is doing, now and from now on.
    pub fn status(&self) -> watch::Receiver<PublisherStatus> {
        self.status.subscribe()
    }

    /// Publishes until `shutdown` is ready, then what is in the log by then, as far as the
    /// shutdown timeout allows.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + Sync) {
        let shutdown = std::pin::pin!(shutdown);
        let mut stop = Stop::new(shutdown, self.config.shutdown_timeout);
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let before = self.status.borrow().published_position;
            let problem = match self.session().run(&mut stop).await {
                Outcome::Done => return,
                Outcome::TopicsChanged(change) => {
                    info!(%change, "publishing begins again");
                    continue;
                }
                Outcome::Failed(problem) => problem,
            };
            if self.status.borrow().published_position > before {
                back_off = BACK_OFF_FIRST;
            }
            warn!(%problem, retry_ms = back_off.as_millis(), "publishing failed");
            metrics::counter!("daybook_publisher_restarts_total").increment(1);
            self.status.send_modify(|status| {
                status.connected = false;
                status.problem = Some(problem);
                status.restarts += 1;
            });
            tokio::select! {
                () = sleep(back_off) => {}
                () = stop.over() => return,
            }
            back_off = (back_off * 2).min(BACK_OFF_MOST);
        }
    }

    fn session(&self) -> Session<'_, O> {
        Session {
            config: &self.config,
            outbox: self.outbox.as_ref(),
            topics: &self.topics,
            status: &self.status,
        }
    }
}

/// The wish to stop, and until when that may take.
pub(crate) struct Stop<'a> {
    shutdown: Pin<&'a mut (dyn Future<Output = ()> + Send + Sync)>,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl<'a> Stop<'a> {
    fn new(
        shutdown: Pin<&'a mut (dyn Future<Output = ()> + Send + Sync)>,
        timeout: Duration,
    ) -> Self {
        Self { shutdown, timeout, deadline: None }
    }

    /// Whether stopping has been wished for.
    pub fn has_begun(&self) -> bool {
        self.deadline.is_some()
    }

    /// How much time is left.
    pub fn time_left(&self) -> Duration {
        self.deadline
            .map_or(self.timeout, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for the wish to stop and, when there is one, until there is no time left: says
    /// whether that is so.
    pub async fn next(&mut self) -> bool {
        if self.has_begun() {
            sleep(self.time_left()).await;
            return true;
        }
        self.shutdown.as_mut().await;
        self.deadline = Some(Instant::now() + self.timeout);
        false
    }

    /// Waits until there is no time left.
    pub async fn over(&mut self) {
        while !self.next().await {}
    }
}
