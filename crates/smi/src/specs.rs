//! `specs.smi-spec.io/v1alpha4`: what traffic looks like. A traffic spec has no effect until something refers to it.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::{Headers, Status};

/// HTTP requests, HTTP/1 and HTTP/2 alike (S1).
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "HTTPRouteGroup",
    root = "HttpRouteGroup",
    plural = "httproutegroups",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteGroupSpec {
    /// A request belongs to the group when one of them matches it (S10). Their names are unique (S2).
    pub matches: Vec<HttpMatch>,
}

/// Requests that have the path, the method and all the headers (S11).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    pub name: String,
    /// A regular expression, anchored at the start only (S4). Absent: any path (S3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Upper case; `*` stands for all. Empty: any method (S3, S8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Regular expressions for the whole value, by header name (S9, S10).
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
}

/// TCP connections.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "TCPRoute",
    root = "TcpRoute",
    plural = "tcproutes",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    pub matches: PortMatch,
}

/// UDP datagrams.
#[derive(CustomResource, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "UDPRoute",
    root = "UdpRoute",
    plural = "udproutes",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct UdpRouteSpec {
    pub matches: PortMatch,
}

/// Ports of the destination.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Empty: every port (A15, S15).
    #[serde(default)]
    pub ports: Vec<u16>,
}
