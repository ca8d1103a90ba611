//! `split.smi-spec.io/v1alpha4`: which Services share the traffic of another.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::Status;

/// Distributes what clients send to the root Service.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "split.smi-spec.io",
    version = "v1alpha4",
    kind = "TrafficSplit",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitSpec {
    /// The root Service, in any form of its DNS name (T1).
    pub service: String,
    /// Never empty in a valid split, and no Service twice (T33).
    pub backends: Vec<Backend>,
    /// The requests that the split applies to: those of any of these groups (T14, T15). Empty: all traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchReference>,
}

/// A Service of the split's namespace and its share.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub service: String,
    /// Relative to the sum of all weights (T4). At most [`MAX_WEIGHT`](crate::MAX_WEIGHT).
    pub weight: u64,
}

/// A reference to an HTTPRouteGroup of the split's namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchReference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// Always `HTTPRouteGroup` in a valid split.
    pub kind: String,
    pub name: String,
}
