//! `heddle.dev/v1alpha1`: the settings of a Heddle mesh. The only kind that is not SMI's.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::Status;

/// The name of the one MeshConfig that counts.
pub const MESH_CONFIG_NAME: &str = "default";

/// The label by which a namespace sets its own [`Mode`].
pub const MODE_LABEL: &str = "heddle.dev/mode";

/// The annotation by which a pod, or a namespace for its pods, switches the access log: `off`, `denied` or `all`.
pub const ACCESS_LOG_ANNOTATION: &str = "heddle.dev/access-log";

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
    /// Where proxies send spans of requests. Absent: no spans are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
}

/// Spans of requests, by OTLP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracingSpec {
    /// The collector, as `http://HOST:PORT` or, for TLS, `https://HOST:PORT`. HOST may be a Service in any of its DNS
    /// forms.
    pub endpoint: String,
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// In PEM, the authorities that may certify the collector. Default: those of the machine that the proxy runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// The share of traces that are sampled, of those that begin in the mesh. Default 1, as in OpenTelemetry.
    #[serde(default)]
    pub sampling_ratio: SamplingRatio,
}

/// The transports of OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OtlpProtocol {
    #[default]
    Grpc,
    /// HTTP with bodies in protobuf.
    Http,
}

/// A number from 0 to 1, to the millionth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct SamplingRatio(u32);

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
            tracing: None,
        }
    }
}

// === impl SamplingRatio ===

impl SamplingRatio {
    /// How many of a million it is.
    pub fn per_million(self) -> u32 {
        self.0
    }
}

impl Default for SamplingRatio {
    fn default() -> Self {
        Self(1_000_000)
    }
}

impl TryFrom<f64> for SamplingRatio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        match ratio {
            0.0..=1.0 => Ok(Self((ratio * 1e6).round() as u32)),
            _ => Err(format!("`{ratio}` is not a number from 0 to 1")),
        }
    }
}

impl From<SamplingRatio> for f64 {
    fn from(ratio: SamplingRatio) -> Self {
        Self::from(ratio.0) / 1e6
    }
}
