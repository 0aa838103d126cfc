//! A chunk: places in their order, as a row of `run_chunks` holds them.
//!
//! It begins with their number. Then there are three varints for each: how much greater the number
//! of its stream is than that of the one before, its version and its position; for the same stream
//! as before, how much greater these are. Before the first is a place of zeros.

use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use super::runs::Place;

/// The bytes of a chunk at most. With the other columns it fits a page of 4 KiB, of which a row may
/// take 4,061 bytes before it needs another page: 7 for its header and 24 for the columns beside,
/// at most. Where parts of this crate are tested by themselves, chunks are short, so that there are
/// many.
const MAX_BYTES: usize = if cfg!(test) { 100 } else { 4030 };

/// The varint of the number of places, at most.
const COUNT_BYTES: usize = 2;

/// A chunk that is being filled.
#[derive(Debug, Default)]
pub(super) struct ChunkBuilder {
    entries: Vec<u8>,
    count: u64,
    first: Option<Place>,
    last: Place,
}

impl ChunkBuilder {
    /// Adds the next place, unless there is no room for it.
    pub fn add(&mut self, place: Place) -> bool {
        let before = self.last;
        // What is not in order wraps round, and is not taken for something else when it is read.
        let stream = place.stream_id.wrapping_sub(before.stream_id).cast_unsigned();
        let fields = match stream {
            0 => [
                stream,
                place.version.wrapping_sub(before.version),
                place.position.wrapping_sub(before.position),
            ],
            _ => [stream, place.version, place.position],
        };
        let length: usize = fields.iter().map(|field| encoded_len_varint(*field)).sum();
        if self.entries.len() + length > MAX_BYTES - COUNT_BYTES {
            return false;
        }
        fields.iter().for_each(|field| encode_varint(*field, &mut self.entries));
        self.first.get_or_insert(place);
        self.last = place;
        self.count += 1;
        true
    }

    /// The first place, the number of places, and the bytes, unless nothing was added.
    pub fn finish(self) -> Option<(Place, u64, Vec<u8>)> {
        let mut bytes = Vec::with_capacity(COUNT_BYTES + self.entries.len());
        encode_varint(self.count, &mut bytes);
        bytes.extend(self.entries);
        Some((self.first?, self.count, bytes))
    }
}

/// The places of a chunk. What is wrong with it comes in place of the next, which is then the last.
#[derive(Debug, Clone)]
pub(super) struct Places<'a> {
    bytes: &'a [u8],
    left: u64,
    before: Place,
}

/// What is wrong with a chunk.
pub(super) type Damage = &'static str;

impl<'a> Places<'a> {
    pub fn new(mut bytes: &'a [u8]) -> Result<Self, Damage> {
        let left = varint(&mut bytes).ok_or("its length cannot be read")?;
        if left == 0 {
            return Err("it is empty");
        }
        Ok(Self { bytes, left, before: Place::default() })
    }

    fn read(&mut self) -> Result<Place, Damage> {
        let mut field = || varint(&mut self.bytes).ok_or("an entry cannot be read");
        let [stream, version, position] = [field()?, field()?, field()?];
        let before = match stream {
            0 => self.before,
            _ => Place { stream_id: self.before.stream_id, ..Place::default() },
        };
        let stream_id = before.stream_id.checked_add_unsigned(stream);
        let version = before.version.checked_add(version).filter(|it| *it > before.version);
        let position = before.position.checked_add(position).filter(|it| *it > before.position);
        let place = stream_id.zip(version).zip(position);
        let ((stream_id, version), position) = place.ok_or("its entries are not in order")?;
        self.before = Place { stream_id, version, position };
        Ok(self.before)
    }
}

/// Most have one byte.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            Some(u64::from(*byte))
        }
        _ => decode_varint(bytes).ok(),
    }
}

impl Iterator for Places<'_> {
    type Item = Result<Place, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = !std::mem::take(&mut self.bytes).is_empty();
            return rest.then_some(Err("it is longer than its entries"));
        }
        self.left -= 1;
        let place = self.read();
        if place.is_err() {
            (self.left, self.bytes) = (0, &[]);
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Place>, Damage> {
        Places::new(bytes)?.collect()
    }

    fn encode(places: &[Place]) -> (usize, Vec<u8>) {
        let mut filling = ChunkBuilder::default();
        let added = places.iter().take_while(|place| filling.add(**place)).count();
        let (first, count, bytes) = filling.finish().unwrap();
        assert_eq!((first, count), (places[0], added as u64));
        (added, bytes)
    }

    /// Places of some streams in their order, with small and large numbers.
    fn places() -> impl Strategy<Value = Vec<Place>> {
        let step = prop_oneof![4 => 1..200_u64, 1 => 1..1_u64 << 40];
        let stream = (step.clone(), step.clone(), prop::collection::vec(step, 1..40));
        prop::collection::vec(stream, 1..60).prop_map(|streams| {
            let (mut stream_id, mut places) = (0, Vec::new());
            for (further, first, steps) in streams {
                stream_id += i64::try_from(further).unwrap();
                let mut position = 0;
                for (version, step) in (first..).zip(steps) {
                    position += step;
                    places.push(Place { stream_id, version, position });
                }
            }
            places
        })
    }

    proptest! {
        #[test]
        fn a_chunk_gives_back_what_went_in_and_fits_a_page(places in places()) {
            let (added, bytes) = encode(&places);
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert!(added == places.len() || bytes.len() > MAX_BYTES - COUNT_BYTES - 30);
            prop_assert_eq!(decode(&bytes), Ok(places[..added].to_vec()));
        }

        #[test]
        fn a_damaged_chunk_is_an_error_or_still_in_order(
            places in places(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let (_, mut bytes) = encode(&places);
            let at = at.index(bytes.len());
            prop_assert!(decode(&bytes[..at]).is_err(), "cut off");
            prop_assert!(decode(&[&bytes[..], &[1]].concat()).is_err(), "longer");
            bytes[at] = byte;
            if let Ok(read) = decode(&bytes) {
                prop_assert!(read.is_sorted_by(|one, next| one < next));
            }
        }
    }

    #[test]
    fn what_is_not_in_order_is_not_taken_for_something_else() {
        let place = |stream_id, version, position| Place { stream_id, version, position };
        for wrong in [
            [place(2, 1, 1), place(1, 1, 2)],
            [place(1, 2, 1), place(1, 1, 2)],
            [place(1, 1, 1), place(1, 1, 2)],
            [place(1, 1, 2), place(1, 2, 1)],
            [place(-1, 1, 1), place(1, 1, 2)],
        ] {
            assert!(decode(&encode(&wrong).1).is_err(), "{wrong:?}");
        }
        assert!(decode(&[]).is_err() && decode(&[0]).is_err());
        assert!(decode(&[0xff; 11]).is_err(), "an endless varint");
    }
}
