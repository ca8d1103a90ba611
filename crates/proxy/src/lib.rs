//! The data plane: one process beside each workload, which its traffic goes through.
//!
//! One connection, top to bottom, in the words of the code:
//!
//! ```text
//! accept -> original destination -> inbound:  TLS, peer -> access::check -> http1 | tcp -> application
//!                                -> outbound: view::find -> split -> balance -> TLS -> peer
//! ```
//!
//! Each worker is a thread with a single-threaded runtime, on which everything of a connection stays: no lock and no
//! other thread is met on the way of a request. Configuration, certificates, metrics and the admin end are on a thread
//! of their own. A request is decided by one immutable [`Snapshot`](snapshot::Snapshot) of the configuration.
//!
//! This crate knows neither Kubernetes nor the resources that its configuration was made from.

mod abandoned;
mod access;
mod access_log;
mod admin;
mod args;
mod authority;
mod balance;
mod connecting;
mod detect;
mod dial;
mod file;
mod http1;
mod http2;
mod inbound;
mod io;
pub mod limits;
mod meter;
mod metrics;
mod mux;
mod options;
mod outbound;
mod peers;
mod pool;
mod proxy;
mod queue;
mod random;
mod reach;
mod record;
mod relay;
mod report;
mod run;
mod snapshot;
mod stall;
mod statuses;
mod tasks;
mod tls;
mod trace;
mod upstream;
mod view;
mod worker;

pub use args::{Args, Capture, PlaintextListen, ServiceListen};
#[doc(hidden)]
pub use meter::count_requests;
pub use options::{Entrance, Listen, Options};
pub use proxy::{Proxy, StartError};
pub use run::run;
pub use trace::Exporter;
