//! Remembers answers until the rows of their projection change, and at most for a while: what
//! nobody asks for any more should not stay in memory.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Instant;

use daybook_contract::daybook::v1::ReadContext;
use daybook_contract::error::Error;
use lru::LruCache;
use prost::Message;
use rusqlite::Connection;

use crate::runtime::Handle;

/// The answers of one kind of query.
pub(crate) struct Cache<A> {
    answers: Mutex<LruCache<Vec<u8>, Kept<A>>>,
}

struct Kept<A> {
    /// What the projection's count of changes was before the answer was read.
    changes: u64,
    /// When it was read.
    since: Instant,
    position: u64,
    answer: A,
}

impl<A: Clone + Send + 'static> Cache<A> {
    /// A cache for so many answers.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { answers: Mutex::new(LruCache::new(most)) }
    }

    /// The answer to a request (without what has no influence on the rows), and the position that
    /// it reflects: one that is remembered, or else what `query` reads.
    pub async fn answer<F>(
        &self,
        handle: &Handle,
        read: Option<&ReadContext>,
        request: &impl Message,
        query: F,
    ) -> Result<(A, u64), Error>
    where
        F: Fn(&Connection) -> rusqlite::Result<A> + Send + Sync + 'static,
    {
        let progress = handle.wait_for(read).await?;
        let key = request.encode_to_vec();
        if let Some(kept) = self.answers.lock().expect("no holder panics").get(&key)
            && kept.changes == progress.changes
            && kept.since.elapsed() < handle.cache_lifetime()
        {
            metrics::counter!("daybook_query_cache_hits_total", "projection" => handle.name())
                .increment(1);
            // Nothing has changed since, so the same rows reflect the newer position as well.
            return Ok((kept.answer.clone(), kept.position.max(progress.position)));
        }
        metrics::counter!("daybook_query_cache_misses_total", "projection" => handle.name())
            .increment(1);
        let since = Instant::now();
        let (answer, position) = handle.read(read, query).await?;
        let kept = Kept { changes: progress.changes, since, position, answer: answer.clone() };
        self.answers.lock().expect("no holder panics").put(key, kept);
        Ok((answer, position))
    }
}
