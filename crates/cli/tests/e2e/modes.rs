//! What happens to traffic without permission in each mode: enforce, permissive and audit.

use serde_json::Value;

use crate::mesh::{HEDDLE, Mesh, eventually};

const OUTSIDER: &str = r#"{
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "outsider", "labels": {"heddle.dev/inject": "disabled"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "example.com/any", "command": ["sleep", "infinity"]}]
    }
}"#;

/// The head of the answer to a request that is made in plaintext by a pod without a proxy; empty when the connection is
/// closed.
fn plaintext(mesh: &Mesh, host: &str) -> String {
    let url = format!("http://{host}:14001/books-bought");
    let curl = format!("curl -s -o /dev/null -D - --max-time 10 {url} || true");
    mesh.run(HEDDLE, &["exec", "outsider", "--", "sh", "-c", &curl])
}

fn is_answered(mesh: &Mesh, host: &str, status: u16) -> bool {
    plaintext(mesh, host).starts_with(&format!("HTTP/1.1 {status} "))
}

/// Runs a pod without a proxy in the bookstore.
fn with_outsider() -> Option<Mesh> {
    let mesh = Mesh::bookstore(&[])?;
    mesh.apply(OUTSIDER);
    mesh.kubectl(&["wait", "--for=condition=Ready", "pod/outsider", "--timeout=60s"]);
    Some(mesh)
}

/// A measure of what `client` sent to the first store, as the store's side counted it.
fn counted(mesh: &Mesh, measure: &str, client: &str) -> u64 {
    let path = "/apis/metrics.smi-spec.io/v1alpha1/namespaces/bookstore/deployments/bookstore-v1/edges?direction=from";
    let list: Value = serde_json::from_str(&mesh.kubectl(&["get", "--raw", path])).expect("JSON");
    let edges = list["items"].as_array().expect("a list").iter().filter(|edge| {
        let other = &edge["edge"]["resource"];
        other["name"] == client || other["kind"] == client
    });
    let measures = edges.flat_map(|edge| edge["metrics"].as_array().expect("metrics"));
    let counts = measures.filter(|found| found["name"] == measure).filter_map(|found| found["value"].as_str());
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

/// The other end of plaintext that came from outside the mesh.
const OUTSIDE: &str = "Outside";

fn mode(mesh: &Mesh, mode: &str) {
    let config = format!(
        r#"{{"apiVersion": "heddle.dev/v1alpha1", "kind": "MeshConfig", "metadata": {{"name": "default"}}, "spec": {{"mode": "{mode}"}}}}"#
    );
    mesh.apply(&config);
    eventually(&format!("the mode is {mode}"), || mesh.run(HEDDLE, &["status"]).starts_with(&format!("mode {mode}")));
}

#[test]
fn each_mode_refuses_admits_or_records_what_is_not_allowed() {
    let Some(mesh) = with_outsider() else { return };
    let of_v1 = ["get", "pod", "-n", "bookstore", "-l", "version=v1", "-o", "jsonpath={.items[0].status.podIP}"];
    let store = mesh.kubectl(&of_v1);

    assert!(is_answered(&mesh, &store, 403), "enforce refuses plaintext from outside the mesh");
    assert_eq!(mesh.status_for("bookthief"), "403");
    eventually("the refusal is counted", || counted(&mesh, "denied_count", OUTSIDE) > 0);

    mesh.kubectl(&["label", "namespace", "bookstore", "heddle.dev/mode=permissive"]);
    eventually("a permissive namespace admits plaintext", || is_answered(&mesh, &store, 200));
    eventually("and counts it", || counted(&mesh, "success_count", OUTSIDE) > 0);
    let status = mesh.run(HEDDLE, &["status"]);
    assert!(status.starts_with("mode enforce"), "{status}");
    assert!(status.contains("mode permissive in namespace bookstore"), "{status}");

    mesh.kubectl(&["label", "namespace", "bookstore", "heddle.dev/mode-"]);
    eventually("without the label it is refused again", || is_answered(&mesh, &store, 403));

    mode(&mesh, "audit");
    eventually("audit lets the thief pass", || mesh.status_for("bookthief") == "200");
    eventually("and records that it would have been denied", || counted(&mesh, "would_deny_count", "bookthief") > 0);
    mode(&mesh, "enforce");
    eventually("enforce denies it again", || mesh.status_for("bookthief") == "403");
}

#[test]
fn t2_a_client_without_a_proxy_gets_the_service_as_kubernetes_knows_it() {
    let Some(mesh) = with_outsider() else { return };
    mesh.kubectl(&["label", "namespace", "bookstore", "heddle.dev/mode=permissive"]);
    mesh.split(&[("bookstore-v1", 1), ("bookstore-v2", 0)]);
    // Both are endpoints of the root Service, whatever share of the mesh's traffic each gets.
    for store in ["bookstore-v1", "bookstore-v2"] {
        let header = format!("identity: {store}");
        eventually(store, || plaintext(&mesh, "bookstore.bookstore").to_lowercase().contains(&header));
    }
}
