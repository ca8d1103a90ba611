//! What there is to scrape, for a Prometheus that does not speak to Kubernetes itself: HTTP service discovery.
//!
//! The labels are those of Prometheus' own discovery of pods, so that one relabelling serves both.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use serde_json::Value;

use crate::world::Key;

/// The pods that are annotated `prometheus.io/scrape: "true"` and run.
#[derive(Clone, Default)]
pub(crate) struct Targets(Arc<RwLock<BTreeMap<Key, Group>>>);

/// The targets of one pod, in the format of Prometheus.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// For a pod whose annotations name no port, as Prometheus itself has it.
const PORT: &str = "80";

impl Targets {
    pub(crate) fn list(&self) -> Vec<Group> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Takes notice of an object; of those that are no pods there is none to take.
    pub(crate) fn insert(&self, object: &Value) {
        if object["kind"] != "Pod" {
            return;
        }
        let mut targets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match group(object) {
            Some(group) => targets.insert(Key::of(object), group),
            None => targets.remove(&Key::of(object)),
        };
    }

    pub(crate) fn remove(&self, object: &Value) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&Key::of(object));
    }
}

fn group(pod: &Value) -> Option<Group> {
    let (meta, status) = (&pod["metadata"], &pod["status"]);
    let annotation = |name: &str| meta["annotations"][name].as_str();
    let phase = status["phase"].as_str()?;
    if annotation("prometheus.io/scrape") != Some("true") || matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let ip: IpAddr = status["podIP"].as_str()?.parse().ok()?;
    let port = annotation("prometheus.io/port").unwrap_or(PORT);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut labels = BTreeMap::from([
        ("__meta_kubernetes_namespace", text(&meta["namespace"])),
        ("__meta_kubernetes_pod_name", text(&meta["name"])),
        ("__meta_kubernetes_pod_ip", ip.to_string()),
        ("__meta_kubernetes_pod_phase", phase.to_owned()),
        ("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true".to_owned()),
        ("__meta_kubernetes_pod_annotation_prometheus_io_port", port.to_owned()),
    ]);
    if let Some(path) = annotation("prometheus.io/path") {
        labels.insert("__meta_kubernetes_pod_annotation_prometheus_io_path", path.to_owned());
    }
    let address = match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    };
    Some(Group { targets: [address], labels })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, scrape: &str, phase: &str) -> Value {
        json!({
            "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name, "annotations": {
                "prometheus.io/scrape": scrape, "prometheus.io/port": "15000", "prometheus.io/path": "/metrics",
            }},
            "status": { "phase": phase, "podIP": "10.244.0.7" },
        })
    }

    #[test]
    fn annotated_pods_are_targets_while_they_run() {
        let targets = Targets::default();
        targets.insert(&pod("web-1", "true", "Running"));
        targets.insert(&pod("web-2", "false", "Running"));
        targets.insert(&pod("web-3", "true", "Succeeded"));
        targets.insert(&json!({ "kind": "Service", "metadata": { "namespace": "shop", "name": "web-1" } }));
        let listed = serde_json::to_value(targets.list()).unwrap();
        let expected = json!([{ "targets": ["10.244.0.7:15000"], "labels": {
            "__meta_kubernetes_namespace": "shop",
            "__meta_kubernetes_pod_name": "web-1",
            "__meta_kubernetes_pod_ip": "10.244.0.7",
            "__meta_kubernetes_pod_phase": "Running",
            "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
            "__meta_kubernetes_pod_annotation_prometheus_io_port": "15000",
            "__meta_kubernetes_pod_annotation_prometheus_io_path": "/metrics",
        }}]);
        assert_eq!(listed, expected);
        targets.insert(&pod("web-1", "true", "Failed"));
        assert_eq!(targets.list(), []);
    }
}
