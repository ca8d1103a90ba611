//! HTTP/2 with prior knowledge, and gRPC on it.
//!
//! Every request of a connection is routed and judged on its own, so that one connection of a client may reach many
//! servers. Between proxies requests stay HTTP/2, on mutual TLS connections of their own beside those of [`mux`]; the
//! application is spoken to with prior knowledge, on connections of its own for each client, so that none can hold up
//! another. An application that speaks HTTP/1 alone is not translated for: its client gets a 502, `not-http2`.
//!
//! ```text
//! serve: a task per request -> head -> decide -> servers: a stream of a connection -> exchange
//! ```
//!
//! [`mux`]: crate::mux

mod answer;
mod copy;
mod ends;
mod exchange;
mod head;
mod inbound;
mod outbound;
mod outcome;
mod replay;
mod serve;
mod server;
mod servers;
mod settings;
mod watched;
mod witness;

pub(crate) use inbound::{mesh, serve as serve_inbound};
pub(crate) use outbound::serve as serve_outbound;
pub(crate) use server::Server;
pub(crate) use servers::Servers;

/// The protocol's name in TLS (ALPN) between proxies.
pub(crate) const ALPN: &[u8] = b"h2";

/// Names the port of the workload that a request between proxies is for. It goes no further than to the next proxy.
const PORT: http::HeaderName = http::HeaderName::from_static("x-heddle-port");

/// Why the mesh itself answered, for those who read the answer.
const REASON: http::HeaderName = http::HeaderName::from_static("x-heddle-reason");
