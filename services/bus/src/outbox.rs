//! What the publisher needs of the event log. The event table is the outbox.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::watch;

/// An error of the log behind the outbox.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An event log, as far as a publisher sees it.
pub trait Outbox: Send + Sync + 'static {
    /// The id of the store.
    fn store_id(&self) -> String;

    /// The position of the last durable event; changes as events are recorded.
    fn head(&self) -> watch::Receiver<u64>;

    /// The encoded RecordedEvents after a position, in order and without a gap, at most `limit`;
    /// empty at the end of the log.
    fn read_after(
        &self,
        position: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Bytes>, BoxError>> + Send;

    /// Everything up to this position has been delivered.
    fn published(&self) -> impl Future<Output = Result<u64, BoxError>> + Send;

    /// Moves the published mark. It may be written lazily: after a crash an older mark may be
    /// found, never a newer one.
    fn set_published(&self, position: u64) -> impl Future<Output = Result<(), BoxError>> + Send;
}
