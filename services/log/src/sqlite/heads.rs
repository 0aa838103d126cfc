//! The last versions of streams, in memory of a fixed size.

/// How many streams have a place: 16 bytes each, which the system gives when they are first used.
const PLACES: usize = 1 << 20;

/// The last version of each stream, by its number. Streams are numbered in their order, so the last
/// bits of a number are its place: as many streams as there are places have one each; of more,
/// the one that was used last has it.
#[derive(Debug)]
pub(super) struct Heads {
    places: Vec<(i64, u64)>,
}

impl Heads {
    /// Nothing is known; 0 is the number of no stream.
    pub fn new() -> Self {
        Self { places: vec![(0, 0); PLACES] }
    }

    pub fn get(&self, stream_id: i64) -> Option<u64> {
        let (id, version) = self.places[place(stream_id)];
        (id == stream_id).then_some(version)
    }

    pub fn set(&mut self, stream_id: i64, version: u64) {
        self.places[place(stream_id)] = (stream_id, version);
    }
}

fn place(stream_id: i64) -> usize {
    stream_id.unsigned_abs() as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_until_another_needs_its_place() {
        let mut heads = Heads::new();
        let other = 7 + PLACES as i64;
        assert_eq!(heads.get(7), None);
        heads.set(7, 3);
        heads.set(8, 1);
        assert_eq!((heads.get(7), heads.get(8), heads.get(other)), (Some(3), Some(1), None));
        heads.set(other, 9);
        assert_eq!((heads.get(7), heads.get(8), heads.get(other)), (None, Some(1), Some(9)));
    }
}
