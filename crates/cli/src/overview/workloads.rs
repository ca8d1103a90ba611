//! Workloads: how many of their pods are ready, and why the others are not.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;

use crate::mesh;

/// The pods of one owner.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    /// Such as `Deployment/bookstore-v1`; a pod without owner is its own.
    pub(crate) name: String,
    pub(crate) ready: usize,
    pub(crate) pods: usize,
    pub(crate) restarts: i32,
    /// Why a pod is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
}

/// The workloads of all namespaces.
pub(crate) fn workloads(pods: &[Pod]) -> Vec<Workload> {
    let mut found = BTreeMap::<(String, String), Workload>::new();
    for pod in pods {
        let namespace = pod.namespace().unwrap_or_default();
        let is_over = phase(pod) == "Succeeded" || pod.metadata.deletion_timestamp.is_some();
        if is_over {
            continue;
        }
        let name = owner(pod);
        let workload = found.entry((namespace.clone(), name.clone())).or_insert(Workload {
            namespace,
            name,
            ready: 0,
            pods: 0,
            restarts: 0,
            waiting: None,
        });
        workload.pods += 1;
        workload.restarts += restarts(pod);
        match mesh::is_ready(pod) {
            true => workload.ready += 1,
            false => workload.waiting = Some(why_waiting(pod)),
        }
    }
    found.into_values().collect()
}

/// What made the pod: of a ReplicaSet, the Deployment that made it.
fn owner(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().first() else { return format!("Pod/{}", pod.name_any()) };
    let hash = pod.labels().get("pod-template-hash");
    match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')) {
        Some(deployment) => format!("Deployment/{deployment}"),
        None => format!("{}/{}", owner.kind, owner.name),
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// The first reason that a pod's status gives for not being ready.
fn why_waiting(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "not started yet".to_owned() };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let states = containers.filter(|container| !container.ready).filter_map(|container| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().map(|state| (state.reason.clone(), state.message.clone()));
        let ended = state.terminated.as_ref().map(|state| {
            (state.reason.clone(), state.message.clone().or(Some(format!("exit code {}", state.exit_code))))
        });
        let (reason, message) = waiting.or(ended)?;
        // What a process wrote as its last word may end with a line's end.
        let message = message.map(|text| text.trim_end().to_owned()).filter(|text| !text.is_empty());
        let parts: Vec<String> = reason.into_iter().chain(message).collect();
        Some(format!("container {}: {}", container.name, parts.join(": ")))
    });
    let conditions = status.conditions.iter().flatten().filter(|condition| condition.status != "True");
    let condition = conditions.filter_map(|condition| condition.message.clone()).find(|text| !text.is_empty());
    states.into_iter().next().or(condition).unwrap_or_else(|| phase(pod).to_lowercase())
}

impl Workload {
    /// Such as `Deployment`.
    pub(super) fn kind(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready == self.pods
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_last_word_with_a_lines_end_is_one_line() {
        let state = json!({ "terminated": { "exitCode": 4, "reason": "Error", "message": "bye\n" } });
        let pod = json!({
            "metadata": { "name": "never" },
            "status": { "containerStatuses": [{
                "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }] },
        });
        assert_eq!(why_waiting(&serde_json::from_value(pod).unwrap()), "container a: Error: bye");
    }
}
