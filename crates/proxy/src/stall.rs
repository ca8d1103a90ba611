//! Notices exchanges that stand still, at the cost of one timer in minutes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep};

use crate::limits;

/// Watches over one connection's exchanges. Its timer is made at the first wait and then looks, each time it fires,
/// whether any byte has moved since: an exchange is found between one and two times the limit after its last byte.
#[derive(Default)]
pub(crate) struct Stall {
    timer: Option<Pin<Box<Sleep>>>,
    moved: u64,
}

impl Stall {
    /// Before an exchange: whatever stood still until now was not one.
    pub(crate) fn start(&mut self) {
        self.moved = u64::MAX;
    }

    /// Ready when nothing has moved for too long. `moved` is the count of bytes that have.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limits::STALL_TIMEOUT)));
        while timer.as_mut().poll(cx).is_ready() {
            if self.moved == moved {
                return Poll::Ready(());
            }
            self.moved = moved;
            timer.as_mut().reset(Instant::now() + limits::STALL_TIMEOUT);
        }
        Poll::Pending
    }
}
