//! The Node object of this machine, and the lease that says the node is alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::Shared;

/// What the machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    pub processors: i64,
    /// In bytes.
    pub memory: i64,
}

/// How often the lease is renewed, as in Kubernetes.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const RETRY: Duration = Duration::from_secs(1);
/// As many pods as are announced.
const MAX_PODS: i64 = 1000;

impl Capacity {
    pub fn of_machine() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes: i64 = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        Self { processors: i64::try_from(processors).unwrap_or(1), memory: kilobytes * 1024 }
    }
}

/// Registers the node, then renews its lease for ever.
pub(super) async fn keep(shared: Arc<Shared>) {
    while let Err(error) = register(&shared).await {
        tracing::warn!(%error, "the node could not be registered");
        tokio::time::sleep(RETRY).await;
    }
    loop {
        if let Err(error) = renew(&shared).await {
            tracing::warn!(%error, "the node's lease could not be renewed");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn register(shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.config.node_name;
    let api = Api::<core::Node>::all(shared.client.clone());
    let node: core::Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]},
    }))
    .map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        outcome => drop(outcome?),
    }
    let status = json!({"status": status(shared)});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

fn labels(name: &str) -> BTreeMap<&'static str, &str> {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    BTreeMap::from([("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", machine)])
}

fn status(shared: &Shared) -> serde_json::Value {
    let Capacity { processors, memory } = shared.capacity;
    let resources = json!({
        "cpu": processors.to_string(), "memory": format!("{}Ki", memory / 1024), "pods": MAX_PODS.to_string(),
        "ephemeral-storage": "100Gi",
    });
    let now = Timestamp::now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({
        "capacity": resources, "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": shared.network.node_ip().to_string()},
            {"type": "Hostname", "address": shared.config.node_name},
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not watched"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "disks are not watched"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "processes are not counted"),
            condition("Ready", "True", "KubeletReady", "pods are run as processes of this machine"),
        ],
        "nodeInfo": node_info(),
    })
}

fn node_info() -> serde_json::Value {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let version = format!("v1.33.0+heddle.{}", env!("CARGO_PKG_VERSION"));
    json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "operatingSystem": "linux",
        "kernelVersion": text(uname.release()), "osImage": name,
        "bootID": read("/proc/sys/kernel/random/boot_id"), "machineID": read("/etc/machine-id"), "systemUUID": "",
        "containerRuntimeVersion": format!("heddle://{}", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": version, "kubeProxyVersion": version,
    })
}

async fn renew(shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.config.node_name;
    let api = Api::<Lease>::namespaced(shared.client.clone(), "kube-node-lease");
    let now = format!("{:.6}", Timestamp::now());
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            let lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}));
            api.create(&PostParams::default(), &lease.map_err(kube::Error::SerdeError)?).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}
