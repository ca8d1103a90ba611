//! What happens when parts of the mesh die, or certificates are short-lived, while traffic flows.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

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

/// A workload of `tests/fixtures/broken` that is never ready, and a part of the reason.
const BROKEN: [(&str, &str, &str); 4] = [
    ("Deployment", "missing-program", "no-such-program"),
    ("Deployment", "exits", "exit code 3"),
    ("Deployment", "missing-account", "\"no-such-account\" not found"),
    ("StatefulSet", "missing-account-too", "\"no-such-account\" not found"),
];

#[test]
fn workloads_that_cannot_run_are_named_with_their_reasons_and_the_others_run() {
    let _machine = machine();
    if !has_tools() {
        return;
    }
    let port = free_port().to_string();
    let (broken, said) = Broken::up(&port);
    for (kind, name, why) in BROKEN {
        let is_told = |line: &str| line.starts_with(&format!("{kind} {name} is not ready: ")) && line.contains(why);
        assert!(said.lines().any(is_told), "{kind} {name}: {said}");
    }
    assert!(!said.contains("Deployment sleeper"), "the other one runs: {said}");
    broken.is_at_port(&port);
    broken.pods_tell();
    broken.status_tells();
    let kubeconfig = broken.kubeconfig();
    drop(broken);
    assert!(!kubeconfig.exists(), "nothing leads to a mesh that was stopped");
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A mesh with workloads that are never ready.
struct Broken {
    state: tempfile::TempDir,
}

impl Broken {
    /// Starts it: what `up` said of it, too.
    fn up(port: &str) -> (Self, String) {
        let broken = Self { state: tempfile::TempDir::new().expect("a directory") };
        let output = Command::new(HEDDLE)
            .args(["up", "tests/fixtures/broken", "--detach", "--timeout", "30s", "--api-port", port, "--state-dir"])
            .arg(broken.state.path())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("heddle runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "a workload that is not ready is no success: {said}");
        (broken, said)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.state.path().join("kubeconfig")
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).env("KUBECONFIG", self.kubeconfig()).output();
        let output = output.expect("the command runs");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn is_at_port(&self, port: &str) {
        let server = self.run("kubectl", &["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        assert!(server.ends_with(&format!("127.0.0.1:{port}")), "{server}");
        assert_eq!(self.run("kubectl", &["--server", &server, "get", "--raw", "/readyz"]), "ok");
    }

    fn pods_tell(&self) {
        let tells = |app: &str, field: &str, value: &str| {
            let path = format!("jsonpath={{.items[*].status.{field}}}");
            let selector = format!("app={app}");
            let seen = || self.run("kubectl", &["get", "pods", "-l", &selector, "-o", &path]);
            eventually(&format!("{field} of {app} is {value}"), || seen() == value);
        };
        tells("missing-program", "containerStatuses[0].state.waiting.reason", "RunContainerError");
        tells("exits", "containerStatuses[0].lastState.terminated.exitCode", "3");
        tells("missing-account", "phase", "");
        tells("sleeper", "phase", "Running");
    }

    fn status_tells(&self) {
        let text = self.run(HEDDLE, &["status"]);
        let json: Value = serde_json::from_str(&self.run(HEDDLE, &["status", "-o", "json"])).expect("JSON");
        let workloads = json["workloads"].as_array().expect("workloads");
        for (kind, name, why) in BROKEN {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(&format!("default/{name}")));
            let line = line.unwrap_or_else(|| panic!("{name} is not listed: {text}"));
            let columns: Vec<&str> = line.split_whitespace().take(3).skip(1).collect();
            assert_eq!(columns, [kind, "0/1"], "{text}");
            assert!(line.contains(why), "{text}");
            let found = workloads.iter().find(|workload| workload["name"] == format!("{kind}/{name}"));
            let found = found.unwrap_or_else(|| panic!("{name} is not listed: {json}"));
            assert_eq!((&found["ready"], &found["pods"]), (&json!(0), &json!(1)), "{found}");
            assert!(found["waiting"].as_str().is_some_and(|waiting| waiting.contains(why)), "{found}");
        }
        let sleeper = workloads.iter().find(|workload| workload["name"] == "Deployment/sleeper").expect("it is listed");
        assert_eq!((&sleeper["ready"], &sleeper["pods"], &sleeper["waiting"]), (&json!(1), &json!(1), &Value::Null));
        assert_eq!(workloads.len(), BROKEN.len() + 1, "a workload is listed once: {text}");
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let down = Command::new(HEDDLE).args(["down", "--state-dir"]).arg(self.state.path()).status();
        assert!(down.expect("heddle runs").success() || std::thread::panicking(), "heddle down");
    }
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
