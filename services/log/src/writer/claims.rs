//! What must be unique, as far as it is in memory.

use std::collections::BTreeMap;

use lru::LruCache;

use crate::limits::CACHED_CLAIMS;
use crate::storage::{ClaimKey, Holders};
use crate::{Claim, ClaimChange, NewEvent};

/// The holders of claims, by the numbers of their streams. `None` stands for a claim that nobody
/// holds; a claim that is missing here has to be loaded.
pub(super) struct Claims {
    known: LruCache<ClaimKey, Option<i64>>,
}

/// Why what a decision claims is not settled.
#[derive(Debug, PartialEq)]
pub(super) enum Unsettled {
    /// These have to be loaded first.
    Unknown(Vec<ClaimKey>),
    /// Another stream holds it.
    Taken(Claim),
}

impl Claims {
    pub(super) fn new() -> Self {
        Self { known: LruCache::unbounded() }
    }

    pub(super) fn knows(&self, claim: &ClaimKey) -> bool {
        self.known.contains(claim)
    }

    pub(super) fn learn(&mut self, claim: ClaimKey, holder: Option<i64>) {
        self.known.put(claim, holder);
    }

    pub(super) fn forget<'a>(&mut self, claims: impl Iterator<Item = &'a ClaimKey>) {
        for claim in claims {
            self.known.pop(claim);
        }
    }

    /// The holders after these events of a stream, where they change.
    pub(super) fn after(
        &mut self,
        events: &[NewEvent],
        stream_id: i64,
    ) -> Result<BTreeMap<ClaimKey, Holders>, Unsettled> {
        let mut unknown = Vec::new();
        let mut changes: BTreeMap<ClaimKey, Holders> = BTreeMap::new();
        for claim in events.iter().flat_map(|event| &event.claims) {
            let key = ClaimKey { scope: claim.scope, key: claim.key.clone() };
            let Some(&before) = self.known.get(&key) else {
                unknown.push(key);
                continue;
            };
            let change = changes.entry(key).or_insert(Holders { before, after: before });
            match claim.change {
                ClaimChange::Take if change.after.is_none_or(|holder| holder == stream_id) => {
                    change.after = Some(stream_id);
                }
                ClaimChange::Take if unknown.is_empty() => {
                    return Err(Unsettled::Taken(claim.clone()));
                }
                // It is taken, but so may be one before it that is not known yet.
                ClaimChange::Take => {}
                ClaimChange::Free if change.after == Some(stream_id) => change.after = None,
                ClaimChange::Free => {}
            }
        }
        if !unknown.is_empty() {
            return Err(Unsettled::Unknown(unknown));
        }
        changes.retain(|_, holders| holders.before != holders.after);
        Ok(changes)
    }

    /// Takes over what was decided, also into the group that will make it durable.
    pub(super) fn apply(
        &mut self,
        changes: BTreeMap<ClaimKey, Holders>,
        group: &mut BTreeMap<ClaimKey, Holders>,
    ) {
        for (key, holders) in changes {
            self.known.put(key.clone(), holders.after);
            group.entry(key).and_modify(|all| all.after = holders.after).or_insert(holders);
        }
    }

    /// Pushes out of memory what was not asked for the longest, up to what is `held`: what is not
    /// durable must stay.
    pub(super) fn trim(&mut self, held: impl Fn(&ClaimKey) -> bool) {
        while self.known.len() > CACHED_CLAIMS
            && self.known.peek_lru().is_some_and(|(claim, _)| !held(claim))
        {
            self.known.pop_lru();
        }
    }
}
