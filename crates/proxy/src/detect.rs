//! What a connection speaks, from its first bytes.
//!
//! Where a port's protocol is not declared, the client gets a head start; if it is silent, the server is connected to,
//! and whichever of the two speaks first tells what the connection is.

use std::time::Duration;

use tokio::time::timeout;

use crate::io::{Conn, Transport};
use crate::limits;

/// What the first bytes of a client look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detected {
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, or too little in time.
    Other,
}

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is looked for.
const METHOD_BYTES: usize = 24;

/// Whether the client says something, or ends, before the head start is over. What was read stays in the connection.
pub(crate) async fn has_spoken<T: Transport>(conn: &mut Conn<T>) -> bool {
    !conn.read.is_empty() || timeout(limits::DETECT_HEAD_START, conn.fill()).await.is_ok()
}

/// Waits for one of both to say something, or to end. What was read stays in its connection.
pub(crate) async fn either_speaks<A: Transport, B: Transport>(client: &mut Conn<A>, server: &mut Conn<B>) {
    // An end or an error is met again by whoever goes on with the connection.
    tokio::select! {
        biased;
        _ = client.fill() => {}
        _ = server.fill() => {}
    }
}

/// Waits up to `wait` for enough bytes to tell. What was read stays in the connection.
pub(crate) async fn detect<T: Transport>(conn: &mut Conn<T>, wait: Duration) -> Detected {
    if let Some(detected) = classify(&conn.read) {
        return detected;
    }
    let reading = async {
        loop {
            match conn.fill().await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Detected::Other,
            }
            if let Some(detected) = classify(&conn.read) {
                return detected;
            }
        }
    };
    timeout(wait, reading).await.unwrap_or(Detected::Other)
}

/// `None` while the bytes could become more than one thing.
fn classify(bytes: &[u8]) -> Option<Detected> {
    if bytes.is_empty() {
        return None;
    }
    if bytes.starts_with(PREFACE) {
        return Some(Detected::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method..) {
        Some([]) if method <= METHOD_BYTES => None,
        Some([b' ']) if method > 0 => None,
        // A target in origin or absolute form, or `*`; CONNECT is followed by an authority.
        Some([b' ', b'/' | b'h' | b'H' | b'*', ..]) if method > 0 => Some(Detected::Http1),
        Some([b' ', ..]) if &bytes[..method] == b"CONNECT" => Some(Detected::Http1),
        _ => Some(Detected::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_http_from_the_rest() {
        let cases: [(&[u8], Option<Detected>); 12] = [
            (b"", None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Detected::Http1)),
            (b"OPTIONS * HTTP/1.1", Some(Detected::Http1)),
            (b"GET http://a/ HTTP/1.1", Some(Detected::Http1)),
            (b"PRI * HTT", None),
            (PREFACE, Some(Detected::Http2)),
            (b"\x16\x03\x01", Some(Detected::Other)),
            (b"EHLO mail.example", Some(Detected::Other)),
            (b"get / HTTP/1.1", Some(Detected::Other)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(classify(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
