//! What the heads of requests and responses have in common: their end, their headers, and which of those go on.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use heddle_policy::{Headers, Reason, joined};
use httparse::Header;
use memchr::memchr_iter;

use crate::body::{Body, is_token};
use crate::{HEAD_BYTES, HEADERS};

/// Why a head is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    #[error("not well-formed, or open to more than one reading: {0}")]
    Malformed(&'static str),
    #[error("larger than the limit")]
    TooLarge,
}

/// Room for the headers of one head, for the time of its parsing.
pub type Storage<'b> = [MaybeUninit<Header<'b>>; HEADERS];

/// The headers of a head, and which of them stay behind.
#[derive(Clone, Copy)]
pub struct Fields<'h, 'b> {
    /// The head as received.
    pub(crate) bytes: &'b [u8],
    pub(crate) headers: &'h [Header<'b>],
    /// Bit `i`: the header `i` belongs to the connection and does not go on (RFC 9110, section 7.6.1).
    pub(crate) dropped: u128,
}

/// What the `Connection` headers of a message say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Invalid {
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::BadRequest,
            Self::TooLarge => Reason::HeadTooLarge,
        }
    }
}

pub fn storage<'b>() -> Storage<'b> {
    [const { MaybeUninit::uninit() }; HEADERS]
}

/// The length of the head at the start of `bytes`, its empty line included; `None` while it is incomplete.
///
/// `searched` is where an earlier call stopped looking. A line that ends without a carriage return is refused at once.
pub fn find_end(bytes: &[u8], searched: &mut usize) -> Result<Option<usize>, Invalid> {
    for at in memchr_iter(b'\n', &bytes[*searched..]).map(|at| at + *searched) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Invalid::Malformed("a line that ends in a line feed alone"));
        }
        if at >= 3 && bytes[at - 2] == b'\n' {
            return if at < HEAD_BYTES { Ok(Some(at + 1)) } else { Err(Invalid::TooLarge) };
        }
    }
    *searched = bytes.len();
    if bytes.len() >= HEAD_BYTES { Err(Invalid::TooLarge) } else { Ok(None) }
}

impl From<httparse::Error> for Invalid {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLarge,
            httparse::Error::HeaderName => Self::Malformed("a header name"),
            httparse::Error::HeaderValue => Self::Malformed("a header value"),
            httparse::Error::Token => Self::Malformed("the request line"),
            httparse::Error::Version => Self::Malformed("the version"),
            httparse::Error::Status => Self::Malformed("the status"),
            httparse::Error::NewLine => Self::Malformed("a line's end"),
        }
    }
}

impl<'h, 'b> Fields<'h, 'b> {
    /// Finds the headers that stay behind: `Connection`, what it names, and the ones always of a connection.
    pub(crate) fn new(bytes: &'b [u8], headers: &'h [Header<'b>]) -> Result<(Self, ConnectionOptions), Invalid> {
        let mut fields = Self { bytes, headers, dropped: 0 };
        let mut options = ConnectionOptions::default();
        for (at, header) in headers.iter().enumerate() {
            if !is_of_connection(header.name) {
                continue;
            }
            fields.dropped |= 1 << at;
            if header.name.eq_ignore_ascii_case("connection") {
                fields.read_connection(header.value, &mut options)?;
            }
        }
        Ok((fields, options))
    }

    fn read_connection(&mut self, value: &[u8], options: &mut ConnectionOptions) -> Result<(), Invalid> {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match option {
                _ if option.eq_ignore_ascii_case(b"close") => options.close = true,
                _ if option.eq_ignore_ascii_case(b"keep-alive") => options.keep_alive = true,
                _ if option.eq_ignore_ascii_case(b"upgrade") => options.upgrade = true,
                b"" => {}
                name => self.drop_named(name)?,
            }
        }
        Ok(())
    }

    /// A header that frames or addresses the message cannot be one of the connection.
    fn drop_named(&mut self, name: &[u8]) -> Result<(), Invalid> {
        let protected: [&[u8]; 4] = [b"host", b"content-length", b"transfer-encoding", b"expect"];
        if !name.iter().all(|byte| is_token(*byte)) || protected.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(Invalid::Malformed("the Connection header"));
        }
        for (at, header) in self.headers.iter().enumerate() {
            if header.name.as_bytes().eq_ignore_ascii_case(name) {
                self.dropped |= 1 << at;
            }
        }
        Ok(())
    }

    /// Lets the `Upgrade` headers go on; whether there are any. One that offers HTTP does not: what follows on the
    /// connection would be requests that nobody judges (RFC 9113, section 3.1).
    pub(crate) fn keep_upgrade(&mut self) -> bool {
        let headers = self.headers.iter().enumerate();
        let upgrades = headers.filter(|(_, header)| header.name.eq_ignore_ascii_case("upgrade"));
        let (bits, offers_http) = upgrades.fold((0, false), |(bits, http), (at, header)| {
            (bits | 1 << at, http || header.value.split(|byte| *byte == b',').any(is_http))
        });
        let keeps = bits != 0 && !offers_http;
        self.dropped &= if keeps { !bits } else { u128::MAX };
        keeps
    }

    /// The same without the headers of these names.
    pub(crate) fn without<'n>(&self, names: impl Iterator<Item = &'n str>) -> Self {
        let mut fields = *self;
        for name in names {
            let has_name = |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
            let named = self.headers.iter().enumerate().filter(|(_, header)| has_name(header));
            fields.dropped |= named.fold(0, |bits, (at, _)| bits | 1 << at);
        }
        fields
    }

    /// The values of a header, of those that go on.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let headers = self.headers.iter().enumerate();
        headers
            .filter(move |(at, header)| self.dropped >> at & 1 == 0 && header.name.eq_ignore_ascii_case(name))
            .map(|(_, header)| header.value)
    }

    /// The only value of a header: an error when there are several.
    pub(crate) fn single(&self, name: &str, what: &'static str) -> Result<Option<&'b [u8]>, Invalid> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() { Err(Invalid::Malformed(what)) } else { Ok(first) }
    }

    /// The framing that the headers declare; `None` when they declare none. Both kinds at once, several lengths, and
    /// codings other than `chunked` are refused.
    pub(crate) fn framing(&self) -> Result<Option<Body>, Invalid> {
        let length = self.single("content-length", "several Content-Length headers")?;
        let coding = self.single("transfer-encoding", "several Transfer-Encoding headers")?;
        match (length, coding) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Invalid::Malformed("both Content-Length and Transfer-Encoding")),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Body::CHUNKED)),
            (None, Some(_)) => Err(Invalid::Malformed("a Transfer-Encoding other than chunked")),
            (Some(length), None) => parse_length(length).map(|length| Some(Body::Length(length))),
        }
    }

    /// Appends the header lines that go on, as they were received.
    pub(crate) fn forward(&self, out: &mut Vec<u8>) {
        let mut from = self.lines_start();
        for at in (0..self.headers.len()).filter(|at| self.dropped >> at & 1 == 1) {
            out.extend_from_slice(&self.bytes[from..self.line_start(at)]);
            from = self.line_start(at + 1);
        }
        out.extend_from_slice(&self.bytes[from..self.lines_end()]);
    }

    pub(crate) fn lines_start(&self) -> usize {
        self.line_start(0)
    }

    /// Where the line of a header begins; past the last one, where the empty line does.
    fn line_start(&self, at: usize) -> usize {
        let offset = |header: &Header<'_>| header.name.as_ptr() as usize - self.bytes.as_ptr() as usize;
        self.headers.get(at).map_or(self.lines_end(), offset)
    }

    fn lines_end(&self) -> usize {
        self.bytes.len() - 2
    }
}

impl Headers for Fields<'_, '_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        joined(self.values(name), b",")
    }
}

/// Headers that are of one connection whatever `Connection` says.
fn is_of_connection(name: &str) -> bool {
    // Most names are told apart by their length.
    match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        7 => name.eq_ignore_ascii_case("upgrade"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        _ => false,
    }
}

/// Whether a protocol that `Upgrade` names is HTTP, of any version.
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.trim_ascii().split(|byte| *byte == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"http"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

fn parse_length(value: &[u8]) -> Result<u64, Invalid> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Invalid::Malformed("the Content-Length"))
}
