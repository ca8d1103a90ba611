//! Who may do what to this workload: the inbound half of a proxy's configuration, and the verdicts drawn from it.
//!
//! Policy is additive (A2): a request is allowed when one [`Authorization`] allows it, and denied otherwise (A1).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Headers, HttpMatch, Origin, PodName, Protocol, Reason, Request, SpiffeId};

/// What the proxy does with traffic that arrives for its workload.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    pub mode: Mode,
    /// The ports whose protocol is known. Every other port is [`Protocol::Detect`].
    #[serde(default)]
    pub ports: Vec<InboundPort>,
    #[serde(default)]
    pub authorizations: Vec<Arc<Authorization>>,
    /// What the kubelet may ask without an identity (A34).
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Where the kubelet's probes come from: the addresses of the workload's node.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
}

/// What becomes of traffic that no authorization allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It is denied.
    #[default]
    Enforce,
    /// It passes, and is recorded with the verdict that `enforce` would give.
    Audit,
    /// It passes, plaintext from outside the mesh included, and is counted.
    Permissive,
}

/// A port of the workload's containers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPort {
    pub port: u16,
    pub protocol: Protocol,
}

/// What one TrafficTarget grants. Its layers are ANDed, the entries of a layer are ORed (A16).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    pub origin: Origin,
    pub sources: Vec<Source>,
    /// The ports that TCPRoutes open or restrict HTTP to; absent when the target has no TCPRoute. Without `http` they
    /// are open to any protocol (A17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Ports>,
    /// The requests that HTTPRouteGroups allow; absent when the target has no HTTPRouteGroup. Present and empty when
    /// none of its references resolves: nothing is allowed (A8, A9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<Arc<HttpMatch>>>,
    /// The ports that UDPRoutes open. No proxy carries UDP yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Ports>,
}

/// One source of a TrafficTarget.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    pub identity: SpiffeId,
    /// Only these pods of the identity: from an IdentityBinding with a label selector (I8). Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<BTreeSet<PodName>>,
    pub origin: Origin,
}

/// A set of ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ports {
    /// Every port (A15, S15).
    All,
    Only(BTreeSet<u16>),
}

/// A probe that a container declares.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub port: u16,
    /// The path of an HTTP probe, normalised and without query; that of the health check's method for a gRPC probe.
    /// Absent for a probe that only connects, and for one over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// Whether it speaks TLS with the application. Its path cannot be seen then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

/// The path of gRPC's health check, which is what the kubelet calls in a gRPC probe.
pub const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Who is at the other end, as far as its certificate proves it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Absent for plaintext.
    pub identity: Option<SpiffeId>,
    /// The pod that its certificate names, when it names one.
    pub pod: Option<PodName>,
}

/// What policy says of a request or a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'a> {
    /// Allowed, by this TrafficTarget or this match of an HTTPRouteGroup.
    Allowed(&'a Origin),
    Denied(Denied<'a>),
}

/// Why policy does not allow something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied<'a> {
    pub reason: Reason,
    /// The rule that came nearest to allowing it.
    pub nearest: Option<&'a Origin>,
}

/// A verdict, and what the workload's [`Mode`] makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<'a> {
    /// Whether the traffic goes on to the application.
    pub admitted: bool,
    /// What `enforce` says of it.
    pub verdict: Verdict<'a>,
}

/// A port that something arrives at.
#[derive(Clone, Copy)]
struct PortKind {
    number: u16,
    /// Whether it is not declared to speak something else.
    may_be_http: bool,
}

/// What one authorization says of a request or connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opinion<'a> {
    pub authorization: &'a Authorization,
    /// The source that the peer is; absent when it is none of them.
    pub source: Option<&'a Source>,
    pub judgement: Judgement<'a>,
}

/// What allows something, or why it is not allowed.
pub type Judgement<'a> = Result<&'a Origin, Reason>;

// === impl Probe ===

impl Probe {
    /// How the kubelet asks.
    fn method(&self) -> &'static str {
        if self.path.as_deref() == Some(GRPC_HEALTH_CHECK) { "POST" } else { "GET" }
    }
}

// === impl Inbound ===

impl Inbound {
    /// What `port` of the workload speaks, as far as anything says so.
    pub fn protocol(&self, port: u16) -> Protocol {
        self.ports.iter().find(|known| known.port == port).map_or(Protocol::Detect, |known| known.protocol)
    }

    /// Decides an HTTP request to `port` of the workload.
    pub fn decide_request<H: Headers + ?Sized>(
        &self,
        peer: &Peer,
        port: u16,
        request: &Request<'_, H>,
    ) -> Decision<'_> {
        self.decide(peer, |authorization| authorization.check_request(self.kind_of(port), request))
    }

    /// Decides a TCP connection to `port` of the workload that carries no HTTP the proxy could judge by request.
    pub fn decide_connection(&self, peer: &Peer, port: u16) -> Decision<'_> {
        self.decide(peer, |authorization| authorization.check_connection(self.kind_of(port)))
    }

    /// Whether a plaintext request from `from` is a declared probe of the kubelet (A34): its method and its path, which is
    /// normalised. Absent for a connection.
    pub fn is_probe(&self, from: IpAddr, port: u16, request: Option<(&str, &str)>) -> bool {
        let is_asked = |probe: &Probe| match (request, probe.path.as_deref()) {
            (None, None) => true,
            (Some((method, path)), Some(probed)) => path == probed && method == probe.method(),
            _ => false,
        };
        self.node_addresses.contains(&from) && self.probes.iter().any(|probe| probe.port == port && is_asked(probe))
    }

    /// Whether a plaintext connection from `from` may be a probe over TLS, whose bytes must pass unseen.
    pub fn is_tls_probe(&self, from: IpAddr, port: u16) -> bool {
        self.node_addresses.contains(&from) && self.probes.iter().any(|probe| probe.port == port && probe.tls)
    }

    /// What every authorization says of a request, in their order: the same judgement as [`Inbound::decide_request`],
    /// told in full.
    pub fn explain_request<'a, H: Headers + ?Sized>(
        &'a self,
        peer: &Peer,
        port: u16,
        request: &Request<'_, H>,
    ) -> Vec<Opinion<'a>> {
        self.opinions(peer, |authorization| authorization.check_request(self.kind_of(port), request)).collect()
    }

    /// What every authorization says of a TCP connection, in their order.
    pub fn explain_connection<'a>(&'a self, peer: &Peer, port: u16) -> Vec<Opinion<'a>> {
        self.opinions(peer, |authorization| authorization.check_connection(self.kind_of(port))).collect()
    }

    fn kind_of(&self, number: u16) -> PortKind {
        PortKind { number, may_be_http: !matches!(self.protocol(number), Protocol::Tcp | Protocol::Udp) }
    }

    fn decide<'a>(&'a self, peer: &Peer, check: impl Fn(&'a Authorization) -> Judgement<'a>) -> Decision<'a> {
        let verdict = self.verdict(peer, check);
        let admitted = self.mode != Mode::Enforce || matches!(verdict, Verdict::Allowed(_));
        Decision { admitted, verdict }
    }

    fn verdict<'a>(&'a self, peer: &Peer, check: impl Fn(&'a Authorization) -> Judgement<'a>) -> Verdict<'a> {
        let mut denied: Option<(Reason, &'a Origin)> = None;
        for opinion in self.opinions(peer, &check) {
            match opinion.judgement {
                Ok(origin) => return Verdict::Allowed(origin),
                Err(reason) if denied.is_none_or(|(before, _)| closeness(reason) > closeness(before)) => {
                    denied = Some((reason, &opinion.authorization.origin));
                }
                Err(_) => {}
            }
        }
        let (reason, nearest) = match denied {
            None => (if peer.identity.is_some() { Reason::NoTarget } else { Reason::NoIdentity }, None),
            Some((reason @ (Reason::NoIdentity | Reason::SourceNotAllowed), first)) => {
                // What would allow this to another source tells more than what concerns something else.
                let nearest = self.authorizations.iter().find(|authorization| check(authorization).is_ok());
                (reason, Some(nearest.map_or(first, |authorization| &authorization.origin)))
            }
            Some((reason, nearest)) => (reason, Some(nearest)),
        };
        Verdict::Denied(Denied { reason, nearest })
    }

    fn opinions<'a>(
        &'a self,
        peer: &Peer,
        check: impl Fn(&'a Authorization) -> Judgement<'a>,
    ) -> impl Iterator<Item = Opinion<'a>> {
        self.authorizations.iter().map(move |authorization| {
            let source = peer.identity.as_ref().and_then(|identity| {
                authorization.sources.iter().find(|source| source.is(identity, peer.pod.as_ref()))
            });
            let judgement = match (&peer.identity, source) {
                (None, _) => Err(Reason::NoIdentity),
                (_, None) => Err(Reason::SourceNotAllowed),
                (_, Some(_)) => check(authorization),
            };
            Opinion { authorization, source, judgement }
        })
    }
}

/// How far a request came before it was refused: the largest names the nearest rule.
fn closeness(reason: Reason) -> u8 {
    match reason {
        Reason::PortNotAllowed => 1,
        Reason::NotHttp => 2,
        Reason::RouteNotAllowed => 3,
        _ => 0,
    }
}

// === impl Authorization ===

impl Authorization {
    fn check_request<H: Headers + ?Sized>(&self, port: PortKind, request: &Request<'_, H>) -> Judgement<'_> {
        if !self.covers(port) {
            return Err(Reason::PortNotAllowed);
        }
        match &self.http {
            Some(matches) => {
                let found = matches.iter().find(|rule| rule.is_match(request));
                found.map(|rule| &rule.origin).ok_or(Reason::RouteNotAllowed)
            }
            None => Ok(&self.origin),
        }
    }

    fn check_connection(&self, port: PortKind) -> Judgement<'_> {
        match (self.covers(port), &self.http) {
            (false, _) => Err(Reason::PortNotAllowed),
            (true, Some(_)) => Err(Reason::NotHttp),
            (true, None) => Ok(&self.origin),
        }
    }

    /// Whether the TCP layer of this authorization admits a port: without TCPRoutes, those of HTTP (A18). A target with
    /// UDPRoutes alone admits none (A19).
    fn covers(&self, port: PortKind) -> bool {
        match &self.tcp {
            Some(ports) => ports.contains(port.number),
            None => self.http.is_some() && port.may_be_http,
        }
    }
}

// === impl Source, Ports ===

impl Source {
    fn is(&self, identity: &SpiffeId, pod: Option<&PodName>) -> bool {
        self.identity == *identity && self.pods.as_ref().is_none_or(|pods| pod.is_some_and(|pod| pods.contains(pod)))
    }
}

impl Ports {
    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}
