//! A request's head.

use heddle_policy::{normalize_path, settled_path};

use crate::body::Body;
use crate::head::{Fields, Invalid, Storage};
use crate::{HEAD_BYTES, HEADERS, ROOM_BYTES, ROOM_HEADERS};

/// A request's head, parsed in place and found unambiguous.
pub struct Request<'h, 'b> {
    pub method: &'b str,
    /// In origin form (`/path?query`), or `*`; the authority for CONNECT.
    pub target: &'b str,
    /// The target's own when it was in absolute form, else the `Host` header's. Empty for HTTP/1.0 without one.
    pub authority: &'b str,
    /// Whether the target was in absolute form, as clients speak to a proxy.
    pub is_absolute: bool,
    /// The minor version: 0 or 1.
    pub version: u8,
    pub fields: Fields<'h, 'b>,
    pub body: Body,
    /// Whether the client means to send another request on the connection.
    pub keep_alive: bool,
    /// Whether it asks for another protocol, such as WebSocket.
    pub upgrade: bool,
    /// Whether the body waits for a `100 Continue`.
    pub expects_continue: bool,
    /// The target that goes on in the stead of the client's.
    settled: Option<String>,
}

impl<'h, 'b> Request<'h, 'b> {
    /// Parses a complete head.
    pub fn parse(head: &'b [u8], storage: &'h mut Storage<'b>) -> Result<Self, Invalid> {
        let mut parsed = httparse::Request::new(&mut []);
        if !parsed.parse_with_uninit_headers(head, storage)?.is_complete() {
            return Err(Invalid::Malformed("the head"));
        }
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Invalid::Malformed("the request line"));
        };
        let (mut fields, options) = Fields::new(head, parsed.headers)?;
        let body = match fields.framing()? {
            Some(Body::Chunked(_)) if version == 0 => return Err(Invalid::Malformed("chunks in HTTP/1.0")),
            framing => framing.unwrap_or(Body::EMPTY),
        };
        let host = authority(&fields, version)?;
        let (target, absolute) = split_target(method, target)?;
        if absolute.is_some_and(|authority| !host.is_empty() && !authority.eq_ignore_ascii_case(host)) {
            return Err(Invalid::Malformed("a Host header that contradicts the target"));
        }
        let expects_continue = fields.single("expect", "several Expect headers")?.is_some();
        let upgrade = version == 1 && options.upgrade && fields.keep_upgrade();
        // What follows a CONNECT is not a request, whatever becomes of it.
        let keep_alive =
            method != "CONNECT" && if version == 1 { !options.close } else { options.keep_alive && !options.close };
        Ok(Self {
            method,
            target,
            authority: absolute.unwrap_or(host),
            is_absolute: absolute.is_some(),
            version,
            fields,
            body,
            keep_alive,
            upgrade,
            expects_continue,
            settled: None,
        })
    }

    /// Whether its head may be added to on its way through the mesh and is still within the limits of every hop.
    pub fn leaves_room(&self) -> bool {
        self.fields.bytes.len() <= HEAD_BYTES - ROOM_BYTES && self.fields.headers.len() <= HEADERS - ROOM_HEADERS
    }

    /// Has the path go on as it is judged where servers may read it differently: with dot segments resolved and runs of
    /// `/` as one (S7).
    pub fn settle_path(&mut self) {
        self.settled = settled_path(self.target);
    }

    /// The head as the next hop receives it: the target in origin form, and without what belongs to this connection.
    pub fn forward(&self, out: &mut Vec<u8>) {
        self.forward_with(&[], out);
    }

    /// The same with headers of the mesh's own: whatever the client sent by these names does not go on, and a value is
    /// put in its place.
    pub fn forward_with(&self, headers: &[(&str, Option<String>)], out: &mut Vec<u8>) {
        let is_changed = self.is_absolute || self.settled.is_some();
        // An absolute target takes the place of what the client sent as `Host` (RFC 9112, section 3.2.2).
        let replaced = headers.iter().map(|(name, _)| *name).chain(self.is_absolute.then_some("host"));
        let fields = &self.fields.without(replaced);
        let values = || headers.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
        if fields.dropped == 0 && !is_changed && values().next().is_none() {
            return out.extend_from_slice(fields.bytes);
        }
        match is_changed {
            true => self.write_request_line(out),
            false => out.extend_from_slice(&fields.bytes[..fields.lines_start()]),
        }
        fields.forward(out);
        if self.upgrade {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        }
        for (name, value) in values() {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_request_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        let target = self.settled.as_deref().unwrap_or(self.target);
        // An absolute target may have an empty path: `http://host` and `http://host?query`.
        if !target.starts_with(['/', '*']) {
            out.push(b'/');
        }
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(if self.version == 1 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" });
        if self.is_absolute {
            out.extend_from_slice(b"Host: ");
            out.extend_from_slice(self.authority.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The request as rules see it, given to `judge`; `None` when its path cannot be judged.
    pub fn judge<R>(&self, judge: impl FnOnce(&heddle_policy::Request<'_, Fields<'h, 'b>>) -> R) -> Option<R> {
        let path =
            normalize_path(if self.target.starts_with('?') || self.target.is_empty() { "/" } else { self.target })?;
        let authority = self.authority;
        let view = heddle_policy::Request { method: self.method, path: &path, authority, headers: &self.fields };
        Some(judge(&view))
    }
}

/// The `Host` header. HTTP/1.1 must have exactly one, and only what a host and port are made of may stand in it.
fn authority<'b>(fields: &Fields<'_, 'b>, version: u8) -> Result<&'b str, Invalid> {
    let invalid = Invalid::Malformed("the Host header");
    let Some(host) = fields.single("host", "several Host headers")? else {
        return if version == 0 { Ok("") } else { Err(invalid) };
    };
    let host = std::str::from_utf8(host).map_err(|_| invalid)?;
    if is_authority(host) { Ok(host) } else { Err(invalid) }
}

/// Whether a text has only what a host and a port are made of.
pub fn is_authority(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte))
}

/// The target in origin form, and the authority of an absolute one.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), Invalid> {
    let invalid = Err(Invalid::Malformed("the request target"));
    if !target.is_ascii() || target.contains('#') {
        return invalid;
    }
    if method == "CONNECT" {
        return if is_authority(target) { Ok((target, Some(target))) } else { invalid };
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, None));
    }
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let Some(rest) = scheme.and_then(|_| target.get(7..)) else { return invalid };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !is_authority(authority) { invalid } else { Ok((path, Some(authority))) }
}
