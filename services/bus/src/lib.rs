//! The event bus: the publisher to Kafka, and the two sources of events, Kafka and the log.
//!
//! Nothing here knows what an event means: records are bytes, a stream and a position.

mod admin;
mod ahead;
mod assignment;
mod delivery;
mod envelope;
pub mod kafka;
pub mod log;
pub mod outbox;
pub mod partition;
mod prefix;
pub mod publisher;
mod reached;
pub mod record;
mod records;
mod session;
pub mod settings;
mod shared;
pub mod source;
mod tail;

pub use ahead::ahead;
pub use envelope::{Content, Envelope};
pub use publisher::{Publisher, PublisherConfig, PublisherStatus};
pub use records::Records;
pub use settings::{Kafka, Topics};
pub use shared::SharedSourceFactory;
