//! The part of the indexes that is in memory only.
//!
//! An append writes the log alone. What the runs on the disk (`disk_runs.rs`) and the table
//! `requests` do not hold yet stands here. It gathers until there is enough, and is merged in its
//! order and a slice with each group (`merge.rs`), while more gathers: the places of events into a
//! run of their own, requests into their table. The more events gather, the fewer runs there are to
//! compact; requests mostly go to the end of their table, and take more memory, so fewer do. Merged
//! requests stay in memory for a while, so that recent ones are found, and new ones known to be
//! new, without a look at the table. After a start, what gathers is read from the end of the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use super::runs::{self, Place, Runs};
use crate::limits::{INDEX_AFTER, RECENT_REQUESTS};
use crate::storage::{Group, Recall, RequestRow, StoredAnswer};

/// How often requests are merged for once that events are.
const REQUESTS_MORE_OFTEN: usize = 4;

const _: () = assert!(INDEX_AFTER / REQUESTS_MORE_OFTEN >= RECENT_REQUESTS as usize);

/// Answered requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub rows: BTreeMap<Uuid, RequestRow>,
    /// The greatest id.
    greatest: Uuid,
}

impl Requests {
    pub fn add(&mut self, row: RequestRow) {
        self.greatest = self.greatest.max(row.id);
        self.rows.insert(row.id, row);
    }

    /// Most requests are new, and their ids greater than all that are here.
    fn get(&self, id: &Uuid) -> Option<&RequestRow> {
        (*id <= self.greatest).then(|| self.rows.get(id))?
    }

    fn newest(&self) -> Option<Uuid> {
        self.rows.keys().rev().find(|id| is_v7(id)).copied()
    }
}

/// What was appended and is not in the runs and tables on the disk.
#[derive(Debug, Default)]
pub(super) struct Filling {
    places: Runs,
    pub requests: Requests,
    /// The position of the last event.
    last: u64,
}

impl Filling {
    /// Takes up the next events of the log.
    pub fn add_events(&mut self, places: impl Iterator<Item = Place>) {
        let Self { places: before, last, .. } = self;
        before.add(places.inspect(|place| *last = place.position));
    }
}

/// What is being merged. Without places, only requests are.
#[derive(Debug)]
pub(super) struct Merging {
    /// In their order.
    pub places: Vec<Place>,
    pub requests: Arc<Requests>,
    /// The requests of all events up to here are in the table afterwards, and so are the places of
    /// the events in a run if there are some.
    pub last: u64,
}

/// Ids of this kind begin with the time, so that those of new requests are greater than all others.
pub(super) fn is_v7(id: &Uuid) -> bool {
    id.get_version_num() == 7
}

/// Thousands of small parts, which take a while to free.
#[derive(Debug)]
pub(super) struct Waste {
    _merging: Arc<Merging>,
    _requests: Vec<Arc<Requests>>,
}

/// What of the indexes is in memory. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// How many events are merged at once.
    size: usize,
    parts: Arc<RwLock<Parts>>,
}

#[derive(Debug)]
struct Parts {
    filling: Filling,
    merging: Option<Arc<Merging>>,
    /// The requests that were merged last, in the order of merging.
    merged: VecDeque<Arc<Requests>>,
    /// No UUIDv7 that is in the tables alone is greater than this.
    newest: Uuid,
}

impl Index {
    pub fn new(size: usize, filling: Filling, newest: Uuid) -> Self {
        let parts = Parts { filling, merging: None, merged: VecDeque::new(), newest };
        Self { size, parts: Arc::new(RwLock::new(parts)) }
    }

    /// Takes up what is durable now.
    pub fn add(&self, group: &Group) {
        let mut parts = self.write();
        let places = group.events.iter().map(|row| Place {
            stream_id: row.stream_id,
            version: row.version,
            position: row.record.position,
        });
        parts.filling.add_events(places);
        for row in &group.requests {
            parts.filling.requests.add(row.clone());
        }
    }

    /// What to merge: what is under way, or else what is full, or, when `all`, whatever there is.
    pub fn to_merge(&self, all: bool) -> Option<Arc<Merging>> {
        let mut parts = self.write();
        let is_full = self.has_enough(&parts);
        let Parts { filling: Filling { places, requests, last }, merging, .. } = &mut *parts;
        let empty = places.len() == 0 && requests.rows.is_empty();
        let events_too = all || places.len() >= self.size;
        if merging.is_none() && !empty && (all || is_full) {
            let places = if events_too { std::mem::take(places).sorted() } else { Vec::new() };
            let requests = Arc::new(std::mem::take(requests));
            *merging = Some(Arc::new(Merging { places, requests, last: *last }));
        }
        merging.clone()
    }

    /// Whether something is full and nothing is merged: [`Self::to_merge`] then sorts it.
    pub fn is_full(&self) -> bool {
        let parts = self.read();
        parts.merging.is_none() && self.has_enough(&parts)
    }

    fn has_enough(&self, Parts { filling, .. }: &Parts) -> bool {
        filling.places.len() >= self.size || filling.requests.rows.len() >= self.requests()
    }

    /// How many requests are merged at once, and stay in memory after that at least.
    fn requests(&self) -> usize {
        self.size.div_ceil(REQUESTS_MORE_OFTEN)
    }

    /// What was under way is in the tables. What is returned is no longer needed.
    pub fn merged(&self) -> Option<Waste> {
        let mut parts = self.write();
        let merging = parts.merging.take()?;
        parts.merged.push_back(merging.requests.clone());
        let mut out = Vec::new();
        let later = |merged: &VecDeque<Arc<Requests>>| -> usize {
            merged.iter().skip(1).map(|requests| requests.rows.len()).sum()
        };
        while parts.merged.len() > 1 && later(&parts.merged) >= self.requests() {
            out.extend(parts.merged.pop_front());
        }
        let newest = out.iter().filter_map(|requests| requests.newest()).max();
        parts.newest = newest.map_or(parts.newest, |newest| newest.max(parts.newest));
        Some(Waste { _merging: merging, _requests: out })
    }

    /// The last version of a stream, if one of its events is in memory. It is then the last of all.
    pub fn last_version(&self, stream_id: i64) -> Option<u64> {
        let parts = self.read();
        let merging = || runs::of(&parts.merging.as_ref()?.places, stream_id).last();
        let last = parts.filling.places.last_of(stream_id).or_else(merging);
        last.map(|place| place.version)
    }

    /// Where the versions of a stream are that are in memory, in their order. Those before the
    /// first of them are in the runs on the disk.
    pub fn places(&self, stream_id: i64) -> Vec<Place> {
        let parts = self.read();
        let merging = parts.merging.iter().flat_map(|merging| runs::of(&merging.places, stream_id));
        merging.chain(parts.filling.places.of(stream_id)).copied().collect()
    }

    /// What is known of a request without a look at the tables.
    pub fn recall(&self, id: &Uuid) -> Recall {
        let parts = self.read();
        let merging = || parts.merging.as_ref()?.requests.get(id);
        let merged = || parts.merged.iter().rev().find_map(|requests| requests.get(id));
        match parts.filling.requests.get(id).or_else(merging).or_else(merged) {
            Some(row) => Recall::Stored(row.clone()),
            None if is_v7(id) && *id > parts.newest => Recall::New,
            None => Recall::Unknown,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Parts> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Parts> {
        self.parts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests of a group whose answer is not in the log.
pub(super) fn beside_the_log(group: &Group) -> impl Iterator<Item = (&RequestRow, &[u8])> {
    group.requests.iter().filter_map(|row| match &row.answer {
        StoredAnswer::Recorded(_) => None,
        StoredAnswer::Other(answer) => Some((row, answer.as_ref())),
    })
}
