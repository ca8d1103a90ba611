//! Pods and pod templates to workloads: who they are, which ports and probes they declare, what owns them.

use std::net::IpAddr;
use std::sync::Arc;

use heddle_policy::{GRPC_HEALTH_CHECK, PodName, Probe, normalize_path};
use serde::Deserialize;
use serde_json::Value;

use crate::facts::{ContainerPort, Labels, Workload};
use crate::lower::{Annotations, PortReference, is_opted_out, nullable, transport, unknown_inject};
use crate::resource_set::Identity;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Pod {
    #[serde(deserialize_with = "nullable")]
    metadata: PodMetadata,
    #[serde(deserialize_with = "nullable")]
    spec: PodSpec,
    #[serde(deserialize_with = "nullable")]
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodMetadata {
    #[serde(deserialize_with = "nullable")]
    labels: Labels,
    #[serde(deserialize_with = "nullable")]
    annotations: Annotations,
    #[serde(deserialize_with = "nullable")]
    owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OwnerReference {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Option<Arc<str>>,
    /// The old name of `serviceAccountName`.
    service_account: Option<Arc<str>>,
    host_network: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    /// `Always` makes a sidecar of an init container.
    restart_policy: Option<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<PortSpec>,
    liveness_probe: Option<Handler>,
    readiness_probe: Option<Handler>,
    startup_probe: Option<Handler>,
    #[serde(deserialize_with = "nullable")]
    lifecycle: Lifecycle,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortSpec {
    name: Option<Arc<str>>,
    container_port: u16,
    protocol: Option<String>,
}

/// Hooks come from the kubelet as probes do.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Lifecycle {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Handler {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
}

#[derive(Deserialize)]
struct HttpGet {
    path: Option<String>,
    port: PortReference,
    scheme: Option<String>,
    /// Another host than the pod.
    host: Option<String>,
}

#[derive(Deserialize)]
struct TcpSocket {
    port: PortReference,
    host: Option<String>,
}

#[derive(Deserialize)]
struct Grpc {
    port: u16,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<Address>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs", deserialize_with = "nullable")]
    host_ips: Vec<Address>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Address {
    ip: String,
}

pub(crate) fn pod(identity: &Identity<'_>, object: &Value) -> serde_json::Result<Workload> {
    let Pod { metadata, spec, status } = Pod::deserialize(object)?;
    let owner = owner(&metadata);
    let workload = workload(identity, metadata, spec);
    Ok(Workload {
        owner,
        addresses: addresses(status.pod_ip, status.pod_ips),
        node_addresses: addresses(status.host_ip, status.host_ips),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ..workload
    })
}

/// The pods that a Deployment, a Job or the like will make.
pub(crate) fn template(identity: &Identity<'_>, object: &Value) -> serde_json::Result<Workload> {
    let path = if identity.kind == "CronJob" { "/spec/jobTemplate/spec/template" } else { "/spec/template" };
    let Pod { metadata, spec, .. } = Pod::deserialize(object.pointer(path).unwrap_or(&Value::Null))?;
    let owner = Some(format!("{}/{}", identity.kind, identity.name).into());
    Ok(Workload { owner, is_template: true, ..workload(identity, metadata, spec) })
}

fn workload(identity: &Identity<'_>, metadata: PodMetadata, spec: PodSpec) -> Workload {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().filter(is_sidecar);
    let containers: Vec<&Container> = spec.containers.iter().chain(sidecars).collect();
    let mut probes: Vec<Probe> = containers.iter().flat_map(|container| container.probes()).collect();
    probes.sort();
    probes.dedup();
    let account = spec.service_account_name.or(spec.service_account).filter(|name| !name.is_empty());
    Workload {
        name: PodName::new(identity.namespace.clone(), identity.name.clone()),
        is_template: false,
        opted_out: spec.host_network == Some(true) || is_opted_out(&metadata.labels),
        unknown_inject: unknown_inject(&metadata.labels),
        access_log: metadata.annotations.access_log(),
        labels: metadata.labels,
        service_account: account.unwrap_or_else(|| "default".into()),
        owner: None,
        addresses: Vec::new(),
        node_addresses: Vec::new(),
        finished: false,
        ports: containers.iter().flat_map(|container| container.ports()).collect(),
        probes,
    }
}

/// What owns a pod. A ReplicaSet that a Deployment made is named by the Deployment and the hash of its template.
fn owner(metadata: &PodMetadata) -> Option<Arc<str>> {
    let owner = metadata.owner_references.iter().find(|owner| owner.controller == Some(true))?;
    let deployment = metadata
        .labels
        .get("pod-template-hash")
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(&**hash)?.strip_suffix('-'));
    Some(match deployment {
        Some(deployment) => format!("Deployment/{deployment}").into(),
        None => format!("{}/{}", owner.kind, owner.name).into(),
    })
}

fn addresses(one: Option<String>, all: Vec<Address>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in one.into_iter().chain(all.into_iter().map(|address| address.ip)) {
        if let Ok(address) = address.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

// === impl Container ===

impl Container {
    fn ports(&self) -> impl Iterator<Item = ContainerPort> {
        self.ports.iter().filter_map(|port| {
            let transport = transport(port.protocol.as_deref())?;
            Some(ContainerPort { name: port.name.clone(), port: port.container_port, transport })
        })
    }

    /// What the kubelet asks of this container over the network.
    fn probes(&self) -> impl Iterator<Item = Probe> {
        let probes = [&self.liveness_probe, &self.readiness_probe, &self.startup_probe];
        let hooks = [&self.lifecycle.post_start, &self.lifecycle.pre_stop];
        probes.into_iter().chain(hooks).flatten().filter_map(|handler| self.probe(handler))
    }

    fn probe(&self, handler: &Handler) -> Option<Probe> {
        if let Some(http) = handler.http_get.as_ref().filter(|http| http.host.is_none()) {
            // Over TLS the path cannot be seen.
            let is_tls = http.scheme.as_deref() == Some("HTTPS");
            let path = if is_tls { None } else { Some(probe_path(http.path.as_deref().unwrap_or_default())?) };
            return Some(Probe { port: self.resolve(&http.port)?, path, tls: is_tls });
        }
        if let Some(tcp) = handler.tcp_socket.as_ref().filter(|tcp| tcp.host.is_none()) {
            return Some(Probe { port: self.resolve(&tcp.port)?, path: None, tls: false });
        }
        let grpc = handler.grpc.as_ref()?;
        Some(Probe { port: grpc.port, path: Some(GRPC_HEALTH_CHECK.into()), tls: false })
    }

    fn resolve(&self, port: &PortReference) -> Option<u16> {
        match port {
            PortReference::Number(port) => Some(*port),
            PortReference::Name(name) => {
                self.ports.iter().find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
            }
        }
    }
}

/// The path as the proxy compares it. `None` when no proxy would accept it.
fn probe_path(path: &str) -> Option<Arc<str>> {
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    normalize_path(&absolute).map(|path| path.as_ref().into())
}
