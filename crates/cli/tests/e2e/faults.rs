//! What happens when parts of the mesh die, or certificates are short-lived, while traffic flows.

use std::process::Command;

use crate::mesh::{HEDDLE, Mesh, Tally, eventually, kill};

#[test]
fn a_control_plane_that_is_killed_costs_no_request_and_changes_apply_when_it_is_back() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let load = mesh.start_load(30);
    let control = mesh.processes(&["heddle", "control", "--listen"]);
    assert!(!control.is_empty(), "the control plane is a process");
    control.into_iter().for_each(kill);
    mesh.kubectl(&["scale", "-n", "heddle-system", "deploy/heddle-control", "--replicas=0"]);
    eventually("there is no control plane", || mesh.processes(&["heddle", "control", "--listen"]).is_empty());
    mesh.split(&[("bookstore-v1", 0), ("bookstore-v2", 1)]);
    let while_away = Tally::of(load);
    while_away.assert_none_failed();
    assert!(while_away.answers_of("bookstore-v1") > 0, "proxies went on as they were: {while_away:?}");

    let mut answers = mesh.watch_answers();
    mesh.kubectl(&["scale", "-n", "heddle-system", "deploy/heddle-control", "--replicas=1"]);
    answers.wait_for("bookstore-v2");
    eventually("v1 gets nothing", || mesh.load(20).answers_of("bookstore-v1") == 0);
}

#[test]
fn certificates_of_thirty_seconds_rotate_under_load_without_a_lost_request() {
    let Some(mesh) = Mesh::bookstore(&["--cert-ttl", "30s"]) else { return };
    let tally = Tally::of(mesh.start_load(65));
    tally.assert_none_failed();
    println!("{} requests over two rotations, none lost", tally.successes());
}

#[test]
fn the_pod_of_a_proxy_that_is_killed_is_restarted() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let ip =
        mesh.kubectl(&["get", "pod", "-n", "bookstore", "-l", "version=v2", "-o", "jsonpath={.items[0].status.podIP}"]);
    let proxies = mesh.processes(&["proxy", &format!("--pod-ip {ip} ")]);
    assert_eq!(proxies.len(), 1, "one proxy beside the pod");
    kill(proxies[0]);
    let restarts = [
        "get",
        "pod",
        "-n",
        "bookstore",
        "-l",
        "version=v2",
        "-o",
        "jsonpath={.items[0].status.containerStatuses[0].restartCount}",
    ];
    eventually("the container was restarted", || mesh.kubectl(&restarts).trim() != "0");
    mesh.kubectl(&["wait", "-n", "bookstore", "--for=condition=Ready", "pod", "-l", "version=v2", "--timeout=60s"]);
    mesh.split(&[("bookstore-v1", 0), ("bookstore-v2", 1)]);
    eventually("v2 answers again", || mesh.load(10).answers_of("bookstore-v2") == 10);
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
    assert!(!output.status.success(), "a workload that is not ready is no success");
    assert!(error.contains("Deployment missing-program"), "{error}");
    assert!(error.contains("no-such-program"), "the reason names the program: {error}");
    assert!(!error.contains("Deployment sleeper"), "the other one runs: {error}");
}
