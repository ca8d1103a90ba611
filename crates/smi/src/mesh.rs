//! `heddle.dev/v1alpha1`: the settings of a Heddle mesh. The only kind that is not SMI's.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::Status;

/// The name of the one MeshConfig that counts.
pub const MESH_CONFIG_NAME: &str = "default";

/// The label by which a namespace sets its own [`Mode`].
pub const MODE_LABEL: &str = "heddle.dev/mode";

/// The settings of the whole mesh, in one cluster-scoped object named [`MESH_CONFIG_NAME`]. Without it the defaults hold.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "MeshConfig",
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigSpec {
    /// What becomes of traffic that no TrafficTarget allows. The label `heddle.dev/mode` of a namespace overrides it.
    pub mode: Mode,
    /// The trust domain of the mesh's identities. Default `cluster.local`.
    pub trust_domain: String,
    /// The DNS domain of the cluster's Services. Default `cluster.local`.
    pub cluster_domain: String,
    /// Whether a TrafficTarget may name a destination in another namespace (A23). Default no.
    pub allow_foreign_targets: bool,
}

/// What becomes of traffic that no TrafficTarget allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It is denied.
    #[default]
    Enforce,
    /// It passes, and is recorded with the verdict that `enforce` would give.
    Audit,
    /// It passes, plaintext from outside the mesh included, and is counted.
    Permissive,
}

// === impl MeshConfigSpec ===

impl Default for MeshConfigSpec {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            allow_foreign_targets: false,
        }
    }
}
