//! The event bus: the publisher to Kafka, and the two sources of events, Kafka and the log.

pub mod outbox;
pub mod source;
