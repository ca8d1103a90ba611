//! The read API `view.heddle.dev/v1alpha1`: what a running mesh says of itself, as documents.
//!
//! These types are the API: fields are added to them, and none is renamed or taken away within a version. The control
//! plane serves them through the Kubernetes API server (an aggregated API), and the CLI and dashboards read them there.
//! All are cluster-scoped and read-only.

use std::sync::Arc;

use heddle_policy::telemetry::{Counts, Edge as EdgeKey, Histogram};
use heddle_policy::{Mode, Origin, PodName, Reason, SpiffeId};
use serde::{Deserialize, Serialize};

pub const GROUP: &str = "view.heddle.dev";
pub const VERSION: &str = "v1alpha1";
pub const API_VERSION: &str = "view.heddle.dev/v1alpha1";

/// The name of the one [`MeshStatus`].
pub const STATUS_NAME: &str = "mesh";

/// A list, as Kubernetes writes one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    pub api_version: String,
    pub kind: String,
    pub metadata: ListMeta,
    pub items: Vec<T>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The revision of the mesh.
    pub resource_version: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
}

/// `GET proxies`: a proxy that is connected, or that the mesh expects.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    pub api_version: String,
    pub kind: String,
    /// Named `<pod>.<namespace>`.
    pub metadata: Metadata,
    pub pod: PodName,
    /// Absent while the mesh does not know the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// What owns the pod, such as `Deployment/bookstore-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    pub connected: bool,
    /// The configuration that it runs, by its own word: a name of the content. Empty for none yet.
    pub revision: String,
    /// Whether that is all there is for it to know.
    pub current: bool,
    /// The last configuration that it refused and has not accepted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// `GET edges`: the traffic of one peer with one pod, seen from one side, within the last window.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub api_version: String,
    pub kind: String,
    /// Named `<side>.<number>.<pod>.<namespace>`; the number may differ from one answer to the next.
    pub metadata: Metadata,
    pub edge: EdgeKey,
    /// What owns the pod that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// What owns the peer's pod, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_workload: Option<Arc<str>>,
    pub window: Window,
}

/// What happened within a time. A rate is a count divided by `seconds`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Window {
    /// The length of the window, at most 10; 0 when an edge has been seen only once yet.
    pub seconds: f64,
    pub requests: Counts,
    pub connections: Counts,
    /// Let pass against policy, by a mode that is not `enforce`.
    pub would_deny: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Microseconds; can be merged with that of other edges.
    pub latency: Histogram,
    pub reasons: Vec<(Reason, u64)>,
}

/// `GET status/mesh`: the mesh as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    /// Counts the meshes that this control plane has compiled since its start.
    pub revision: u64,
    /// The mode of namespaces that set none.
    pub mode: ModeStatus,
    pub trust_domain: String,
    pub namespaces: Vec<NamespaceStatus>,
    pub proxies: ProxyCounts,
    pub problems: Vec<Problem>,
    /// What the control plane cannot read, and why; it goes on with what it knew.
    pub unreadable: Vec<Unreadable>,
}

/// A mode, and what set it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeStatus {
    pub mode: Mode,
    /// Absent for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    pub name: String,
    #[serde(flatten)]
    pub mode: ModeStatus,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyCounts {
    /// The pods of the mesh.
    pub expected: usize,
    pub connected: usize,
    /// Connected, and with all that there is for them to know.
    pub current: usize,
    /// Connected, and refusing a configuration.
    pub rejecting: usize,
}

/// Something in a resource that has not the effect it seems to have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub origin: Origin,
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// A stable code, such as `RefNotFound`.
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// Such as `TrafficSplit`.
    pub kind: String,
    pub reason: String,
}

// === impl List ===

impl<T> List<T> {
    /// Of the items of one kind, such as `Proxy`.
    pub fn new(kind: &str, revision: u64, items: Vec<T>) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: format!("{kind}List"),
            metadata: ListMeta { resource_version: revision.to_string() },
            items,
        }
    }
}
