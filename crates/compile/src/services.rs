//! Services as clients see them, with their ready endpoints; and the protocols of the ports behind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_policy::{Endpoint, InboundPort, PodName, Protocol, Service, ServiceName, ServicePort, Split};

use crate::facts::{self, ServiceKind, Slice, SliceEndpoint, Transport};
use crate::lower::protocol_of_name;
use crate::workloads::{Member, Target, Workloads};
use crate::{Problem, ProblemReason, ResourceSet};

/// The TrafficSplits of every root, by port.
pub(crate) type Splits = HashMap<ServiceName, BTreeMap<u16, Vec<Split>>>;

/// The ready endpoints of each TCP port of a Service.
pub(crate) type Endpoints = HashMap<ServiceName, BTreeMap<u16, Vec<Endpoint>>>;

/// Finds the ready endpoints: EndpointSlices say where and when, pods say who.
pub(crate) fn endpoints(set: &ResourceSet, workloads: &Workloads<'_>) -> Endpoints {
    let mut all = Endpoints::new();
    for slice in set.slices.values().filter_map(|fact| fact.value.as_ref()) {
        let key = (slice.service.namespace.clone(), slice.service.name.clone());
        let Some(service) = set.services.get(&key).and_then(|fact| fact.value.as_ref()) else { continue };
        let ports = all.entry(service.name.clone()).or_default();
        for port in tcp_ports(service) {
            let Some(number) = slice_port(slice, &port.name) else { continue };
            let endpoints =
                slice.endpoints.iter().filter_map(|endpoint| endpoint_at(workloads, &slice.service, endpoint, number));
            ports.entry(port.port).or_default().extend(endpoints);
        }
    }
    for endpoints in all.values_mut().flat_map(BTreeMap::values_mut) {
        endpoints.sort_by(|a, b| (a.address, &a.pod).cmp(&(b.address, &b.pod)));
        endpoints.dedup();
    }
    all
}

/// The Services that clients can call, each with its splits. Names outside the cluster are not among them, and UDP
/// ports are left out: no proxy carries UDP.
pub(crate) fn services(
    set: &ResourceSet,
    mut endpoints: Endpoints,
    mut splits: Splits,
) -> BTreeMap<ServiceName, Arc<Service>> {
    let facts = set.services.values().filter_map(|fact| fact.value.as_ref());
    let inside = facts.filter(|service| service.kind != ServiceKind::External);
    let compile = |fact: &facts::Service| {
        let mut endpoints = endpoints.remove(&fact.name).unwrap_or_default();
        let mut splits = splits.remove(&fact.name).unwrap_or_default();
        let ports = tcp_ports(fact).map(|port| ServicePort {
            port: port.port,
            protocol: port.protocol,
            endpoints: endpoints.remove(&port.port).unwrap_or_default(),
            splits: splits.remove(&port.port).unwrap_or_default(),
        });
        Service { name: fact.name.clone(), addresses: fact.addresses.clone(), ports: ports.collect() }
    };
    inside.map(compile).map(|service| (service.name.clone(), Arc::new(service))).collect()
}

/// The pods of the mesh that no Service reaches, which clients may still dial by their addresses (T25).
pub(crate) fn lone_pods(
    workloads: &Workloads<'_>,
    services: &BTreeMap<ServiceName, Arc<Service>>,
) -> BTreeMap<PodName, Arc<Endpoint>> {
    let ports = services.values().flat_map(|service| &service.ports);
    let reached: BTreeSet<&PodName> = ports.flat_map(|port| &port.endpoints).map(|endpoint| &endpoint.pod).collect();
    let lone =
        workloads.all.iter().filter(|member| member.identity.is_some() && !reached.contains(&member.workload.name));
    let endpoint = |member: &Member<'_>| {
        let address = SocketAddr::new(*member.workload.addresses.first()?, 0);
        Some((member.workload.name.clone(), Arc::new(member.endpoint(address))))
    };
    lone.filter_map(endpoint).collect()
}

/// What is said of the container ports of a workload. Where two disagree nobody is believed: the proxy finds out.
pub(crate) fn inbound_ports(member: &Member<'_>, problems: &mut Vec<Problem>) -> Vec<InboundPort> {
    let mut said: BTreeMap<u16, Vec<Protocol>> = BTreeMap::new();
    let targets = || member.targets.iter().filter(|target| target.port.transport == Transport::Tcp);
    for target in targets() {
        said.entry(target.container_port).or_default().push(target.port.protocol);
    }
    for port in member.workload.ports.iter().filter(|port| port.transport == Transport::Tcp) {
        said.entry(port.port).or_default().push(protocol_of_name(port.name.as_deref().unwrap_or_default()));
    }
    let mut ports = Vec::new();
    for (port, mut protocols) in said {
        protocols.retain(|protocol| *protocol != Protocol::Detect);
        match protocols.iter().copied().reduce(both) {
            None => {}
            Some(Protocol::Detect) => {
                let target = targets().find(|target| target.container_port == port);
                problems.extend(target.map(|target| conflict(target, &protocols)));
            }
            Some(protocol) => ports.push(InboundPort { port, protocol }),
        }
    }
    ports
}

/// What a port speaks of which both is said.
fn both(one: Protocol, other: Protocol) -> Protocol {
    match (one, other) {
        _ if one == other => one,
        // HTTP includes HTTP/2 with prior knowledge.
        (Protocol::Http | Protocol::Http2, Protocol::Http | Protocol::Http2) => Protocol::Http,
        _ => Protocol::Detect,
    }
}

fn conflict(target: &Target<'_>, protocols: &[Protocol]) -> Problem {
    let names: BTreeSet<String> = protocols.iter().map(|protocol| format!("{protocol:?}").to_lowercase()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let message = format!(
        "container port {} is said to speak {}, by Services or by port names: the proxy detects it",
        target.container_port,
        names.join(" and ")
    );
    Problem::warning(target.service.at("spec.ports"), ProblemReason::ProtocolConflict, message)
        .hint("give the port the same `appProtocol`, or the same prefix of its name, everywhere")
}

pub(crate) fn tcp_ports(service: &facts::Service) -> impl Iterator<Item = &facts::ServicePort> {
    service.ports.iter().filter(|port| port.transport == Transport::Tcp)
}

fn slice_port(slice: &Slice, name: &str) -> Option<u16> {
    let is_it = |(own, _, transport): &&(Arc<str>, u16, Transport)| &**own == name && *transport == Transport::Tcp;
    slice.ports.iter().find(is_it).map(|(_, number, _)| *number)
}

/// `None` for a pod that is not known (yet): it may have a proxy, and plaintext would be a fallback. An endpoint that
/// is no pod goes by its address.
fn endpoint_at(
    workloads: &Workloads<'_>,
    service: &ServiceName,
    endpoint: &SliceEndpoint,
    port: u16,
) -> Option<Endpoint> {
    let address = SocketAddr::new(endpoint.address, port);
    match &endpoint.pod {
        Some(pod) => workloads.pod(pod).map(|member| member.endpoint(address)),
        None => {
            let name = PodName::new(service.namespace.clone(), endpoint.address.to_string());
            Some(Endpoint { address, pod: name, workload: None, identity: None })
        }
    }
}

// === impl Member ===

impl Member<'_> {
    fn endpoint(&self, address: SocketAddr) -> Endpoint {
        let Self { workload, identity, .. } = self;
        Endpoint { address, pod: workload.name.clone(), workload: workload.owner.clone(), identity: identity.clone() }
    }
}
