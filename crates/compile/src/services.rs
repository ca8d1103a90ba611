//! Services as clients see them, with their ready endpoints.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_policy::{Endpoint, PodName, Service, ServiceName, ServicePort, Split};

use crate::ResourceSet;
use crate::facts::{self, ServiceKind, Slice, SliceEndpoint, Transport};
use crate::workloads::{Member, Workloads};

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
    let reached: HashSet<&PodName> = ports.flat_map(|port| &port.endpoints).map(|endpoint| &endpoint.pod).collect();
    let lone =
        workloads.all.iter().filter(|member| member.identity.is_some() && !reached.contains(&member.workload.name));
    let endpoint = |member: &Member<'_>| {
        let address = SocketAddr::new(*member.workload.addresses.first()?, 0);
        Some((member.workload.name.clone(), Arc::new(member.endpoint(address))))
    };
    lone.filter_map(endpoint).collect()
}

pub(crate) fn tcp_ports(service: &facts::Service) -> impl Iterator<Item = &facts::ServicePort> {
    service.ports.iter().filter(|port| port.transport == Transport::Tcp)
}

fn slice_port(slice: &Slice, name: &str) -> Option<u16> {
    let is_it = |(own, _, transport): &&(Arc<str>, u16, Transport)| &**own == name && *transport == Transport::Tcp;
    slice.ports.iter().find(is_it).map(|(_, number, _)| *number)
}

/// `None` for a pod that is not known (yet): it may have a proxy, and plaintext would be a fallback. What is written by
/// hand names no pod, and may be one nevertheless; else it goes by its address.
fn endpoint_at(
    workloads: &Workloads<'_>,
    service: &ServiceName,
    endpoint: &SliceEndpoint,
    port: u16,
) -> Option<Endpoint> {
    let address = SocketAddr::new(endpoint.address, port);
    if let Some(pod) = &endpoint.pod {
        return workloads.pod(pod).map(|member| member.endpoint(address));
    }
    let outside = || Endpoint {
        address,
        pod: PodName::new(service.namespace.clone(), endpoint.address.to_string()),
        workload: None,
        identity: None,
    };
    Some(workloads.at(endpoint.address).map_or_else(outside, |member| member.endpoint(address)))
}

// === impl Member ===

impl Member<'_> {
    fn endpoint(&self, address: SocketAddr) -> Endpoint {
        let Self { workload, identity, .. } = self;
        Endpoint { address, pod: workload.name.clone(), workload: workload.owner.clone(), identity: identity.clone() }
    }
}
