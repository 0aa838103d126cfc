//! Which account is next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bank::Random;

/// The exponent of the Zipf distribution: that of YCSB.
const EXPONENT: f64 = 0.99;

/// A stride that has no factor in common with a round number of accounts.
const STRIDE: u64 = 7_919;

/// How accounts are chosen, by all clients together.
#[derive(Debug, Clone)]
pub enum Spread {
    /// All of the first so many as often.
    Evenly(u64),
    /// The n-th in proportion to 1/n^0.99: the share of it and of all before it.
    Zipf(Arc<[f64]>),
    /// Each of so many once, before the first one comes again; neighbours are far apart.
    InTurn(u64, Arc<AtomicU64>),
}

impl Spread {
    /// A Zipf distribution.
    pub fn zipf(accounts: u64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=accounts).map(|rank| (rank as f64).powf(-EXPONENT));
        let mut shares: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        Self::Zipf(shares.into())
    }

    /// Each account once.
    pub fn in_turn(accounts: u64) -> Self {
        Self::InTurn(accounts, Arc::default())
    }

    /// The next account.
    pub fn next(&self, random: &mut Random) -> u64 {
        match self {
            Self::Evenly(accounts) => random.below(*accounts),
            Self::Zipf(shares) => {
                let at = random.below(1 << 53) as f64 / (1_u64 << 53) as f64;
                shares.partition_point(|share| *share <= at) as u64
            }
            Self::InTurn(accounts, taken) => {
                taken.fetch_add(1, Ordering::Relaxed).wrapping_mul(STRIDE) % accounts
            }
        }
    }

    /// How many were taken in turn.
    pub fn taken(&self) -> u64 {
        match self {
            Self::InTurn(_, taken) => taken.load(Ordering::Relaxed),
            Self::Evenly(_) | Self::Zipf(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(spread: &Spread, accounts: usize, draws: usize) -> Vec<usize> {
        let mut random = Random::new(1);
        let mut counts = vec![0; accounts];
        (0..draws).for_each(|_| counts[spread.next(&mut random) as usize] += 1);
        counts
    }

    #[test]
    fn the_first_account_of_a_zipf_distribution_comes_most_often() {
        let counts = counts(&Spread::zipf(100), 100, 100_000);
        // The sum of 1/n^0.99 to 100 is 5.29.
        assert!((18_000..20_000).contains(&counts[0]), "{}", counts[0]);
        assert!((9_000..10_500).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().all(|count| *count > 0));
    }

    #[test]
    fn each_account_comes_once_in_turn() {
        let spread = Spread::in_turn(10_000);
        assert!(counts(&spread, 10_000, 10_000).iter().all(|count| *count == 1));
        assert_eq!(spread.taken(), 10_000);
    }
}
