//! The framing of a body: where it ends, found while its bytes pass.

use crate::{CHUNK_LINE_BYTES, TRAILER_BYTES};

/// What is still to come of a message's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// So many bytes; 0 when it is complete.
    Length(u64),
    /// Chunks, and the trailers after them.
    Chunked(Chunks),
    /// All bytes until the connection ends: responses only.
    UntilEnd,
}

/// Where in the chunked coding (RFC 9112, section 7.1) the next byte falls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunks {
    /// In a chunk's size, of which `digits` have been read.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the extensions after a size, `length` bytes into them.
    Extension {
        size: u64,
        length: usize,
    },
    /// At the line feed that ends the line of a size.
    SizeLf {
        size: u64,
    },
    /// In a chunk's data, before the last `left` bytes.
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In the trailers, `length` bytes into them: at the start of a line, in a name, or in a value.
    TrailerStart {
        length: usize,
    },
    TrailerName {
        length: usize,
    },
    TrailerValue {
        length: usize,
    },
    TrailerLf {
        length: usize,
    },
    /// At the last line feed of the message.
    LastLf,
    Done,
}

/// The bytes are not what the framing says they are, or two parsers could read them differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidBody;

impl Body {
    pub const EMPTY: Self = Self::Length(0);
    pub const CHUNKED: Self = Self::Chunked(Chunks::Size { size: 0, digits: 0 });

    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Done))
    }

    /// Takes the bytes of `bytes` that belong to the body; how many they are.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<usize, InvalidBody> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.accept(bytes),
            Self::UntilEnd => Ok(bytes.len()),
        }
    }

    /// Whether the body is complete when its connection ends here.
    pub fn may_end(&self) -> bool {
        self.is_done() || *self == Self::UntilEnd
    }
}

impl Chunks {
    /// Bytes that are refused change nothing: they are refused again however they are asked about.
    fn accept(&mut self, bytes: &[u8]) -> Result<usize, InvalidBody> {
        let (mut state, mut at) = (*self, 0);
        while at < bytes.len() && state != Self::Done {
            if let Self::Data { left } = state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                let left = left - taken as u64;
                state = if left == 0 { Self::DataCr } else { Self::Data { left } };
                at += taken;
                continue;
            }
            state = state.step(bytes[at]).ok_or(InvalidBody)?;
            at += 1;
        }
        *self = state;
        Ok(at)
    }

    /// The state after a byte that is not data; `None` when no such byte may stand here.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(byte).to_digit(16)?);
                // 15 digits cannot overflow, and no body is longer.
                (digits < 15).then_some(Self::Size { size: size << 4 | digit, digits: digits + 1 })?
            }
            (Self::Size { size, digits: 1.. }, b'\r') => Self::SizeLf { size },
            (Self::Size { size, digits: 1.. }, b';') => Self::Extension { size, length: 0 },
            (Self::Extension { size, .. }, b'\r') => Self::SizeLf { size },
            (Self::Extension { size, length }, byte) if is_text(byte) && length < CHUNK_LINE_BYTES => {
                Self::Extension { size, length: length + 1 }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::TrailerStart { length: 0 },
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::LastLf, b'\n') => Self::Done,
            (Self::TrailerStart { .. }, b'\r') => Self::LastLf,
            (state, byte) => return state.step_trailer(byte),
        })
    }

    fn step_trailer(self, byte: u8) -> Option<Self> {
        let within = |length: usize| (length < TRAILER_BYTES).then_some(length + 1);
        Some(match (self, byte) {
            (Self::TrailerStart { length } | Self::TrailerName { length }, byte) if is_token(byte) => {
                Self::TrailerName { length: within(length)? }
            }
            (Self::TrailerName { length }, b':') => Self::TrailerValue { length: within(length)? },
            (Self::TrailerValue { length }, b'\r') => Self::TrailerLf { length: within(length)? },
            (Self::TrailerValue { length }, byte) if is_text(byte) => Self::TrailerValue { length: within(length)? },
            (Self::TrailerLf { length }, b'\n') => Self::TrailerStart { length: within(length)? },
            _ => return None,
        })
    }
}

/// A byte of a field's value (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// A byte of a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
