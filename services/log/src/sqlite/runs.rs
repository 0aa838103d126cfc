//! Where events are, by stream, in sorted runs in memory: each entry is moved a few times, at the
//! end of long pieces of memory, instead of to a place in a tree (a log-structured merge, O'Neil
//! and others 1996). From here they go to the runs on the disk (`disk_runs.rs`).

/// Where an event is. Their order is that of the streams, then of the versions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub stream_id: i64,
    pub version: u64,
    pub position: u64,
}

impl Place {
    /// What it is found by.
    pub fn key(&self) -> (i64, u64) {
        (self.stream_id, self.version)
    }

    /// Whether it can stand after another in a run: of a later stream, or later in its stream.
    pub fn may_follow(&self, other: &Self) -> bool {
        match self.stream_id == other.stream_id {
            true => self.version > other.version && self.position > other.position,
            false => self.stream_id > other.stream_id,
        }
    }
}

/// The places of a stream among sorted ones.
pub(super) fn of(sorted: &[Place], stream_id: i64) -> &[Place] {
    let from = sorted.partition_point(|place| place.stream_id < stream_id);
    let rest = &sorted[from..];
    &rest[..rest.partition_point(|place| place.stream_id == stream_id)]
}

/// So many places are kept in the order in which they came, before they are sorted: to look through
/// them takes no longer than to find something in a long run.
const UNSORTED: usize = 256;

/// Places in sorted runs, the oldest first. Each is at least twice as long as the next, so that
/// there are few.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Vec<Place>>,
    /// The newest, in the order of the log.
    unsorted: Vec<Place>,
}

impl Runs {
    /// How many places there are.
    pub fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum::<usize>() + self.unsorted.len()
    }

    /// Adds the places of the next events of the log.
    pub fn add(&mut self, places: impl IntoIterator<Item = Place>) {
        self.unsorted.extend(places);
        if self.unsorted.len() < UNSORTED {
            return;
        }
        let mut run = std::mem::take(&mut self.unsorted);
        run.sort_unstable();
        while let Some(before) = self.runs.pop_if(|before| before.len() < 2 * run.len()) {
            run = merged(before, run);
        }
        self.runs.push(run);
    }

    /// The places of a stream, in the order of its versions.
    pub fn of(&self, stream_id: i64) -> impl Iterator<Item = &Place> {
        let unsorted = self.unsorted.iter().filter(move |place| place.stream_id == stream_id);
        self.runs.iter().flat_map(move |run| of(run, stream_id)).chain(unsorted)
    }

    /// The last place of a stream.
    pub fn last_of(&self, stream_id: i64) -> Option<&Place> {
        let unsorted = self.unsorted.iter().rfind(|place| place.stream_id == stream_id);
        unsorted.or_else(|| self.runs.iter().rev().find_map(|run| of(run, stream_id).last()))
    }

    /// All places in their order.
    pub fn sorted(mut self) -> Vec<Place> {
        self.unsorted.sort_unstable();
        let later = self.unsorted;
        self.runs.into_iter().rev().fold(later, |later, before| merged(before, later))
    }
}

/// One run of two.
fn merged(mut before: Vec<Place>, later: Vec<Place>) -> Vec<Place> {
    before.extend(later);
    // This sort finds the two runs and merges them.
    before.sort();
    before
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_say_what_a_map_says(groups in prop::collection::vec(
            prop::collection::vec(0_i64..8, 0..200), 0..60,
        )) {
            let mut runs = Runs::default();
            let mut map: BTreeMap<i64, Vec<Place>> = BTreeMap::new();
            let mut position = 0;
            for group in groups {
                let places: Vec<Place> = group.into_iter().map(|stream_id| {
                    let stream = map.entry(stream_id).or_default();
                    position += 1;
                    let place = Place { stream_id, version: stream.len() as u64 + 1, position };
                    stream.push(place);
                    place
                }).collect();
                runs.add(places);
                let lengths = runs.runs.iter().map(Vec::len);
                prop_assert!(lengths.is_sorted_by(|before, later| *before >= 2 * *later));
                for stream_id in 0..9 {
                    let expected = map.get(&stream_id).map_or(&[][..], Vec::as_slice);
                    prop_assert!(runs.of(stream_id).eq(expected));
                    prop_assert_eq!(runs.last_of(stream_id), expected.last());
                }
            }
            prop_assert_eq!(runs.len() as u64, position);
            prop_assert!(runs.sorted().iter().eq(map.values().flatten()));
        }
    }
}
