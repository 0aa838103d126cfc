//! How far a reader is: the position up to which nothing is missing.

use std::collections::BTreeSet;

/// How many positions are remembered beyond the first that has not come. A reader that catches up
/// may see more; then it waits for watermarks, which are there already.
const MAX_AHEAD: usize = 100_000;

/// A position up to which nothing is missing, and what has come beyond it.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    position: u64,
    /// What has come after the position, while something before it has not.
    ahead: BTreeSet<u64>,
}

impl Reached {
    /// Nothing is missing up to here.
    pub fn new(position: u64) -> Self {
        Self { position, ahead: BTreeSet::new() }
    }

    /// The position up to which nothing is missing.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The event at a position has come.
    pub fn saw(&mut self, position: u64) {
        if position > self.position && self.ahead.len() < MAX_AHEAD {
            self.ahead.insert(position);
            self.move_on();
        }
    }

    /// Nothing is missing up to here, whatever has come. A lower position changes nothing.
    pub fn nothing_missing(&mut self, position: u64) {
        if position > self.position {
            self.position = position;
            self.move_on();
        }
    }

    fn move_on(&mut self) {
        while let Some(&first) = self.ahead.first()
            && first <= self.position + 1
        {
            self.ahead.pop_first();
            self.position = self.position.max(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_late_event_holds_the_position_back() {
        let mut reached = Reached::new(7);
        for position in [10, 9, 12, 3] {
            reached.saw(position);
            assert_eq!(reached.position(), 7);
        }
        reached.saw(8);
        assert_eq!(reached.position(), 10);
        reached.nothing_missing(9);
        assert_eq!(reached.position(), 10, "it never goes back");
        reached.nothing_missing(11);
        assert_eq!(reached.position(), 12);
    }

    #[test]
    fn what_is_too_much_to_remember_waits_for_a_watermark() {
        let last = 2 + 2 * MAX_AHEAD as u64;
        let mut reached = Reached::new(0);
        (2..=last).for_each(|position| reached.saw(position));
        assert_eq!(reached.ahead.len(), MAX_AHEAD);
        reached.saw(1);
        assert_eq!(reached.position(), 0, "it could not be remembered any more");
        reached.nothing_missing(1);
        assert_eq!(reached.position(), 1 + MAX_AHEAD as u64);
        reached.nothing_missing(last);
        assert_eq!((reached.position(), reached.ahead.len()), (last, 0));
    }

    proptest! {
        #[test]
        fn the_position_is_what_a_set_of_all_that_came_says(
            order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
            watermarks in prop::collection::vec((0_usize..40, 0_u64..40), 0..4),
        ) {
            let mut reached = Reached::new(0);
            let mut came = BTreeSet::new();
            for (index, &position) in order.iter().enumerate() {
                for (_, watermark) in watermarks.iter().filter(|(at, _)| *at == index) {
                    reached.nothing_missing(*watermark);
                    came.extend(1..=*watermark);
                }
                reached.saw(position);
                came.insert(position);
                let complete = (1..).take_while(|position| came.contains(position)).count() as u64;
                prop_assert_eq!(reached.position(), complete);
            }
        }
    }
}
