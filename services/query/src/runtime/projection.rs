//! What a projection is. *Not* here: how it is run, which is the same for all.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use daybook_contract::contract::EventError;
use daybook_kernel::Aggregate;

use super::row::{ApplyError, Tables};

/// A read model: rows that are a fold of events.
///
/// Law: the functions are pure, and what they make of the events does not depend on how the
/// events of different streams are interleaved, nor on how they are cut into batches. The events
/// of one stream come once each and in order. Nothing is executed but `apply`; rows of an event
/// that fails are as they were before it.
pub trait Projection: Send + Sync + Sized + 'static {
    /// The name, lower case with underscores; also the name of its files.
    const NAME: &'static str;
    /// Changed whenever the same events make other rows; the projection is then built anew.
    const VERSION: u32;
    /// Whose events it takes.
    const AGGREGATES: &'static [&'static str];
    /// The statements that make its tables and indexes. The names `checkpoint`,
    /// `stream_versions`, `waiting_versions`, `quarantine` and `skipped` are taken.
    const SCHEMA: &'static str;
    /// Its tables.
    type Tables: Tables;
    /// An event, decoded and brought up to the current version.
    type Event: Send + Sync;

    /// Decodes an event of one of its aggregates; others are refused before.
    fn decode(event: EncodedEvent<'_>) -> Result<Self::Event, EventError>;

    /// Wants the rows that `apply` will need.
    fn want(event: &Recorded<Self::Event>, tables: &mut Self::Tables);

    /// Folds one event into the rows.
    fn apply(event: &Recorded<Self::Event>, tables: &mut Self::Tables) -> Result<(), ApplyError>;
}

/// An event that is not decoded yet.
#[derive(Debug, Clone)]
pub struct EncodedEvent<'a> {
    /// The aggregate.
    pub aggregate_type: &'a str,
    /// The name of the event.
    pub name: &'a str,
    /// The version of its schema.
    pub version: u32,
    /// The encoded message.
    pub bytes: Bytes,
}

impl EncodedEvent<'_> {
    /// Decodes an event of this aggregate.
    pub fn decode<A: Aggregate>(self) -> Result<A::Event, EventError> {
        use daybook_contract::contract::EventSet;
        <A::Event as EventSet<A>>::decode(self.name, self.version, self.bytes)
    }
}

/// An event with where and when it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded<E> {
    /// The event.
    pub event: E,
    /// The unique id of the event.
    pub event_id: String,
    /// The aggregate: one of [`Projection::AGGREGATES`].
    pub aggregate_type: &'static str,
    /// Its id.
    pub aggregate_id: String,
    /// The version of its stream with this event.
    pub version: u64,
    /// The position in the log.
    pub position: u64,
    /// When it was recorded, in nanoseconds since 1970; 0 when the record does not say.
    pub time_ns: i64,
}

impl<E> Recorded<E> {
    /// The name of the stream.
    pub fn stream(&self) -> String {
        stream_name(self.aggregate_type, &self.aggregate_id)
    }

    /// The same with another event, such as that of one kind out of several.
    pub fn with<F>(&self, event: F) -> Recorded<F> {
        Recorded {
            event,
            event_id: self.event_id.clone(),
            aggregate_type: self.aggregate_type,
            aggregate_id: self.aggregate_id.clone(),
            version: self.version,
            position: self.position,
            time_ns: self.time_ns,
        }
    }

    /// The version as a column holds it.
    pub fn version_i64(&self) -> i64 {
        super::store::to_i64(self.version)
    }

    /// The position as a column holds it.
    pub fn position_i64(&self) -> i64 {
        super::store::to_i64(self.position)
    }
}

/// The name of the stream of an aggregate.
pub(crate) fn stream_name(aggregate_type: &str, aggregate_id: &str) -> String {
    let mut name = String::with_capacity(aggregate_type.len() + 1 + aggregate_id.len());
    name.push_str(aggregate_type);
    name.push('-');
    name.push_str(aggregate_id);
    name
}

/// Calls a function of a projection. A bug there must not stop the runtime: a panic concerns the
/// event alone.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panic_text(&*panic))
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the projection panicked: {}", text.unwrap_or("no message"))
}
