//! The streams in memory: those in use as they are, the others packed (ADR 14).
//!
//! A stream that was packed or loaded is a guest: unpacked for one decision, and packed right after
//! it, while it is in the caches of the processor. One that comes back soon stays unpacked, in a
//! queue in which each use gives it another turn (CLOCK, Corbató 1968). So commands to many streams
//! cost little, and do not drive out those that are used often.

use std::collections::VecDeque;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use daybook_kernel::StreamName;
use foldhash::HashMap;

use super::packed::Packed;
use crate::log::StreamCache;
use crate::{Folder, State};

/// How many uses of a stream are counted.
const MOST_USES: u8 = 3;

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
    /// Those that stay unpacked, in the order in which they are looked at, and how many they may
    /// be.
    queue: VecDeque<StreamName>,
    most: usize,
    /// Those that are unpacked until they are used for a decision; some of them were already.
    guests: Vec<StreamName>,
    packed: Packed,
}

struct Unpacked {
    /// `None` when it was forgotten; its place stays.
    entry: Option<Entry>,
    /// How often it was used since it came into the queue, less its turns there; `None` for a
    /// guest.
    uses: Option<u8>,
}

impl Streams {
    /// Nothing yet, with so much room.
    pub fn new(room: StreamCache) -> Self {
        Self {
            unpacked: HashMap::default(),
            queue: VecDeque::new(),
            most: room.streams,
            guests: Vec::new(),
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
        let Some((entry, came_back_soon)) = self.packed.take(stream.as_str(), folder) else {
            return false;
        };
        let enough = is_enough(&entry);
        self.insert(stream.clone(), entry, came_back_soon);
        enough
    }

    /// Notes that an unpacked stream was used for a decision. A guest is packed.
    pub fn used(&mut self, stream: &StreamName) {
        match self.unpacked.get_mut(stream) {
            Some(Unpacked { uses: Some(uses), .. }) => *uses = (*uses + 1).min(MOST_USES),
            Some(Unpacked { uses: None, .. }) => self.pack_guest(stream),
            None => {}
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

    fn insert(&mut self, stream: StreamName, entry: Entry, stays: bool) {
        match self.unpacked.entry(stream) {
            Occupied(mut forgotten) => forgotten.get_mut().entry = Some(entry),
            Vacant(place) => {
                let stream = place.key().clone();
                match stays {
                    true => self.queue.push_back(stream),
                    false => self.guests.push(stream),
                }
                place.insert(Unpacked { entry: Some(entry), uses: stays.then_some(0) });
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

    /// Packs the guests and, of the others, those that are used least, without those that are
    /// `needed` as they are.
    pub fn trim(&mut self, needed: impl Fn(&StreamName) -> bool) {
        let mut guests = std::mem::take(&mut self.guests);
        guests.retain(|stream| {
            let is_guest = self.unpacked.get(stream).is_some_and(|guest| guest.uses.is_none());
            let stays = is_guest && needed(stream);
            if is_guest && !stays {
                self.pack_guest(stream);
            }
            stays
        });
        self.guests = guests;
        // Each until its uses are counted down: all may be needed.
        for _ in 0..(usize::from(MOST_USES) + 1) * self.queue.len() {
            if self.queue.len() <= self.most {
                break;
            }
            let Some(stream) = self.queue.pop_front() else { break };
            let Some(unpacked) = self.unpacked.get_mut(&stream) else { continue };
            if unpacked.uses > Some(0) || needed(&stream) {
                unpacked.uses = unpacked.uses.map(|uses| uses.saturating_sub(1));
                self.queue.push_back(stream);
            } else if let Some(Unpacked { entry: Some(entry), .. }) = self.unpacked.remove(&stream)
            {
                // One that finds no room is forgotten.
                self.packed.put(stream.as_str(), &entry);
            }
        }
    }

    /// Packs a guest. One that finds no room stays, in the queue.
    fn pack_guest(&mut self, stream: &StreamName) {
        // Mostly it came last. Others are found to be no guests later.
        self.guests.pop_if(|last| last == stream);
        let Some(guest) = self.unpacked.get_mut(stream) else { return };
        match &guest.entry {
            Some(entry) if !self.packed.put(stream.as_str(), entry) => {
                guest.uses = Some(0);
                self.queue.push_back(stream.clone());
            }
            _ => drop(self.unpacked.remove(stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RecordedEvent;
    use proptest::prelude::*;

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
    fn what_is_forgotten_is_not_in_the_pack_either() {
        let mut streams = streams(0, 1 << 20);
        for number in 0..2 {
            streams.add(name(number), entry(number));
            streams.trim(|_| false);
            streams.forget(&name(number));
            assert!(!streams.unpack(&name(number), Some(&Number)));
        }
        streams.add(name(1), entry(7));
        streams.forget(&name(1));
        assert!(!streams.unpack(&name(1), Some(&Number)));
        streams.trim(|_| false);
        assert!(!streams.unpack(&name(1), Some(&Number)) && streams.unpacked.is_empty());
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

    /// Uses a counter, as a command does.
    fn use_one(streams: &mut Streams, number: u64) {
        if !streams.unpack(&name(number), Some(&Number)) {
            streams.add(name(number), entry(number));
        }
        streams.used(&name(number));
        streams.trim(|_| false);
        assert!(streams.unpacked.len() <= 100);
        assert_eq!(streams.unpacked.len(), streams.queue.len());
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
    fn a_guest_is_packed_when_it_was_used_and_stays_when_it_comes_back_soon() {
        let mut streams = streams(100, 1 << 20);
        streams.add(name(1), entry(1));
        assert!(streams.peek(&name(1)).is_some());
        streams.used(&name(1));
        assert!(streams.peek(&name(1)).is_none());
        use_one(&mut streams, 1);
        assert!(streams.peek(&name(1)).is_some());
    }

    #[test]
    fn a_guest_that_finds_no_room_stays() {
        let mut streams = streams(1, 64);
        let long = |number: u64| name(10_u64.pow(19) / 7 + number).id().repeat(3);
        for number in 0..4 {
            let stream = StreamName::new("counter", &long(number)).unwrap();
            streams.add(stream.clone(), entry(number));
            streams.used(&stream);
            assert!(streams.peek(&stream).is_some(), "{number}");
            streams.trim(|_| false);
            assert_eq!((streams.unpacked.len(), streams.queue.len()), (1, 1));
        }
    }

    /// What is done with a stream: changed as by a command, looked at without its state, forgotten,
    /// or all are trimmed but for this one.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Change(u64),
        Look(u64),
        Forget(u64),
        Trim(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0..20_u64;
        prop_oneof![
            6 => number.clone().prop_map(Step::Change),
            1 => number.clone().prop_map(Step::Look),
            1 => number.clone().prop_map(Step::Forget),
            2 => number.prop_map(Step::Trim),
        ]
    }

    proptest! {
        #[test]
        fn a_stream_is_as_it_was_last_or_not_there(
            steps in prop::collection::vec(step(), 1..300),
            unpacked in 0..10_usize,
            lines in 0..20_usize,
        ) {
            let mut streams = streams(unpacked, lines * 64);
            // What the storage would have, and what must not come back.
            let mut versions = [0; 20];
            for step in steps {
                match step {
                    Step::Change(at) => {
                        if !streams.unpack(&name(at), Some(&Number)) {
                            streams.forget(&name(at));
                            let mut loaded = entry(at);
                            loaded.version = versions[at as usize];
                            streams.add(name(at), loaded);
                        }
                        let entry = streams.peek_mut(&name(at)).unwrap();
                        prop_assert_eq!((entry.version, number(entry)), (versions[at as usize], at));
                        entry.version += 1;
                        versions[at as usize] += 1;
                        streams.used(&name(at));
                    }
                    Step::Look(at) => {
                        if streams.unpack(&name(at), None) {
                            let entry = streams.peek(&name(at)).unwrap();
                            prop_assert_eq!(entry.version, versions[at as usize]);
                        }
                    }
                    Step::Forget(at) => {
                        streams.forget(&name(at));
                        prop_assert!(!streams.unpack(&name(at), None));
                    }
                    Step::Trim(at) => {
                        let was_there = streams.peek(&name(at)).is_some();
                        streams.trim(|stream| *stream == name(at));
                        prop_assert_eq!(streams.peek(&name(at)).is_some(), was_there);
                        prop_assert!(streams.unpacked.len() <= unpacked + 1);
                        let is_left = |(stream, one): (&StreamName, &Unpacked)| {
                            one.uses.is_none() && *stream != name(at)
                        };
                        prop_assert!(!streams.unpacked.iter().any(is_left), "a guest is left");
                    }
                }
                let guests = streams.unpacked.values().filter(|one| one.uses.is_none()).count();
                prop_assert_eq!(streams.unpacked.len(), streams.queue.len() + guests);
            }
        }
    }

    #[test]
    fn a_stream_that_is_forgotten_and_comes_again_has_one_place() {
        let mut streams = streams(100, 1 << 20);
        use_one(&mut streams, 1);
        for round in 0..10 {
            use_one(&mut streams, 1);
            assert_eq!(number(streams.peek(&name(1)).unwrap()), 1, "{round}");
            streams.forget(&name(1));
            assert!(streams.peek(&name(1)).is_none());
        }
        assert_eq!((streams.queue.len(), streams.guests.len()), (1, 0));
    }

    #[test]
    fn where_nothing_can_be_packed_the_last_ones_stay_as_they_are() {
        let mut streams = streams(2, 0);
        for number in 0..10 {
            streams.add(name(number), entry(number));
            streams.used(&name(number));
            streams.trim(|_| false);
        }
        assert_eq!(streams.unpacked.len(), 2);
        assert!(streams.unpack(&name(9), Some(&Number)) && !streams.unpack(&name(0), None));
    }
}
