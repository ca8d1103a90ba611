//! A Kubernetes API server with etcd, and a control plane that runs with the rights of `deploy/control-plane.yaml`, on
//! the network of a node of their own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use heddle_local::NetNamespace;
use heddle_local::net::{NODE_IP, NodeNetwork};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::certificates;
use crate::mesh::{HEDDLE, eventually, has_tools};

/// What is asked of the metrics API begins with this.
pub(super) const GROUP: &str = "/apis/metrics.smi-spec.io";
const API_PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
const FIXTURES: &str = "tests/fixtures/kube";

pub(super) struct Cluster {
    /// They end in this order, before what they use.
    _processes: Vec<Process>,
    network: Network,
    dir: TempDir,
}

/// A bridge in a network namespace, at which are the node and its pods.
struct Network {
    runtime: Runtime,
    node: NodeNetwork,
}

/// It is killed when it is dropped.
pub(super) struct Process(Child);

impl Cluster {
    /// `None` where there is no API server to start, or no network for it.
    pub(super) fn start() -> Option<Self> {
        let bin = binaries()?;
        if !has_tools() {
            return None;
        }
        let (dir, network) = (TempDir::new().expect("a directory"), Network::make()?);
        certificates::write(dir.path(), &NODE_IP.to_string());
        let mut cluster = Self { _processes: Vec::new(), network, dir };
        cluster.write_config("admin", &json!({ "client-certificate": "admin.crt", "client-key": "admin.key" }));
        let servers = cluster.start_servers(&bin);
        eventually("the API server is ready", || cluster.try_kubectl(&["get", "--raw", "/readyz"]).status.success());
        let control = cluster.start_control();
        cluster._processes = std::iter::once(control).chain(servers).collect();
        Some(cluster)
    }

    /// The API server, and the etcd that it needs.
    fn start_servers(&self, bin: &Path) -> [Process; 2] {
        let data = self.file("etcd").display().to_string();
        let etcd = ["--unsafe-no-fsync", "--data-dir", &data, "--listen-client-urls", ETCD];
        let mut command = Command::new(bin.join("etcd"));
        let etcd = self.spawn(command.args(etcd).args(["--advertise-client-urls", ETCD]), "etcd");
        let mut command = Command::new(bin.join("kube-apiserver"));
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.file(name).display());
        command.args([
            format!("--etcd-servers={ETCD}"),
            format!("--bind-address={NODE_IP}"),
            format!("--secure-port={API_PORT}"),
            file("cert-dir", "certs"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("client-ca-file", "ca.crt"),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            file("requestheader-client-ca-file", "front-proxy-ca.crt"),
            file("proxy-client-cert-file", "front-proxy-client.crt"),
            file("proxy-client-key-file", "front-proxy-client.key"),
        ]);
        command.args([
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--enable-aggregator-routing=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ]);
        [self.spawn(&mut command, "kube-apiserver"), etcd]
    }

    /// Applies what `deploy/` holds and starts the control plane as its ServiceAccount, where its Service leads.
    fn start_control(&self) -> Process {
        for path in ["../../deploy/crds", "../../deploy/control-plane.yaml"] {
            eventually("it is taken", || self.try_kubectl(&["apply", "-f", path]).status.success());
        }
        self.add_user("control", "heddle-system", "heddle-control");
        self.apply(&[json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "heddle-system",
                "name": "heddle-control-1",
                "labels": { "kubernetes.io/service-name": "heddle-control" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [NODE_IP] }],
            "ports": [{ "name": "webhook", "port": 15017, "protocol": "TCP" }],
        })]);
        let mut command = Command::new(HEDDLE);
        command.args(["control", "--listen", &NODE_IP.to_string()]).env("KUBECONFIG", self.file("control.conf"));
        let control = self.spawn(&mut command, "control");
        eventually("the API server has found the control plane", || {
            self.try_kubectl(&["get", "--raw", &format!("{GROUP}/v1alpha1")]).status.success()
        });
        control
    }

    /// A file of this cluster's own.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a process has said on its standard error.
    pub(super) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default()
    }

    /// A namespace for a pod, joined to the network.
    pub(super) fn attach(&self, ip: Ipv4Addr) -> NetNamespace {
        let pod = NetNamespace::create().expect("a namespace");
        self.network.runtime.block_on(self.network.node.attach(&pod, ip)).expect("it is joined");
        pod
    }

    /// Starts a process of the node.
    fn spawn(&self, command: &mut Command, name: &str) -> Process {
        self.spawn_in(self.network.node.netns(), command, name)
    }

    /// Starts a process in a pod; its standard error is a log by its name.
    pub(super) fn spawn_in(&self, pod: &NetNamespace, command: &mut Command, name: &str) -> Process {
        let log = std::fs::File::create(self.file(&format!("{name}.log"))).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process(pod.run(|| command.spawn()).expect("it runs"))
    }

    /// Runs a command of the node's to its end.
    pub(super) fn output(&self, command: &mut Command) -> Output {
        self.network.node.netns().run(|| command.output()).expect("it runs")
    }

    /// Lets a ServiceAccount be a user of kubectl's, by a token.
    pub(super) fn add_user(&self, name: &str, namespace: &str, account: &str) {
        let token = self.kubectl(&["create", "token", "-n", namespace, account]);
        self.write_config(name, &json!({ "token": token.trim() }));
    }

    fn write_config(&self, name: &str, user: &Value) {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": { "server": server(), "certificate-authority": "ca.crt" } }],
            "users": [{ "name": name, "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": name } }],
            "current-context": "test",
        });
        std::fs::write(self.file(&format!("{name}.conf")), config.to_string()).expect("written");
    }

    pub(super) fn apply_fixture(&self, name: &str) {
        self.kubectl(&["apply", "-f", &format!("{FIXTURES}/{name}")]);
    }

    /// Applies objects: as the API server has them then.
    pub(super) fn apply(&self, objects: &[Value]) -> Vec<Value> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        std::fs::write(self.file("applied.json"), list.to_string()).expect("written");
        let applied = self.kubectl(&["apply", "-f", &self.file("applied.json").display().to_string(), "-o", "json"]);
        items(&applied)
    }

    /// The objects of a kind in the namespace `shop`.
    pub(super) fn list(&self, kind: &str) -> Vec<Value> {
        items(&self.kubectl(&["get", "-n", "shop", kind, "-o", "json"]))
    }

    /// A kubectl that is told who the user is, and where the cluster.
    pub(super) fn command(&self, user: &str, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", self.file(&format!("{user}.conf"))).env("HOME", self.dir.path());
        command
    }

    pub(super) fn try_kubectl(&self, args: &[&str]) -> Output {
        self.output(&mut self.command("admin", Path::new("kubectl"), args))
    }

    /// Runs kubectl as an administrator; it must succeed.
    pub(super) fn kubectl(&self, args: &[&str]) -> String {
        self.run(&mut self.command("admin", Path::new("kubectl"), args))
    }

    /// Runs a command of the node's, which must succeed.
    pub(super) fn run(&self, command: &mut Command) -> String {
        let output = self.output(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A document of the metrics API.
    pub(super) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "--raw", &format!("{GROUP}{path}")])).expect("JSON")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["kube-apiserver", "control"] {
                let text = self.log(name);
                let last: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("{name}, the last line first:\n{}", last.join("\n"));
            }
        }
    }
}

/// Where the API server listens.
pub(super) fn server() -> String {
    format!("https://{NODE_IP}:{API_PORT}")
}

/// The directory of `kube-apiserver` and `etcd`.
fn binaries() -> Option<PathBuf> {
    let bin = std::env::var_os("HEDDLE_KUBE_BIN").map(PathBuf::from);
    let found = bin.filter(|bin| bin.join("kube-apiserver").is_file() && bin.join("etcd").is_file());
    if found.is_none() {
        let missing = "HEDDLE_KUBE_BIN names no directory with kube-apiserver and etcd";
        assert!(std::env::var_os("HEDDLE_REQUIRE_KUBE").is_none(), "{missing}");
        eprintln!("not tested, as {missing}: scripts/kube-apiserver builds them");
    }
    found
}

/// The items of a list, or what was printed in place of a list of one.
fn items(text: &str) -> Vec<Value> {
    let object: Value = serde_json::from_str(text).expect("JSON");
    object["items"].as_array().cloned().unwrap_or_else(|| vec![object])
}

// === impl Network ===

impl Network {
    /// `None` where the machine gives no namespaces.
    fn make() -> Option<Self> {
        let runtime = Runtime::new().expect("a runtime");
        let made = NetNamespace::create()
            .map_err(|error| error.to_string())
            .and_then(|netns| runtime.block_on(NodeNetwork::create(netns)).map_err(|error| error.to_string()));
        match made {
            Ok(node) => Some(Self { runtime, node }),
            Err(error) => {
                assert!(std::env::var_os("HEDDLE_REQUIRE_NETNS").is_none(), "no network namespaces: {error}");
                eprintln!("not tested, as this machine gives no network namespaces: {error}");
                None
            }
        }
    }
}

// === impl Process ===

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
