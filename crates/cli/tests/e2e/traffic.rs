//! Traffic metrics of real traffic: through the API, kubectl and its plugin, and counted to the last request.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::mesh::{HEDDLE, Mesh, eventually};

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-traffic");
pub(crate) const METRICS: &str = "/apis/metrics.smi-spec.io/v1alpha1";

fn get(mesh: &Mesh, path: &str) -> Value {
    let text = mesh.kubectl(&["get", "--raw", &format!("{METRICS}{path}")]);
    serde_json::from_str(&text).expect("JSON")
}

/// A measure of a document of one resource or edge.
pub(crate) fn value(document: &Value, name: &str) -> u64 {
    let metrics = document["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.map_or(0, |metric| metric["value"].as_str().expect("a quantity").parse().expect("a count"))
}

/// Runs kubectl with the plugin where it looks for plugins.
pub(crate) fn kubectl_traffic(mesh: &Mesh, args: &[&str]) -> String {
    kubectl_traffic_by(mesh, "kubectl", args)
}

/// Where programs are looked for, with the plugin among them.
pub(crate) fn path_with_plugin() -> OsString {
    let directory = Path::new(PLUGIN).parent().expect("a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(directory.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(paths).expect("a path")
}

fn kubectl_traffic_by(mesh: &Mesh, kubectl: &str, args: &[&str]) -> String {
    let mut command = mesh.command(kubectl, &[&["traffic"], args].concat());
    let output = command.env("PATH", path_with_plugin()).output().expect("kubectl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl traffic {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn m1_m6_m9_kubectl_reads_the_traffic_of_the_bookstore() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let edges = || get(&mesh, "/namespaces/bookstore/deployments/bookstore-v1/edges");
    let is_from_buyer = |item: &&Value| {
        let edge = &item["edge"];
        edge["direction"] == "from" && edge["resource"]["name"] == "bookbuyer" && value(item, "success_count") > 0
    };
    eventually("the buyer is an edge of the store", || {
        edges()["items"].as_array().expect("items").iter().any(|item| is_from_buyer(&item))
    });
    let edges = edges();
    assert_eq!((&edges["kind"], &edges["resource"]["name"]), (&json!("TrafficMetricsList"), &json!("bookstore-v1")));
    let split = get(&mesh, "/namespaces/bookstore/trafficsplits/bookstore");
    let backends: Vec<&Value> = split["items"].as_array().expect("items").iter().map(|item| &item["backend"]).collect();
    assert_eq!(backends.len(), 2, "{split}");
    assert_eq!(backends[0]["apex"], "bookstore");

    // Debian's old kubectl too, where KUBECTL_1_20 names it.
    let old = std::env::var("KUBECTL_1_20").ok();
    for kubectl in std::iter::once("kubectl").chain(old.as_deref()) {
        tables_are_read(&mesh, kubectl);
    }
    // By OpenAPI 3, and by 2: kubectl 1.20 takes what follows a dot for a field, so that it has a name without one.
    let new = [("kubectl", "deployments.metrics.smi-spec.io")];
    for (kubectl, name) in new.into_iter().chain(old.as_deref().map(|old| (old, "trafficmetrics"))) {
        let fields = mesh.run(kubectl, &["explain", name]);
        assert!(fields.contains("The time that the counts are of"), "{kubectl}: {fields}");
    }
    let described = mesh.kubectl(&["get", "--raw", "/openapi/v2"]);
    assert!(described.contains("io.smi-spec.metrics.v1alpha1.TrafficMetrics"), "the aggregated API is described too");
    let one = mesh.kubectl(&["get", "pods.metrics.smi-spec.io", "-n", "bookstore", "-l", "version=v1", "-o", "name"]);
    assert_eq!(one.lines().count(), 1, "{one}");
    let all = mesh.kubectl(&["get", "nodes.metrics.smi-spec.io", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!(all["items"][0]["resource"]["kind"], "Node", "{all}");
    for (path, code) in [("/namespaces/bookstore/deployments/none", "NotFound"), ("/pods?t=soon", "BadRequest")] {
        let output = mesh.command("kubectl", &["get", "--raw", &format!("{METRICS}{path}")]).output();
        let error = String::from_utf8_lossy(&output.expect("kubectl runs").stderr).into_owned();
        assert!(error.contains(code), "{path}: {error}");
    }
}

/// What somebody sees who uses this kubectl.
fn tables_are_read(mesh: &Mesh, kubectl: &str) {
    let resources = mesh.run(kubectl, &["api-resources", "--api-group=metrics.smi-spec.io", "--no-headers"]);
    assert_eq!(resources.lines().count(), 11, "{resources}");
    for resource in resources.lines().filter_map(|line| line.split_whitespace().next()) {
        let table = mesh.run(kubectl, &["get", &format!("{resource}.metrics.smi-spec.io"), "-A"]);
        assert!(table.contains("SUCCESS") || table.is_empty(), "{resource}: {table}");
    }
    let pods = mesh.run(kubectl, &["get", "pods.metrics.smi-spec.io", "-A"]);
    assert!(pods.starts_with("NAMESPACE"), "{pods}");
    assert!(pods.lines().any(|line| line.starts_with("bookstore ") && line.contains('%')), "{pods}");
    let raw = mesh.run(kubectl, &["get", "--raw", &format!("{METRICS}/namespaces/bookstore/pods")]);
    assert!(raw.contains("success_count"), "{raw}");
    let top = kubectl_traffic_by(mesh, kubectl, &["top", "deployments", "-A"]);
    assert!(top.contains("bookbuyer"), "{top}");
}

#[test]
fn m12_the_plugin_shows_top_topology_and_split() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let edge = "\"bookbuyer/bookbuyer\" -> \"bookstore/bookstore-v1\"";
    eventually("the buyer buys", || {
        kubectl_traffic(&mesh, &["topology", "deployments", "-A", "-o", "dot"]).contains(edge)
    });
    let top = kubectl_traffic(&mesh, &["top", "deployments", "-A", "--sort", "rps"]);
    assert!(top.starts_with("NAMESPACE"), "{top}");
    assert!(top.contains("bookbuyer") && top.contains("LATENCY_P99"), "{top}");
    let json: Value =
        serde_json::from_str(&kubectl_traffic(&mesh, &["top", "pods", "-n", "bookstore", "-o", "json"])).expect("JSON");
    assert_eq!(json.as_array().expect("rows").len(), 2, "{json}");
    let tree = kubectl_traffic(&mesh, &["topology", "deployments", "-A"]);
    assert!(tree.contains("─▶ bookstore/bookstore-v1"), "{tree}");
    eventually("the warehouse's one connection to its database, which never ends, is there too", || {
        let tree = kubectl_traffic(&mesh, &["topology", "deployments", "-A"]);
        tree.lines().any(|line| line.contains("─▶ bookdatabase/bookdatabase") && line.ends_with("1 open"))
    });
    assert!(kubectl_traffic(&mesh, &["topology", "ns", "-o", "mermaid"]).starts_with("flowchart LR"));
    let split = kubectl_traffic(&mesh, &["split", "-n", "bookstore"]);
    assert!(split.contains("bookstore-v1") && split.contains("90.0%"), "{split}");
    assert_is_drawn_again(
        mesh.command("kubectl", &["traffic", "top", "pods", "-n", "bookstore", "--sort", "rps", "--watch"]),
    );
    // The same code under the other name.
    let own = mesh.run(HEDDLE, &["split", "-n", "bookstore"]);
    // Columns are as wide as the figures of the moment.
    let titles = |text: &str| text.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(titles(&own), titles(&split));
    let status = mesh.run(HEDDLE, &["status"]);
    assert!(status.contains("bookbuyer/bookbuyer"), "{status}");
}

/// Reads until the table of a watching command has come twice.
fn assert_is_drawn_again(mut watching: Command) {
    let mut child = watching.env("PATH", path_with_plugin()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert_eq!(lines.filter(|line| line.contains("LATENCY_P99")).take(2).count(), 2);
    child.kill().expect("it watches on");
    child.wait().expect("it ends");
}

/// Asks as a ServiceAccount, by its token alone: the exit code and what kubectl said.
fn ask_as(mesh: &Mesh, token: &str, path: &str) -> (bool, String) {
    let view = |field: &str| {
        mesh.kubectl(&["config", "view", "--raw", "-o", &format!("jsonpath={{.clusters[0].cluster.{field}}}")])
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "mesh", "cluster": {
            "server": view("server"), "certificate-authority-data": view("certificate-authority-data"),
        } }],
        "users": [{ "name": "reader", "user": { "token": token } }],
        "contexts": [{ "name": "reader", "context": { "cluster": "mesh", "user": "reader" } }],
        "current-context": "reader",
    });
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "{config}").expect("it is written");
    let output = Command::new("kubectl")
        .args(["get", "--raw", &format!("{METRICS}{path}"), "--kubeconfig"])
        .arg(file.path())
        .output()
        .expect("kubectl runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn m10_a_service_account_that_may_read_edges_of_pods_reads_nothing_else() {
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/counting", &[]) else { return };
    for args in [
        &["create", "serviceaccount", "-n", "counting", "drawer"][..],
        &["create", "role", "-n", "counting", "drawer", "--verb=get", "--resource=pods.metrics.smi-spec.io/edges"],
        &["create", "rolebinding", "-n", "counting", "drawer", "--role=drawer", "--serviceaccount=counting:drawer"],
    ] {
        mesh.kubectl(args);
    }
    let mut request = mesh
        .command("kubectl", &["create", "--raw", "/api/v1/namespaces/counting/serviceaccounts/drawer/token", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    write!(request.stdin.take().expect("its input"), "{body}").expect("it reads");
    let answer: Value = serde_json::from_slice(&request.wait_with_output().expect("it ends").stdout).expect("JSON");
    let token = answer["status"]["token"].as_str().expect("a token");
    let pod =
        mesh.kubectl(&["get", "pod", "-n", "counting", "-l", "app=client", "-o", "jsonpath={.items[0].metadata.name}"]);
    let (is_allowed, text) = ask_as(&mesh, token, &format!("/namespaces/counting/pods/{pod}/edges"));
    assert!(is_allowed && text.contains("TrafficMetricsList"), "{text}");
    for path in [format!("/namespaces/counting/pods/{pod}"), "/namespaces/counting/pods".to_owned(), "/pods".to_owned()]
    {
        let (is_allowed, text) = ask_as(&mesh, token, &path);
        assert!(!is_allowed && text.contains("Forbidden"), "{path}: {text}");
    }
}
