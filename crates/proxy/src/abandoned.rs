//! Notices clients that keep opening streams to give them up, which costs a server more than it costs them.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// What is taken together: calls with a deadline against a server that hangs are given up too, but not as fast.
const WINDOW: Duration = Duration::from_secs(1);

/// The streams of one connection that its client gave up in the current window, less those that it saw through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abandoned {
    count: u32,
    since: Instant,
}

impl Default for Abandoned {
    fn default() -> Self {
        Self { count: 0, since: Instant::now() }
    }
}

impl Abandoned {
    /// A stream was given up.
    pub(crate) fn add(&mut self) {
        if self.since.elapsed() >= WINDOW {
            *self = Self::default();
        }
        self.count += 1;
    }

    /// A stream was seen through.
    pub(crate) fn make_up(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// Whether they are so many that the connection is to be closed.
    pub(crate) fn is_flood(&self) -> bool {
        self.count > limits::ABANDONED_STREAMS && self.since.elapsed() < WINDOW
    }
}
