//! The part of the indexes that is in memory only.
//!
//! An append writes the log alone. What the tables `stream_events` and `requests` do not hold yet
//! stands here in generations: one is filled by what is appended; when it is full it is merged into
//! the tables, in their order and a slice with each group, while the next one fills. A merged
//! generation keeps its requests in memory until the next one is merged, so that recent requests
//! are found, and new ones known to be new, without a look at the tables. After a start the
//! generation to fill is read from the end of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use crate::storage::{Group, Recall, RequestRow, StoredAnswer};

/// A part of what was appended, as the tables hold it.
#[derive(Debug, Default)]
pub(super) struct Generation {
    /// The position of each version of a stream, by number.
    pub events: BTreeMap<(i64, u64), u64>,
    pub requests: BTreeMap<Uuid, RequestRow>,
    /// The greatest id of its requests.
    greatest: Uuid,
    /// The position of its last event.
    pub last: u64,
}

impl Generation {
    pub fn add_event(&mut self, stream_id: i64, version: u64, position: u64) {
        self.events.insert((stream_id, version), position);
        self.last = self.last.max(position);
    }

    /// The last version of a stream here.
    fn head(&self, stream_id: i64) -> Option<u64> {
        let last = self.events.range((stream_id, 0)..=(stream_id, u64::MAX)).next_back();
        last.map(|((_, version), _)| *version)
    }

    pub fn add_request(&mut self, row: RequestRow) {
        self.greatest = self.greatest.max(row.id);
        self.requests.insert(row.id, row);
    }

    /// Most requests are new, and their ids greater than all that are here.
    fn request(&self, id: &Uuid) -> Option<&RequestRow> {
        (*id <= self.greatest).then(|| self.requests.get(id))?
    }

    fn is_full(&self, size: usize) -> bool {
        self.events.len() >= size || self.requests.len() >= size
    }

    fn newest_request(&self) -> Option<Uuid> {
        self.requests.keys().rev().find(|id| is_v7(id)).copied()
    }
}

/// Ids of this kind begin with the time, so that those of new requests are greater than all others.
pub(super) fn is_v7(id: &Uuid) -> bool {
    id.get_version_num() == 7
}

/// What of the indexes is in memory. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// The events or requests of a generation.
    size: usize,
    generations: Arc<RwLock<Generations>>,
}

#[derive(Debug)]
struct Generations {
    filling: Generation,
    merging: Option<Arc<Generation>>,
    /// Its events are in the tables; only the requests are of use.
    merged: Option<Arc<Generation>>,
    /// No UUIDv7 that is in the tables alone is greater than this.
    newest: Uuid,
}

impl Index {
    pub fn new(size: usize, filling: Generation, newest: Uuid) -> Self {
        let generations = Generations { filling, merging: None, merged: None, newest };
        Self { size, generations: Arc::new(RwLock::new(generations)) }
    }

    /// Takes up what is durable now.
    pub fn add(&self, group: &Group) {
        let mut generations = self.write();
        for row in &group.events {
            generations.filling.add_event(row.stream_id, row.version, row.record.position);
        }
        for row in &group.requests {
            generations.filling.add_request(row.clone());
        }
    }

    /// The generation to merge: the one under way, or the one that is full, or, when `all`, any.
    pub fn to_merge(&self, all: bool) -> Option<Arc<Generation>> {
        let mut generations = self.write();
        let filling = &generations.filling;
        let empty = filling.events.is_empty() && filling.requests.is_empty();
        if generations.merging.is_some() || empty || !(all || filling.is_full(self.size)) {
            return generations.merging.clone();
        }
        generations.merging = Some(Arc::new(std::mem::take(&mut generations.filling)));
        generations.merging.clone()
    }

    /// The generation under way is in the tables.
    pub fn merged(&self) {
        let mut generations = self.write();
        let merging = generations.merging.take();
        let out = std::mem::replace(&mut generations.merged, merging);
        if let Some(newest) = out.as_ref().and_then(|out| out.newest_request()) {
            generations.newest = generations.newest.max(newest);
        }
        drop(generations);
        // Thousands of small parts are freed here, outside of the lock.
        drop(out);
    }

    /// The last version of a stream, if one of its events is in memory. It is then the last of all.
    pub fn last_version(&self, stream_id: i64) -> Option<u64> {
        let generations = self.read();
        let merging = || generations.merging.as_ref()?.head(stream_id);
        generations.filling.head(stream_id).or_else(merging)
    }

    /// The positions of the versions of a stream that are in memory, in the order of versions.
    /// Those before the first of them are in the tables.
    pub fn positions(&self, stream_id: i64) -> Vec<(u64, u64)> {
        let generations = self.read();
        let parts = [generations.merging.as_deref(), Some(&generations.filling)];
        let versions = parts
            .into_iter()
            .flatten()
            .flat_map(|part| part.events.range((stream_id, 0)..=(stream_id, u64::MAX)));
        versions.map(|((_, version), position)| (*version, *position)).collect()
    }

    /// What is known of a request without a look at the tables.
    pub fn recall(&self, id: &Uuid) -> Recall {
        let generations = self.read();
        let merging = || generations.merging.as_ref()?.request(id);
        let merged = || generations.merged.as_ref()?.request(id);
        match generations.filling.request(id).or_else(merging).or_else(merged) {
            Some(row) => Recall::Stored(row.clone()),
            None if is_v7(id) && *id > generations.newest => Recall::New,
            None => Recall::Unknown,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Generations> {
        self.generations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Generations> {
        self.generations.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests of a group whose answer is not in the log.
pub(super) fn beside_the_log(group: &Group) -> impl Iterator<Item = (&RequestRow, &[u8])> {
    group.requests.iter().filter_map(|row| match &row.answer {
        StoredAnswer::Recorded(_) => None,
        StoredAnswer::Other(answer) => Some((row, answer.as_ref())),
    })
}
