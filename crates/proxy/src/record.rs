//! What is told of one request or connection beyond counts: it becomes a line of the access log and a span.
//!
//! The record of a request is made only where one of the two is wanted, so that nothing is paid for otherwise. It is
//! told when it is dropped, in whatever way its request ended.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{AccessLog, Decision, Origin, Peer, PodName, Reason, Settings, SpiffeId, Verdict};
use tokio::time::Instant;

use crate::access_log;
use crate::trace::{Propagation, Span};
use crate::upstream::Ended;
use crate::worker::{Shared, Worker};

/// A request or connection under way.
pub(crate) struct Record {
    shared: Arc<Shared>,
    /// As it was when a request began. Absent for a connection, which may last for days: for it that at its end counts.
    log: Option<AccessLog>,
    begun: Instant,
    /// Absent once it has been told.
    entry: Option<Entry>,
    propagation: Option<Propagation>,
}

/// What is known of it at its end.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) side: Side,
    pub(crate) protocol: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) duration: Duration,
    /// Absent for a TCP connection.
    pub(crate) request: Option<RequestLine>,
    /// The workload's own pod.
    pub(crate) pod: PodName,
    pub(crate) peer: End,
    /// The port of the workload that a client asked for, on the server's side.
    pub(crate) port: Option<u16>,
    pub(crate) service: Option<String>,
    /// What a split chose.
    pub(crate) backend: Option<String>,
    pub(crate) status: Option<u16>,
    /// What a call of gRPC ended with.
    pub(crate) grpc_status: Option<u16>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) reason: Option<Reason>,
    /// What policy said, on the server's side.
    pub(crate) ruling: Option<Ruling>,
    /// Bytes from the client to the server, and back.
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
    /// Absent for what is not traced, or not sampled.
    pub(crate) span: Option<Span>,
}

#[derive(Clone, Debug)]
pub(crate) struct RequestLine {
    pub(crate) method: String,
    /// As it was received, without the query, which may hold secrets.
    pub(crate) path: String,
    pub(crate) authority: String,
}

/// The other end of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) pod: Option<PodName>,
    /// Of one that has no identity.
    pub(crate) address: Option<IpAddr>,
}

/// What policy said, and by which rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ruling {
    pub(crate) decision: Ruled,
    /// What allowed it, or came nearest to.
    pub(crate) rule: Option<Origin>,
    pub(crate) reason: Option<Reason>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ruled {
    Allowed,
    Denied,
    /// Let pass by a mode that does not enforce.
    WouldDeny,
    /// A probe of the kubelet.
    Probe,
}

/// A request's head, as records see it.
pub(crate) struct Seen<'a> {
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    /// The path with its query.
    pub(crate) target: &'a str,
    pub(crate) authority: &'a str,
    /// Several headers are joined by commas, and so make none that is valid.
    pub(crate) traceparent: Option<Cow<'a, [u8]>>,
    pub(crate) tracestate: Option<Cow<'a, [u8]>>,
}

/// Who opened the connection: the workload itself, or a client that asks for a port of it.
pub(crate) enum Initiator<'a> {
    Workload,
    Client { peer: &'a Peer, address: Option<IpAddr>, port: u16 },
}

/// The longest path, authority and method that are told, in bytes.
const TEXT_BYTES: usize = 1024;

impl Record {
    /// Begins the record of a request; `None` when nobody wants one.
    pub(crate) fn of_request<'a>(
        worker: &Worker,
        initiator: Initiator<'_>,
        seen: impl FnOnce() -> Seen<'a>,
    ) -> Option<Box<Self>> {
        let view = worker.view();
        let settings = view.snapshot.config.settings.as_ref()?;
        if settings.access_log.is_off() && settings.tracing.is_none() {
            return None;
        }
        let seen = seen();
        let path = seen.target.split('?').next().unwrap_or_default();
        let request =
            RequestLine { method: bounded(seen.method), path: bounded(path), authority: bounded(seen.authority) };
        let mut record = Self::begin(worker, settings, initiator, seen.protocol);
        record.log = Some(settings.access_log);
        let propagation = settings.tracing.as_ref().map(|tracing| {
            let random = || worker.random.next();
            Propagation::of(tracing, seen.traceparent.as_deref(), seen.tracestate.as_deref(), random)
        });
        if let Some(entry) = &mut record.entry {
            entry.request = Some(request);
            entry.span = propagation.as_ref().and_then(Propagation::span);
        }
        record.propagation = propagation;
        Some(record)
    }

    /// Begins the record of a TCP connection; `None` when it is not known yet whose it is.
    pub(crate) fn of_connection(worker: &Worker, initiator: Initiator<'_>) -> Option<Box<Self>> {
        let view = worker.view();
        let settings = view.snapshot.config.settings.as_ref()?;
        Some(Self::begin(worker, settings, initiator, "TCP"))
    }

    fn begin(worker: &Worker, settings: &Settings, initiator: Initiator<'_>, protocol: &'static str) -> Box<Self> {
        let (side, peer, port) = match initiator {
            Initiator::Workload => (Side::Client, End::default(), None),
            Initiator::Client { peer, address, port } => {
                (Side::Server, End { identity: peer.identity.clone(), pod: peer.pod.clone(), address }, Some(port))
            }
        };
        let entry = Entry {
            side,
            protocol,
            started: SystemTime::now(),
            duration: Duration::ZERO,
            request: None,
            pod: settings.pod.clone(),
            peer,
            port,
            service: None,
            backend: None,
            status: None,
            grpc_status: None,
            outcome: None,
            reason: None,
            ruling: None,
            uploaded: 0,
            downloaded: 0,
            span: None,
        };
        let (shared, begun) = (worker.shared.clone(), Instant::now());
        Box::new(Self { shared, log: None, begun, entry: Some(entry), propagation: None })
    }

    /// What the next hop is told of the trace; `None` when its headers go on as they are.
    pub(crate) fn propagation(&self) -> Option<&Propagation> {
        self.propagation.as_ref().filter(|propagation| propagation.is_new())
    }

    /// Policy has decided.
    pub(crate) fn decided(&mut self, decision: &Decision<'_>, is_probe: bool) {
        let Some(entry) = &mut self.entry else { return };
        entry.ruling = Some(match decision.verdict {
            Verdict::Allowed(rule) => Ruling { decision: Ruled::Allowed, rule: Some(rule.clone()), reason: None },
            Verdict::Denied(denied) => Ruling {
                decision: match (is_probe, decision.admitted) {
                    (true, _) => Ruled::Probe,
                    (false, true) => Ruled::WouldDeny,
                    (false, false) => Ruled::Denied,
                },
                rule: denied.nearest.cloned(),
                reason: (!is_probe).then_some(denied.reason),
            },
        });
    }

    /// Nothing is told: what it was begun for is something else.
    pub(crate) fn forget(record: Option<Box<Self>>) {
        if let Some(mut record) = record {
            record.entry = None;
        }
    }

    /// The mesh answered in the server's stead, or closed the connection.
    pub(crate) fn refused(&mut self, reason: Reason) {
        let Some(entry) = &mut self.entry else { return };
        let is_denial = reason.status() == 403;
        entry.reason = Some(reason);
        entry.outcome = Some(if is_denial { Outcome::Denied } else { Outcome::Failure });
        entry.status = entry.request.is_some().then_some(reason.status());
    }

    /// The request went to a server.
    pub(crate) fn ended(&mut self, ended: &Ended, edge: &Edge) {
        let Some(entry) = &mut self.entry else { return };
        entry.reached(edge);
        (entry.outcome, entry.reason) = (ended.outcome, ended.reason);
        entry.grpc_status = ended.grpc_status;
        entry.status = (ended.status > 0 && entry.request.is_some()).then_some(ended.status);
        (entry.uploaded, entry.downloaded) = (ended.uploaded, ended.downloaded);
    }

    /// It was a call of gRPC, which the mesh answered with this status.
    pub(crate) fn grpc_status(&mut self, status: u16) {
        if let Some(entry) = &mut self.entry {
            entry.grpc_status = Some(status);
        }
    }

    /// The connection was passed on.
    pub(crate) fn closed(&mut self, outcome: Outcome, uploaded: u64, downloaded: u64, edge: &Edge) {
        let Some(entry) = &mut self.entry else { return };
        entry.reached(edge);
        entry.outcome = Some(outcome);
        (entry.uploaded, entry.downloaded) = (uploaded, downloaded);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        entry.duration = self.begun.elapsed();
        let present = || self.shared.config.load().config.settings.as_ref().map(|settings| settings.access_log);
        let is_wanted = match self.log.or_else(present).unwrap_or_default() {
            AccessLog::Off => false,
            AccessLog::Denied => entry.is_denied(),
            AccessLog::All => true,
        };
        if is_wanted {
            self.shared.access_log.put(access_log::line(&entry));
        }
        if entry.span.is_some() {
            self.shared.spans.put(entry);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn reached(&mut self, edge: &Edge) {
        if self.side == Side::Client {
            self.peer = End { identity: edge.peer.clone(), pod: edge.peer_pod.clone(), address: None };
        }
        self.service = edge.service.as_ref().map(ToString::to_string);
        self.backend = edge.backend.as_ref().map(ToString::to_string);
    }

    /// Why the mesh answered itself, or would have.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reason.or_else(|| self.ruling.as_ref()?.reason)
    }

    fn is_denied(&self) -> bool {
        let ruled = self.ruling.as_ref().map(|ruling| ruling.decision);
        self.outcome == Some(Outcome::Denied) || matches!(ruled, Some(Ruled::Denied | Ruled::WouldDeny))
    }

    /// A denied request, for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        let rule = Origin {
            kind: "TrafficTarget".into(),
            namespace: "shop".into(),
            name: "buyers".into(),
            field: "spec.rules[0]".into(),
            at: "generation 3".into(),
        };
        Self {
            side: Side::Server,
            protocol: "HTTP/1.1",
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            duration: Duration::from_micros(1_234),
            request: Some(RequestLine {
                method: "GET".to_owned(),
                path: "/admin\"\n".to_owned(),
                authority: "web.shop".to_owned(),
            }),
            pod: PodName::new("shop", "web-1"),
            peer: End { identity: None, pod: None, address: Some([10, 0, 0, 1].into()) },
            port: Some(8080),
            service: None,
            backend: None,
            status: Some(403),
            grpc_status: None,
            outcome: Some(Outcome::Denied),
            reason: None,
            ruling: Some(Ruling { decision: Ruled::Denied, rule: Some(rule), reason: Some(Reason::RouteNotAllowed) }),
            uploaded: 10,
            downloaded: 20,
            span: Some(Span { trace_id: 7, span_id: 8, parent: None, state: String::new() }),
        }
    }
}

// === impl Ruled ===

impl Ruled {
    /// As it is told to people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "would-deny",
            Self::Probe => "probe",
        }
    }
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES)].to_owned()
}
