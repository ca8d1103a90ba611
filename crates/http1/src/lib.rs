//! HTTP/1.0 and 1.1 messages on the bytes received.
//!
//! A head is found by its end, parsed in place, judged on views of its bytes, and goes on as it came but for the few
//! lines that belong to one connection only. Bodies are followed by their framing. What two parsers could read
//! differently is refused: that is how requests are smuggled.
//!
//! This crate knows neither sockets nor time.

mod body;
mod head;
mod request;
mod response;

pub use body::{Body, Chunks, InvalidBody};
pub use head::{Fields, Invalid, Storage, find_end, storage};
pub use request::{Request, is_authority};
pub use response::{Persistence, Response};

/// The size of a request's or response's head in bytes; a larger request gets 431.
pub const HEAD_BYTES: usize = 64 * 1024;
/// The number of headers in a head; a request with more gets 431.
pub const HEADERS: usize = 128;
/// What a request leaves free of both when it enters the mesh, for what proxies on its way add to its head: the `Host` that
/// an absolute target stands for, the span of a trace.
pub const ROOM_BYTES: usize = 1024;
pub const ROOM_HEADERS: usize = 8;
/// The length of the line that opens a chunk, its extensions included, in bytes.
pub const CHUNK_LINE_BYTES: usize = 256;
/// The size of the trailers after a chunked body, in bytes.
pub const TRAILER_BYTES: usize = 8 * 1024;
