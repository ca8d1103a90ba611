//! A request's head.

use std::borrow::Cow;

use heddle_policy::{Headers, Reason, normalize_path, settled_path};
use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request};

use super::PORT;
use crate::http1::is_authority;
use crate::limits;
use crate::record::Seen;
use crate::trace::Propagation;

/// A request's head, found unambiguous. `h2` has refused what HTTP/2 itself does not allow, such as headers of a
/// connection.
pub(super) struct Head {
    request: Request<()>,
    /// For a request between proxies, the port of the workload it is for.
    pub(super) port: Option<u16>,
}

/// Headers as rules see them.
pub(super) struct Fields<'a>(&'a HeaderMap);

impl Head {
    /// A request that enters the mesh leaves room for what proxies add to it.
    pub(super) fn new(mut request: Request<()>, is_between_proxies: bool) -> Result<Self, Reason> {
        let (headers, bytes) = if is_between_proxies { (0, 0) } else { (limits::ROOM_HEADERS, limits::ROOM_BYTES) };
        if request.headers().len() > limits::HEADERS - headers || size(&request) > limits::HEAD_BYTES - bytes {
            return Err(Reason::HeadTooLarge);
        }
        if request.method() == Method::CONNECT {
            return Err(Reason::BadRequest);
        }
        let uri = absolute(&request).ok_or(Reason::BadRequest)?;
        *request.uri_mut() = uri;
        let port = take_port(request.headers_mut())?;
        Ok(Self { request, port })
    }

    /// Has the path go on as it is judged where servers may read it differently: with dot segments resolved and runs of
    /// `/` as one (S7).
    pub(super) fn settle_path(&mut self) {
        let mut parts = self.request.uri().clone().into_parts();
        let target = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
        if let Some(Ok(settled)) = settled_path(target).map(PathAndQuery::try_from) {
            parts.path_and_query = Some(settled);
            if let Ok(uri) = Uri::from_parts(parts) {
                *self.request.uri_mut() = uri;
            }
        }
    }

    /// The request as rules see it, given to `judge`; `None` when its path cannot be judged.
    pub(super) fn judge<R>(&self, judge: impl FnOnce(&heddle_policy::Request<'_, Fields<'_>>) -> R) -> Option<R> {
        let uri = self.request.uri();
        let path = normalize_path(uri.path_and_query().map_or("/", |path| path.as_str()))?;
        let authority = uri.authority().map_or("", Authority::as_str);
        let headers = &Fields(self.request.headers());
        Some(judge(&heddle_policy::Request { method: self.request.method().as_str(), path: &path, authority, headers }))
    }

    /// The request as records see it.
    pub(super) fn seen(&self) -> Seen<'_> {
        let (uri, headers) = (self.request.uri(), Fields(self.request.headers()));
        Seen {
            protocol: "HTTP/2",
            method: self.request.method().as_str(),
            target: uri.path_and_query().map_or("/", |path| path.as_str()),
            authority: uri.authority().map_or("", Authority::as_str),
            traceparent: headers.joined("traceparent"),
            tracestate: headers.joined("tracestate"),
        }
    }

    /// The request as the next hop receives it: another proxy is told the port, and of a trace its newest span.
    pub(super) fn forward(&self, port: Option<u16>, propagation: Option<&Propagation>) -> Request<()> {
        let mut request = self.request.clone();
        for (name, value) in propagation.map(Propagation::headers).into_iter().flatten() {
            request.headers_mut().remove(name);
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                request.headers_mut().insert(name, value);
            }
        }
        if let Some(port) = port {
            request.headers_mut().insert(PORT, HeaderValue::from(port));
        }
        request
    }
}

/// The target with an authority: from `:authority`, or from `host` when there is none. Both must agree.
fn absolute(request: &Request<()>) -> Option<Uri> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(Authority::as_str);
    let (several, stated) = (hosts.next().is_some(), authority.map_or(host, |authority| Some(authority.as_bytes())));
    let stated = std::str::from_utf8(stated?).ok()?;
    let agrees = host.is_none_or(|host| host.eq_ignore_ascii_case(stated.as_bytes()));
    if several || !agrees || stated.is_empty() || !is_authority(stated) {
        return None;
    }
    let mut parts = request.uri().clone().into_parts();
    if parts.authority.is_none() {
        parts.authority = Some(stated.parse().ok()?);
        parts.scheme = Some(Scheme::HTTP);
    }
    Uri::from_parts(parts).ok()
}

/// The size of a head in bytes.
fn size(request: &Request<()>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

fn take_port(headers: &mut HeaderMap) -> Result<Option<u16>, Reason> {
    let mut values = headers.get_all(PORT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(PORT) { Err(Reason::BadRequest) } else { Ok(None) };
    };
    let port = value.to_str().ok().and_then(|port| port.parse().ok());
    headers.remove(PORT);
    port.map(Some).ok_or(Reason::BadRequest)
}

impl Headers for Fields<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.joined(name)
    }
}

impl<'a> Fields<'a> {
    fn joined(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        // Cookies may arrive in pieces (RFC 9113, section 8.2.3).
        let separator: &[u8] = if name.eq_ignore_ascii_case(COOKIE.as_str()) { b"; " } else { b"," };
        heddle_policy::joined(self.0.get_all(name).iter().map(HeaderValue::as_bytes), separator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Result<Head, Reason> {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::new(request.body(()).unwrap(), true)
    }

    #[test]
    fn the_authority_and_the_host_header_must_agree() {
        let authority = |head: Head| head.judge(|judged| judged.authority.to_owned()).unwrap();
        assert_eq!(head("http://shop/", &[]).map(authority), Ok("shop".to_owned()));
        assert_eq!(head("http://shop/", &[("host", "SHOP")]).map(authority), Ok("shop".to_owned()));
        assert_eq!(head("/", &[("host", "shop:80")]).map(authority), Ok("shop:80".to_owned()));
        let refused: [(&str, &[(&str, &str)]); 5] = [
            ("/", &[]),
            ("http://shop/", &[("host", "bank")]),
            ("http://shop/", &[("host", "shop"), ("host", "shop")]),
            ("http://user@shop/", &[]),
            ("/", &[("host", "shop/x")]),
        ];
        for (uri, headers) in refused {
            assert_eq!(head(uri, headers).err(), Some(Reason::BadRequest), "{uri} {headers:?}");
        }
    }

    #[test]
    fn the_path_is_normalised_for_rules_and_forwarded_as_received() {
        let head = head("http://shop/a/../%62?q", &[]).unwrap();
        assert_eq!(head.judge(|judged| judged.path.to_owned()).as_deref(), Some("/b"));
        assert_eq!(head.forward(None, None).uri(), "http://shop/a/../%62?q");
        assert!(self::head("http://shop/a%2fb", &[]).unwrap().judge(|_| ()).is_none());
    }

    #[test]
    fn s7_a_path_that_servers_read_differently_goes_on_as_it_was_judged() {
        let mut head = head("http://shop//a/../admin?q", &[]).unwrap();
        head.settle_path();
        assert_eq!(head.judge(|judged| judged.path.to_owned()).as_deref(), Some("/admin"));
        assert_eq!(head.forward(None, None).uri(), "http://shop/admin?q");
    }

    #[test]
    fn the_port_of_the_workload_goes_no_further_than_the_next_proxy() {
        let received = head("http://shop/", &[("x-heddle-port", "8080")]).unwrap();
        assert_eq!(received.port, Some(8080));
        assert!(!received.forward(None, None).headers().contains_key(PORT));
        assert_eq!(received.forward(Some(9090), None).headers()[PORT], "9090");
        for values in [&["x"][..], &["70000"], &["1", "2"]] {
            let headers: Vec<_> = values.iter().map(|value| ("x-heddle-port", *value)).collect();
            assert_eq!(head("http://shop/", &headers).err(), Some(Reason::BadRequest), "{values:?}");
        }
    }

    #[test]
    fn pieces_of_a_cookie_are_one_value() {
        let head = head("http://shop/", &[("cookie", "a=1"), ("cookie", "b=2"), ("x", "1"), ("x", "2")]).unwrap();
        let value = |name: &str| head.judge(|judged| judged.headers.value(name).map(Cow::into_owned)).unwrap();
        assert_eq!(value("cookie").as_deref(), Some(&b"a=1; b=2"[..]));
        assert_eq!(value("x").as_deref(), Some(&b"1,2"[..]));
    }

    #[test]
    fn connect_and_too_many_headers_are_refused() {
        let connect = Request::builder().method("CONNECT").uri("shop:80").body(()).unwrap();
        assert_eq!(Head::new(connect, true).err(), Some(Reason::BadRequest));
        let many: Vec<_> = (0..=limits::HEADERS).map(|_| ("x", "1")).collect();
        assert_eq!(head("http://shop/", &many).err(), Some(Reason::HeadTooLarge));
    }

    #[test]
    fn what_one_proxy_adds_is_not_too_much_for_the_next() {
        let with = |count| {
            let mut request = Request::builder().uri("http://shop/").body(()).unwrap();
            for _ in 0..count {
                request.headers_mut().append("x", HeaderValue::from_static("1"));
            }
            request
        };
        let most = limits::HEADERS - limits::ROOM_HEADERS;
        let entering = Head::new(with(most), false).unwrap();
        assert_eq!(Head::new(entering.forward(Some(80), None), true).unwrap().port, Some(80));
        assert_eq!(Head::new(with(most + 1), false).err(), Some(Reason::HeadTooLarge));
    }
}
