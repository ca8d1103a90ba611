//! The mesh on a real Kubernetes API server, which `scripts/kube-apiserver` builds. `HEDDLE_KUBE_BIN` names the directory
//! of the programs; without it this says so and ends, and with `HEDDLE_REQUIRE_KUBE` it fails.

mod certificates;
mod cluster;
mod rights;
mod served;
mod traffic;
mod workload;

use serde_json::Value;

use crate::mesh::machine;
use cluster::Cluster;

/// One API server for everything: to start it takes longer than what is then asked of it.
#[test]
fn m1_m10_a_real_api_server_serves_the_traffic_of_its_pods_and_asks_rbac() {
    let _machine = machine();
    let Some(cluster) = Cluster::start() else { return };
    cluster.apply_fixture("workloads.yaml");
    served::is_discovered(&cluster);
    traffic::is_counted(&cluster);
    served::is_explained(&cluster);
    rights::are_asked_for(&cluster);
    the_bookstore_is_valid(&cluster);
    let log = cluster.log("control").to_lowercase();
    assert!(!log.contains("forbidden"), "the rights of deploy/control-plane.yaml suffice: {log}");
}

/// The API server takes the example as it stands. It asks for the namespaces first, and makes nothing else.
fn the_bookstore_is_valid(cluster: &Cluster) {
    let manifests = "../../examples/bookstore";
    let read = cluster.kubectl(&["apply", "-f", manifests, "--dry-run=client", "-o", "json"]);
    let read: Value = serde_json::from_str(&read).expect("JSON");
    let all = read["items"].as_array().expect("a list");
    let namespaces: Vec<Value> = all.iter().filter(|object| object["kind"] == "Namespace").cloned().collect();
    cluster.apply(&namespaces);
    let taken = cluster.kubectl(&["apply", "-f", manifests, "--dry-run=server"]);
    assert!(taken.lines().all(|line| line.ends_with("(server dry run)")), "{taken}");
    assert_eq!(taken.lines().count(), all.len(), "{taken}");
}
