//! Who a workload is: the authority that says so, the certificates that prove it, and the TLS that asks for them.
//!
//! An [`Authority`] issues X.509 SVIDs; a workload keeps its own, and the [`Bundle`] of roots it believes, in a
//! [`Store`] that TLS configurations read at every handshake, so that rotation needs no new configuration. A peer is
//! known by the SPIFFE ID of its certificate alone: names in DNS and addresses prove nothing here.
//!
//! This crate knows nothing of resources, and it does no I/O. Clocks are arguments.

mod authority;
mod bundle;
mod explain;
mod names;
mod store;
mod svid;
mod tls;
mod verify;

pub use authority::{Authority, AuthorityError, IssueError};
pub use bundle::{Bundle, InvalidBundle};
pub use explain::explain;
pub use names::{Names, Untrusted, control_plane_id, peer_of};
pub use store::Store;
pub use svid::{Credentials, InvalidSvid, KeyAndCsr, Svid, expiry_of};
pub use tls::{client, mutual_client, mutual_server, server};
