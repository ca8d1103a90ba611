//! What happens when parts of the mesh die, or certificates are short-lived, while traffic flows.

use std::process::Command;

use serde_json::Value;

use crate::mesh::{HEDDLE, Mesh, Tally, eventually, has_tools, kill, machine, terminate};

#[test]
fn a_control_plane_that_is_killed_for_a_minute_costs_no_request_and_changes_apply_when_it_is_back() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let load = mesh.start_load(60);
    let control = mesh.processes(&["heddle", "control", "--listen"]);
    assert!(!control.is_empty(), "the control plane is a process");
    control.into_iter().for_each(kill);
    mesh.kubectl(&["scale", "-n", "heddle-system", "deploy/heddle-control", "--replicas=0"]);
    eventually("there is no control plane", || mesh.processes(&["heddle", "control", "--listen"]).is_empty());
    mesh.split(&[("bookstore-v1", 0), ("bookstore-v2", 1)]);
    status_tells_what_it_cannot_read(&mesh);
    let while_away = Tally::of(load);
    while_away.assert_none_failed();
    assert!(while_away.answers_of("bookstore-v1") > 0, "proxies went on as they were: {while_away:?}");
    println!("{} requests in a minute without a control plane, none failed", while_away.successes());

    mesh.kubectl(&["scale", "-n", "heddle-system", "deploy/heddle-control", "--replicas=1"]);
    eventually("v1 gets nothing", || mesh.load(20).answers_of("bookstore-v1") == 0);
}

/// Without the control plane nobody knows of traffic; that is said where the traffic would be, with the cause.
fn status_tells_what_it_cannot_read(mesh: &Mesh) {
    let output = mesh.command(HEDDLE, &["status"]).output().expect("heddle runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("the control plane does not answer: "), "{text}");
    assert!(text.contains("TRAFFIC\ncannot be read: "), "{text}");
    assert!(text.contains("bookstore/bookstore-v1"), "what the API knows is shown: {text}");
}

#[test]
fn certificates_of_thirty_seconds_rotate_under_load_without_a_lost_request() {
    let Some(mesh) = Mesh::bookstore(&["--cert-ttl", "30s"]) else { return };
    let tally = Tally::of(mesh.start_load(65));
    tally.assert_none_failed();
    println!("{} requests over two rotations, none lost", tally.successes());
}

#[test]
fn the_pod_of_a_proxy_that_is_killed_is_restarted_and_only_requests_to_it_fail() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let ask = |store: &str, options: &[&str]| {
        let url = format!("http://{store}.bookstore:14001/books-bought");
        mesh.start_as_buyer(&[&["load", "--connections", "4"], options, &[&url]].concat())
    };
    let stores = ["bookstore-v1", "bookstore-v2"];
    let [to_other, to_killed] = stores.map(|store| ask(store, &[]));
    // More than the bookbuyer alone asks for in the time that metrics are of.
    eventually("both loads have begun", || stores.iter().all(|store| served(&mesh, store) > 400.0));
    let of_pod = |field: &str| {
        let field = format!("jsonpath={{.items[0].status.{field}}}");
        mesh.kubectl(&["get", "pod", "-n", "bookstore", "-l", "version=v2", "-o", &field])
    };
    let proxies = mesh.processes(&["proxy", &format!("--pod-ip {} ", of_pod("podIP"))]);
    assert_eq!(proxies.len(), 1, "one proxy beside the pod");
    kill(proxies[0]);
    eventually("the container was restarted", || of_pod("containerStatuses[0].restartCount") != "0");
    mesh.kubectl(&["wait", "-n", "bookstore", "--for=condition=Ready", "pod", "-l", "version=v2", "--timeout=60s"]);
    eventually("it serves again", || Tally::of(ask("bookstore-v2", &["--requests", "10"])).successes() == 10);
    mesh.processes(&["demo load"]).into_iter().for_each(terminate);
    let [to_other, to_killed] = [to_other, to_killed].map(Tally::of);
    to_other.assert_none_failed();
    let failed = to_killed.answers_of("-");
    println!("{} requests answered by the other, {failed} of this one failed: {to_killed:?}", to_other.successes());
    assert!(failed > 0, "it was away under load: {to_killed:?}");
    let without_connection = to_killed.of_status(502) + to_killed.of_status(503);
    assert_eq!(without_connection, failed, "they are errors of connections: {to_killed:?}");
    assert_eq!(to_killed.answers_of("bookstore-v2"), to_killed.successes(), "{to_killed:?}");
}

/// How many requests a Deployment of the bookstore has answered of late.
fn served(mesh: &Mesh, deployment: &str) -> f64 {
    let path = format!("/apis/metrics.smi-spec.io/v1alpha1/namespaces/bookstore/deployments/{deployment}");
    let answer: Value = serde_json::from_str(&mesh.kubectl(&["get", "--raw", &path])).expect("JSON");
    let metrics = answer["metrics"].as_array().expect("metrics");
    let count = metrics.iter().find(|metric| metric["name"] == "success_count").expect("a count of successes");
    let text = count["value"].as_str().expect("a quantity");
    let (number, unit) = text.strip_suffix('k').map_or((text, 1.0), |number| (number, 1000.0));
    number.parse::<f64>().expect("a number") * unit
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_is_there() {
    let _machine = machine();
    if !has_tools() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tested, as only root can mount a small disk");
    }
    let state = tempfile::TempDir::new().expect("a directory");
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let output = Command::new("unshare")
        .args(["--mount", "sh", &format!("{fixtures}/disk-full.sh")])
        .arg(state.path())
        .args([HEDDLE, &format!("{fixtures}/sleeper")])
        .output()
        .expect("unshare runs");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{error}");
    assert!(error.contains("is full; nothing was changed"), "{error}");
    let full = text.split("--- full\n").nth(1).and_then(|rest| rest.split("--- free\n").next());
    assert_eq!(full, Some("value\n"), "what was there is read, and what was refused is not: {text}");
    assert!(text.contains("configmap/kept\nconfigmap/large\n"), "both are there after a restart: {text}");
}

#[test]
fn a_workload_that_cannot_start_is_named_with_its_reason_and_the_others_run() {
    let state = tempfile::TempDir::new().expect("a directory");
    let output = Command::new(HEDDLE)
        .args(["up", "tests/fixtures/broken", "--detach", "--timeout", "15s", "--state-dir"])
        .arg(state.path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("heddle runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let down = Command::new(HEDDLE).args(["down", "--state-dir"]).arg(state.path()).status().expect("heddle runs");
    assert!(down.success());
    assert!(!state.path().join("kubeconfig").exists(), "nothing leads to a mesh that was stopped");
    assert!(!output.status.success(), "a workload that is not ready is no success");
    assert!(error.contains("Deployment missing-program"), "{error}");
    assert!(error.contains("no-such-program"), "the reason names the program: {error}");
    assert!(!error.contains("Deployment sleeper"), "the other one runs: {error}");
}

#[test]
fn what_the_api_refuses_is_named_and_nothing_stays_running() {
    let _machine = machine();
    let (manifests, state) =
        (tempfile::TempDir::new().expect("a directory"), tempfile::TempDir::new().expect("a directory"));
    let lost = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lost, namespace: nowhere}\n";
    std::fs::write(manifests.path().join("lost.yaml"), lost).expect("written");
    let heddle = |args: &[&str]| {
        let output =
            Command::new(HEDDLE).args(args).arg("--state-dir").arg(state.path()).output().expect("heddle runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let manifests = manifests.path().display().to_string();
    let (code, said) = heddle(&["up", &manifests, "--detach", "--capture", "env"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ConfigMap nowhere/lost: namespaces \"nowhere\" not found"), "{said}");
    let (code, said) = heddle(&["down"]);
    assert_eq!((code, said.starts_with("no mesh runs in")), (Some(0), true), "{said}");
}
