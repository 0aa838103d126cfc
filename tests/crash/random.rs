//! Random numbers that can be had again: the seed is the same in every run unless
//! `DAYBOOK_TEST_SEED` gives another, and every failure names it.

/// The seed of this run.
pub fn seed() -> u64 {
    match std::env::var("DAYBOOK_TEST_SEED") {
        Ok(text) => text.parse().expect("DAYBOOK_TEST_SEED is a number"),
        Err(_) => 20_261_121,
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and random enough to choose when to kill.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers that belong to a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to below the limit, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
