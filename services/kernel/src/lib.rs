//! The pure kernel: what an aggregate is, money, names of streams, and specifications of rules.
//!
//! No I/O, no clock, no randomness: this crate depends on neither a runtime nor a database.

pub mod aggregate;
pub mod money;
pub mod registry;
pub mod saga;
pub mod spec;
pub mod stream;

pub use aggregate::{Aggregate, Context, Rejection, RejectionKind, in_words};
pub use money::{Currency, Money, MoneyError};
pub use prost_types::Timestamp;
pub use registry::{Registry, SagaRegistry};
pub use saga::{Awaited, Foreign, Saga, Step, awaits, derived_id, is_awaited, step_id};
pub use stream::StreamName;
