//! Whether workloads are ready, and if not, why.

use kube::Client;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::{apply, overview};

/// A workload that is not ready.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Such as `Deployment bookstore/bookstore-v1`.
    pub(crate) name: String,
    pub(crate) why: String,
}

/// The workloads among `objects` that are not ready.
pub(crate) async fn pending(client: &Client, objects: &[Value]) -> anyhow::Result<Vec<Pending>> {
    let mut pending = Vec::new();
    for object in objects.iter().filter(|object| is_workload(object)) {
        let live = apply::get(client, object).await?;
        if live.as_ref().is_none_or(|live| !is_ready(object["kind"].as_str().unwrap_or_default(), live)) {
            pending.push(object);
        }
    }
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    let workloads = overview::workloads(client).await?;
    let why = |object: &Value| {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let name = format!("{}/{}", object["kind"].as_str()?, object["metadata"]["name"].as_str()?);
        let mut workloads = workloads.iter();
        workloads.find(|workload| workload.namespace == namespace && workload.name == name)?.waiting.clone()
    };
    let row = |object| Pending {
        name: apply::describe(object),
        why: why(object).unwrap_or_else(|| "its pods are not all ready yet".to_owned()),
    };
    Ok(pending.into_iter().map(row).collect())
}

pub(crate) fn is_workload(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "Pod"))
}

/// Whether the controllers have seen the last change and every pod that is asked for is ready. A Job is ready when it
/// runs, and when it has run.
fn is_ready(kind: &str, live: &DynamicObject) -> bool {
    let number = |pointer: &str| live.data.pointer(pointer).and_then(Value::as_i64);
    let condition = |name: &str| {
        let conditions = live.data.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|condition| condition["type"] == name && condition["status"] == "True")
    };
    let observed = number("/status/observedGeneration") >= live.metadata.generation;
    let of = |wanted: Option<i64>, seen: &str| observed && number(seen).unwrap_or(0) >= wanted.unwrap_or(1);
    let replicas = number("/spec/replicas");
    let count = |seen: &str| number(seen).unwrap_or(0);
    // Pods of an earlier template may be ready when those of this one never will be.
    let only_updated = || count("/status/replicas") <= count("/status/updatedReplicas");
    match kind {
        "Deployment" => {
            of(replicas, "/status/availableReplicas") && of(replicas, "/status/updatedReplicas") && only_updated()
        }
        "ReplicaSet" => of(replicas, "/status/readyReplicas"),
        "StatefulSet" => of(replicas, "/status/readyReplicas") && is_rolled_out(live),
        "DaemonSet" => {
            let wanted = number("/status/desiredNumberScheduled");
            let updated = updates_on_delete(live) || of(wanted, "/status/updatedNumberScheduled");
            of(wanted, "/status/numberReady") && updated
        }
        "Job" => condition("Complete") || number("/status/ready").unwrap_or(0) > 0,
        "Pod" => condition("Ready") || live.data.pointer("/status/phase").is_some_and(|phase| phase == "Succeeded"),
        _ => true,
    }
}

/// Whether a StatefulSet's pods are those of its template, as far as its strategy asks for that.
fn is_rolled_out(live: &DynamicObject) -> bool {
    let number = |pointer: &str| live.data.pointer(pointer).and_then(Value::as_i64);
    let revision = |pointer: &str| live.data.pointer(pointer).and_then(Value::as_str);
    let updated = number("/status/updatedReplicas").unwrap_or(0);
    match number("/spec/updateStrategy/rollingUpdate/partition") {
        _ if updates_on_delete(live) => true,
        Some(partition) if partition > 0 => updated >= number("/spec/replicas").unwrap_or(1) - partition,
        _ => revision("/status/updateRevision") == revision("/status/currentRevision"),
    }
}

fn updates_on_delete(live: &DynamicObject) -> bool {
    live.data.pointer("/spec/updateStrategy/type").is_some_and(|strategy| strategy == "OnDelete")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready(kind: &str, spec: Value, mut status: Value) -> bool {
        status["observedGeneration"] = json!(2);
        let live = json!({"metadata": {"name": "web", "generation": 2}, "spec": spec, "status": status});
        is_ready(kind, &serde_json::from_value(live).expect("an object"))
    }

    #[test]
    fn a_deployment_is_ready_when_no_pod_of_an_earlier_template_is_left() {
        let status = |all: i64| json!({"replicas": all, "updatedReplicas": 1, "availableReplicas": 1});
        assert!(!ready("Deployment", json!({"replicas": 1}), status(2)));
        assert!(ready("Deployment", json!({"replicas": 1}), status(1)));
    }

    #[test]
    fn a_stateful_set_is_ready_when_its_pods_are_of_the_new_revision() {
        let status = |current: &str, updated: i64| json!({"readyReplicas": 2, "updatedReplicas": updated, "currentRevision": current, "updateRevision": "new"});
        let spec = |strategy: Value| json!({"replicas": 2, "updateStrategy": strategy});
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
        assert!(!ready("StatefulSet", spec(rolling.clone()), status("old", 0)));
        assert!(ready("StatefulSet", spec(rolling), status("new", 2)));
        let partition = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
        assert!(!ready("StatefulSet", spec(partition.clone()), status("old", 0)));
        assert!(ready("StatefulSet", spec(partition), status("old", 1)));
        assert!(ready("StatefulSet", spec(json!({"type": "OnDelete"})), status("old", 0)));
    }

    #[test]
    fn a_daemon_set_is_ready_when_its_pods_are_updated() {
        let status =
            |updated: i64| json!({"desiredNumberScheduled": 1, "numberReady": 1, "updatedNumberScheduled": updated});
        assert!(!ready("DaemonSet", json!({}), status(0)));
        assert!(ready("DaemonSet", json!({}), status(1)));
        assert!(ready("DaemonSet", json!({"updateStrategy": {"type": "OnDelete"}}), status(0)));
    }
}
