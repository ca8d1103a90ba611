//! A response's head.

use crate::body::Body;
use crate::head::{Fields, Invalid, Storage};

/// A response's head, parsed in place and found unambiguous.
pub struct Response<'h, 'b> {
    pub status: u16,
    pub fields: Fields<'h, 'b>,
    pub body: Body,
    /// Whether the connection it came on can carry another exchange.
    pub keep_alive: bool,
}

/// What a response says of the connection it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// The default of its version.
    Implied,
    Close,
    /// To a client of HTTP/1.0 that asked for it.
    KeepAlive,
    /// The connection speaks another protocol from here on.
    Upgrade,
}

impl<'h, 'b> Response<'h, 'b> {
    /// Parses the complete head of an answer to a request, which had the method HEAD or not.
    pub fn parse(head: &'b [u8], storage: &'h mut Storage<'b>, to_head: bool) -> Result<Self, Invalid> {
        let mut parsed = httparse::Response::new(&mut []);
        let complete =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, storage)?;
        let (true, Some(status), Some(version)) = (complete.is_complete(), parsed.code, parsed.version) else {
            return Err(Invalid::Malformed("the head"));
        };
        let (fields, options) = Fields::new(head, parsed.headers)?;
        let framing = fields.framing()?;
        let body = match status {
            100..=199 | 204 | 304 => Body::EMPTY,
            _ if to_head => Body::EMPTY,
            _ => framing.unwrap_or(Body::UntilEnd),
        };
        let keep_alive = if version == 1 { !options.close } else { options.keep_alive && !options.close };
        Ok(Self { status, fields, body, keep_alive: keep_alive && body != Body::UntilEnd })
    }

    /// Whether more heads follow for the same request.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// The head as the client receives it.
    pub fn forward(&self, persistence: Persistence, out: &mut Vec<u8>) {
        let fields = &self.fields;
        let line: &[u8] = match persistence {
            Persistence::Implied if fields.dropped == 0 => return out.extend_from_slice(fields.bytes),
            Persistence::Upgrade => return out.extend_from_slice(fields.bytes),
            Persistence::Implied => b"",
            Persistence::Close => b"Connection: close\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n",
        };
        out.extend_from_slice(&fields.bytes[..fields.lines_start()]);
        fields.forward(out);
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }

    /// Whether a proxy of the mesh answered in the server's stead, by policy.
    pub fn is_denial(&self) -> bool {
        self.status == 403 && self.fields.values("x-heddle-reason").next().is_some()
    }
}
