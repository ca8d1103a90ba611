//! Whether workloads are ready, and if not, why.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
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
    let pods =
        Api::<Pod>::all(client.clone()).list(&ListParams::default()).await.context("cannot list the workloads")?;
    let workloads = overview::workloads(&pods.items);
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
    match kind {
        "Deployment" => of(replicas, "/status/availableReplicas") && of(replicas, "/status/updatedReplicas"),
        "ReplicaSet" | "StatefulSet" => of(replicas, "/status/readyReplicas"),
        "DaemonSet" => of(number("/status/desiredNumberScheduled"), "/status/numberReady"),
        "Job" => condition("Complete") || number("/status/ready").unwrap_or(0) > 0,
        "Pod" => condition("Ready") || live.data.pointer("/status/phase").is_some_and(|phase| phase == "Succeeded"),
        _ => true,
    }
}
