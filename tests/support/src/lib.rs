//! What the tests of several crates share. Nothing here is part of the product.

pub mod broker;
mod kafka;
mod redpanda;
pub mod server;
pub mod topic;
pub mod wait;

pub use broker::Broker;
pub use server::{Daybook, Ports, giving_way, http_get};
pub use tempfile::{TempDir, tempdir};
pub use topic::{TopicReader, TopicRecord};
pub use wait::{eventually, free_port, unique};
