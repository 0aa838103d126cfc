//! The publisher of this process, if brokers are configured.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daybook_bus::publisher::{Publisher, PublisherConfig, PublisherStatus};
use daybook_bus::settings::{Kafka, Topics};
use daybook_command::{LogOutbox, PublishingView};
use daybook_log::EventLog;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::Config;

/// The topic of events of streams that no aggregate owns, before the prefix.
const RAW_TOPIC: &str = "raw-events";

/// The publisher, or none.
pub struct Publishing {
    status: Option<watch::Receiver<PublisherStatus>>,
    running: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// Where the events of each aggregate go.
fn topics(config: &Config) -> Topics {
    let aggregates = daybook_contract::AGGREGATES
        .iter()
        .map(|aggregate| (aggregate.name, format!("{}{}", config.topic_prefix, aggregate.topic)));
    Topics::new(aggregates, &format!("{}{RAW_TOPIC}", config.topic_prefix))
}

/// All topics, which is what projections read: positions have no gaps over all of them.
pub fn all_topics(config: &Config) -> Vec<String> {
    topics(config).all()
}

impl Publishing {
    /// Starts a publisher when there are brokers to publish to.
    pub fn start(config: &Config, log: &EventLog) -> Self {
        if config.brokers.is_empty() {
            return Self { status: None, running: Mutex::new(None) };
        }
        let settings = PublisherConfig {
            partitions: config.topic_partitions,
            replication: config.topic_replication,
            shutdown_timeout: Duration::from_millis(config.drain_timeout_ms),
            ..PublisherConfig::new(Kafka::new(&config.brokers))
        };
        let outbox = Arc::new(LogOutbox(log.clone()));
        let publisher = Publisher::new(settings, outbox, topics(config));
        let status = publisher.status();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(publisher.run(async {
            let _ = stopped.await;
        }));
        Self { status: Some(status), running: Mutex::new(Some((stop, task))) }
    }

    /// Publishes what is in the log, as far as the deadline allows; the rest is published at the
    /// next start.
    pub async fn stop(&self, deadline: Duration) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, task)) = running {
            let _ = stop.send(());
            let _ = tokio::time::timeout(deadline, task).await;
        }
    }
}

impl PublishingView for Publishing {
    fn publishing(&self) -> bool {
        self.status.is_some()
    }

    fn problem(&self) -> String {
        let status = self.status.as_ref().map(|status| status.borrow().clone());
        status.and_then(|status| status.problem).unwrap_or_default()
    }

    fn verified_topics(&self) -> Vec<String> {
        let status = self.status.as_ref().map(|status| status.borrow().verified_topics.clone());
        status.unwrap_or_default()
    }
}
