//! A bounded queue from the workers to one reader. What does not fit is dropped and counted: traffic waits for nobody
//! who watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

/// The workers' end, and the reader's until it is taken.
pub(crate) struct Queue<T> {
    sender: mpsc::Sender<T>,
    receiver: Mutex<Option<mpsc::Receiver<T>>>,
    dropped: AtomicU64,
}

impl<T> Queue<T> {
    pub(crate) fn new(room: usize) -> Self {
        let (sender, receiver) = mpsc::channel(room);
        Self { sender, receiver: Mutex::new(Some(receiver)), dropped: AtomicU64::new(0) }
    }

    pub(crate) fn put(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.count_dropped(1);
        }
    }

    /// The reader's end, for the first who asks.
    pub(crate) fn reader(&self) -> Option<mpsc::Receiver<T>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The reader could not pass these on.
    pub(crate) fn count_dropped(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
