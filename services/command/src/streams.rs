//! How many streams of one kind may be open.

use std::sync::Arc;
use std::time::Duration;

use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When to try again: streams are long, so another is seldom free sooner.
const RETRY: Duration = Duration::from_secs(1);

/// Counts open streams.
pub(crate) struct OpenStreams {
    limit: usize,
    room: Arc<Semaphore>,
}

impl OpenStreams {
    /// Room for so many.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, room: Arc::new(Semaphore::new(limit)) }
    }

    /// Takes the place of one, until what is returned is dropped; refuses when all are taken.
    pub(crate) fn open(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.room.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{} streams are open, which is the limit", self.limit);
            Error::new(ErrorReason::Overloaded, message).with_retry_after(RETRY)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_limit_is_refused_until_one_is_closed() {
        let streams = OpenStreams::new(2);
        let first = streams.open().unwrap();
        let _second = streams.open().unwrap();
        assert_eq!(streams.open().unwrap_err().reason(), "OVERLOADED");
        drop(first);
        assert!(streams.open().is_ok());
    }
}
