//! Where events are, by stream, in sorted runs: each entry is moved a few times, at the end of
//! long pieces of memory, instead of to a place in a tree (a log-structured merge, O'Neil and others 1996).

/// Where an event is: its order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub stream_id: i64,
    pub version: u64,
    pub position: u64,
}

/// The places of a stream among sorted ones.
pub(super) fn of(sorted: &[Place], stream_id: i64) -> &[Place] {
    let from = sorted.partition_point(|place| place.stream_id < stream_id);
    let rest = &sorted[from..];
    &rest[..rest.partition_point(|place| place.stream_id == stream_id)]
}

/// Sorted runs, the oldest first. Each is more than twice as long as the next, so that there are few.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Vec<Place>>);

impl Runs {
    /// How many places there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Adds places of later events than all before, in any order.
    pub fn add(&mut self, mut run: Vec<Place>) {
        run.sort_unstable();
        while let Some(before) = self.0.pop_if(|before| before.len() <= 2 * run.len()) {
            run = merged(before, run);
        }
        if !run.is_empty() {
            self.0.push(run);
        }
    }

    /// The places of a stream, in the order of its versions.
    pub fn of(&self, stream_id: i64) -> impl Iterator<Item = &Place> {
        self.0.iter().flat_map(move |run| of(run, stream_id))
    }

    /// The last place of a stream.
    pub fn last_of(&self, stream_id: i64) -> Option<&Place> {
        self.0.iter().rev().find_map(|run| of(run, stream_id).last())
    }

    /// All places in their order.
    pub fn sorted(self) -> Vec<Place> {
        self.0.into_iter().rev().reduce(|later, before| merged(before, later)).unwrap_or_default()
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
            prop::collection::vec(0_i64..8, 0..40), 0..60,
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
                prop_assert!(runs.0.is_sorted_by(|before, later| before.len() > 2 * later.len()));
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
