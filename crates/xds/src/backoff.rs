//! How long to wait before trying again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The waits between attempts: from 100 ms, doubling, to 1 s, each shortened at random by up to a half, so that the
/// proxies of a mesh do not come back to their control plane at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(100);

/// So that a control plane that is back finds its proxies back within about a second.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);

impl Backoff {
    /// Whether the attempt before this was a success: then a failure is news.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next(RandomState::new().build_hasher().finish())).await;
    }

    fn next(&mut self, random: u64) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        longest.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..6).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0).as_millis(), 500);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 50);
    }
}
