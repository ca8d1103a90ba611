//! The defaults of built-in types that clients rely on.

use serde_json::Value;

use super::object::items;

/// The quality-of-service class that a pod's requests and limits make.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let containers = || items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers"));
    let resources = |container: &Value, field: &str, name: &str| container["resources"][field].get(name).cloned();
    let any = containers().any(|c| {
        ["cpu", "memory"].iter().any(|r| resources(c, "requests", r).is_some() || resources(c, "limits", r).is_some())
    });
    let all = containers().all(|c| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = resources(c, "limits", r);
            limit.is_some() && resources(c, "requests", r).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
