//! What the API says of itself (M1, M2).

use heddle_smi::metrics::{GROUP, VERSIONS};
use serde_json::{Value, json};

use crate::Kind;

/// The kind of every document.
const DOCUMENT: &str = "TrafficMetrics";

/// What a resource's kind is called in a version.
///
/// In v1alpha1 it is `TrafficMetrics`, as the specification has it. kubectl finds a resource by its kind, and among
/// eleven of one kind it takes the wrong one; so the preferred version, of which nothing is specified, tells them apart.
/// The documents of both say `TrafficMetrics`.
pub(crate) fn kind_name(version: &str, kind: Kind) -> String {
    if version == VERSIONS[0] { DOCUMENT.to_owned() } else { format!("{}TrafficMetrics", kind.name()) }
}

/// The `APIGroup`.
pub(crate) fn group() -> Value {
    let versions: Vec<Value> = VERSIONS
        .iter()
        .rev()
        .map(|version| json!({ "groupVersion": format!("{GROUP}/{version}"), "version": version }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "APIGroup",
        "name": GROUP,
        "versions": versions,
        "preferredVersion": versions.first(),
    })
}

/// The `APIResourceList` of a version.
pub(crate) fn resources(version: &str) -> Value {
    let resource = |kind: Kind| {
        let base = |name: String, verbs: &[&str]| {
            json!({
                "name": name,
                "singularName": if name.contains('/') { String::new() } else { kind.name().to_lowercase() },
                "namespaced": kind.is_namespaced(),
                "kind": kind_name(version, kind),
                "verbs": verbs,
            })
        };
        let plural = kind.plural();
        [base(plural.to_owned(), &["get", "list"]), base(format!("{plural}/edges"), &["get"])]
    };
    let mut resources: Vec<Value> = Kind::ALL.into_iter().flat_map(resource).collect();
    if kind_name(version, Kind::Pod) != DOCUMENT {
        // Nothing is served under this name. By it clients know the kind that documents have.
        resources.push(json!({
            "name": "trafficmetrics", "singularName": "", "namespaced": true, "kind": DOCUMENT, "verbs": [],
        }));
    }
    json!({
        "apiVersion": "v1",
        "kind": "APIResourceList",
        "groupVersion": format!("{GROUP}/{version}"),
        "resources": resources,
    })
}
