//! The control plane's only Kubernetes client: watches in; status, events, leases and upkeep of objects out.
//!
//! Objects are plain [`serde_json::Value`]s here: what a resource means is for others to know.

mod client;
mod event;
mod kind;
mod lease;
mod object;
mod review;
mod status;
mod watch;

pub use client::{ConnectError, connect};
pub use event::{Note, Recorder, Severity};
pub use kind::{KINDS, Kind, WORKLOAD_KINDS};
pub use lease::{Candidate, campaign};
pub use object::{apply, create_or_read, merge, read};
pub use review::{AccessReview, Reviewed, review_access, review_token};
pub use status::{Draft, StatusError, conditions_of, merge_conditions, write_status};
pub use watch::{Change, Event, State, watch};

/// The name under which the control plane owns fields, and reports events.
pub const FIELD_MANAGER: &str = "heddle-control";
