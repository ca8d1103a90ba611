//! `metrics.smi-spec.io`: what a mesh measures, as its aggregated API serves it. Nothing here is stored.
//!
//! v1alpha1 is specified, v1alpha2 is what the Go SDK made of it. One set of types serves both: it has every field of
//! either, and their clients leave unknown fields alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// The API group.
pub const GROUP: &str = "metrics.smi-spec.io";

/// The versions it is served in.
pub const VERSIONS: [&str; 2] = ["v1alpha1", "v1alpha2"];

/// The kinds that are measured: plural, kind, whether they are namespaced (M2).
pub const RESOURCES: [(&str, &str, bool); 11] = [
    ("namespaces", "Namespace", false),
    ("nodes", "Node", false),
    ("pods", "Pod", true),
    ("replicationcontrollers", "ReplicationController", true),
    ("services", "Service", true),
    ("daemonsets", "DaemonSet", true),
    ("deployments", "Deployment", true),
    ("replicasets", "ReplicaSet", true),
    ("statefulsets", "StatefulSet", true),
    ("jobs", "Job", true),
    ("trafficsplits", "TrafficSplit", true),
];

/// The latency that 99 % of requests did not exceed, in milliseconds.
pub const P99_RESPONSE_LATENCY: &str = "p99_response_latency";
/// The latency that 90 % of requests did not exceed, in milliseconds.
pub const P90_RESPONSE_LATENCY: &str = "p90_response_latency";
/// The latency that half of the requests did not exceed, in milliseconds.
pub const P50_RESPONSE_LATENCY: &str = "p50_response_latency";
/// The requests of the window that succeeded.
pub const SUCCESS_COUNT: &str = "success_count";
/// The requests of the window that failed.
pub const FAILURE_COUNT: &str = "failure_count";

// What Heddle says beside the specification's five.

/// The requests and connections of the window that policy refused: neither successes nor failures of the server.
pub const DENIED_COUNT: &str = "denied_count";
/// How many of the other counts are TCP connections.
pub const CONNECTION_COUNT: &str = "connection_count";
/// The connections without HTTP that are open now: TCP connections, which are in no other count before they have ended,
/// and WebSockets, which have been counted as requests.
pub const OPEN_CONNECTION_COUNT: &str = "open_connection_count";
/// What a mode other than `enforce` let pass against policy.
pub const WOULD_DENY_COUNT: &str = "would_deny_count";
/// With a reason's code behind it: answers and closes of the mesh itself.
pub const REASON_COUNT_PREFIX: &str = "reason_count/";
/// An upper bound of the time, in seconds, whose counts were lost with proxies that were killed.
pub const LOST_TIME: &str = "lost_time";

/// The measures of one resource, or of one edge of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficMetrics {
    pub api_version: String,
    pub kind: String,
    pub metadata: MetricsMetadata,
    /// When the window ended, RFC 3339.
    pub timestamp: String,
    /// The time the counts are of, as Go writes durations: `30s`.
    pub window: String,
    pub resource: ObjectReference,
    pub edge: Edge,
    /// The backend that is measured; only of a TrafficSplit (M9).
    pub backend: Option<BackendReference>,
    pub metrics: Vec<Metric>,
}

/// The measures of several resources, or of the edges of one.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficMetricsList {
    pub api_version: String,
    pub kind: String,
    pub metadata: MetricsMetadata,
    /// What is listed: the kind and the namespace, and of edges the name too (M4).
    pub resource: ObjectReference,
    /// The labels by which items were selected (M5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    pub items: Vec<TrafficMetrics>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The path under which this was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_link: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
}

/// A reference to any object. Fields that are absent are not restricted: without any it stands for everything.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
}

/// Which traffic of the resource is measured (M8).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edge {
    pub direction: Direction,
    pub side: Side,
    /// The other end. The Go SDK writes null for what the specification writes as `{}`; both are read.
    #[serde(deserialize_with = "null_is_default")]
    pub resource: ObjectReference,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// What the resource sends to the other end.
    To,
    /// What the resource receives from the other end.
    #[default]
    From,
}

/// The end that measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    Client,
    #[default]
    Server,
}

/// A backend of a TrafficSplit.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendReference {
    /// The root Service.
    pub apex: String,
    pub name: String,
    pub weight: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    pub name: String,
    /// `ms` of a latency (M11); absent of a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A Kubernetes quantity in thousandths, such as `296875m`.
    pub value: String,
}

// === impl Metric ===

impl Metric {
    /// A latency in milliseconds.
    pub fn latency(name: &str, milliseconds: f64) -> Self {
        Self { name: name.to_owned(), unit: Some("ms".to_owned()), value: quantity(milliseconds) }
    }

    /// A time in seconds.
    pub fn seconds(name: &str, seconds: f64) -> Self {
        Self { name: name.to_owned(), unit: Some("s".to_owned()), value: quantity(seconds) }
    }

    /// A number of events.
    pub fn count(name: &str, count: f64) -> Self {
        Self { name: name.to_owned(), unit: None, value: quantity(count) }
    }
}

/// A quantity in thousandths. What is no number, or below zero, is zero: without traffic there is no latency (M14).
fn quantity(value: f64) -> String {
    // The cast takes NaN and negative numbers to 0, and what is too large to the largest number.
    let thousandths = (value * 1000.0).round() as u64;
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

fn null_is_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectReference, D::Error> {
    Option::<ObjectReference>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_quantities_of_thousandths() {
        let cases = [(296.875, "296875m"), (294.0, "294"), (0.0, "0"), (0.0004, "0"), (28.58, "28580m"), (-1.0, "0")];
        for (value, text) in cases {
            assert_eq!(quantity(value), text);
        }
        assert_eq!(quantity(f64::NAN), "0");
    }

    #[test]
    fn m8_an_edge_without_other_end_is_written_as_an_empty_object_and_read_from_null() {
        let edge = Edge::default();
        let value = serde_json::to_value(&edge).unwrap();
        assert_eq!(value, json!({"direction": "from", "side": "server", "resource": {}}));
        let read: Edge = serde_json::from_value(json!({"direction": "from", "resource": null})).unwrap();
        assert_eq!(read, edge);
    }

    #[test]
    fn m9_the_backend_of_a_split_is_always_written() {
        let value = serde_json::to_value(TrafficMetrics::default()).unwrap();
        assert_eq!(value["backend"], json!(null));
        let backend = BackendReference { apex: "website".into(), name: "website-v2".into(), weight: 10 };
        let metrics = TrafficMetrics { backend: Some(backend), ..TrafficMetrics::default() };
        let value = serde_json::to_value(&metrics).unwrap();
        assert_eq!(value["backend"], json!({"apex": "website", "name": "website-v2", "weight": 10}));
        assert_eq!(serde_json::from_value::<TrafficMetrics>(value).unwrap(), metrics);
    }
}
