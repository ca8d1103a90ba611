//! What a proxy does: its configuration, how requests are matched, and the verdicts it gives.
//!
//! This crate is the vocabulary that the compiler writes and the data plane reads. It holds plain values and pure
//! functions: no I/O, no async, and nothing that knows where policy came from. Every rule carries an [`Origin`], so
//! that a decision can be explained by the resource and field that caused it.
//!
//! The serialised form of [`ProxyConfig`] is one document with three uses: the payload of xDS, the file of
//! `heddle proxy --config`, and the dump of a proxy's admin end.

mod access;
mod config;
mod name;
mod path;
mod pattern;
mod reason;
mod request;
mod route;
pub mod telemetry;

pub use access::{
    Authorization, Decision, Denied, GRPC_HEALTH_CHECK, Inbound, InboundPort, Judgement, Mode, Opinion, Peer, Ports,
    Probe, Source, Verdict,
};
pub use config::{AccessLog, OtlpProtocol, Piece, ProxyConfig, Settings, Tracing};
pub use name::{InvalidSpiffeId, Origin, PodName, ServiceName, SpiffeId};
pub use path::{normalize_path, settled_path};
pub use pattern::{HeaderPattern, InvalidPattern, PathPattern};
pub use reason::Reason;
pub use request::{Headers, Request, joined};
pub use route::{Backend, Endpoint, HeaderMatch, HttpMatch, Pick, Protocol, Service, ServicePort, Split};
