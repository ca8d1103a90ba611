//! Frames of SPDY/3.1 and its compressed header blocks. Frames that this server has no use for are skipped.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The text with which every header block's compression begins, fixed by the protocol.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Largest frame and largest decompressed header block accepted.
const MAX_FRAME: usize = 1024 * 1024;
const MAX_HEADERS: usize = 64 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// A frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
        fin: bool,
    },
    Data {
        stream: u32,
        data: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Of a type without meaning here.
    Other,
}

/// Reads frames; header blocks share one compression state.
pub(super) struct Reader {
    inflate: Decompress,
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Reader {
    pub(super) fn new() -> Self {
        Reader { inflate: Decompress::new(true) }
    }

    /// The next frame; `UnexpectedEof` at the end.
    pub(super) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
        let first = from.read_u32().await?;
        let flags_and_length = from.read_u32().await?;
        let (flags, length) = ((flags_and_length >> 24) as u8, (flags_and_length & 0x00ff_ffff) as usize);
        if length > MAX_FRAME {
            return Err(broken("a SPDY frame is too large"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let payload = Bytes::from(payload);
        let fin = flags & FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Frame::Data { stream: first, data: payload, fin });
        }
        self.control((first & 0xffff) as u16, payload, fin)
    }

    fn control(&mut self, kind: u16, mut payload: Bytes, fin: bool) -> io::Result<Frame> {
        let needed = match kind {
            SYN_STREAM => 10,
            RST_STREAM => 8,
            PING => 4,
            _ => 0,
        };
        if payload.len() < needed {
            return Err(broken("a SPDY frame is too short"));
        }
        match kind {
            SYN_STREAM => {
                let stream = payload.get_u32() & 0x7fff_ffff;
                payload.advance(6);
                Ok(Frame::Open { stream, headers: self.headers(&payload)?, fin })
            }
            RST_STREAM => Ok(Frame::Reset { stream: payload.get_u32() & 0x7fff_ffff }),
            PING => Ok(Frame::Ping { id: payload.get_u32() }),
            GOAWAY => Ok(Frame::GoAway),
            _ => Ok(Frame::Other),
        }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut text = Bytes::from(self.inflate(block)?);
        let mut headers = Vec::new();
        for _ in 0..number(&mut text)? {
            let name = string(&mut text)?.to_ascii_lowercase();
            headers.push((name, string(&mut text)?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(4096);
        let start = self.inflate.total_in();
        loop {
            let used = (self.inflate.total_in() - start) as usize;
            let before = (used, out.len());
            match self.inflate.decompress_vec(&block[used..], &mut out, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| broken("the SPDY dictionary is another"))?;
                    continue;
                }
                Err(_) => return Err(broken("a SPDY header block cannot be decompressed")),
            }
            let used = (self.inflate.total_in() - start) as usize;
            if out.len() > MAX_HEADERS {
                return Err(broken("a SPDY header block is too large"));
            }
            if out.len() == out.capacity() {
                out.reserve(4096);
            } else if used == block.len() || before == (used, out.len()) {
                return Ok(out);
            }
        }
    }
}

fn number(text: &mut Bytes) -> io::Result<u32> {
    if text.len() < 4 { Err(broken("a SPDY header block is cut short")) } else { Ok(text.get_u32()) }
}

fn string(text: &mut Bytes) -> io::Result<String> {
    let length = number(text)? as usize;
    if text.len() < length {
        return Err(broken("a SPDY header block is cut short"));
    }
    String::from_utf8(text.split_to(length).to_vec()).map_err(|_| broken("a SPDY header is not UTF-8"))
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 8);
    frame.put_u32(0x8003_0000 | u32::from(kind));
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

/// Accepts a stream, with no headers. The header block is a stored (uncompressed) one and an empty one, which tells the
/// reader that nothing more comes for now; the compressed stream's own head stands before the first block only.
pub(super) fn reply(stream: u32, first: bool) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    if first {
        payload.put_slice(&[0x78, 0x01]);
    }
    let block = 0u32.to_be_bytes();
    let length = block.len() as u16;
    payload.put_u8(0);
    payload.put_u16_le(length);
    payload.put_u16_le(!length);
    payload.put_slice(&block);
    payload.put_slice(&[0, 0, 0, 0xff, 0xff]);
    control(SYN_REPLY, &payload)
}

pub(super) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// Refuses or ends a stream (status CANCEL).
pub(super) fn reset(stream: u32) -> Bytes {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.extend(5u32.to_be_bytes());
    control(RST_STREAM, &payload)
}

pub(super) fn go_away(last: u32) -> Bytes {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(0u32.to_be_bytes());
    control(GOAWAY, &payload)
}

pub(super) fn data(stream: u32, data: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 8);
    frame.put_u32(stream);
    frame.put_u32((u32::from(if fin { FIN } else { 0 }) << 24) | data.len() as u32);
    frame.put_slice(data);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn header_block(deflate: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(n, v)| [n, v]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(1024);
        deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("compresses");
        block
    }

    fn open(deflate: &mut Compress, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(header_block(deflate, headers));
        control(SYN_STREAM, &payload)
    }

    #[tokio::test]
    async fn streams_open_with_headers_compressed_against_the_dictionary() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(DICTIONARY).expect("a dictionary");
        let mut wire = open(&mut deflate, 1, &[("streamType", "error")]).to_vec();
        wire.extend(open(&mut deflate, 3, &[("streamType", "data"), ("port", "80")]));
        wire.extend(data(3, b"hello", true));
        let (mut reader, mut from) = (Reader::new(), wire.as_slice());
        let headers =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let frame = reader.read(&mut from).await.expect("a frame");
        assert_eq!(frame, Frame::Open { stream: 1, headers: headers(&[("streamtype", "error")]), fin: false });
        let frame = reader.read(&mut from).await.expect("a frame");
        assert_eq!(
            frame,
            Frame::Open { stream: 3, headers: headers(&[("streamtype", "data"), ("port", "80")]), fin: false }
        );
        let frame = reader.read(&mut from).await.expect("a frame");
        assert_eq!(frame, Frame::Data { stream: 3, data: Bytes::from_static(b"hello"), fin: true });
    }

    #[test]
    fn replies_are_one_compressed_text_of_empty_header_blocks() {
        let mut inflate = Decompress::new(true);
        for (stream, first) in [(1, true), (3, false)] {
            let mut out = Vec::with_capacity(64);
            inflate
                .decompress_vec(&reply(stream, first)[12..], &mut out, FlushDecompress::Sync)
                .expect("compressed text");
            assert_eq!(out, [0, 0, 0, 0]);
        }
    }

    #[tokio::test]
    async fn a_header_block_that_is_not_compressed_text_is_refused() {
        let mut payload = 1u32.to_be_bytes().to_vec();
        payload.extend([7; 40]);
        let wire = control(SYN_STREAM, &payload);
        assert!(Reader::new().read(&mut wire.as_ref()).await.is_err());
    }
}
