//! Distributed tracing: the context that requests carry (W3C), and spans by OTLP.
//!
//! A trace that began before is continued as it was decided; of those that begin here a share is sampled. Each proxy
//! makes one span of a request: the client's of kind client, the server's of kind server, its child.

mod context;
mod export;
mod otlp;
mod tls;
mod transport;

pub(crate) use context::{Propagation, Span};
pub use export::Exporter;
