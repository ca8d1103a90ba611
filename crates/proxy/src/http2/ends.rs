//! The ends of streams, as they are written. `h2` refuses some heads by itself: it answers them and tells nobody, so that an
//! answer on a stream which nobody was given is the only sign of it.

use super::watched::Watch;

/// Tells `ended` of every end of a stream that is written on an accepted connection, with the stream.
pub(super) struct Ends<F> {
    ended: F,
    frames: Frames,
}

/// What ends a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// A head without a body, or trailers.
    Head,
    Data,
    Reset,
}

/// Where in the frames the writing is.
#[derive(Default)]
struct Frames {
    /// As much of a frame's header as has been written.
    header: Vec<u8>,
    /// How much of the frame before it has not.
    rest: usize,
}

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

impl<F: FnMut(u32, By)> Ends<F> {
    pub(super) fn new(ended: F) -> Self {
        Self { ended, frames: Frames::default() }
    }
}

impl<F: FnMut(u32, By) + Unpin> Watch for Ends<F> {
    fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let Some((stream, by)) = self.frames.next(&mut bytes) {
                (self.ended)(stream, by);
            }
        }
    }
}

impl Frames {
    /// Takes the next piece of what was written: the end of a stream, when it completes one.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<(u32, By)> {
        let passed = self.rest.min(bytes.len());
        self.rest -= passed;
        let (piece, rest) = bytes[passed..].split_at((HEADER_BYTES - self.header.len()).min(bytes.len() - passed));
        self.header.extend_from_slice(piece);
        *bytes = rest;
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *self.header.as_slice() else { return None };
        self.rest = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        self.header.clear();
        let by = match kind {
            HEADERS if flags & END_STREAM != 0 => By::Head,
            DATA if flags & END_STREAM != 0 => By::Data,
            RST_STREAM => By::Reset,
            _ => return None,
        };
        Some((u32::from_be_bytes([s1, s2, s3, s4]), by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    #[test]
    fn ends_are_found_however_the_bytes_are_cut() {
        let bytes = [
            frame(HEADERS, 0, 1, b"\x88"),
            frame(HEADERS, END_STREAM, 3, b"\x88"),
            frame(DATA, 0, 1, &[RST_STREAM; 40]),
            frame(DATA, END_STREAM, 1, b""),
            frame(RST_STREAM, 0, 5, &[0, 0, 0, 1]),
            frame(6, END_STREAM, 0, b"12345678"),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut found = Vec::new();
            let mut ends = Ends::new(|stream, by| found.push((stream, by)));
            bytes.chunks(size).for_each(|chunk| ends.wrote(chunk));
            assert_eq!(found, [(3, By::Head), (1, By::Data), (5, By::Reset)], "in pieces of {size}");
        }
    }
}
