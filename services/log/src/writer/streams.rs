//! The streams in memory: those in use as they are, those used longer ago packed.
//!
//! Which streams stay as they are is decided by two queues (S3-FIFO, Yang and others 2023): a
//! stream that is not used again soon is packed early, while it is still in the caches of the
//! processor, and when it comes back soon, it stays. So commands to many streams cost less, and do
//! not drive out those that are used often.

use std::collections::VecDeque;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::hash::BuildHasher;

use daybook_kernel::StreamName;
use foldhash::HashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::log::StreamCache;
use crate::{Folder, State};

/// Of how many unpacked streams one may be young.
const YOUNG_SHARE: usize = 16;

/// How many uses of a stream are counted.
const MOST_USES: u8 = 3;

/// What a packed stream takes beside its bytes: its place in a table that is two thirds full.
const PACKED_OVERHEAD: usize = 40;

/// How many places of packed streams are looked at for something to forget, for each that is
/// packed.
const LOOKED_AT: usize = 64;

/// Into how many steps the packings are divided within which a stream comes back soon.
const SOON: usize = 8;

/// The room of a packed stream is a multiple of this, so that a state that has become a little
/// longer often fits where the one before was.
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
    /// Those that came last, in their order, and how many they may be.
    young: VecDeque<StreamName>,
    most_young: usize,
    /// Those that are used again and again.
    old: VecDeque<StreamName>,
    most_old: usize,
    packed: Packed,
}

struct Unpacked {
    /// `None` when it was forgotten; its place in a queue stays.
    entry: Option<Entry>,
    /// How often it was used since it came into its queue, less its turns there.
    uses: u8,
}

impl Streams {
    /// Nothing yet, with so much room.
    pub fn new(room: StreamCache) -> Self {
        let most_young = room.streams / YOUNG_SHARE;
        Self {
            unpacked: HashMap::default(),
            young: VecDeque::new(),
            most_young,
            old: VecDeque::new(),
            most_old: room.streams - most_young,
            packed: Packed::new(room.packed_bytes, room.streams),
        }
    }

    /// Whether a stream is in memory, with its state when a folder for it is given. It is unpacked
    /// then.
    pub fn unpack(&mut self, stream: &StreamName, folder: Option<&'static dyn Folder>) -> bool {
        let is_enough = |entry: &Entry| entry.state.is_some() || folder.is_none();
        if let Some(entry) = self.peek(stream) {
            return is_enough(entry);
        }
        let Some((entry, came_back_soon)) = self.packed.get(stream.as_str(), folder) else {
            return false;
        };
        let enough = is_enough(&entry);
        self.insert(stream.clone(), entry, came_back_soon);
        enough
    }

    /// Notes that an unpacked stream was used for a decision.
    pub fn used(&mut self, stream: &StreamName) {
        if let Some(Unpacked { uses, .. }) = self.unpacked.get_mut(stream) {
            *uses = (*uses + 1).min(MOST_USES);
        }
    }

    /// A stream that is unpacked.
    pub fn peek(&self, stream: &StreamName) -> Option<&Entry> {
        self.unpacked.get(stream)?.entry.as_ref()
    }

    /// The same, to change it.
    pub fn peek_mut(&mut self, stream: &StreamName) -> Option<&mut Entry> {
        self.unpacked.get_mut(stream)?.entry.as_mut()
    }

    /// Takes a stream into memory that is not there.
    pub fn add(&mut self, stream: StreamName, entry: Entry) {
        self.insert(stream, entry, false);
    }

    fn insert(&mut self, stream: StreamName, entry: Entry, is_old: bool) {
        match self.unpacked.entry(stream) {
            Occupied(mut forgotten) => forgotten.get_mut().entry = Some(entry),
            Vacant(place) => {
                let queue = if is_old { &mut self.old } else { &mut self.young };
                queue.push_back(place.key().clone());
                place.insert(Unpacked { entry: Some(entry), uses: 0 });
            }
        }
    }

    /// Forgets a stream.
    pub fn forget(&mut self, stream: &StreamName) {
        if let Some(unpacked) = self.unpacked.get_mut(stream) {
            unpacked.entry = None;
        }
        self.packed.remove(stream.as_str());
    }

    /// Packs the streams that are used least, without those that are `needed` as they are, and
    /// forgets the packed ones that there is no room for.
    pub fn trim(&mut self, needed: impl Fn(&StreamName) -> bool) {
        // Each once at most, and of the old ones each until its uses are counted down: all may be
        // needed.
        for _ in 0..self.young.len() {
            if self.young.len() <= self.most_young {
                break;
            }
            let Some(stream) = self.young.pop_front() else { break };
            let Some(unpacked) = self.unpacked.get_mut(&stream) else { continue };
            if unpacked.uses > 1 || needed(&stream) {
                unpacked.uses = 0;
                self.old.push_back(stream);
            } else {
                self.pack(&stream);
            }
        }
        for _ in 0..(usize::from(MOST_USES) + 1) * self.old.len() {
            if self.old.len() <= self.most_old {
                break;
            }
            let Some(stream) = self.old.pop_front() else { break };
            let Some(unpacked) = self.unpacked.get_mut(&stream) else { continue };
            if unpacked.uses > 0 || needed(&stream) {
                unpacked.uses = unpacked.uses.saturating_sub(1);
                self.old.push_back(stream);
            } else {
                self.pack(&stream);
            }
        }
    }

    fn pack(&mut self, stream: &StreamName) {
        if let Some(Unpacked { entry: Some(entry), .. }) = self.unpacked.remove(stream) {
            self.packed.put(stream.as_str(), &entry);
        }
    }
}

/// Packed streams by name, within so many bytes. Which of them are forgotten is found by going
/// round the table: what was packed since the last turn stays (CLOCK, Corbató 1968). Those that are
/// unpacked mostly have a place still, which they come back to.
struct Packed {
    table: HashTable<PackedStream>,
    hasher: RandomState,
    bytes: usize,
    most_bytes: usize,
    /// The place in the table that is looked at next for something to forget.
    hand: usize,
    /// How many times a stream was packed.
    packings: usize,
    /// How many packings make a step of the time that packed streams have noted.
    step: usize,
    /// Where a stream is packed, before it is known whether it fits its place.
    packing: Vec<u8>,
}

impl Packed {
    /// With room for so many bytes, beside so many unpacked streams.
    fn new(most_bytes: usize, unpacked: usize) -> Self {
        Self {
            table: HashTable::new(),
            hasher: RandomState::default(),
            bytes: 0,
            most_bytes,
            hand: 0,
            packings: 0,
            step: unpacked / SOON,
            packing: Vec::new(),
        }
    }

    /// The time, in steps of packings. It comes round after 65,536 of them; a stream that was
    /// packed that long ago may then seem to have come back soon, which costs it nothing but a
    /// place.
    fn now(&self) -> u16 {
        (self.packings / self.step.max(1)) as u16
    }

    /// Packs a stream, in its place if it has one.
    fn put(&mut self, stream: &str, entry: &Entry) {
        self.packings += 1;
        let packed_at = self.now();
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
                packed.referenced = true;
                packed.packed_at = packed_at;
                if packed.bytes.len() == room {
                    packed.bytes.copy_from_slice(packing);
                } else {
                    self.bytes = self.bytes - packed.bytes.len() + room;
                    packed.bytes = packing.as_slice().into();
                }
            }
            Place::Vacant(place) => {
                self.bytes += room + PACKED_OVERHEAD;
                let bytes = packing.as_slice().into();
                place.insert(PackedStream { bytes, hash, packed_at, referenced: true });
            }
        }
        for _ in 0..LOOKED_AT {
            if self.bytes <= self.most_bytes {
                break;
            }
            let place = self.hand;
            self.hand = (place + 1) % self.table.num_buckets();
            if let Ok(mut found) = self.table.get_bucket_entry(place)
                && !std::mem::take(&mut found.get_mut().referenced)
            {
                self.bytes -= found.remove().0.bytes.len() + PACKED_OVERHEAD;
            }
        }
    }

    /// A packed stream, unpacked, and whether about as many streams have been packed since it was
    /// as may be unpacked, or fewer. `None` when it is not here or its state is not understood.
    fn get(&self, stream: &str, folder: Option<&'static dyn Folder>) -> Option<(Entry, bool)> {
        let hash = short_hash(&self.hasher, stream);
        let packed = self.table.find(long(hash), |packed| packed.is(hash, stream))?;
        let age = self.now().wrapping_sub(packed.packed_at);
        Some((packed.unpack(folder)?, usize::from(age) < SOON))
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
    /// When it was packed ([`Packed::now`]).
    packed_at: u16,
    /// The reference bit of CLOCK: whether it was packed since the hand last came by.
    referenced: bool,
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
    into.push(u8::try_from(name.len()).expect("a name of a stream has 128 bytes at most"));
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
        assert!(streams.unpacked.len() <= 2);
        assert!(streams.packed.table.len() >= 8);
        for at in 0..10 {
            assert!(streams.unpack(&name(at), Some(&Number)));
            let entry = streams.peek(&name(at)).unwrap();
            assert_eq!((entry.id, entry.version, number(entry)), (at as i64, at + 1, at));
        }
        assert!(!streams.unpack(&name(10), Some(&Number)));
    }

    #[test]
    fn a_stream_without_a_state_is_not_enough_for_who_needs_one() {
        let mut streams = streams(0, 1 << 20);
        streams.add(name(1), Entry { id: 1, version: 3, state: None });
        streams.trim(|_| false);
        assert!(streams.unpack(&name(1), None));
        assert_eq!(streams.peek(&name(1)).unwrap().version, 3);
        streams.trim(|_| false);
        assert!(!streams.unpack(&name(1), Some(&Number)));
    }

    #[test]
    fn what_is_forgotten_or_replaced_is_not_in_the_pack_either() {
        let mut streams = streams(0, 1 << 20);
        for number in 0..2 {
            streams.add(name(number), entry(number));
        }
        streams.trim(|_| false);
        streams.forget(&name(0));
        assert!(!streams.unpack(&name(0), Some(&Number)));
        streams.add(name(1), entry(7));
        streams.forget(&name(1));
        assert!(!streams.unpack(&name(1), Some(&Number)));
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
            assert!(streams.unpack(&name(0), Some(&Number)), "lost at {number}");
            streams.trim(|_| false);
            let packed = streams.packed.table.iter();
            let bytes: usize = packed.map(|one| one.bytes.len() + PACKED_OVERHEAD).sum();
            assert_eq!(streams.packed.bytes, bytes);
            assert!(bytes <= 4096, "{bytes}");
        }
        assert!(!streams.unpack(&name(1), Some(&Number)));
    }

    /// Uses a counter, as a command does.
    fn use_one(streams: &mut Streams, number: u64) {
        if !streams.unpack(&name(number), Some(&Number)) {
            streams.add(name(number), entry(number));
        }
        streams.used(&name(number));
        streams.trim(|_| false);
        assert!(streams.unpacked.len() <= 100);
        assert_eq!(streams.unpacked.len(), streams.young.len() + streams.old.len());
    }

    fn unpacked(streams: &Streams, mut numbers: impl Iterator<Item = u64>) -> bool {
        numbers.all(|number| streams.peek(&name(number)).is_some())
    }

    #[test]
    fn many_streams_that_are_used_once_do_not_drive_out_those_in_use() {
        let mut streams = streams(100, 1 << 20);
        for number in (0..50).cycle().take(150) {
            use_one(&mut streams, number);
        }
        // Three hundred streams between two uses of one: more than there is room for.
        for at in 0..5_000 {
            if at % 6 == 0 {
                use_one(&mut streams, at / 6 % 50);
            }
            use_one(&mut streams, 1_000 + at);
        }
        assert!(unpacked(&streams, 0..50));
    }

    #[test]
    fn what_comes_into_use_takes_the_place_of_what_is_no_longer() {
        let mut streams = streams(100, 1 << 20);
        for number in (0..90).cycle().take(900).chain((200..250).cycle().take(500)) {
            use_one(&mut streams, number);
        }
        assert!(unpacked(&streams, 200..250));
    }

    #[test]
    fn a_stream_that_is_forgotten_and_comes_again_has_one_place() {
        let mut streams = streams(100, 1 << 20);
        for round in 0..10 {
            use_one(&mut streams, 1);
            assert_eq!(number(streams.peek(&name(1)).unwrap()), 1, "{round}");
            streams.forget(&name(1));
            assert!(streams.peek(&name(1)).is_none());
        }
        assert_eq!((streams.young.len(), streams.old.len()), (1, 0));
    }

    #[test]
    fn what_has_no_room_at_all_is_not_packed() {
        let mut streams = streams(0, 60);
        streams.add(name(1), entry(1));
        streams.trim(|_| false);
        assert!(!streams.unpack(&name(1), Some(&Number)));
        assert_eq!((streams.packed.bytes, streams.unpacked.len()), (0, 0));
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
        let state: State = Box::<Vec<u8>>::default();
        let state = Some(Folded { state, folder: &Bytes });
        streams.add(name(1), Entry { id: 1, version: 0, state });
        for length in 0..100 {
            streams.trim(|_| false);
            assert!(streams.unpack(&name(1), Some(&Bytes)));
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
