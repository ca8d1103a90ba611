//! How long a container that ends waits before it is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long starts anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Restarts so far. The first is immediate; then 10 s, doubling to 5 minutes, as in Kubernetes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Backoff {
    restarts: u32,
}

impl Backoff {
    /// The wait before the next start of a container that ran for `ran`.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN_AFTER {
            self.restarts = 0;
        }
        let delay = match self.restarts {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(10)).min(LONGEST),
        };
        self.restarts += 1;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_wait_doubles_to_five_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.next(FORGIVEN_AFTER), Duration::ZERO);
    }
}
