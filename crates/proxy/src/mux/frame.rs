//! The unit of the wire: a header of eight bytes and a payload.
//!
//! ```text
//! type: u8 | flags: u8 | length of the payload: u16 | stream: u32      (big endian)
//! ```

use crate::limits;

pub(crate) const HEADER_BYTES: usize = 8;

/// On a `Data` frame: the sender will send no more on this stream.
const END: u8 = 1;

/// A frame as received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frame<'a> {
    /// Opens a stream. Ids grow.
    Open {
        stream: u32,
        open: Open,
    },
    Data {
        stream: u32,
        payload: &'a [u8],
        end: bool,
    },
    /// The receiver has taken so many bytes of the stream's data: as many more may be sent.
    Credit {
        stream: u32,
        bytes: u32,
    },
    /// The sender has no more interest in the stream.
    Reset {
        stream: u32,
        code: ResetCode,
    },
    /// From a client: it will open no more streams. From a server: it asks the client to say so.
    GoAway,
}

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Open {
    /// The port of the workload's container.
    pub(crate) port: u16,
    pub(crate) kind: Kind,
}

/// What the client takes the stream's bytes for. The server judges by the bytes themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    /// One HTTP/1 request, or more of them in order.
    Http1,
}

/// Why a stream was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ResetCode {
    /// Its other end went away.
    Cancelled,
    /// It was not accepted, or leads nowhere: the application has seen nothing of it.
    Refused,
    /// Policy denies it.
    Denied,
}

/// What stands where a frame should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum InvalidFrame {
    #[error("a frame of unknown type {0}")]
    Type(u8),
    #[error("a frame with a payload of {0} bytes, more than the limit")]
    Length(usize),
    #[error("a frame whose payload does not fit its type")]
    Payload,
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and the bytes it takes; `None` while it is incomplete.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, InvalidFrame> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, flags, l1, l2, s1, s2, s3, s4] = *header;
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        if length > limits::FRAME_BYTES {
            return Err(InvalidFrame::Length(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let stream = u32::from_be_bytes([s1, s2, s3, s4]);
        let frame = match (kind, payload) {
            (1, &[kind, p1, p2]) => {
                let kind = Kind::from_code(kind).ok_or(InvalidFrame::Payload)?;
                Self::Open { stream, open: Open { port: u16::from_be_bytes([p1, p2]), kind } }
            }
            (2, payload) => Self::Data { stream, payload, end: flags & END != 0 },
            (3, &[b1, b2, b3, b4]) => Self::Credit { stream, bytes: u32::from_be_bytes([b1, b2, b3, b4]) },
            (4, &[code]) => Self::Reset { stream, code: ResetCode::from_code(code) },
            (5, []) => Self::GoAway,
            (1 | 3..=5, _) => return Err(InvalidFrame::Payload),
            (other, _) => return Err(InvalidFrame::Type(other)),
        };
        Ok(Some((frame, HEADER_BYTES + length)))
    }

    /// Appends the frame to `out`. A payload of data must not be longer than the limit.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Open { stream, open } => {
                let [p1, p2] = open.port.to_be_bytes();
                write(out, 1, 0, stream, &[open.kind as u8, p1, p2]);
            }
            Self::Data { stream, payload, end } => write(out, 2, if end { END } else { 0 }, stream, payload),
            Self::Credit { stream, bytes } => write(out, 3, 0, stream, &bytes.to_be_bytes()),
            Self::Reset { stream, code } => write(out, 4, 0, stream, &[code as u8]),
            Self::GoAway => write(out, 5, 0, 0, &[]),
        }
    }
}

fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= limits::FRAME_BYTES);
    let [l1, l2] = (payload.len() as u16).to_be_bytes();
    let [s1, s2, s3, s4] = stream.to_be_bytes();
    out.extend_from_slice(&[kind, flags, l1, l2, s1, s2, s3, s4]);
    out.extend_from_slice(payload);
}

/// Marks the `Data` frame at the start of `frame` as the last of its stream.
pub(crate) fn set_end(frame: &mut [u8]) {
    frame[1] |= END;
}

/// Appends `payload` to the `Data` frame at `at`, the last in `out`, as far as it fits; the number of bytes taken.
pub(crate) fn extend(out: &mut Vec<u8>, at: usize, payload: &[u8]) -> usize {
    let length = out.len() - at - HEADER_BYTES;
    let taken = payload.len().min(limits::FRAME_BYTES - length);
    out.extend_from_slice(&payload[..taken]);
    out[at + 2..at + 4].copy_from_slice(&((length + taken) as u16).to_be_bytes());
    taken
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Tcp, Self::Http1].into_iter().find(|kind| *kind as u8 == code)
    }
}

impl ResetCode {
    /// A code of a later version means no more than that the stream is gone.
    fn from_code(code: u8) -> Self {
        [Self::Refused, Self::Denied].into_iter().find(|known| *known as u8 == code).unwrap_or(Self::Cancelled)
    }
}
