//! What passes on a connection to a server of HTTP/2, as far as it tells what became of a request.

use std::cell::Cell;
use std::rc::Rc;

use super::watched::Watch;

/// What has passed so far.
#[derive(Default)]
pub(super) struct Witness {
    written: Cell<u64>,
    heard: Cell<bool>,
    http1: Cell<bool>,
}

impl Witness {
    /// Bytes written. What was handed to `h2` while it stands still has not left this process.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the first that the server said is an answer of HTTP/1.
    pub(super) fn is_http1(&self) -> bool {
        self.http1.get()
    }
}

impl Watch for Rc<Witness> {
    fn read(&mut self, bytes: &[u8]) {
        if !self.heard.replace(true) {
            self.http1.set(bytes.starts_with(b"HTTP/"));
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.written.set(self.written.get() + bytes.len() as u64);
    }
}
