//! The log as the outbox of the publisher.

use bytes::Bytes;
use daybook_bus::outbox::{BoxError, Outbox};
use daybook_log::{Direction, EventLog};
use tokio::sync::watch;

/// An [`EventLog`] as a publisher sees it.
pub struct LogOutbox(pub EventLog);

impl Outbox for LogOutbox {
    fn store_id(&self) -> String {
        self.0.store_id().to_string()
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.0.head()
    }

    async fn read_after(&self, position: u64, limit: usize) -> Result<Vec<Bytes>, BoxError> {
        let records = self.0.read_all(position + 1, Direction::Forward, limit).await?;
        Ok(records.into_iter().map(|record| record.bytes).collect())
    }

    async fn published(&self) -> Result<u64, BoxError> {
        Ok(self.0.published())
    }

    async fn set_published(&self, position: u64) -> Result<(), BoxError> {
        self.0.set_published(position);
        Ok(())
    }
}
