//! A source that is read ahead, while its reader works on what came before.

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::source::{Batch, Error, Source};

/// The batches that wait for the reader; a page of the log each.
const AHEAD: usize = 8;

/// A source in a task of its own.
struct Ahead {
    batches: mpsc::Receiver<Result<Batch, Error>>,
    task: JoinHandle<()>,
}

/// Reads a source ahead.
pub fn ahead(mut source: Box<dyn Source>) -> Box<dyn Source> {
    let (sender, batches) = mpsc::channel(AHEAD);
    let task = tokio::spawn(async move {
        loop {
            let result = source.next().await;
            let ends = result.is_err();
            if sender.send(result).await.is_err() || ends {
                return;
            }
        }
    });
    Box::new(Ahead { batches, task })
}

impl Source for Ahead {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async {
            let ended = || Error::Unavailable {
                source_name: "the source".to_owned(),
                problem: "its task has ended".to_owned(),
            };
            self.batches.recv().await.unwrap_or_else(|| Err(ended()))
        }
        .boxed()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many batches, and then an error.
    struct Few(u64);

    impl Source for Few {
        fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
            async {
                let damaged = Error::Damaged { problem: "the end".to_owned() };
                self.0 = self.0.checked_sub(1).ok_or(damaged)?;
                Ok(Batch { position: self.0, ..Batch::default() })
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn batches_and_the_error_after_them_come_in_order() {
        let mut source = ahead(Box::new(Few(20)));
        for position in (0..20).rev() {
            assert_eq!(source.next().await.unwrap().position, position);
        }
        assert!(matches!(source.next().await, Err(Error::Damaged { .. })));
        assert!(matches!(source.next().await, Err(Error::Unavailable { .. })));
    }
}
