//! What the processes of a mesh log: in the format that was asked for, and no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::mesh::{HEDDLE, Mesh};

/// What a client sends to another: the mesh's processes see it pass.
const BEARER: &str = "c29tZWJvZHkncyBvd24gdG9rZW4";

/// What a log is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Whose {
    Node,
    Control,
    Proxy,
}

/// The lines of the standard error of the mesh's own processes.
fn logs(state: &Path) -> BTreeMap<Whose, Vec<String>> {
    let node = std::fs::read_to_string(state.join("node.log")).expect("the node's log");
    let mut logs = BTreeMap::from([(Whose::Node, complete(&node).map(str::to_owned).collect::<Vec<_>>())]);
    for pod in entries(&state.join("logs")) {
        for (container, whose) in [("control", Whose::Control), ("heddle-proxy", Whose::Proxy)] {
            // A file that was turned over, `0.log.1`, goes on in `0.log`.
            let mut files = entries(&pod.join(container));
            files.sort_by_key(|file| file.extension().is_some_and(|end| end == "log"));
            let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("a log")).collect();
            logs.entry(whose).or_default().extend(standard_error(&text));
        }
    }
    logs
}

/// The entries of a directory; none of one that is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The lines of a file that grows: the last may be half written.
fn complete(text: &str) -> impl Iterator<Item = &str> {
    text.rsplit_once('\n').map_or("", |(complete, _)| complete).lines()
}

/// What a container said to its standard error, from a log in the format of the container runtime interface, in which a
/// long line is in parts.
fn standard_error(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for entry in complete(text) {
        let [_, "stderr", tag, said] = entry.splitn(4, ' ').collect::<Vec<_>>()[..] else { continue };
        lines.last_mut().expect("one at least").push_str(said);
        if tag == "F" {
            lines.push(String::new());
        }
    }
    lines.pop();
    lines
}

/// Everything that must not be in a log, by what it is.
fn secrets(mesh: &Mesh, state: &Path) -> Vec<(String, String)> {
    let mut secrets = vec![("what a client sent".to_owned(), BEARER.to_owned())];
    // As every key in PEM begins, and every token of a ServiceAccount.
    secrets.extend(["PRIVATE KEY", "eyJhbGciOi"].map(|begins| ("a key or a token".to_owned(), begins.to_owned())));
    for (namespace, target) in [("heddle-system", "deploy/heddle-control"), ("echo", "deploy/client")] {
        let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
        let token = mesh.kubectl(&["exec", "-n", namespace, target, "--", "cat", file]);
        secrets.push((format!("the token of {target}"), token));
    }
    let proxies = mesh.processes(&["proxy", "--token-file"]);
    assert_eq!(proxies.len(), 4, "each workload has a proxy");
    for proxy in proxies {
        secrets.push((format!("the token of proxy {proxy}"), token_of(proxy)));
    }
    for key in entries(&state.join("pki")).into_iter().filter(|file| file.extension().is_some_and(|end| end == "key")) {
        let pem = std::fs::read_to_string(&key).expect("a key");
        secrets.extend(key_lines(&pem).map(|line| (key.display().to_string(), line)));
    }
    let user = ["config", "view", "--raw", "-o", "jsonpath={.users[0].user.client-key-data}"];
    let root = ["get", "secret", "-n", "heddle-system", "heddle-root", "-o", r"jsonpath={.data.tls\.key}"];
    for (whose, args) in [("the user", &user[..]), ("the root", &root)] {
        let encoded = mesh.kubectl(args);
        let pem = String::from_utf8(STANDARD.decode(&encoded).expect("base64")).expect("PEM");
        secrets.push((format!("the key of {whose}"), encoded));
        secrets.extend(key_lines(&pem).map(|line| (format!("the key of {whose}"), line)));
    }
    assert!(secrets.iter().all(|(_, secret)| secret.len() >= 10), "{secrets:?}");
    secrets
}

/// The token by which a proxy proves its pod, in a file that its namespaces alone show.
fn token_of(proxy: i32) -> String {
    let line = std::fs::read_to_string(format!("/proc/{proxy}/cmdline")).expect("its command line");
    let file = line.split('\0').skip_while(|word| *word != "--token-file").nth(1).expect("a file");
    std::fs::read_to_string(format!("/proc/{proxy}/root{file}")).expect("a token")
}

/// The lines of a key that cannot be anything else.
fn key_lines(pem: &str) -> impl Iterator<Item = String> {
    pem.lines().filter(|line| line.len() >= 32 && !line.starts_with('-')).map(str::to_owned)
}

/// Requests of HTTP/1 and HTTP/2 with a token, through both proxies.
fn ask_with_a_token(mesh: &Mesh) {
    let header = format!("authorization: Bearer {BEARER}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = ["curl", "-sS", version, "--max-time", "60", "-H", &header, "http://echo.echo/websocket"];
        mesh.run(HEDDLE, &[&["exec", "-n", "echo", "deploy/client", "--"], &curl[..]].concat());
    }
}

#[test]
fn every_process_logs_what_up_was_told_to_and_no_secret() {
    let options = ["--log", "debug", "--log-format", "json"];
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/echo", &options) else { return };
    let kubeconfig = PathBuf::from(mesh.run("printenv", &["KUBECONFIG"]).trim());
    let state = kubeconfig.parent().expect("the state directory");
    ask_with_a_token(&mesh);
    let secrets = secrets(&mesh, state);
    for (whose, lines) in logs(state) {
        let levels: BTreeSet<String> = lines.iter().map(|line| level(line, whose)).collect();
        assert!(levels.contains("DEBUG"), "{whose:?} does not log as it was told to: {levels:?}");
        for line in &lines {
            let told = secrets.iter().find(|(_, secret)| line.contains(secret));
            assert!(told.is_none(), "{whose:?} logs {told:?}: {line}");
        }
    }
    the_first_line_alone_can_be_read(&mesh);
}

/// Who reads only the first line, of a proxy that goes on logging, has seen enough.
fn the_first_line_alone_can_be_read(mesh: &Mesh) {
    let first = format!("{HEDDLE} logs -n echo deploy/client -c heddle-proxy --follow 2>&1 | head -n 1");
    let shown = mesh.run("bash", &["-o", "pipefail", "-c", &first]);
    assert!(shown.starts_with('{') && shown.lines().count() == 1, "{shown}");
}

/// The level of a line, which must be a JSON object.
fn level(line: &str, whose: Whose) -> String {
    let object: Option<Value> = serde_json::from_str(line).ok();
    let level = object.as_ref().and_then(|object| object["level"].as_str());
    level.unwrap_or_else(|| panic!("{whose:?} logs {line}")).to_owned()
}
