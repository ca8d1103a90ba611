//! A whole node, started as `heddle up` starts it: this program is the test, the node and a stand-in for the proxy.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use heddle_local::NetNamespace;
use heddle_local::node::{self, Capture, Launch, Launched, launch};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("node") => node::main(&Program::parse_from(std::env::args().skip(1)).node).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }),
        Some("proxy") => stand_in_for_the_proxy(),
        Some("--list") => ExitCode::SUCCESS,
        _ => tests(),
    }
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    node: node::Args,
}

fn tests() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if NetNamespace::create().is_ok() {
        runtime.block_on(pods_run_as_in_a_cluster_and_nothing_stays());
        runtime.block_on(a_killed_node_takes_everything_along());
    } else {
        assert!(std::env::var_os("HEDDLE_REQUIRE_NETNS").is_none(), "this machine gives no network namespaces");
        eprintln!("skipped: this machine gives no network namespaces");
    }
    runtime.block_on(without_namespaces_pods_have_addresses_of_their_own());
    ExitCode::SUCCESS
}

/// Answers `/ready` on the pod's address, as the proxy does.
fn stand_in_for_the_proxy() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let value =
        |flag: &str| arguments.iter().position(|word| word == flag).and_then(|at| arguments.get(at + 1)).cloned();
    for flag in ["--ca-file", "--token-file"] {
        let path = value(flag).unwrap();
        println!("{flag} {}", if std::fs::read_to_string(path).unwrap().is_empty() { "empty" } else { "read" });
    }
    let ip: Ipv4Addr = value("--pod-ip").unwrap().parse().unwrap();
    println!("{}", arguments.join(" "));
    let listener = TcpListener::bind((ip, 15000)).unwrap();
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    }
    ExitCode::FAILURE
}

/// A node of one test.
struct Node {
    launched: Launched,
    client: Client,
    dir: tempfile::TempDir,
}

impl Node {
    async fn start(capture: Capture) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("node.log")).unwrap();
        let launched = launch(Launch {
            command: vec![std::env::current_exe().unwrap().into(), "node".into()],
            variables: Vec::new(),
            state_dir: dir.path().join("state"),
            capture,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            hold: Vec::new(),
            log: log.into(),
            attached: true,
        });
        let launched = launched.unwrap_or_else(|error| {
            panic!("{error}: {}", std::fs::read_to_string(dir.path().join("node.log")).unwrap())
        });
        let config = Kubeconfig::read_from(&launched.ready.kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let node = Self { launched, client, dir };
        node.join_the_mesh().await;
        node
    }

    /// What the control plane does before any proxy can start.
    async fn join_the_mesh(&self) {
        let namespace: Namespace = object(json!({"metadata": {"name": "heddle-system"}}));
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let bundle: ConfigMap =
            object(json!({"metadata": {"name": "heddle-trust-bundle"}, "data": {"ca.crt": "certificate"}}));
        Api::namespaced(self.client.clone(), "heddle-system").create(&PostParams::default(), &bundle).await.unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create_pod(&self, name: &str, inject: &str, container: Value) {
        let pod: Pod = object(json!({
            "metadata": {"name": name, "labels": {"app": name, "heddle.dev/inject": inject}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
        }));
        // The ServiceAccount that the pod runs as is made by a controller, soon after its namespace.
        let begun = Instant::now();
        while let Err(error) = self.pods().create(&PostParams::default(), &pod).await {
            assert!(begun.elapsed() < PATIENCE && error.to_string().contains("service account"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool + Send) -> Pod {
        let condition = await_condition(self.pods(), name, |pod: Option<&Pod>| pod.is_some_and(&holds));
        match tokio::time::timeout(PATIENCE, condition).await {
            Ok(pod) => pod.unwrap().unwrap(),
            Err(_) => {
                let pod = self.pods().get(name).await.unwrap();
                let log = std::fs::read_to_string(self.dir.path().join("node.log")).unwrap();
                panic!("{name} is not {what}: {}\n{log}", serde_json::to_string_pretty(&pod.status).unwrap())
            }
        }
    }

    async fn until_ready(&self, name: &str) -> Pod {
        self.until(name, "ready", |pod| condition(pod, "Ready").as_deref() == Some("True")).await
    }

    /// What `kubectl` prints, which must not fail.
    fn kubectl(&self, arguments: &[&str]) -> String {
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.launched.ready.kubeconfig)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn state_dir(&self) -> String {
        self.dir.path().join("state").display().to_string()
    }

    /// Waits for the outer process, and shows that no other is left.
    fn ends(mut self) {
        self.launched.process.wait().unwrap();
        assert_eq!(processes_of(&self.state_dir()), Vec::<String>::new(), "processes are left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.state_dir()), "mounts are left");
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.clone())
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).map_or(0, |list| list[0].restart_count)
}

/// The command lines of processes that name a text.
fn processes_of(text: &str) -> Vec<String> {
    find_processes(text).into_iter().map(|(_, line)| line).collect()
}

fn find_processes(text: &str) -> Vec<(i32, String)> {
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let line = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok().map(|line| (pid, line.replace('\0', " ")))
    };
    pids.filter_map(line).filter(|(_, line)| line.contains(text)).collect()
}

fn has_kubectl() -> bool {
    Command::new("kubectl").args(["version", "--client"]).output().is_ok()
}

/// A script whose command line names the state directory, so that it can be found.
fn shell(node: &Node, script: &str) -> Value {
    json!({"name": "app", "image": "none", "command": ["bash", "-c", script, node.state_dir()]})
}

async fn pods_run_as_in_a_cluster_and_nothing_stays() {
    let node = Node::start(Capture::Netns).await;
    assert_eq!(node.launched.ready.capture, "netns");
    let service: Service = object(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8000}]}}));
    Api::namespaced(node.client.clone(), "default").create(&PostParams::default(), &service).await.unwrap();
    node.create_pod("web", "disabled", shell(&node, "echo serving; exec sleep 1000")).await;
    let web = node.until_ready("web").await.status.unwrap().pod_ip.unwrap();

    let script = "getent hosts web | head -1; getent hosts web.default.svc.cluster.local | head -1; \
                  test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; \
                  (exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT) && echo api; \
                  ls -A \"$0\" | wc -l; exec sleep 1000";
    node.create_pod("client", "disabled", shell(&node, script)).await;
    node.until_ready("client").await;
    assert!(web.starts_with("10.244."));
    if has_kubectl() {
        with_kubectl(&node, &web).await;
    }
    a_proxy_goes_with_its_pod(&node).await;

    node.pods().delete("web", &DeleteParams::default()).await.unwrap();
    node.launched.terminate();
    node.ends();
}

async fn with_kubectl(node: &Node, web: &str) {
    let logs = until_some(|| Some(node.kubectl(&["logs", "client"])).filter(|logs| logs.lines().count() >= 5)).await;
    let lines: Vec<&str> = logs.lines().collect();
    assert!(lines[0].ends_with("web.default.svc.cluster.local") && lines[0] == lines[1], "{logs}");
    assert_eq!(lines[2..], ["token", "api", "0"], "{logs}");
    assert_eq!(node.kubectl(&["logs", "web", "--tail=1"]), "serving\n");
    assert_eq!(node.kubectl(&["exec", "web", "--", "hostname"]), "web\n");
    let addresses = node.kubectl(&["exec", "web", "--", "hostname", "-I"]);
    assert_eq!(addresses.trim(), web);
    let pods = node.kubectl(&["get", "pods", "-o", "wide"]);
    assert!(pods.contains("1/1") && pods.contains("Running") && pods.contains(web), "{pods}");
    let nodes = node.kubectl(&["get", "nodes"]);
    assert!(nodes.contains("Ready"), "{nodes}");
}

async fn a_proxy_goes_with_its_pod(node: &Node) {
    node.create_pod("meshed", "enabled", shell(node, "echo up; exec sleep 1000")).await;
    let pod = node.until_ready("meshed").await;
    assert_eq!(condition(&pod, "heddle.dev/ProxyReady").as_deref(), Some("True"));
    let uid = pod.metadata.uid.unwrap();
    let is_proxy = |(_, line): &&(i32, String)| line.contains(" proxy ") && line.contains(&uid);
    let found = find_processes(&node.state_dir());
    let (pid, line) = found.iter().find(is_proxy).unwrap();
    assert!(line.contains("--capture transparent --mark 18500"), "{line}");
    if has_kubectl() {
        let log = node.kubectl(&["logs", "meshed", "-c", "heddle-proxy"]);
        assert!(log.starts_with("--ca-file read\n--token-file read\n"), "{log}");
    }
    kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    let again = |pod: &Pod| restarts(pod) == 1 && condition(pod, "Ready").as_deref() == Some("True");
    node.until("meshed", "restarted with its proxy", again).await;
}

async fn a_killed_node_takes_everything_along() {
    let node = Node::start(Capture::Netns).await;
    node.create_pod("app", "disabled", shell(&node, "setsid sleep 1000 & exec sleep 1000")).await;
    node.until_ready("app").await;
    assert!(processes_of(&node.state_dir()).len() >= 3);
    let pid = i32::try_from(node.launched.process.id()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let state_dir = node.state_dir();
    until_some(|| processes_of(&state_dir).iter().all(|line| line.contains("defunct")).then_some(())).await;
    node.ends();
}

async fn without_namespaces_pods_have_addresses_of_their_own() {
    let node = Node::start(Capture::Env).await;
    assert_eq!(node.launched.ready.capture, "env");
    let script =
        "echo $POD_IP; echo $http_proxy; echo $KUBERNETES_SERVICE_HOST; cat $HEDDLE_VOLUME_CONFIG/key; exec sleep 1000";
    let config: ConfigMap = object(json!({"metadata": {"name": "config"}, "data": {"key": "value\n"}}));
    Api::namespaced(node.client.clone(), "default").create(&PostParams::default(), &config).await.unwrap();
    let mut container = shell(&node, script);
    container["env"] = json!([{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    container["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"}]);
    let pod: Pod = object(json!({"metadata": {"name": "app"}, "spec": {"containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "config"}}]}}));
    let begun = Instant::now();
    while let Err(error) = node.pods().create(&PostParams::default(), &pod).await {
        assert!(begun.elapsed() < PATIENCE && error.to_string().contains("service account"), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ip = node.until_ready("app").await.status.unwrap().pod_ip.unwrap();
    assert!(ip.starts_with("127."), "{ip}");
    if has_kubectl() {
        let logs = until_some(|| Some(node.kubectl(&["logs", "app"])).filter(|logs| logs.lines().count() >= 4)).await;
        assert_eq!(logs, format!("{ip}\nhttp://{ip}:15001\n127.0.0.1\nvalue\n"));
        let events = node.kubectl(&["get", "events"]);
        assert!(events.contains("spec.containers[0].volumeMounts[0]"), "{events}");
    }
    // The node itself is killed; the process around it ends what it left behind.
    let found = find_processes(&node.state_dir());
    let (inner, _) = found.iter().find(|(_, line)| line.contains("--stage node")).unwrap();
    kill_process(Pid::from_raw(*inner).unwrap(), Signal::KILL).unwrap();
    assert!(Path::new(&node.state_dir()).exists());
    node.ends();
}

/// Asks again until there is an answer.
async fn until_some<T>(ask: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "no answer in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
