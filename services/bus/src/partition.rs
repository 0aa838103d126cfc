//! Which partition a stream goes to. It is our own function, the same everywhere and for ever:
//! the partitioners of the Kafka clients differ from one another.

/// The FNV-1a hash, 64 bits.
///
/// Source: draft-eastlake-fnv.
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The partition of a stream, out of `count`, which is not 0.
pub fn partition_of(stream: &str, count: u32) -> i32 {
    let partition = fnv1a_64(stream.as_bytes()) % u64::from(count);
    i32::try_from(partition).expect("Kafka counts partitions in an i32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_stream_keeps_its_partition_for_ever() {
        let golden = [
            ("bank.account-1", 12, 0),
            ("bank.account-42", 12, 3),
            ("bank.account-42", 1, 0),
            ("bank.account-alice", 12, 11),
            ("orders.order-0190", 7, 0),
        ];
        for (stream, count, partition) in golden {
            assert_eq!(partition_of(stream, count), partition, "{stream} of {count}");
        }
    }

    #[test]
    fn streams_spread_over_the_partitions() {
        let mut counts = [0_u32; 12];
        for id in 0..12_000 {
            let partition = partition_of(&format!("bank.account-{id}"), 12);
            counts[usize::try_from(partition).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
