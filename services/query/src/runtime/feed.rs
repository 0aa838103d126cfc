//! The source of a running projection: opened when needed, and opened again after an error, always
//! at the committed cursor. When the source has lost the place, the log fills in.

use std::sync::Arc;

use daybook_bus::source::{self, Batch, LogReader, Source, SourceFactory};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::history::other_history;
use super::store::Checkpoint;

/// Why there is no next batch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The source cannot be used at the moment.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The log is not the one that was read before.
    #[error("{0}")]
    OtherHistory(String),
}

/// A source that is not open yet, with the position up to which it is to be read, if it is only to
/// catch up.
type Opening = BoxFuture<'static, Result<(Box<dyn Source>, Option<u64>), Error>>;

/// Batches, one after the other.
pub(crate) struct Feed {
    factory: Arc<dyn SourceFactory>,
    log: Arc<dyn LogReader>,
    batch_size: usize,
    committed: Checkpoint,
    state: State,
    /// The source has lost the place: the next one to open is the log.
    lost: bool,
    /// What came after the batch that was returned last.
    failed: Option<Error>,
    /// Whether the source could not be opened when it was last tried.
    unopened: bool,
    reached: Arc<Notify>,
}

enum State {
    Closed,
    Opening(Opening),
    Open {
        source: Box<dyn Source>,
        /// Where the log hands over to the source proper; `None` when this is it.
        until: Option<u64>,
    },
}

impl Feed {
    pub fn new(
        factory: Arc<dyn SourceFactory>,
        log: Arc<dyn LogReader>,
        batch_size: usize,
        committed: Checkpoint,
    ) -> Self {
        let batch_size = batch_size.max(1);
        let state = State::Closed;
        let (reached, unopened) = (Arc::default(), false);
        Self {
            factory,
            log,
            batch_size,
            committed,
            state,
            lost: false,
            failed: None,
            unopened,
            reached,
        }
    }

    /// Says that the source could be opened after it could not. It may have nothing new then.
    pub fn reached(&self) -> Arc<Notify> {
        self.reached.clone()
    }

    /// Says what has been committed.
    pub fn committed(&mut self, checkpoint: &Checkpoint) {
        self.committed.clone_from(checkpoint);
        let State::Open { until: Some(until), .. } = &self.state else { return };
        if checkpoint.cursor.log_position >= *until {
            // Nothing is missing up to where the log ended. The source proper begins at whatever
            // it still has: what it repeats is known by its version, what it lacks is in the log.
            self.committed.cursor.partitions = Arc::default();
            self.lost = false;
            self.close();
        }
    }

    /// Lets go of the source; the next batch begins at the committed cursor.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.failed = None;
    }

    /// Waits for the next batch: at most about the batch size, but never waiting for more than
    /// one. Cancel-safe. After an error the source is opened again, at the committed cursor.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        let next = match self.failed.take() {
            Some(error) => Err(error),
            None => self.try_next().await,
        };
        match next {
            Ok(batch) => Ok(batch),
            Err(error) => {
                self.lost |= matches!(error, Error::Source(source::Error::Lost { .. }));
                self.state = State::Closed;
                Err(error)
            }
        }
    }

    /// The next batch, if it comes in time. An error is left to the next call of [`Feed::next`].
    pub async fn next_until(&mut self, time: Instant) -> Option<Batch> {
        let next = tokio::time::timeout_at(time, self.next()).await.ok()?;
        next.map_err(|error| self.failed = Some(error)).ok()
    }

    async fn try_next(&mut self) -> Result<Batch, Error> {
        loop {
            match &mut self.state {
                State::Closed => self.state = State::Opening(self.open()),
                State::Opening(opening) => {
                    let opened = opening.await;
                    let was_out_of_reach = std::mem::replace(&mut self.unopened, opened.is_err());
                    let (source, until) = opened?;
                    if was_out_of_reach {
                        self.reached.notify_one();
                    }
                    self.lost &= until.is_some();
                    self.state = State::Open { source, until };
                }
                State::Open { source, until } => {
                    let mut batch = source.next().await?;
                    while batch.records.len() < self.batch_size {
                        match source.next().now_or_never() {
                            Some(Ok(more)) => merge(&mut batch, more),
                            Some(Err(error)) => {
                                self.failed = Some(error.into());
                                break;
                            }
                            None => break,
                        }
                    }
                    if until.is_some() {
                        // The places in the partitions are lost, whatever the log says.
                        batch.cursor.partitions = Arc::default();
                    }
                    return Ok(batch);
                }
            }
        }
    }

    fn open(&self) -> Opening {
        let (committed, lost) = (self.committed.clone(), self.lost);
        let (factory, log) = (self.factory.clone(), self.log.clone());
        Box::pin(async move {
            if let Some(problem) = other_history(log.as_ref(), &committed).await {
                return Err(Error::OtherHistory(problem));
            }
            let mut cursor = committed.cursor;
            if lost {
                let until = log.head().await?;
                if until == cursor.log_position {
                    cursor.partitions = Arc::default();
                    return Ok((factory.open(&cursor).await?, None));
                }
                return Ok((log.subscribe(cursor.log_position).await?, Some(until)));
            }
            Ok((factory.open(&cursor).await?, None))
        })
    }
}

/// Appends a batch to the one before it.
pub(crate) fn merge(batch: &mut Batch, more: Batch) {
    batch.records.append(more.records);
    batch.position = batch.position.max(more.position);
    batch.head = batch.head.max(more.head);
    batch.cursor = more.cursor;
}
