//! Workloads without a kubelet: the objects that a cluster's controllers and its kubelet make of a Deployment, and the
//! processes of its pod.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use heddle_local::NetNamespace;
use heddle_local::net::NODE_IP;
use serde_json::{Value, json};

use super::cluster::{Cluster, Process};
use crate::mesh::{HEDDLE, Tally, eventually};

/// The ReplicaSet's part of the names of pods.
const HASH: &str = "6b8f9d7c54";
const PORT: u16 = 14001;

/// A pod of one container, and the proxy beside it.
pub(super) struct Workload {
    /// The Deployment's name.
    pub name: String,
    pub pod: String,
    ip: Ipv4Addr,
    netns: NetNamespace,
    _processes: Vec<Process>,
}

/// Starts a pod for every Deployment of the namespace `shop`, in the order of their names.
pub(super) fn start_all(cluster: &Cluster) -> Vec<Workload> {
    let sets = cluster.apply(&cluster.list("deployments").iter().map(replica_set).collect::<Vec<_>>());
    let pods = cluster.apply(&sets.iter().map(pod).collect::<Vec<_>>());
    let pods: Vec<(Value, Ipv4Addr)> =
        pods.into_iter().zip((11..).map(|host| Ipv4Addr::new(10, 244, 0, host))).collect();
    for (pod, ip) in &pods {
        let patch = json!({ "status": status(*ip) }).to_string();
        let name = text(&pod["metadata"]["name"]);
        cluster.kubectl(&["patch", "pod", "-n", "shop", name, "--subresource=status", "--type=merge", "-p", &patch]);
    }
    let slices: Vec<Value> = cluster.list("services").iter().map(|service| endpoint_slice(service, &pods)).collect();
    cluster.apply(&slices);
    let mut bundle = String::new();
    eventually("the control plane has published its authority", || {
        let args =
            ["get", "configmap", "-n", "heddle-system", "heddle-trust-bundle", "-o", r"jsonpath={.data.ca\.crt}"];
        bundle = String::from_utf8_lossy(&cluster.try_kubectl(&args).stdout).into_owned();
        !bundle.is_empty()
    });
    std::fs::write(cluster.file("bundle.crt"), bundle).expect("written");
    let workloads: Vec<Workload> = pods.iter().map(|(pod, ip)| Workload::start(cluster, pod, *ip)).collect();
    workloads.iter().for_each(|workload| workload.wait_until_ready(cluster));
    workloads
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// An object of the namespace `shop` that belongs to another.
fn owned(owner: &Value, name: &str, labels: &Value) -> Value {
    json!({
        "namespace": "shop",
        "name": name,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

fn replica_set(deployment: &Value) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"]["pod-template-hash"] = json!(HASH);
    let labels = template["metadata"]["labels"].clone();
    let name = format!("{}-{HASH}", text(&deployment["metadata"]["name"]));
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": owned(deployment, &name, &labels),
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": template },
    })
}

fn pod(set: &Value) -> Value {
    let template = &set["spec"]["template"];
    let name = format!("{}-x7k2p", text(&set["metadata"]["name"]));
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!("node-1");
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": owned(set, &name, &template["metadata"]["labels"]),
        "spec": spec,
    })
}

/// What a kubelet says of a pod that runs.
fn status(ip: Ipv4Addr) -> Value {
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    json!({
        "phase": "Running",
        "hostIP": NODE_IP,
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": conditions.map(|kind| json!({ "type": kind, "status": "True" })),
    })
}

/// The endpoints of a Service: the pods that it selects.
fn endpoint_slice(service: &Value, pods: &[(Value, Ipv4Addr)]) -> Value {
    let selector = service["spec"]["selector"].as_object().expect("a selector");
    let selected = pods.iter().filter(|(pod, _)| {
        let labels = &pod["metadata"]["labels"];
        selector.iter().all(|(label, value)| labels[label] == *value)
    });
    let endpoints = selected.map(|(pod, ip)| {
        let meta = &pod["metadata"];
        json!({
            "addresses": [ip],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "node-1",
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": meta["name"], "uid": meta["uid"] },
        })
    });
    let name = text(&service["metadata"]["name"]);
    let mut metadata = owned(service, &format!("{name}-8kd4w"), &json!({}));
    metadata["labels"] = json!({
        "kubernetes.io/service-name": name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
    })
}

// === impl Workload ===

impl Workload {
    fn start(cluster: &Cluster, pod: &Value, ip: Ipv4Addr) -> Self {
        let (name, netns) = (text(&pod["metadata"]["name"]).to_owned(), cluster.attach(ip));
        let deployment = name.strip_suffix(&format!("-{HASH}-x7k2p")).expect("a pod of a Deployment").to_owned();
        let proxy = cluster.spawn_in(&netns, &mut proxy(cluster, pod, ip), &format!("{deployment}-proxy"));
        let mut processes = vec![proxy];
        if deployment.starts_with("web") {
            // Nobody listens where it thinks the warehouse to be, so that sales fail.
            let mut store = Command::new(HEDDLE);
            store.args(["demo", "bookstore", "--name", &deployment, "--warehouse", "http://127.0.0.1:9"]);
            processes.push(cluster.spawn_in(&netns, &mut store, &deployment));
        }
        Self { name: deployment, pod: name, ip, netns, _processes: processes }
    }

    fn wait_until_ready(&self, cluster: &Cluster) {
        let answers = |port: u16| {
            let url = format!("http://{}:{port}/ready", self.ip);
            cluster.output(Command::new("curl").args(["-sf", "--max-time", "5", &url])).status.success()
        };
        eventually("the proxy is ready", || answers(15000));
        if self.name.starts_with("web") {
            let netns = &self.netns;
            let url = format!("http://127.0.0.1:{PORT}/ready");
            eventually("the store answers", || {
                let mut curl = Command::new("curl");
                netns.run(|| curl.args(["-sf", &url]).output()).is_ok_and(|output| output.status.success())
            });
        }
    }

    /// Asks the store of the Service `web` through the proxy, one request after the other.
    pub(super) fn ask(&self, path: &str, requests: u64) -> Tally {
        let url = format!("http://web.shop:{PORT}{path}");
        let mut command = Command::new(HEDDLE);
        command
            .args(["demo", "load", "--connections", "1", "--requests", &requests.to_string(), &url])
            .env("http_proxy", format!("http://{}:15001", self.ip))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Tally::of(self.netns.run(|| command.spawn()).expect("the load runs"))
    }
}

/// The proxy of a pod, which proves itself by a token that is bound to the pod.
fn proxy(cluster: &Cluster, pod: &Value, ip: Ipv4Addr) -> Command {
    let (name, account) = (text(&pod["metadata"]["name"]), text(&pod["spec"]["serviceAccountName"]));
    let bound = ["--audience", "heddle", "--bound-object-kind", "Pod", "--bound-object-name", name];
    let token = cluster.kubectl(&[&["create", "token", "-n", "shop", account], &bound[..]].concat());
    let file = cluster.file(&format!("{name}.token"));
    std::fs::write(&file, token.trim()).expect("written");
    let mut command = Command::new(HEDDLE);
    command.args(["proxy", "--capture", "explicit", "--pod-ip", &ip.to_string()]);
    command.args(["--control", &format!("{NODE_IP}:15010"), "--ca-file"]).arg(cluster.file("bundle.crt"));
    command.arg("--token-file").arg(file).arg("--totals-file").arg(cluster.file(&format!("{name}.totals")));
    command
}
