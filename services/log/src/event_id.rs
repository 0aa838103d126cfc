//! Ids of events: UUIDv7 (RFC 9562) whose random part is the store's tag and the position of the
//! event, so that an event is found by its id without an index.
//!
//! Layout: 48 bits of milliseconds, version, 12 bits of tag, variant, 14 bits of tag, 48 bits of
//! position. The tag is 26 random bits of the store's own id: two stores share one with a chance
//! of 1 in 67 million, and an id then still differs by its millisecond and position.

use uuid::Uuid;

const POSITION_BITS: u32 = 48;

/// The id of the event at a position. `millis` is its recorded time, since 1970.
pub fn make(store: &Uuid, millis: u64, position: u64) -> Uuid {
    let tag = tag(store);
    let high = (millis << 16) | 0x7000 | (tag >> 14);
    let low = (0b10 << 62) | ((tag & 0x3fff) << POSITION_BITS) | (position & mask());
    Uuid::from_u64_pair(high, low)
}

/// The position that an id names, when it can be an id of this store.
pub fn position(store: &Uuid, id: &Uuid) -> Option<u64> {
    let (high, low) = id.as_u64_pair();
    let same = make(store, high >> 16, low & mask()) == *id;
    same.then_some(low & mask())
}

fn tag(store: &Uuid) -> u64 {
    store.as_u64_pair().1 & ((1 << 26) - 1)
}

fn mask() -> u64 {
    (1 << POSITION_BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_v7_that_leads_back_to_its_position() {
        let store = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        for at in [1, 2, 1_000_000, (1 << 48) - 1] {
            let id = make(&store, 1_795_000_000_123, at);
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(position(&store, &id), Some(at));
        }
    }

    #[test]
    fn an_id_of_another_store_names_no_position() {
        let store = Uuid::from_u128(1);
        let id = make(&Uuid::from_u128(2), 1_795_000_000_123, 7);
        assert_eq!(position(&store, &id), None);
        assert_eq!(position(&store, &Uuid::from_u128(99)), None);
    }

    #[test]
    fn ids_sort_by_time_then_position() {
        let store = Uuid::from_u128(1);
        assert!(make(&store, 5, 9) < make(&store, 6, 1));
        assert!(make(&store, 5, 1) < make(&store, 5, 2));
    }
}
