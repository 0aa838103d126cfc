//! Packed streams by name, in a room of a fixed size.
//!
//! With a million streams, a command waits for memory more than for anything else. So each stands
//! in few lines of one mapping (`lines.rs`), and what is unpacked leaves its lines to what is
//! packed next, while they are still in the caches.
//!
//! When the room gets scarce, a hand goes round the lines and forgets the streams that it meets for
//! the second time (CLOCK, Corbató 1968).

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use prost::encoding::{decode_varint, encode_varint};

use super::lines::Lines;
use super::streams::{Entry, Folded};
use crate::Folder;

/// Of how many lines one is to be free.
const FREE_SHARE: usize = 8;

/// How many lines the hand looks at for each that is needed while the room is scarce. So it has gone
/// round several times before there is none.
const LOOKED_AT: usize = 32;

/// Time is counted in packings, and noted in steps. A stream comes back soon within so many of them,
/// in which as many streams are packed as may stay unpacked.
const SOON: u16 = 8;

/// Packed streams.
pub(super) struct Packed {
    /// Each stream, with the time when it was packed as its note.
    lines: Lines,
    table: HashTable<Found>,
    hasher: RandomState,
    /// The line that the hand looks at next.
    hand: u32,
    /// How many times a stream was packed.
    packings: usize,
    /// How many packings make a step of the time.
    step: usize,
    /// The last stream that was written to its lines, and the last that was read from them.
    written: Vec<u8>,
    read: Vec<u8>,
}

/// Where a stream is.
struct Found {
    /// Of its name, so that the table can grow without looking at each stream.
    hash: u32,
    first: u32,
}

impl Packed {
    /// With room for so many bytes, beside so many unpacked streams.
    pub fn new(most_bytes: usize, unpacked: usize) -> Self {
        Self {
            lines: Lines::new(most_bytes),
            table: HashTable::new(),
            hasher: RandomState::default(),
            hand: 0,
            packings: 0,
            step: (unpacked / usize::from(SOON)).max(1),
            written: Vec::new(),
            read: Vec::new(),
        }
    }

    /// The time, in steps of packings. It comes round after 65,536 of them; a stream that was
    /// packed that long ago may then seem to have come back soon, which costs it nothing but a
    /// place.
    fn now(&self) -> u16 {
        (self.packings / self.step) as u16
    }

    /// Packs a stream that is not here, and says whether it found room.
    pub fn put(&mut self, name: &str, entry: &Entry) -> bool {
        debug_assert!(self.remove(name).is_none(), "{name} is packed twice");
        pack(name, entry, &mut self.written);
        self.make_room(Lines::needed(self.written.len()));
        self.packings += 1;
        let (hash, now) = (self.hash(name.as_bytes()), self.now());
        let Some(first) = self.lines.write(&self.written, now) else { return false };
        self.table.insert_unique(long(hash), Found { hash, first }, |found| long(found.hash));
        true
    }

    /// Takes a stream out, unpacked, and says whether it has come back soon. `None` when it is not
    /// here or its state is not understood.
    pub fn take(
        &mut self,
        name: &str,
        folder: Option<&'static dyn Folder>,
    ) -> Option<(Entry, bool)> {
        let packed_at = self.remove(name)?;
        let age = self.now().wrapping_sub(packed_at);
        Some((unpack(&self.read, folder)?, age < SOON))
    }

    /// Takes a stream out, and says when it was packed.
    pub fn remove(&mut self, name: &str) -> Option<u16> {
        let hash = self.hash(name.as_bytes());
        let Self { lines, table, read, .. } = self;
        let mut packed_at = 0;
        let is_it = |found: &Found| {
            found.hash == hash && {
                packed_at = lines.read(found.first, read);
                name_of(read) == name.as_bytes()
            }
        };
        let (found, _) = table.find_entry(long(hash), is_it).ok()?.remove();
        lines.free(found.first);
        Some(packed_at)
    }

    /// Forgets what the hand meets for the second time, until there are lines for so many and some
    /// to spare.
    fn make_room(&mut self, needed: usize) {
        let enough = needed.max(self.lines.count() as usize / FREE_SHARE);
        // Each twice at most, so that all may be forgotten.
        let most = (LOOKED_AT * needed).min(2 * self.lines.used() as usize);
        for _ in 0..most {
            if self.lines.room() as usize >= enough {
                break;
            }
            let line = self.hand;
            self.hand = (line + 1) % self.lines.used();
            if self.lines.meet(line) {
                self.lines.read(line, &mut self.read);
                let hash = long(self.hash(name_of(&self.read)));
                if let Ok(found) = self.table.find_entry(hash, |found| found.first == line) {
                    found.remove();
                }
                self.lines.free(line);
            }
        }
    }

    fn hash(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }
}

/// Packs a stream: the length of its name and its name, its id and its version, then, if it has a
/// state, a byte and the packed state.
fn pack(name: &str, entry: &Entry, into: &mut Vec<u8>) {
    into.clear();
    into.push(u8::try_from(name.len()).expect("a name of a stream has 128 bytes at most"));
    into.extend_from_slice(name.as_bytes());
    encode_varint(entry.id.cast_unsigned(), into);
    encode_varint(entry.version, into);
    if let Some(Folded { state, folder }) = &entry.state {
        into.push(1);
        folder.pack(state, into);
    }
}

fn unpack(stream: &[u8], folder: Option<&'static dyn Folder>) -> Option<Entry> {
    let mut rest = &stream[1 + name_of(stream).len()..];
    let id = decode_varint(&mut rest).ok()?.cast_signed();
    let version = decode_varint(&mut rest).ok()?;
    let state = match (rest.split_first(), folder) {
        (Some((_, state)), Some(folder)) => Some(Folded { state: folder.unpack(state)?, folder }),
        _ => None,
    };
    Some(Entry { id, version, state })
}

/// The name of a packed stream.
fn name_of(stream: &[u8]) -> &[u8] {
    &stream[1..][..usize::from(stream[0])]
}

/// A hash for the table, which looks at both ends of it.
fn long(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RecordedEvent;

    use super::super::lines::LINE;
    use super::*;
    use crate::State;

    struct Bytes;

    impl Folder for Bytes {
        fn empty(&self) -> State {
            Box::new(Vec::<u8>::new())
        }

        fn fold(&self, _: &mut State, _: &RecordedEvent) -> Result<(), String> {
            Ok(())
        }

        fn pack(&self, state: &State, into: &mut Vec<u8>) {
            into.extend_from_slice(state.downcast_ref::<Vec<u8>>().unwrap());
        }

        fn unpack(&self, bytes: &[u8]) -> Option<State> {
            (bytes != b"what?").then(|| Box::new(bytes.to_vec()) as State)
        }
    }

    fn entry(id: i64, state: &[u8]) -> Entry {
        let state: State = Box::new(state.to_vec());
        Entry { id, version: id as u64 + 1, state: Some(Folded { state, folder: &Bytes }) }
    }

    fn take(packed: &mut Packed, name: &str) -> Option<(i64, u64, Vec<u8>)> {
        let (entry, _) = packed.take(name, Some(&Bytes))?;
        let state = entry.state().unwrap().downcast_ref::<Vec<u8>>().unwrap();
        Some((entry.id, entry.version, state.clone()))
    }

    #[test]
    fn a_stream_comes_out_once_as_it_went_in_whatever_its_length() {
        let mut packed = Packed::new(1 << 20, 8);
        for length in 0..1000 {
            let state = vec![length as u8; length];
            packed.put("counter-1", &entry(length as i64, &state));
            packed.put("counter-2", &entry(i64::MAX, b"another"));
            assert_eq!(
                take(&mut packed, "counter-1"),
                Some((length as i64, length as u64 + 1, state))
            );
            assert_eq!(take(&mut packed, "counter-1"), None);
            assert_eq!(take(&mut packed, "counter-2").unwrap().2, b"another");
        }
        assert_eq!(packed.lines.room(), packed.lines.count());
    }

    #[test]
    fn it_keeps_what_is_used_and_forgets_others_when_the_room_is_scarce() {
        let mut packed = Packed::new(1000 * LINE, 0);
        let name = |number: i64| format!("counter-{number}");
        packed.put(&name(0), &entry(0, &[0; 80]));
        for number in 1..10_000 {
            packed.put(&name(number), &entry(number, &[number as u8; 80]));
            assert_eq!(take(&mut packed, &name(number)).unwrap().2, [number as u8; 80]);
            packed.put(&name(number), &entry(number, &[number as u8; 80]));
            assert!(take(&mut packed, &name(0)).is_some(), "lost at {number}");
            packed.put(&name(0), &entry(0, &[0; 80]));
        }
        // Two lines each, and an eighth of the lines free.
        let kept = (0..10_000).filter(|number| take(&mut packed, &name(*number)).is_some()).count();
        assert!((430..=440).contains(&kept), "{kept}");
        assert_eq!((packed.lines.room(), packed.table.len()), (1000, 0));
    }

    #[test]
    fn what_has_no_room_or_is_not_understood_is_forgotten() {
        let mut packed = Packed::new(10 * LINE, 0);
        assert!(!packed.put("counter-1", &entry(1, &[1; 1000])));
        assert!(packed.put("counter-2", &entry(2, b"what?")));
        assert!(!Packed::new(0, 0).put("counter-1", &entry(1, b"")));
        assert!(take(&mut packed, "counter-1").is_none());
        assert!(take(&mut packed, "counter-2").is_none());
        assert_eq!((packed.lines.room(), packed.table.len()), (10, 0));
    }

    #[test]
    fn what_was_packed_last_is_here_however_long_it_is() {
        for length in [100, 6_000, 12_000, 30_000, 50_000] {
            let mut packed = Packed::new(1000 * LINE, 0);
            for number in 0..1_000 {
                let (name, state) = (format!("counter-{number}"), vec![1; length]);
                assert!(packed.put(&name, &entry(number, &state)), "{name} of {length}");
                assert!(take(&mut packed, &name).is_some(), "{name} of {length}");
                assert!(packed.put(&name, &entry(number, &state)), "{name} of {length}");
            }
        }
    }

    #[test]
    fn who_comes_back_soon_is_told_from_who_does_not() {
        let mut packed = Packed::new(1 << 20, 64);
        let mut soon = |between: usize| {
            packed.put("counter-0", &entry(0, b""));
            for number in 0..between {
                packed.put(&format!("counter-{between}-{number}"), &entry(0, b""));
            }
            packed.take("counter-0", Some(&Bytes)).unwrap().1
        };
        assert_eq!([0, 50, 100, 1000].map(&mut soon), [true, true, false, false]);
    }
}
