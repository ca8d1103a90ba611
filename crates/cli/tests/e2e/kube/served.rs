//! The metrics API as an aggregated one: found, listed and explained.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::cluster::Cluster;
use crate::mesh::eventually;

pub(super) fn is_discovered(cluster: &Cluster) {
    for service in ["v1alpha1.metrics.smi-spec.io", "v1alpha2.metrics.smi-spec.io", "v1alpha1.view.heddle.dev"] {
        cluster.kubectl(&["wait", "--for=condition=Available", "--timeout=60s", "apiservice", service]);
    }
    let group = cluster.get("");
    assert_eq!(group["preferredVersion"]["version"], "v1alpha2", "{group}");
    assert_eq!(group["versions"].as_array().map(Vec::len), Some(2), "{group}");
    for version in ["v1alpha1", "v1alpha2"] {
        let all = cluster.get(&format!("/{version}/namespaces/shop/deployments"));
        assert_eq!((&all["kind"], all["items"].as_array().map(Vec::len)), (&json!("TrafficMetricsList"), Some(4)));
    }
    let web = cluster.get("/v1alpha1/namespaces/shop/deployments/web-v1");
    assert_eq!((&web["kind"], &web["metrics"][3]["name"]), (&json!("TrafficMetrics"), &json!("success_count")));
    for kubectl in kubectls() {
        is_listed(cluster, &kubectl);
    }
}

/// The kubectls that are here: the one on PATH, and Debian's old one where `KUBECTL_1_20` names it.
pub(super) fn kubectls() -> Vec<PathBuf> {
    let old = std::env::var_os("KUBECTL_1_20").map(PathBuf::from);
    [PathBuf::from("kubectl")].into_iter().chain(old).collect()
}

/// What somebody sees who uses this kubectl, before there is traffic.
fn is_listed(cluster: &Cluster, kubectl: &Path) {
    let run = |args: &[&str]| cluster.run(&mut cluster.command("admin", kubectl, args));
    let resources = run(&["api-resources", "--api-group=metrics.smi-spec.io", "--no-headers"]);
    assert_eq!(resources.lines().count(), 11, "{resources}");
    let table = run(&["get", "deployments.metrics.smi-spec.io", "-A", "-l", "app=web"]);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = ["NAMESPACE", "NAME", "SUCCESS", "RPS", "DENIED", "P50", "P90", "P99"];
    assert_eq!(lines.next().as_deref(), Some(&head[..]), "{table}");
    assert_eq!(lines.next().as_deref(), Some(&["shop", "web-v1", "-", "0.0", "0", "-", "-", "-"][..]), "{table}");
    let named = run(&["get", "deployments.metrics.smi-spec.io", "-n", "shop", "-l", "app=web", "-o", "name"]);
    assert_eq!(named.lines().count(), 2, "{named}");
}

/// The API server reads the descriptions of aggregated APIs when it gets to it.
pub(super) fn is_explained(cluster: &Cluster) {
    eventually("the fields are explained", || {
        let output = cluster.try_kubectl(&["explain", "deployments.metrics.smi-spec.io"]);
        String::from_utf8_lossy(&output.stdout).contains("The time that the counts are of")
    });
}
