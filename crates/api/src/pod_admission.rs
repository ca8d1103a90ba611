//! What a new pod gets beside the defaults: its ServiceAccount's token, tolerations, a priority, a class of service.

use serde_json::{Map, Value, json};

use super::object::{self, each, items, map_at, set_default, text};

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

/// What admission adds to a new pod: its ServiceAccount's token and its priority. `account` is the ServiceAccount.
pub(crate) fn admit(pod: &mut Value, account: &Value) {
    let name = text(account, "/metadata/name").to_owned();
    let mounts =
        pod["spec"]["automountServiceAccountToken"].as_bool().or(account["automountServiceAccountToken"].as_bool());
    let spec = map_at(pod, "spec");
    spec.insert("serviceAccountName".to_owned(), json!(name));
    spec.insert("serviceAccount".to_owned(), json!(name));
    set_default(spec, "priority", 0);
    set_default(spec, "preemptionPolicy", "PreemptLowerPriority");
    set_default(spec, "enableServiceLinks", true);
    if !spec.contains_key("imagePullSecrets") && account["imagePullSecrets"].is_array() {
        spec.insert("imagePullSecrets".to_owned(), account["imagePullSecrets"].clone());
    }
    add_tolerations(spec);
    if mounts != Some(false) {
        mount_token(spec);
    }
}

fn add_tolerations(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !list.iter().any(|t| t["key"] == key || (t["key"].is_null() && t["operator"] == "Exists")) {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mount_token(spec: &mut Map<String, Value>) {
    let volume = format!("kube-api-access-{}", object::random_suffix());
    let mut used = false;
    for list in ["initContainers", "containers"] {
        each(spec, list, |container| {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { return };
            if !mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                mounts.push(json!({"name": volume, "mountPath": TOKEN_PATH, "readOnly": true}));
                used = true;
            }
        });
    }
    if !used {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}
