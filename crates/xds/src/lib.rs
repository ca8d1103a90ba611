//! The line between control plane and proxies: one gRPC end over TLS, its server and its client.
//!
//! Configuration travels by Envoy's delta ADS: each [`Piece`](heddle_policy::Piece) of a
//! [`ProxyConfig`](heddle_policy::ProxyConfig) is a resource whose `Any` holds its JSON. One response is one change:
//! it takes effect as a whole, or it is refused as a whole and the last good configuration stays. Two services of our
//! own, in `proto/heddle.proto`, sign certificates and take reports.
//!
//! This crate does not know how a configuration is made, nor what a proxy does with it.

mod applied;
mod backoff;
mod client;
mod connection;
mod delta;
mod encode;
mod proto;
mod server;
mod services;

pub use client::{Client, Dial, Validate, dial};
pub use server::{Backend, Caller, Connected, Nack, Proxies, Refused, ServeError, Server, Signed, Snapshot};

/// The type of every resource: its value is the JSON of a [`Piece`](heddle_policy::Piece).
pub const TYPE_URL: &str = "type.heddle.dev/v1alpha1.Piece";

/// The protocol that both ends agree on in the TLS handshake.
const ALPN: &[u8] = b"h2";

/// The largest configuration change, in bytes; some hundred thousand pieces.
const MAX_RESPONSE: usize = 64 << 20;

/// The largest message of any other kind, in bytes; a report of some ten thousand edges.
const MAX_MESSAGE: usize = 8 << 20;
