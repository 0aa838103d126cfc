//! The streams in memory: those in use as they are, those used longer ago packed.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use daybook_kernel::StreamName;
use foldhash::HashSet;
use lru::LruCache;

use crate::log::StreamCache;
use crate::{Folder, State};

/// What a packed stream takes beside its bytes: its place in a table that is three quarters full.
const PACKED_OVERHEAD: usize = 24;

/// A stream in memory. `id` is 0 until it has an event.
pub(super) struct Entry {
    pub id: i64,
    pub version: u64,
    pub state: Option<Folded>,
}

impl Entry {
    pub fn state(&self) -> Option<&State> {
        Some(&self.state.as_ref()?.state)
    }
}

/// A state, and what can pack it.
pub(super) struct Folded {
    pub state: State,
    pub folder: &'static dyn Folder,
}

/// The streams in memory.
pub(super) struct Streams {
    unpacked: LruCache<StreamName, Entry>,
    /// How many streams stay unpacked.
    most_unpacked: usize,
    packed: Packed,
}

impl Streams {
    /// Nothing yet, with so much room.
    pub fn new(room: StreamCache) -> Self {
        let packed = Packed { half: room.packed_bytes / 2, ..Packed::default() };
        Self { unpacked: LruCache::unbounded(), most_unpacked: room.streams, packed }
    }

    /// Whether a stream is in memory, with its state when a folder for it is given. It is unpacked
    /// then, and used now.
    pub fn has(&mut self, stream: &StreamName, folder: Option<&'static dyn Folder>) -> bool {
        let is_enough = |entry: &Entry| entry.state.is_some() || folder.is_none();
        if let Some(entry) = self.unpacked.get(stream) {
            return is_enough(entry);
        }
        let Some(entry) =
            self.packed.take(stream.as_str()).and_then(|packed| packed.unpack(folder))
        else {
            return false;
        };
        let enough = is_enough(&entry);
        self.unpacked.put(stream.clone(), entry);
        enough
    }

    /// A stream that is unpacked; this is no use of it.
    pub fn peek(&self, stream: &StreamName) -> Option<&Entry> {
        self.unpacked.peek(stream)
    }

    /// The same, to change it.
    pub fn peek_mut(&mut self, stream: &StreamName) -> Option<&mut Entry> {
        self.unpacked.peek_mut(stream)
    }

    /// Takes a stream into memory.
    pub fn put(&mut self, stream: StreamName, entry: Entry) {
        self.packed.take(stream.as_str());
        self.unpacked.put(stream, entry);
    }

    /// Forgets a stream.
    pub fn forget(&mut self, stream: &StreamName) {
        self.unpacked.pop(stream);
        self.packed.take(stream.as_str());
    }

    /// Packs the streams that were not used for longest, without those that are `needed` as they
    /// are, and forgets the packed ones that there is no room for.
    pub fn trim(&mut self, needed: impl Fn(&StreamName) -> bool) {
        let Some(mut excess) = self.unpacked.len().checked_sub(self.most_unpacked) else { return };
        let mut kept = Vec::new();
        while excess > 0
            && let Some((stream, entry)) = self.unpacked.pop_lru()
        {
            if needed(&stream) {
                kept.push((stream, entry));
            } else {
                self.packed.put(PackedStream::new(stream.as_str(), &entry));
                excess -= 1;
            }
        }
        for (stream, entry) in kept {
            self.unpacked.put(stream, entry);
        }
    }
}

/// Streams by name, in two halves: when the younger is full, the older is forgotten, and the
/// younger takes its place. So nothing is noted of a single stream, and what is in use survives.
#[derive(Default)]
struct Packed {
    /// The bytes of a half.
    half: usize,
    younger: HashSet<PackedStream>,
    younger_bytes: usize,
    older: HashSet<PackedStream>,
}

impl Packed {
    fn put(&mut self, stream: PackedStream) {
        let bytes = stream.0.len() + PACKED_OVERHEAD;
        if self.younger_bytes + bytes > self.half {
            self.older = std::mem::take(&mut self.younger);
            self.younger_bytes = 0;
        }
        if bytes <= self.half {
            self.younger_bytes += bytes;
            self.younger.insert(stream);
        }
    }

    fn take(&mut self, stream: &str) -> Option<PackedStream> {
        if let Some(found) = self.younger.take(stream) {
            self.younger_bytes -= found.0.len() + PACKED_OVERHEAD;
            return Some(found);
        }
        self.older.take(stream)
    }
}

/// A stream in one piece of memory: the length of its name in two bytes, its name, its id and its
/// version in eight bytes each, then, if it has a state, a byte and the packed state.
struct PackedStream(Box<[u8]>);

impl PackedStream {
    fn new(name: &str, entry: &Entry) -> Self {
        let state = entry.state.as_ref().map(|folded| folded.folder.pack(&folded.state));
        let length = u16::try_from(name.len()).expect("names of streams are short");
        let size = 2 + name.len() + 16 + state.as_ref().map_or(0, |state| 1 + state.len());
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&entry.id.to_le_bytes());
        bytes.extend_from_slice(&entry.version.to_le_bytes());
        if let Some(state) = state {
            bytes.push(1);
            bytes.extend_from_slice(&state);
        }
        Self(bytes.into_boxed_slice())
    }

    /// What was packed. `None` when the folder does not understand the state.
    fn unpack(&self, folder: Option<&'static dyn Folder>) -> Option<Entry> {
        let (_, rest) = self.split();
        let (id, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let state = match (rest.split_first(), folder) {
            (Some((_, state)), Some(folder)) => {
                Some(Folded { state: folder.unpack(state)?, folder })
            }
            _ => None,
        };
        Some(Entry { id: i64::from_le_bytes(*id), version: u64::from_le_bytes(*version), state })
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.0.split_first_chunk().expect("it begins with a length");
        rest.split_at(usize::from(u16::from_le_bytes(*length)))
    }
}

impl Borrow<str> for PackedStream {
    fn borrow(&self) -> &str {
        std::str::from_utf8(self.split().0).expect("it was a name")
    }
}

impl Hash for PackedStream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<str>::borrow(self).hash(state);
    }
}

impl PartialEq for PackedStream {
    fn eq(&self, other: &Self) -> bool {
        self.split().0 == other.split().0
    }
}

impl Eq for PackedStream {}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RecordedEvent;

    use super::*;

    struct Number;

    impl Folder for Number {
        fn empty(&self) -> State {
            Box::new(0_u64)
        }

        fn fold(&self, _: &mut State, _: &RecordedEvent) -> Result<(), String> {
            Ok(())
        }

        fn pack(&self, state: &State) -> Vec<u8> {
            state.downcast_ref::<u64>().unwrap().to_le_bytes().to_vec()
        }

        fn unpack(&self, bytes: &[u8]) -> Option<State> {
            Some(Box::new(u64::from_le_bytes(bytes.try_into().ok()?)))
        }
    }

    fn streams(streams: usize, packed_bytes: usize) -> Streams {
        Streams::new(StreamCache { streams, packed_bytes })
    }

    fn name(number: u64) -> StreamName {
        StreamName::new("counter", &number.to_string()).unwrap()
    }

    fn entry(number: u64) -> Entry {
        let folded = Folded { state: Box::new(number), folder: &Number };
        Entry { id: number as i64, version: number + 1, state: Some(folded) }
    }

    fn number(entry: &Entry) -> u64 {
        *entry.state.as_ref().unwrap().state.downcast_ref::<u64>().unwrap()
    }

    #[test]
    fn what_was_packed_comes_back_as_it_was() {
        let mut streams = streams(2, 1 << 20);
        for number in 0..10 {
            streams.put(name(number), entry(number));
            streams.trim(|_| false);
        }
        assert_eq!(streams.unpacked.len(), 2);
        assert_eq!(streams.packed.younger.len(), 8);
        for at in 0..10 {
            assert!(streams.has(&name(at), Some(&Number)));
            let entry = streams.peek(&name(at)).unwrap();
            assert_eq!((entry.id, entry.version, number(entry)), (at as i64, at + 1, at));
        }
        assert_eq!((streams.packed.younger.len(), streams.packed.younger_bytes), (0, 0));
        assert!(!streams.has(&name(10), Some(&Number)));
    }

    #[test]
    fn a_stream_without_a_state_is_not_enough_for_who_needs_one() {
        let mut streams = streams(0, 1 << 20);
        streams.put(name(1), Entry { id: 1, version: 3, state: None });
        streams.trim(|_| false);
        assert!(streams.has(&name(1), None));
        assert_eq!(streams.peek(&name(1)).unwrap().version, 3);
        streams.trim(|_| false);
        assert!(!streams.has(&name(1), Some(&Number)));
    }

    #[test]
    fn what_is_forgotten_or_replaced_is_not_in_the_pack_either() {
        let mut streams = streams(0, 1 << 20);
        for number in 0..2 {
            streams.put(name(number), entry(number));
        }
        streams.trim(|_| false);
        streams.forget(&name(0));
        assert!(!streams.has(&name(0), Some(&Number)));
        streams.put(name(1), entry(7));
        streams.forget(&name(1));
        assert!(!streams.has(&name(1), Some(&Number)));
    }

    #[test]
    fn what_is_needed_stays_as_it_is() {
        let mut streams = streams(1, 1 << 20);
        for number in 0..3 {
            streams.put(name(number), entry(number));
        }
        streams.trim(|stream| *stream == name(0));
        assert!(streams.peek(&name(0)).is_some());
        assert_eq!(streams.unpacked.len(), 1);
    }

    #[test]
    fn the_pack_keeps_within_its_bytes_and_keeps_what_is_used() {
        let mut streams = streams(0, 4096);
        for number in 0..1000 {
            streams.put(name(number), entry(number));
            streams.trim(|_| false);
            assert!(streams.has(&name(0), Some(&Number)), "lost at {number}");
            streams.trim(|_| false);
            let packed = streams.packed.younger.iter().chain(&streams.packed.older);
            let bytes: usize = packed.map(|stream| stream.0.len() + PACKED_OVERHEAD).sum();
            assert!(bytes <= 4096, "{bytes}");
        }
        assert!(!streams.has(&name(1), Some(&Number)));
    }
}
