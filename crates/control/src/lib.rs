//! The control plane: reads the cluster, compiles the mesh, serves proxies, and writes back what became of resources.
//!
//! ```text
//! watch -> World -> compile -> Snapshot -> Discovery -> proxies
//!                                 |            `-> acknowledgements -.
//!                                 `-> conditions, events <-----------'
//! ```
//!
//! Beside that line it answers the API server: admission, conversion, and the read API of [`view`]. It keeps nothing
//! but its root, in a Secret: everything else is read again when it starts, and proxies go on meanwhile.

mod admission;
mod authority;
mod authorization;
mod conversion;
mod discovery;
mod front_proxy;
mod health;
mod https;
mod manifests;
mod metrics_api;
mod names;
mod plane;
mod programmed;
mod read_api;
mod registration;
mod run;
mod targets;
mod token;
mod traffic;
pub mod view;
mod world;
mod writeback;

pub use manifests::manifests;
pub use run::{Args, HEALTH_PORT, Listeners, WEBHOOK_PORT, XDS_PORT, duration, run, serve};
