//! When to send a request again, and how long to wait before.

use std::time::Duration;

/// How often a request is sent, and how long the pauses in between are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The most attempts in all, the first included; at least 1.
    pub max_attempts: u32,
    /// The pause before the second attempt; it doubles with each further attempt.
    pub first_pause: Duration,
    /// No pause is longer, unless the server asks for it.
    pub longest_pause: Duration,
}

impl Default for Policy {
    /// Five attempts within about a second: enough for a restarted connection, and short enough
    /// that a person at a terminal does not wonder.
    fn default() -> Self {
        Self {
            max_attempts: 5,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
        }
    }
}

impl Policy {
    /// The pause after a failed attempt, counted from 1. The jitter takes up to half of it away,
    /// so that clients that failed together do not come back together.
    pub(crate) fn pause(&self, failed_attempt: u32, asked_for: Option<Duration>) -> Duration {
        self.pause_with(failed_attempt, asked_for, random())
    }

    fn pause_with(&self, failed: u32, asked_for: Option<Duration>, random: u64) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << (failed.saturating_sub(1)).min(16));
        let full = doubled.min(self.longest_pause);
        let half = full / 2;
        let range = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        let pause = half + Duration::from_nanos(random % range);
        pause.max(asked_for.unwrap_or_default())
    }
}

/// A random number; a random UUID is at hand, and no more than that is needed.
fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let policy = Policy::default();
        for (failed, full_ms) in [(1, 50), (2, 100), (3, 200), (6, 1600), (7, 2000), (99, 2000)] {
            let full = Duration::from_millis(full_ms);
            assert_eq!(policy.pause_with(failed, None, 0), full / 2);
            for random in [1, 12_345, u64::MAX] {
                let pause = policy.pause_with(failed, None, random);
                assert!(pause >= full / 2 && pause <= full, "{failed}: {pause:?}");
            }
        }
    }

    #[test]
    fn the_pause_that_the_server_asks_for_is_kept() {
        let asked = Duration::from_secs(7);
        assert_eq!(Policy::default().pause_with(1, Some(asked), 3), asked);
    }
}
