//! How far everything has been delivered, when deliveries come in any order.

use std::collections::VecDeque;

/// A contiguous delivered prefix of the positions, and a window of those sent after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Everything up to here has been delivered.
    delivered: u64,
    /// For each position sent after that, whether it has been delivered. The first is not.
    window: VecDeque<bool>,
}

impl Prefix {
    /// Everything up to `delivered` has been delivered, and nothing is under way.
    pub fn new(delivered: u64) -> Self {
        Self { delivered, window: VecDeque::new() }
    }

    /// Everything up to here has been delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The last position sent.
    pub fn sent(&self) -> u64 {
        self.delivered + self.window.len() as u64
    }

    /// How many positions are in the window.
    pub fn in_flight(&self) -> usize {
        self.window.len()
    }

    /// The position after the last one is sent now.
    pub fn send(&mut self, position: u64) {
        assert_eq!(position, self.sent() + 1, "positions are sent one after the other");
        self.window.push_back(false);
    }

    /// A sent position has been delivered. Says whether the prefix has grown.
    pub fn deliver(&mut self, position: u64) -> bool {
        let Some(index) = position.checked_sub(self.delivered + 1) else { return false };
        let index = usize::try_from(index).expect("the window is in memory");
        self.window[index] = true;
        let grown = index == 0;
        while self.window.front() == Some(&true) {
            self.window.pop_front();
            self.delivered += 1;
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_late_delivery_holds_the_prefix_back() {
        let mut prefix = Prefix::new(7);
        (8..=10).for_each(|position| prefix.send(position));

        assert!(!prefix.deliver(10));
        assert!(!prefix.deliver(9));
        assert_eq!((prefix.delivered(), prefix.sent(), prefix.in_flight()), (7, 10, 3));

        assert!(prefix.deliver(8));
        assert_eq!((prefix.delivered(), prefix.sent(), prefix.in_flight()), (10, 10, 0));
    }

    proptest! {
        #[test]
        fn the_prefix_is_what_a_set_of_the_delivered_says(
            base in 0_u64..1000,
            order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
            count in 0_usize..=40,
        ) {
            let mut prefix = Prefix::new(base);
            (1..=40).for_each(|n| prefix.send(base + n));
            let mut delivered = std::collections::BTreeSet::new();
            for &n in &order[..count] {
                let before = prefix.delivered();
                let grown = prefix.deliver(base + n);
                prop_assert_eq!(grown, prefix.delivered() > before);
                prop_assert!(!prefix.deliver(base + n), "a second time changes nothing");
                delivered.insert(n);
                let contiguous = (1..=40).take_while(|n| delivered.contains(n)).count() as u64;
                prop_assert_eq!(prefix.delivered(), base + contiguous);
                prop_assert_eq!(prefix.sent(), base + 40);
            }
        }
    }
}
