//! Pods as processes: a kubelet in this process, against the embedded API, with real namespaces where the machine
//! permits them.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use heddle_local::NetNamespace;
use heddle_local::api::{self, Api};
use heddle_local::kubelet::{Config, Kubelet, MeshConfig, Network, Selection, follow_directory};
use heddle_local::net::NodeNetwork;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod};
use kube::Client;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// One node at a time, so that what each leaves behind can be told.
static MACHINE: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(60);

/// A node of one test.
struct Node {
    client: Client,
    kubelet: Kubelet,
    dir: tempfile::TempDir,
    /// In the command line of every process of this test.
    marker: String,
    before: Traces,
    _machine: MutexGuard<'static, ()>,
}

/// What a node could leave behind in this process and on this machine.
#[derive(PartialEq, Eq, Debug)]
struct Traces {
    namespaces: BTreeSet<String>,
    mounts: usize,
    interfaces: BTreeSet<String>,
}

impl Traces {
    fn now() -> Self {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let names = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        Self {
            namespaces: links.map(|link| link.display().to_string()).filter(|link| link.starts_with("net:")).collect(),
            mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            interfaces: names
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.starts_with("heddle") || name.starts_with("pod"))
                .collect(),
        }
    }
}

/// Whether tests with namespaces can run. CI sets `HEDDLE_REQUIRE_NETNS`, and fails where they cannot.
fn may_make_namespaces() -> bool {
    match NetNamespace::create() {
        Ok(_) => true,
        Err(error) if std::env::var_os("HEDDLE_REQUIRE_NETNS").is_some() => panic!("no network namespaces: {error}"),
        Err(error) => {
            eprintln!("skipped: this machine gives no network namespaces: {error}");
            false
        }
    }
}

impl Node {
    async fn start() -> Option<Self> {
        Self::with(true, Vec::new()).await
    }

    async fn with(namespaces: bool, proxy: Vec<String>) -> Option<Self> {
        if namespaces && !may_make_namespaces() {
            return None;
        }
        let machine = MACHINE.lock().await;
        let before = Traces::now();
        let client = Api::open(api::Config::default()).await.unwrap().client();
        let dir = tempfile::tempdir().unwrap();
        let network = if namespaces {
            let netns = NetNamespace::create().unwrap();
            Network::namespaces(NodeNetwork::create(netns).await.unwrap())
        } else {
            Network::loopback()
        };
        let config = Config {
            node_name: "machine".to_owned(),
            run_dir: dir.path().join("run"),
            log_dir: dir.path().join("logs"),
            hidden: vec![dir.path().to_owned()],
            path: std::env::var("PATH").unwrap(),
            api_ca: "certificate".to_owned(),
            api_address: ("127.0.0.1".to_owned(), 6443),
            mesh: MeshConfig { program: proxy, control: "10.244.0.1:15010".to_owned() },
        };
        let (directory, _) = follow_directory(client.clone());
        let kubelet = Kubelet::start(config, client.clone(), network, directory).await;
        let marker = format!("heddle-test-{}", dir.path().file_name().unwrap().display());
        Some(Self { client, kubelet, dir, marker, before, _machine: machine })
    }

    fn pods(&self) -> kube::Api<Pod> {
        kube::Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod on this node. `spec` is completed with what every test wants.
    async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!("machine");
        spec["automountServiceAccountToken"] = json!(false);
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    /// A container that runs a script; its command line bears the marker.
    fn shell(&self, name: &str, script: &str) -> Value {
        json!({"name": name, "command": ["sh", "-c", script, self.marker]})
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool + Send) -> Pod {
        let condition = await_condition(self.pods(), name, |pod: Option<&Pod>| pod.is_some_and(&holds));
        match tokio::time::timeout(PATIENCE, condition).await {
            Ok(pod) => pod.unwrap().unwrap(),
            Err(_) => {
                let pod = self.pods().get(name).await.unwrap();
                panic!("{name} is not {what}: {}", serde_json::to_string_pretty(&pod.status).unwrap())
            }
        }
    }

    async fn until_ready(&self, name: &str) -> Pod {
        self.until(name, "ready", is_ready).await
    }

    async fn until_phase(&self, name: &str, phase: &str) -> Pod {
        self.until(name, phase, |pod| pod.status.as_ref().unwrap().phase.as_deref() == Some(phase)).await
    }

    /// What a container has said, as soon as it has said `text`.
    async fn said(&self, pod: &str, container: &str, text: &str) -> String {
        let pod = self.kubelet.find("default", pod).expect("the pod is on the node");
        let log = pod.log(container).unwrap();
        let mut said = String::new();
        let reading = async {
            let parts = log.read(Selection { follow: true, ..Selection::default() }).unwrap();
            let mut parts = std::pin::pin!(parts);
            while !said.contains(text) {
                let Some(part) = parts.next().await else { break };
                said += &String::from_utf8_lossy(&part.unwrap());
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        assert!(read.is_ok() && said.contains(text), "`{text}` is not in: {said}");
        said
    }

    async fn has_event(&self, pod: &str, reason: &str) -> Option<String> {
        let events = kube::Api::<Event>::namespaced(self.client.clone(), "default");
        let list = events.list(&ListParams::default()).await.unwrap();
        let found = list.items.into_iter().find(|event| {
            event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
        });
        found.map(|event| event.message.unwrap_or_default())
    }

    /// Stops the node and shows that nothing is left of it.
    async fn stop(self) {
        self.kubelet.stop(Duration::from_secs(5)).await;
        assert_eq!(processes_with(&self.marker), Vec::<String>::new(), "processes are left");
        drop(self.client);
        let mut now = Traces::now();
        // Netlink tasks and workers let go of their namespaces as they end, which is soon but not at once.
        for _ in 0..100 {
            if now == self.before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            now = Traces::now();
        }
        assert_eq!(now, self.before, "something is left");
        let pods = self.dir.path().join("run/pods");
        let left = std::fs::read_dir(pods).map(|entries| entries.flatten().count()).unwrap_or(0);
        assert_eq!(left, 0, "pods' directories are left");
    }
}

fn processes_with(marker: &str) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let own = format!("/proc/{}", std::process::id());
    let lines = pids
        .filter(|path| path != Path::new(&own))
        .filter_map(|path| std::fs::read_to_string(path.join("cmdline")).ok());
    lines.filter(|line| line.contains(marker)).map(|line| line.replace('\0', " ")).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn container(pod: &Pod) -> ContainerStatus {
    pod.status.clone().unwrap().container_statuses.unwrap().remove(0)
}

fn state(pod: &Pod) -> ContainerState {
    container(pod).state.unwrap()
}

fn waiting_for(pod: &Pod, reason: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let state = statuses.and_then(|statuses| statuses.first()?.state.clone());
    state.and_then(|state| state.waiting).is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_a_network_a_name_and_files_of_its_own() {
    let Some(node) = Node::start().await else { return };
    let script = "hostname; cat /etc/resolv.conf; mkdir -p /heddle-test && \
                  echo private > /heddle-test/file && echo written; sleep 1000";
    node.create("one", json!({"containers": [node.shell("app", script)]})).await;
    let pod = node.until_ready("one").await;
    let status = pod.status.unwrap();
    let ip = status.pod_ip.unwrap();
    assert!(ip.starts_with("10.244."), "{ip}");
    assert_eq!((status.phase.as_deref(), status.host_ip.as_deref()), (Some("Running"), Some("10.244.0.1")));
    let said = node.said("one", "app", "written").await;
    assert!(said.starts_with("one\nnameserver 10.96.0.10\n"), "{said}");
    assert!(!Path::new("/heddle-test").exists(), "what a container writes stays with it");
    assert!(node.has_event("one", "Started").await.is_some());

    node.pods().delete("one", &DeleteParams::default()).await.unwrap();
    let uid = pod.metadata.uid.unwrap();
    let gone = await_condition(node.pods(), "one", kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.expect("the pod goes").unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_reach_each_other_by_address() {
    let Some(node) = Node::start().await else { return };
    node.create("server", json!({"containers": [node.shell("app", "sleep 1000")]})).await;
    let server = node.until_ready("server").await.status.unwrap().pod_ip.unwrap();
    let netns = node.kubelet.find("default", "server").unwrap().sandbox.get().unwrap().netns.clone().unwrap();
    let listener = netns.run(|| std::net::TcpListener::bind("0.0.0.0:7000")).unwrap();
    let asked = tokio::task::spawn_blocking(move || listener.accept().unwrap().1.ip().to_string());
    let script = format!("exec 3<>/dev/tcp/{server}/7000 && sleep 1000");
    let client = json!({"name": "app", "command": ["bash", "-c", script, node.marker]});
    node.create("client", json!({"containers": [client]})).await;
    let client = node.until_ready("client").await.status.unwrap().pod_ip.unwrap();
    let from = tokio::time::timeout(PATIENCE, asked).await.expect("the client connects").unwrap();
    assert_eq!(from, client);
    drop(netns);
    node.stop().await;
}
