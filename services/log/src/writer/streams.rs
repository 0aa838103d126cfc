//! The streams in memory: those in use as they are, those used longer ago packed.
//!
//! Which streams stay as they are is decided by two queues (S3-FIFO, Yang and others 2023): a stream
//! that is not used again soon is packed early, while it is still in the caches of the processor. So
//! commands to many streams cost little more than commands to few, and do not drive out those that
//! are used often.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use daybook_kernel::StreamName;
use foldhash::HashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::log::StreamCache;
use crate::{Folder, State};

/// Of how many unpacked streams one may be young.
const YOUNG_SHARE: usize = 10;

/// How many uses of a stream are counted.
const MOST_USES: u8 = 3;

/// What a packed stream takes beside its bytes: its place in a table that is two thirds full.
const PACKED_OVERHEAD: usize = 40;

/// The room of a packed stream is a multiple of this, so that a state that has become a little longer
/// often fits where the one before was.
const PACKED_STEP: usize = 16;

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
    unpacked: HashMap<StreamName, Unpacked>,
    /// Those that came last, in their order, then those that were used again; some may have been
    /// forgotten since.
    young: VecDeque<StreamName>,
    old: VecDeque<StreamName>,
    /// How many streams stay unpacked.
    most_unpacked: usize,
    packed: Packed,
}

struct Unpacked {
    entry: Entry,
    /// How often it was used since it came into its queue, less its turns there.
    uses: u8,
}

impl Streams {
    /// Nothing yet, with so much room.
    pub fn new(room: StreamCache) -> Self {
        Self {
            unpacked: HashMap::default(),
            young: VecDeque::new(),
            old: VecDeque::new(),
            most_unpacked: room.streams,
            packed: Packed::new(room.packed_bytes),
        }
    }

    /// Uses a stream, if it is in memory, with its state when a folder for it is given. It is
    /// unpacked then. Says whether it is.
    pub fn take_up(&mut self, stream: &StreamName, folder: Option<&'static dyn Folder>) -> bool {
        let is_enough = |entry: &Entry| entry.state.is_some() || folder.is_none();
        if let Some(Unpacked { entry, uses }) = self.unpacked.get_mut(stream) {
            *uses = (*uses + 1).min(MOST_USES);
            return is_enough(entry);
        }
        let Some(entry) = self.packed.get(stream.as_str(), folder) else { return false };
        let enough = is_enough(&entry);
        self.insert(stream.clone(), Unpacked { entry, uses: 1 });
        enough
    }

    /// A stream that is unpacked; this is no use of it.
    pub fn peek(&self, stream: &StreamName) -> Option<&Entry> {
        self.unpacked.get(stream).map(|unpacked| &unpacked.entry)
    }

    /// The same, to change it.
    pub fn peek_mut(&mut self, stream: &StreamName) -> Option<&mut Entry> {
        self.unpacked.get_mut(stream).map(|unpacked| &mut unpacked.entry)
    }

    /// Takes a stream into memory that is not there.
    pub fn add(&mut self, stream: StreamName, entry: Entry) {
        self.insert(stream, Unpacked { entry, uses: 0 });
    }

    fn insert(&mut self, stream: StreamName, unpacked: Unpacked) {
        self.young.push_back(stream.clone());
        self.unpacked.insert(stream, unpacked);
    }

    /// Forgets a stream.
    pub fn forget(&mut self, stream: &StreamName) {
        self.unpacked.remove(stream);
        self.packed.remove(stream.as_str());
    }

    /// Packs the streams that are used least, without those that are `needed` as they are, and
    /// forgets the packed ones that there is no room for.
    pub fn trim(&mut self, needed: impl Fn(&StreamName) -> bool) {
        let most_young = self.most_unpacked / YOUNG_SHARE;
        // When all are needed, each has its turn once.
        for _ in 0..self.young.len() + self.old.len() {
            if self.young.len() + self.old.len() <= self.most_unpacked {
                return;
            }
            let is_young = self.young.len() > most_young;
            // A young one is used once in any case.
            let (queue, usual) = if is_young { (&mut self.young, 1) } else { (&mut self.old, 0) };
            let Some(stream) = queue.pop_front() else { return };
            let Some(unpacked) = self.unpacked.get_mut(&stream) else { continue };
            if unpacked.uses > usual || needed(&stream) {
                unpacked.uses = if is_young { 0 } else { unpacked.uses.saturating_sub(1) };
                self.old.push_back(stream);
            } else if let Some(Unpacked { entry, .. }) = self.unpacked.remove(&stream) {
                self.packed.put(stream.as_str(), &entry);
            }
        }
    }
}

/// Packed streams by name, within so many bytes. Which of them are forgotten is found by going round
/// the table: what was packed again since the last turn stays (CLOCK, Corbató 1968). Those that are
/// unpacked keep their place, since they come back to it.
struct Packed {
    table: HashTable<PackedStream>,
    hasher: RandomState,
    bytes: usize,
    most_bytes: usize,
    /// The place in the table that is looked at next for something to forget.
    hand: usize,
    /// Where a stream is packed, before it is known whether it fits its place.
    packing: Vec<u8>,
}

impl Packed {
    fn new(most_bytes: usize) -> Self {
        let (table, hasher, packing) = (HashTable::new(), RandomState::default(), Vec::new());
        Self { table, hasher, bytes: 0, most_bytes, hand: 0, packing }
    }

    /// Packs a stream, in its place if it has one.
    fn put(&mut self, stream: &str, entry: &Entry) {
        let Self { table, packing, .. } = self;
        pack(stream, entry, packing);
        let room = packing.len();
        if room + PACKED_OVERHEAD > self.most_bytes {
            return self.remove(stream);
        }
        let hash = short_hash(&self.hasher, stream);
        match table.entry(long(hash), |other| other.is(hash, stream), |other| long(other.hash)) {
            Place::Occupied(place) => {
                let packed = place.into_mut();
                packed.again = true;
                if packed.bytes.len() == room {
                    packed.bytes.copy_from_slice(packing);
                } else {
                    self.bytes = self.bytes - packed.bytes.len() + room;
                    packed.bytes = packing.as_slice().into();
                }
            }
            Place::Vacant(place) => {
                self.bytes += room + PACKED_OVERHEAD;
                place.insert(PackedStream { bytes: packing.as_slice().into(), hash, again: false });
            }
        }
        while self.bytes > self.most_bytes {
            let place = self.hand;
            self.hand = (place + 1) % self.table.num_buckets();
            if let Ok(mut found) = self.table.get_bucket_entry(place)
                && !std::mem::take(&mut found.get_mut().again)
            {
                self.bytes -= found.remove().0.bytes.len() + PACKED_OVERHEAD;
            }
        }
    }

    /// A packed stream, unpacked. `None` when it is not here or its state is not understood.
    fn get(&self, stream: &str, folder: Option<&'static dyn Folder>) -> Option<Entry> {
        let hash = short_hash(&self.hasher, stream);
        self.table.find(long(hash), |packed| packed.is(hash, stream))?.unpack(folder)
    }

    fn remove(&mut self, stream: &str) {
        let hash = short_hash(&self.hasher, stream);
        let found = self.table.find_entry(long(hash), |packed| packed.is(hash, stream));
        if let Ok(found) = found {
            self.bytes -= found.remove().0.bytes.len() + PACKED_OVERHEAD;
        }
    }
}

/// A stream in one piece of memory: how many bytes at the end are free, the length of its name, its
/// name, its id and its version in eight bytes each, then, if it has a state, a byte and the packed
/// state.
struct PackedStream {
    bytes: Box<[u8]>,
    /// Of its name, so that the table can grow without looking at each stream.
    hash: u32,
    /// Whether it was packed again since it was last looked at for something to forget.
    again: bool,
}

impl PackedStream {
    fn is(&self, hash: u32, name: &str) -> bool {
        self.hash == hash && self.split().0 == name.as_bytes()
    }

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
        let used = self.bytes.len() - usize::from(self.bytes[0]);
        self.bytes[2..used].split_at(usize::from(self.bytes[1]))
    }
}

/// Packs a stream as [`PackedStream`] has it.
fn pack(name: &str, entry: &Entry, into: &mut Vec<u8>) {
    into.clear();
    into.push(0);
    into.push(u8::try_from(name.len()).expect("names of streams are short"));
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(&entry.id.to_le_bytes());
    into.extend_from_slice(&entry.version.to_le_bytes());
    if let Some(Folded { state, folder }) = &entry.state {
        into.push(1);
        folder.pack(state, into);
    }
    let used = into.len();
    into.resize(used.next_multiple_of(PACKED_STEP), 0);
    into[0] = (into.len() - used) as u8;
}

fn short_hash(hasher: &RandomState, name: &str) -> u32 {
    hasher.hash_one(name) as u32
}

/// A hash for the table, which looks at both ends of it.
fn long(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

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

        fn pack(&self, state: &State, into: &mut Vec<u8>) {
            into.extend_from_slice(&state.downcast_ref::<u64>().unwrap().to_le_bytes());
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
            streams.add(name(number), entry(number));
            streams.trim(|_| false);
        }
        assert_eq!(streams.unpacked.len(), 2);
        assert_eq!(streams.packed.table.len(), 8);
        for at in 0..10 {
            assert!(streams.take_up(&name(at), Some(&Number)));
            let entry = streams.peek(&name(at)).unwrap();
            assert_eq!((entry.id, entry.version, number(entry)), (at as i64, at + 1, at));
        }
        assert!(!streams.take_up(&name(10), Some(&Number)));
    }

    #[test]
    fn a_stream_without_a_state_is_not_enough_for_who_needs_one() {
        let mut streams = streams(0, 1 << 20);
        streams.add(name(1), Entry { id: 1, version: 3, state: None });
        streams.trim(|_| false);
        assert!(streams.take_up(&name(1), None));
        assert_eq!(streams.peek(&name(1)).unwrap().version, 3);
        streams.trim(|_| false);
        assert!(!streams.take_up(&name(1), Some(&Number)));
    }

    #[test]
    fn what_is_forgotten_or_replaced_is_not_in_the_pack_either() {
        let mut streams = streams(0, 1 << 20);
        for number in 0..2 {
            streams.add(name(number), entry(number));
        }
        streams.trim(|_| false);
        streams.forget(&name(0));
        assert!(!streams.take_up(&name(0), Some(&Number)));
        streams.add(name(1), entry(7));
        streams.forget(&name(1));
        assert!(!streams.take_up(&name(1), Some(&Number)));
    }

    #[test]
    fn what_is_needed_stays_as_it_is() {
        let mut streams = streams(1, 1 << 20);
        for number in 0..3 {
            streams.add(name(number), entry(number));
        }
        streams.trim(|stream| *stream == name(0));
        assert!(streams.peek(&name(0)).is_some());
        assert_eq!(streams.unpacked.len(), 1);
    }

    #[test]
    fn the_pack_keeps_within_its_bytes_and_keeps_what_is_used() {
        let mut streams = streams(0, 4096);
        for number in 0..1000 {
            streams.add(name(number), entry(number));
            streams.trim(|_| false);
            assert!(streams.take_up(&name(0), Some(&Number)), "lost at {number}");
            streams.trim(|_| false);
            let packed = streams.packed.table.iter();
            let bytes: usize = packed.map(|one| one.bytes.len() + PACKED_OVERHEAD).sum();
            assert_eq!(streams.packed.bytes, bytes);
            assert!(bytes <= 4096, "{bytes}");
        }
        assert!(!streams.take_up(&name(1), Some(&Number)));
    }

    #[test]
    fn many_streams_that_are_used_once_do_not_drive_out_those_in_use() {
        let mut streams = streams(100, 1 << 20);
        let mut unpacked_again = 0;
        for number in 0..10_000 {
            let in_use = name(number % 50);
            unpacked_again += usize::from(number >= 1000 && streams.peek(&in_use).is_none());
            if !streams.take_up(&in_use, Some(&Number)) {
                streams.add(in_use, entry(number % 50));
            }
            streams.add(name(100_000 + number), entry(number));
            streams.trim(|_| false);
            assert!(streams.unpacked.len() <= 100);
        }
        assert_eq!(unpacked_again, 0);
    }

    #[test]
    fn a_packed_stream_that_grows_has_its_last_version() {
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
                Some(Box::new(bytes.to_vec()))
            }
        }

        let mut streams = streams(0, 1 << 20);
        let state: State = Box::new(Vec::<u8>::new());
        let state = Some(Folded { state, folder: &Bytes });
        streams.add(name(1), Entry { id: 1, version: 0, state });
        for length in 0..100 {
            streams.trim(|_| false);
            assert!(streams.take_up(&name(1), Some(&Bytes)));
            let entry = streams.peek_mut(&name(1)).unwrap();
            assert_eq!(entry.version, length);
            entry.version += 1;
            let state = &mut entry.state.as_mut().unwrap().state;
            let bytes = state.downcast_mut::<Vec<u8>>().unwrap();
            assert!(bytes.iter().copied().eq(0..length as u8));
            bytes.push(length as u8);
        }
        assert_eq!(streams.packed.table.len(), 1);
    }
}
