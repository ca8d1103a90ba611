//! Many streams in one connection between two proxies.
//!
//! Frames are small and carry the bytes of a stream as they were received; each stream has a credit of its own, so
//! that one which is not read holds up no other. All frames queued in one turn of the event loop leave in one write.
//! The client opens streams, the server accepts them.
//!
//! Frames of our own rather than the `yamux` crate: it hands each frame to its connection through a channel and
//! writes them one by one, which is what this module exists to avoid.

mod driver;
mod frame;
mod session;
mod stream;

pub(crate) use driver::Driver;
pub(crate) use frame::{HEADER_BYTES, Kind, Open, ResetCode};
pub(crate) use session::{OpenError, Session, Violation};
pub(crate) use stream::Stream;

/// The protocol's name and version in TLS (ALPN).
pub(crate) const ALPN: &[u8] = b"heddle/1";

#[cfg(test)]
mod tests;
