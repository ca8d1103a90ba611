//! `access.smi-spec.io/v1alpha4`: who may talk to whom.

use std::collections::BTreeMap;
use std::fmt;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::{Invalid, Status, annotation};

/// Grants the sources access to the destination, by the rules. Access is additive: there is no way to deny.
///
/// The specification is not all of it: [`TrafficTarget::port`] may limit every rule to one port, and must be heeded.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "access.smi-spec.io",
    version = "v1alpha4",
    kind = "TrafficTarget",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTargetSpec {
    pub destination: Subject,
    /// What is granted. Never empty in a valid target (A13).
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// To whom. Never empty in a valid target (A13).
    #[serde(default)]
    pub sources: Vec<Subject>,
}

/// Workloads, by the name of their identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    pub kind: SubjectKind,
    pub name: String,
    /// Absent: the target's own namespace (A25).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Written in the specification's examples; it has no meaning of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What names an identity. A destination is never `Other` in a valid target.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum SubjectKind {
    #[default]
    ServiceAccount,
    IdentityBinding,
    /// A kind that SMI does not know: a source of it grants nothing (A26).
    Other(String),
}

/// A reference to a traffic spec in the target's namespace (A24).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub kind: RouteKind,
    pub name: String,
    /// The names of matches; any of them. Empty: all matches of the spec (A6, A7).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
}

/// The kinds of traffic specs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum RouteKind {
    #[serde(rename = "HTTPRouteGroup")]
    HttpRouteGroup,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    #[serde(rename = "UDPRoute")]
    UdpRoute,
}

/// Gives workloads of its namespace an identity that targets can name.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "access.smi-spec.io",
    version = "v1alpha4",
    kind = "IdentityBinding",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct IdentityBindingSpec {
    pub schemes: Schemes,
}

/// A workload has the identity when any of these says so (I1).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schemes {
    /// Excludes `service_account` (I2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_label_selector: Option<PodLabelSelector>,
    /// In a parsed binding every one starts with `spiffe://`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spiffe_identities: Vec<String>,
    /// A ServiceAccount of the binding's namespace (I3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLabelSelector {
    /// All must be on the pod. Never empty in a valid binding (I7).
    pub match_labels: BTreeMap<String, String>,
}

// === impl TrafficTarget ===

impl TrafficTarget {
    /// The only port of the destination that this target grants; `None` for all that its rules allow.
    ///
    /// v1alpha1 and v1alpha2 wrote it as `destination.port` (A14). Conversion keeps it in the annotation
    /// [`annotation::DESTINATION_PORT`].
    ///
    /// # Errors
    ///
    /// When the annotation does not hold a port; then nothing may be granted. A parsed target has no such annotation.
    pub fn port(&self) -> Result<Option<u16>, Invalid> {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(annotation::DESTINATION_PORT)).map(|text| annotation::port(text)).transpose()
    }
}

// === impl SubjectKind, RouteKind ===

impl SubjectKind {
    pub fn as_str(&self) -> &str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::IdentityBinding => "IdentityBinding",
            Self::Other(kind) => kind,
        }
    }
}

impl From<String> for SubjectKind {
    fn from(kind: String) -> Self {
        match kind.as_str() {
            "ServiceAccount" => Self::ServiceAccount,
            "IdentityBinding" => Self::IdentityBinding,
            _ => Self::Other(kind),
        }
    }
}

impl From<SubjectKind> for String {
    fn from(kind: SubjectKind) -> Self {
        match kind {
            SubjectKind::Other(kind) => kind,
            known => known.as_str().to_owned(),
        }
    }
}

impl RouteKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpRouteGroup => "HTTPRouteGroup",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
        }
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
