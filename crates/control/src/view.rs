//! The read API `view.heddle.dev/v1alpha1`: what a running mesh says of itself, as documents.
//!
//! These types are the API: fields are added to them, and none is renamed or taken away within a version. The control
//! plane serves them through the Kubernetes API server (an aggregated API), and the CLI and dashboards read them there.
//! All are cluster-scoped and read-only.

use std::sync::Arc;

use heddle_policy::{Mode, Origin, PodName, ServiceName, SpiffeId};
use k8s_openapi::jiff::Timestamp;
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

/// `GET destinations`: a Service as clients' proxies are told of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    pub api_version: String,
    pub kind: String,
    /// Named `<service>.<namespace>`.
    pub metadata: Metadata,
    pub service: ServiceName,
    /// The pods that its traffic may go to, on any of its ports.
    pub endpoints: Vec<PodName>,
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
    /// Counts of the last ten minutes that are missing.
    #[serde(default)]
    pub lost: Vec<Loss>,
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

/// A time of which some counts of a pod are missing. What is missing is not known; it is never made up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    pub pod: PodName,
    pub from: Timestamp,
    pub until: Timestamp,
    pub cause: LossCause,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LossCause {
    /// The pod's proxy was killed.
    ProxyKilled,
    /// The pod ended, and this control plane did not hear its last report.
    NotReported,
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
