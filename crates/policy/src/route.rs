//! Where a request goes: services, their endpoints, and the splits between them; and how a request is matched.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{HeaderPattern, Headers, Origin, PathPattern, PodName, Request, ServiceName, SpiffeId};

/// A Service as a client's proxy sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub name: ServiceName,
    /// Its ClusterIPs; none for a headless Service.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    /// The ready endpoints, each with the port that this Service port maps to on it (T12, T13).
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// In the order in which they are tried (T21). A request that none matches goes to `endpoints` (T14).
    #[serde(default)]
    pub splits: Vec<Split>,
}

/// What a port speaks: from `appProtocol`, then the port's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Not said: found out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.0 or 1.1, and HTTP/2 with prior knowledge.
    Http,
    /// HTTP/2 with prior knowledge; gRPC.
    Http2,
    /// Bytes.
    Tcp,
    Udp,
}

/// A pod's port, ready to be connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// The pod's address and the container's port.
    pub address: SocketAddr,
    pub pod: PodName,
    /// What owns the pod, such as `Deployment/bookstore-v1`; for metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// The identity its proxy must prove. Absent for a pod without proxy, which is reached in plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
}

/// A TrafficSplit at one port of its root Service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Split {
    pub origin: Origin,
    /// The requests it applies to: any of these. Absent: every request and connection. Present and empty when no
    /// reference resolves: none (T17). A split with matches never applies to raw TCP (T18).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<Arc<HttpMatch>>>,
    /// The backends that have the root's port; the others are left out by the compiler (T10).
    pub backends: Vec<Backend>,
}

/// One backend of a split: the endpoints of another Service at the same port number (T10).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    pub origin: Origin,
    /// Its own splits are not followed (T19); it may be the root itself (T20).
    pub service: ServiceName,
    /// Relative to the other weights of the split (T4).
    pub weight: u64,
}

/// A match of an HTTPRouteGroup: path AND method AND headers (S11).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    pub origin: Origin,
    /// Absent: any path (S3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPattern>,
    /// Empty: any method (S3, S8).
    #[serde(default)]
    pub methods: Vec<Arc<str>>,
    /// All must match (S10).
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// In lower case. `host` and `:authority` mean the authority (S13).
    pub name: Arc<str>,
    pub value: HeaderPattern,
}

/// What a weighted choice came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick<'a> {
    Backend(&'a Backend),
    /// Every weight is zero: the user said that nobody receives traffic (T7).
    AllZero,
    /// No backend with a weight has a ready endpoint, or none has the root's port.
    NoneReady,
}

// === impl ServicePort ===

impl ServicePort {
    /// The split that a request follows, if any.
    pub fn split_for_request<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> Option<&Split> {
        self.splits.iter().find(|split| match &split.matches {
            Some(matches) => matches.iter().any(|rule| rule.is_match(request)),
            None => true,
        })
    }

    /// The split that a raw TCP connection follows, if any (T18, T30).
    pub fn split_for_connection(&self) -> Option<&Split> {
        self.splits.iter().find(|split| split.matches.is_none())
    }
}

// === impl Split ===

impl Split {
    /// Chooses a backend in proportion to the weights of those that are `ready` (T4, T6, T9).
    ///
    /// `random` is uniform over all of `u64`. A backend of weight zero is never chosen, and one that is not ready
    /// leaves its share to the others.
    pub fn pick(&self, random: u64, ready: impl Fn(&Backend) -> bool) -> Pick<'_> {
        if !self.backends.is_empty() && self.backends.iter().all(|backend| backend.weight == 0) {
            return Pick::AllZero;
        }
        let candidates = || self.backends.iter().filter(|backend| backend.weight > 0 && ready(backend));
        let total = candidates().map(|backend| u128::from(backend.weight)).sum();
        let mut point = scale(random, total);
        let mut last = None;
        for backend in candidates() {
            match point.checked_sub(u128::from(backend.weight)) {
                Some(rest) => point = rest,
                None => return Pick::Backend(backend),
            }
            last = Some(backend);
        }
        // Past the end only when a backend stopped being ready since the total was taken.
        last.map_or(Pick::NoneReady, Pick::Backend)
    }
}

/// Maps `random` onto `0..total` without the bias of a remainder: the product of both, without its low 64 bits. It is
/// taken in two halves, because it can have more than 128 bits.
fn scale(random: u64, total: u128) -> u128 {
    let random = u128::from(random);
    let (high, low) = (total >> 64, total & u128::from(u64::MAX));
    high * random + ((low * random) >> 64)
}

// === impl HttpMatch ===

impl HttpMatch {
    /// Whether path, method and headers all match (S11).
    pub fn is_match<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| **method == *request.method))
            && self.path.as_ref().is_none_or(|path| path.is_match(request.path.as_bytes()))
            && self.headers.iter().all(|header| header.is_match(request))
    }
}

impl HeaderMatch {
    /// A header that is absent matches nothing, not even `.*`.
    fn is_match<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> bool {
        if matches!(&*self.name, "host" | ":authority") {
            return !request.authority.is_empty() && self.value.is_match(request.authority.as_bytes());
        }
        request.headers.value(&self.name).is_some_and(|value| self.value.is_match(&value))
    }
}
