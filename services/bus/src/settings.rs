//! How to reach Kafka.

use std::collections::{BTreeMap, HashMap};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// A Kafka cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kafka {
    /// Some of its brokers: `host:port,host:port`.
    pub brokers: String,
    /// Further settings of librdkafka, such as `security.protocol`. They cannot undo what order
    /// and durability rest on.
    pub options: BTreeMap<String, String>,
}

impl Kafka {
    /// A cluster without further settings.
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), options: BTreeMap::new() }
    }

    /// What all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "daybook")
            .set("socket.nagle.disable", "true")
            // A broker that comes back is found within half a second.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            // Brokers close idle connections; that is nothing to report.
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

/// Which topic the events of an aggregate go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    by_aggregate: HashMap<String, String>,
    raw: String,
}

impl Topics {
    /// Pairs of aggregate and topic, and the topic of streams that no aggregate owns.
    pub fn new<A, T>(aggregates: impl IntoIterator<Item = (A, T)>, raw: &str) -> Self
    where
        A: Into<String>,
        T: Into<String>,
    {
        let by_aggregate = aggregates.into_iter().map(|(a, t)| (a.into(), t.into())).collect();
        Self { by_aggregate, raw: raw.to_owned() }
    }

    /// The topic of an aggregate.
    pub fn of(&self, aggregate_type: &str) -> &str {
        self.by_aggregate.get(aggregate_type).unwrap_or(&self.raw)
    }

    /// Every topic, once, in order.
    pub fn all(&self) -> Vec<String> {
        let mut topics: Vec<_> = self.by_aggregate.values().cloned().collect();
        topics.push(self.raw.clone());
        topics.sort();
        topics.dedup();
        topics
    }
}
