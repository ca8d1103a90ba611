//! Pods as processes: a kubelet in this process, against the embedded API, with real namespaces where the machine
//! permits them.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use heddle_api::{Api, ContainerRef, ExecOptions, Node as _, TerminalSize};
use heddle_local::NetNamespace;
use heddle_local::kubelet::{Config, Context, Kubelet, MeshConfig, Network, Selection, follow_directory};
use heddle_local::net::NodeNetwork;
use heddle_local::net::egress::Egress;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::Client;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard};

/// One node at a time, so that what each leaves behind can be told.
static MACHINE: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(30);

/// A node of one test.
struct Node {
    client: Client,
    kubelet: Kubelet,
    dir: tempfile::TempDir,
    /// In the command line of every process of this test.
    marker: String,
    namespaces: bool,
    _left: KillLeft,
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
        Self::through(|client| client, namespaces, proxy).await
    }

    /// A node whose kubelet reaches the API by a way of its own.
    async fn through(way: impl FnOnce(Client) -> Client, namespaces: bool, proxy: Vec<String>) -> Option<Self> {
        let machine = MACHINE.lock().await;
        if namespaces && !may_make_namespaces() {
            return None;
        }
        let before = Traces::now();
        let client = Api::open(heddle_api::Config::default()).await.unwrap().client();
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let accounts = kube::Api::<ServiceAccount>::namespaced(client.clone(), "default");
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kubelet = kubelet(way(client.clone()), dir.path(), namespaces, proxy).await;
        let marker = format!("heddle-test-{}", dir.path().file_name().unwrap().display());
        let _left = KillLeft(marker.clone());
        Some(Self { client, kubelet, dir, marker, namespaces, _left, before, _machine: machine })
    }

    /// Stops the node, and starts it again with the same objects and files.
    async fn restart(&mut self) {
        self.kubelet.stop(Duration::from_secs(5)).await;
        self.kubelet = kubelet(self.client.clone(), self.dir.path(), self.namespaces, Vec::new()).await;
    }

    /// A pod as the kubelet has it.
    async fn context(&self, name: &str) -> Arc<Context> {
        let uid = self.pods().get(name).await.unwrap().metadata.uid.unwrap();
        self.kubelet.find(&uid).unwrap()
    }

    async fn until_gone(&self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap();
        let name = pod.metadata.name.as_deref().unwrap();
        let gone = await_condition(self.pods(), name, kube::runtime::conditions::is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await.expect("the pod goes").unwrap();
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
        json!({"name": name, "image": "none", "command": ["sh", "-c", script, self.marker]})
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
        self.until(pod, "seen", |pod| pod.status.as_ref().is_some_and(|status| status.start_time.is_some())).await;
        let log = self.context(pod).await.log(container).unwrap();
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

    /// The message of an event, which is written soon after what it tells of.
    async fn event(&self, pod: &str, reason: &str) -> String {
        let waiting = async {
            loop {
                if let Some(message) = self.has_event(pod, reason).await {
                    return message;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no event {reason} of {pod}"))
    }

    /// Stops the node and shows that nothing is left of it.
    async fn stop(self) {
        self.kubelet.stop(Duration::from_secs(5)).await;
        assert_eq!(processes_left(&self.marker).await, Vec::<String>::new(), "processes are left");
        drop((self.kubelet, self.client));
        // Netlink tasks and workers let go of their namespaces as they end, which is soon but not at once.
        assert_eq!(settled(Traces::now, &self.before).await, self.before, "something is left");
        let pods = self.dir.path().join("run/pods");
        let left = std::fs::read_dir(pods).map(|entries| entries.flatten().count()).unwrap_or(0);
        assert_eq!(left, 0, "pods' directories are left");
    }
}

async fn kubelet(client: Client, dir: &Path, namespaces: bool, proxy: Vec<String>) -> Kubelet {
    let network = if namespaces {
        let netns = NetNamespace::create().unwrap();
        Network::namespaces(NodeNetwork::create(netns).await.unwrap())
    } else {
        Network::loopback().unwrap()
    };
    let config = Config {
        node_name: "machine".to_owned(),
        run_dir: dir.join("run"),
        log_dir: dir.join("logs"),
        claims_dir: dir.join("claims"),
        hidden: vec![dir.to_owned()],
        path: std::env::var("PATH").unwrap(),
        api_ca: "certificate".to_owned(),
        api_address: ("127.0.0.1".to_owned(), 6443),
        mesh: MeshConfig { program: proxy, control: "10.244.0.1:15010".to_owned() },
    };
    let (directory, _) = follow_directory(client.clone());
    Kubelet::start(config, client, network, directory).await
}

/// A client that is answered with a conflict instead of what the first requests ask for that `refused` picks.
fn refusing(client: Client, times: usize, refused: fn(&http::Method, &str, &[u8]) -> bool) -> Client {
    let left = Arc::new(AtomicUsize::new(times));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, left) = (client.clone(), Arc::clone(&left));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let picked = refused(&head.method, head.uri.path(), &body);
            let count = |left: usize| left.checked_sub(1);
            if picked && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok() {
                let status = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409});
                let answer = http::Response::builder().status(409).header("content-type", "application/json");
                return Ok(answer.body(Body::from(status.to_string().into_bytes())).unwrap());
            }
            client.send(http::Request::from_parts(head, body.to_vec().into())).await
        }
    });
    Client::new(service, "default")
}

/// Kills what a test that failed has left.
struct KillLeft(String);

impl Drop for KillLeft {
    fn drop(&mut self) {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let pid = rustix::process::Pid::from_raw(pid);
            if let Some(pid) = pid.filter(|pid| line.contains(&self.0) && *pid != rustix::process::getpid()) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
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

/// What is left of the processes with a marker. What was killed is gone soon, but not at once.
async fn processes_left(marker: &str) -> Vec<String> {
    settled(|| processes_with(marker), &Vec::new()).await
}

/// What there is as soon as it is as expected, or after all patience.
async fn settled<T: PartialEq>(what: impl Fn() -> T, expected: &T) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = what();
        if now == *expected || tokio::time::Instant::now() >= end {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
    let created = node.create("one", json!({"containers": [node.shell("app", script)]})).await;
    let pod = node.until_ready("one").await;
    let status = pod.status.unwrap();
    let ip = status.pod_ip.unwrap();
    assert!(ip.starts_with("10.244."), "{ip}");
    assert_eq!((status.phase.as_deref(), status.host_ip.as_deref()), (Some("Running"), Some("10.244.0.1")));
    let said = node.said("one", "app", "written").await;
    assert!(said.starts_with("one\nnameserver 10.96.0.10\n"), "{said}");
    assert!(!Path::new("/heddle-test").exists(), "what a container writes stays with it");
    node.event("one", "Started").await;

    node.pods().delete("one", &DeleteParams::default()).await.unwrap();
    node.until_gone(&created).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_reach_each_other_by_address() {
    let Some(node) = Node::start().await else { return };
    node.create("server", json!({"containers": [node.shell("app", "sleep 1000")]})).await;
    let server = node.until_ready("server").await.status.unwrap().pod_ip.unwrap();
    let netns = node.context("server").await.sandbox.get().unwrap().netns.clone().unwrap();
    let listener = netns.run(|| std::net::TcpListener::bind("0.0.0.0:7000")).unwrap();
    let asked = tokio::task::spawn_blocking(move || listener.accept().unwrap().1.ip().to_string());
    let script = format!("exec 3<>/dev/tcp/{server}/7000 && sleep 1000");
    let client = json!({"name": "app", "image": "none", "command": ["bash", "-c", script, node.marker]});
    node.create("client", json!({"containers": [client]})).await;
    let client = node.until_ready("client").await.status.unwrap().pod_ip.unwrap();
    let from = tokio::time::timeout(PATIENCE, asked).await.expect("the client connects").unwrap();
    assert_eq!(from, client);
    drop(netns);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pods_send_outside_of_the_cluster_leaves_from_the_machine() {
    let Some(node) = Node::start().await else { return };
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move { server.accept().await.unwrap().0.write_all(b"from outside").await });
    let (asked, mut asked_for) = tokio::sync::mpsc::unbounded_channel();
    let egress = Egress::open(node.kubelet.shared().network.node().unwrap()).unwrap();
    let leaving = tokio::spawn(egress.run(move |destination| {
        asked.send(destination).unwrap();
        tokio::net::TcpStream::connect(address)
    }));
    let script = "exec 3<>/dev/tcp/203.0.113.1/7000 && cat <&3; echo; sleep 1000";
    let client = json!({"name": "app", "image": "none", "command": ["bash", "-c", script, node.marker]});
    node.create("client", json!({"containers": [client]})).await;
    node.said("client", "app", "from outside").await;
    assert_eq!(asked_for.recv().await.unwrap().to_string(), "203.0.113.1:7000");
    serving.await.unwrap().unwrap();
    leaving.abort();
    leaving.await.ok();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_fails_is_restarted_at_once_and_then_with_a_wait() {
    let Some(node) = Node::start().await else { return };
    node.create("fails", json!({"containers": [node.shell("app", "echo run; exit 3")]})).await;
    let pod = node.until("fails", "waiting", |pod| waiting_for(pod, "CrashLoopBackOff")).await;
    let app = container(&pod);
    let last = app.last_state.unwrap().terminated.unwrap();
    assert_eq!((app.restart_count, last.exit_code, last.reason.as_deref()), (1, 3, Some("Error")));
    let message = app.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("back-off 10s restarting failed container=app"), "{message}");
    let parts = node.context("fails").await.log("app").unwrap();
    let previous = parts.read(Selection { previous: true, ..Selection::default() }).unwrap().map(Result::unwrap);
    assert_eq!(previous.collect::<Vec<_>>().await.concat(), b"run\n");
    node.event("fails", "BackOff").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_run_is_named_and_others_run() {
    let Some(node) = Node::start().await else { return };
    let missing = json!({"name": "missing", "image": "none", "command": ["no-such-program"]});
    let silent = json!({"name": "silent", "image": "app:1"});
    node.create("bad", json!({"containers": [missing, silent, node.shell("good", "sleep 1000")]})).await;
    let state_of = |pod: &Pod, index: usize| {
        let statuses = pod.status.as_ref()?.container_statuses.clone()?;
        statuses.into_iter().nth(index)?.state
    };
    let waiting = |pod: &Pod, index: usize, reason: &str| {
        state_of(pod, index).and_then(|state| state.waiting).filter(|waiting| waiting.reason.as_deref() == Some(reason))
    };
    let pod = node
        .until("bad", "explained", |pod| {
            waiting(pod, 0, "RunContainerError").is_some()
                && waiting(pod, 1, "NoCommand").is_some()
                && state_of(pod, 2).is_some_and(|state| state.running.is_some())
        })
        .await;
    let message = waiting(&pod, 0, "RunContainerError").unwrap().message.unwrap();
    assert!(message.contains("`no-such-program`: No such file or directory") && message.contains("PATH="), "{message}");
    let message = waiting(&pod, 1, "NoCommand").unwrap().message.unwrap();
    assert!(message.contains("set `command`"), "{message}");
    let warning = node.event("bad", "NotHonoured").await;
    assert!(warning.contains("spec.containers[1].image"), "{warning}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_done_stays_done() {
    let Some(node) = Node::start().await else { return };
    node.create(
        "done",
        json!({"restartPolicy": "Never", "containers": [node.shell("app", "echo -n ok > /dev/termination-log")]}),
    )
    .await;
    let pod = node.until_phase("done", "Succeeded").await;
    let end = state(&pod).terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref(), end.message.as_deref()), (0, Some("Completed"), Some("ok")));
    let spec = json!({"restartPolicy": "OnFailure", "containers": [node.shell("app", "test -e /again/x || { touch /again/x; exit 1; }")]});
    let mut spec = spec;
    spec["volumes"] = json!([{"name": "again", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "again", "mountPath": "/again"}]);
    node.create("retries", spec).await;
    assert_eq!(container(&node.until_phase("retries", "Succeeded").await).restart_count, 1);
    node.create("fails", json!({"restartPolicy": "Never", "containers": [node.shell("app", "kill -9 $$$$")]})).await;
    let end = state(&node.until_phase("fails", "Failed").await).terminated.unwrap();
    assert_eq!((end.exit_code, end.signal), (137, Some(9)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_in_order_and_sidecars_beside() {
    let Some(node) = Node::start().await else { return };
    let mut first = node.shell("first", "echo first >> /shared/order");
    let mut sidecar = node.shell(
        "sidecar",
        "trap 'echo bye >> /shared/order; exit 0' TERM; echo sidecar >> /shared/order; while :; do sleep 0.1; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"exec": {"command": ["grep", "sidecar", "/shared/order"]}, "periodSeconds": 1,
        "timeoutSeconds": 30, "failureThreshold": 30});
    let mut second = node.shell("second", "echo second >> /shared/order");
    let mut app = node.shell("app", "cat /shared/order");
    for container in [&mut first, &mut sidecar, &mut second, &mut app] {
        container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    }
    let volumes = json!([{"name": "shared", "emptyDir": {}}]);
    // It is told to end in time, and so is not killed however long it takes.
    node.create(
        "ordered",
        json!({"restartPolicy": "Never", "initContainers": [first, sidecar, second],
        "containers": [app], "volumes": volumes, "terminationGracePeriodSeconds": 30}),
    )
    .await;
    let pod = node.until_phase("ordered", "Succeeded").await;
    assert_eq!(node.said("ordered", "app", "second").await, "first\nsidecar\nsecond\n");
    let init = pod.status.unwrap().init_container_statuses.unwrap();
    assert_eq!(init.iter().map(|status| status.name.as_str()).collect::<Vec<_>>(), ["first", "sidecar", "second"]);
    node.until("ordered", "without its sidecar", |pod| {
        let init = pod.status.as_ref().and_then(|status| status.init_container_statuses.clone()).unwrap_or_default();
        init.get(1)
            .and_then(|status| status.state.clone())
            .and_then(|state| state.terminated)
            .is_some_and(|end| end.exit_code == 0)
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_is_waited_for_and_followed() {
    let Some(node) = Node::start().await else { return };
    let mut app = node.shell(
        "app",
        "echo \"$GREETING $POD_IP\"; while ! grep -q two /config/text; do sleep 0.1; done; echo changed; sleep 1000",
    );
    app["env"] = json!([
        {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "text"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    app["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"}]);
    let volumes = json!([{"name": "config", "configMap": {"name": "config"}}]);
    node.create("configured", json!({"containers": [app], "volumes": volumes})).await;
    let blocked = node
        .until("configured", "blocked", |pod| pod.status.as_ref().is_some_and(|status| status.message.is_some()))
        .await;
    let message = blocked.status.unwrap().message.unwrap();
    assert!(message.contains("the ConfigMap `config` does not exist in namespace `default`"), "{message}");

    let maps = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(node.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "config"}, "data": {"text": "one"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let pod = node.until_ready("configured").await;
    let expected = format!("one {}\n", pod.status.unwrap().pod_ip.unwrap());
    assert_eq!(node.said("configured", "app", "\n").await, expected);
    maps.patch("config", &PatchParams::default(), &Patch::Merge(json!({"data": {"text": "two"}}))).await.unwrap();
    node.said("configured", "app", "changed").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_holds_outlives_the_pod() {
    let Some(node) = Node::start().await else { return };
    let with_claim = |script: &str| {
        let mut app = node.shell("app", script);
        app["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}]);
        json!({"restartPolicy": "Never", "containers": [app], "volumes": volumes})
    };
    node.create("writes", with_claim("echo kept > /data/file")).await;
    let blocked = |pod: &Pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.message.clone())
            .is_some_and(|it| it.contains("`kept` does not exist"))
    };
    node.until("writes", "blocked by a claim that does not exist", blocked).await;
    let claims = kube::Api::<PersistentVolumeClaim>::namespaced(node.client.clone(), "default");
    let claim = json!({"metadata": {"name": "kept"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    node.until_phase("writes", "Succeeded").await;
    node.create("reads", with_claim("cat /data/file")).await;
    node.said("reads", "app", "kept").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_life() {
    let Some(node) = Node::start().await else { return };
    let mut app = node.shell("app", "echo started; sleep 1000");
    app["readinessProbe"] =
        json!({"httpGet": {"port": 8080, "path": "/ready"}, "periodSeconds": 1, "timeoutSeconds": 30});
    // It is well from the first, so that the first probe may come at any time.
    app["livenessProbe"] = json!({"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1,
        "failureThreshold": 1, "timeoutSeconds": 30});
    node.create("probed", json!({"containers": [app]})).await;
    node.said("probed", "app", "started").await;
    assert!(!is_ready(&node.pods().get("probed").await.unwrap()));
    let netns = node.context("probed").await.sandbox.get().unwrap().netns.clone().unwrap();
    let listener = netns.run(|| std::net::TcpListener::bind("0.0.0.0:8080")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _asked = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.ok();
        }
    });
    let pod = node.until_ready("probed").await;
    assert_eq!(container(&pod).restart_count, 0);
    assert!(node.event("probed", "Unhealthy").await.contains("Readiness probe failed"));
    let app = ContainerRef {
        namespace: "default".to_owned(),
        pod: "probed".to_owned(),
        uid: pod.metadata.uid.unwrap(),
        container: "app".to_owned(),
    };
    let command = ["touch", "/tmp/ill"].map(str::to_owned).to_vec();
    let touch = node.kubelet.exec(app, ExecOptions { command, ..ExecOptions::default() }).await.unwrap();
    assert_eq!(touch.exit.await.unwrap(), 0);
    let killed = node.event("probed", "Killing").await;
    assert!(killed.contains("Container app failed liveness probe, will be restarted"), "{killed}");
    node.until("probed", "restarted", |pod| container(pod).restart_count > 0).await;
    serving.abort();
    serving.await.ok();
    drop(netns);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_told_to_end_and_then_ended_with_all_it_started() {
    let Some(node) = Node::start().await else { return };
    let marker = &node.marker;
    let script =
        format!("setsid sh -c 'sleep 1000; : {marker}' & trap 'echo told' TERM; echo up; while :; do wait; done");
    let mut app = json!({"name": "app", "image": "none", "command": ["bash", "-c", script, node.marker]});
    app["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /proc/1/fd/1 2>/dev/null; touch /hooked"]}},
        "preStop": {"exec": {"command": ["test", "-e", "/hooked"]}},
    });
    // Enough for the hook and for a word on a busy machine; all of it is waited for.
    node.create("stubborn", json!({"containers": [app], "terminationGracePeriodSeconds": 5})).await;
    node.until_ready("stubborn").await;
    node.said("stubborn", "app", "up").await;
    let pod = node.context("stubborn").await;
    let log = pod.log("app").unwrap();
    drop(pod);
    node.pods().delete("stubborn", &DeleteParams::default()).await.unwrap();
    node.until("stubborn", "ended", |pod| {
        pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).is_some_and(|statuses| {
            statuses[0]
                .state
                .as_ref()
                .is_some_and(|state| state.terminated.as_ref().is_some_and(|end| end.exit_code == 137))
        })
    })
    .await;
    assert!(node.has_event("stubborn", "FailedPreStopHook").await.is_none());
    assert!(log.tail(4096).contains("told"));
    assert_eq!(processes_left(&node.marker).await, Vec::<String>::new());
    node.stop().await;
}

/// Asks for the size until it is another than that of a new terminal: it is set while the command runs already.
const UNTIL_RESIZED: &str = "read go; until [ \"$(stty size)\" != '0 0' ]; do :; done; stty size";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_attaches_sees_what_the_container_says_from_then_on() {
    let Some(node) = Node::start().await else { return };
    let script = "echo before; until [ -e /go ]; do sleep 0.1; done; echo after";
    node.create("one", json!({"restartPolicy": "Never", "containers": [node.shell("app", script)]})).await;
    node.said("one", "app", "before").await;
    let pod = node.pods().get("one").await.unwrap();
    let (namespace, uid) = ("default".to_owned(), pod.metadata.uid.unwrap());
    let container = ContainerRef { namespace, pod: "one".to_owned(), uid, container: "app".to_owned() };
    let mut attached = node.kubelet.exec(container.clone(), ExecOptions::default()).await.unwrap();
    let touch = ExecOptions { command: vec!["touch".to_owned(), "/go".to_owned()], ..ExecOptions::default() };
    assert_eq!(node.kubelet.exec(container, touch).await.unwrap().exit.await.unwrap(), 0);
    let mut output = String::new();
    attached.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), attached.exit.await.unwrap()), ("after\n", 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_connections_are_made_in_the_container() {
    let Some(node) = Node::start().await else { return };
    node.create("one", json!({"containers": [node.shell("app", "sleep 1000")]})).await;
    let pod = node.until_ready("one").await;
    let container = ContainerRef {
        namespace: "default".to_owned(),
        pod: "one".to_owned(),
        uid: pod.metadata.uid.unwrap(),
        container: "app".to_owned(),
    };
    let command = |words: &[&str], tty: bool| ExecOptions {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty,
    };
    let mut exec =
        node.kubelet.exec(container.clone(), command(&["sh", "-c", "hostname; cat; exit 7"], false)).await.unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    stdin.write_all(b"said").await.unwrap();
    drop(stdin);
    let mut output = String::new();
    exec.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), exec.exit.await.unwrap()), ("one\nsaid", 7));

    let mut exec = node
        .kubelet
        .exec(container.clone(), command(&["sh", "-c", "tty; test -t 0 && echo $TERM"], true))
        .await
        .unwrap();
    let mut output = String::new();
    exec.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert!(output.starts_with("/dev/pts/") || output.starts_with("not a tty"), "{output}");
    assert!(output.ends_with("xterm\r\n"), "{output}");
    assert_eq!(exec.exit.await.unwrap(), 0);

    let mut exec = node.kubelet.exec(container.clone(), command(&["sh", "-c", UNTIL_RESIZED], true)).await.unwrap();
    exec.resize.take().unwrap()(TerminalSize { width: 132, height: 50 });
    let mut stdin = exec.stdin.take().unwrap();
    let mut stdout = exec.stdout.take().unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    assert!(output.ends_with("50 132\r\n"), "{output}");

    let missing = node.kubelet.exec(container.clone(), command(&["no-such-program"], false)).await;
    assert!(missing.err().unwrap().to_string().contains("cannot run `no-such-program`"));

    let netns = node.context("one").await.sandbox.get().unwrap().netns.clone().unwrap();
    let listener = netns.run(|| std::net::TcpListener::bind("127.0.0.1:7000")).unwrap();
    let serving = tokio::task::spawn_blocking(move || {
        std::io::Write::write_all(&mut listener.accept().unwrap().0, b"inside").unwrap();
    });
    let mut stream = node.kubelet.port_forward(container.clone(), 7000).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "inside");
    serving.await.unwrap();
    drop((stream, netns));
    let refused = node.kubelet.port_forward(container, 7001).await.err().unwrap();
    assert!(refused.to_string().contains("nothing listens on port 7001"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_active_for_too_long_fails() {
    let Some(node) = Node::with(false, Vec::new()).await else { return };
    node.create("slow", json!({"activeDeadlineSeconds": 1, "containers": [node.shell("app", "sleep 1000")]})).await;
    let status = node.until_phase("slow", "Failed").await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    node.event("slow", "DeadlineExceeded").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_interrupts_starts_again_with_it() {
    let Some(mut node) = Node::with(false, Vec::new()).await else { return };
    let obedient = node.shell("app", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
    for (name, policy) in [("never", "Never"), ("on-failure", "OnFailure")] {
        node.create(name, json!({"restartPolicy": policy, "containers": [obedient.clone()]})).await;
        node.said(name, "app", "up").await;
    }
    node.kubelet.stop(PATIENCE).await;
    for name in ["never", "on-failure"] {
        let pod = node.pods().get(name).await.unwrap();
        assert_eq!((pod.status.as_ref().unwrap().phase.as_deref(), is_ready(&pod)), (Some("Running"), false));
    }
    node.restart().await;
    for name in ["never", "on-failure"] {
        assert_eq!(container(&node.until_ready(name).await).restart_count, 1);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_done_keeps_its_log_when_the_node_starts_again() {
    let Some(mut node) = Node::with(false, Vec::new()).await else { return };
    let run =
        |text: &str| json!({"restartPolicy": "Never", "containers": [node.shell("app", &format!("echo {text}"))]});
    let (done, next) = (run("kept"), run("next"));
    node.create("done", done).await;
    node.until_phase("done", "Succeeded").await;
    node.restart().await;
    // The kubelet takes notice of pods one after the other, by name.
    node.create("next", next).await;
    node.until_phase("next", "Succeeded").await;
    let log = node.context("done").await.log("app").unwrap();
    let lines = log.read(Selection { follow: true, ..Selection::default() }).unwrap().map(Result::unwrap);
    let lines = tokio::time::timeout(PATIENCE, lines.collect::<Vec<_>>()).await.expect("the log comes to its end");
    assert_eq!(lines.concat(), b"kept\n");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_deletion_may_leave_less_time() {
    let Some(node) = Node::with(false, Vec::new()).await else { return };
    let stubborn = node.shell("app", "trap '' TERM; echo up; while :; do sleep 0.1; done");
    for (name, second) in [("now", 1), ("force", 0)] {
        let spec = json!({"terminationGracePeriodSeconds": 1000, "containers": [stubborn.clone()]});
        let pod = node.create(name, spec).await;
        node.said(name, "app", "up").await;
        let log = node.context(name).await.log("app").unwrap();
        node.pods().delete(name, &DeleteParams::default()).await.unwrap();
        node.until(name, "unready", |pod| !is_ready(pod)).await;
        node.pods().delete(name, &DeleteParams::default().grace_period(second)).await.unwrap();
        node.until_gone(&pod).await;
        let rest = log.read(Selection { follow: true, ..Selection::default() }).unwrap();
        tokio::time::timeout(PATIENCE, rest.collect::<Vec<_>>()).await.expect("the container ends");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_the_api_refuses_is_written_again() {
    let last = |_: &http::Method, path: &str, body: &[u8]| {
        path.ends_with("/status") && String::from_utf8_lossy(body).contains("Succeeded")
    };
    let Some(node) = Node::through(|client| refusing(client, 1, last), false, Vec::new()).await else { return };
    node.create("done", json!({"restartPolicy": "Never", "containers": [node.shell("app", "true")]})).await;
    node.until_phase("done", "Succeeded").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_the_api_refuses_is_asked_for_again() {
    let deletion = |method: &http::Method, path: &str, _: &[u8]| method == "DELETE" && path.ends_with("/pods/one");
    let Some(node) = Node::through(|client| refusing(client, 1, deletion), false, Vec::new()).await else { return };
    let pod = node.create("one", json!({"containers": [node.shell("app", "sleep 1000")]})).await;
    node.until_ready("one").await;
    node.pods().delete("one", &DeleteParams::default()).await.unwrap();
    node.until_gone(&pod).await;
    node.stop().await;
}
