//! A configuration and the indexes over it: built once for each change, then only read.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use heddle_policy::{Endpoint, Protocol, ProxyConfig, Service, ServiceName, ServicePort};

/// One configuration. A request is decided by one of them from its head to its end.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) config: Arc<ProxyConfig>,
    /// Counts the configurations since the start; 0 for none yet.
    pub(crate) revision: u64,
    ports: Vec<Port>,
    by_address: HashMap<SocketAddr, PortId>,
    by_service: HashMap<(ServiceName, u16), PortId>,
    /// Every pod of the mesh that is known, by address.
    by_pod: HashMap<IpAddr, Endpoint>,
    /// What the Services say of pods' ports.
    protocols: HashMap<SocketAddr, Protocol>,
}

/// A port of a Service, valid within one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PortId(usize);

#[derive(Debug)]
struct Port {
    service: Arc<Service>,
    /// Among the ports of the service.
    at: usize,
    /// For each backend of each split: the port that its share goes to, if its Service is known.
    backends: Vec<Vec<Option<PortId>>>,
}

impl Snapshot {
    pub(crate) fn new(config: Arc<ProxyConfig>, revision: u64) -> Self {
        let mut snapshot = Self { revision, ..Self::default() };
        for service in config.services.values() {
            for (at, port) in service.ports.iter().enumerate().filter(|(_, port)| port.protocol != Protocol::Udp) {
                snapshot.add(service, at, port);
            }
        }
        for pod in config.pods.values() {
            snapshot.by_pod.insert(pod.address.ip(), Endpoint::clone(pod));
        }
        for at in 0..snapshot.ports.len() {
            snapshot.ports[at].backends = snapshot.backends_of(&snapshot.ports[at]);
        }
        snapshot.config = config;
        snapshot
    }

    fn add(&mut self, service: &Arc<Service>, at: usize, port: &ServicePort) {
        let id = PortId(self.ports.len());
        self.by_service.insert((service.name.clone(), port.port), id);
        for address in &service.addresses {
            self.by_address.insert(SocketAddr::new(*address, port.port), id);
        }
        for endpoint in &port.endpoints {
            self.by_pod.insert(endpoint.address.ip(), endpoint.clone());
            let known = self.protocols.entry(endpoint.address).or_insert(port.protocol);
            if *known == Protocol::Detect {
                *known = port.protocol;
            }
        }
        self.ports.push(Port { service: service.clone(), at, backends: Vec::new() });
    }

    fn backends_of(&self, port: &Port) -> Vec<Vec<Option<PortId>>> {
        let port = &port.service.ports[port.at];
        let find = |service: &ServiceName| self.by_service.get(&(service.clone(), port.port)).copied();
        port.splits.iter().map(|split| split.backends.iter().map(|backend| find(&backend.service)).collect()).collect()
    }

    /// The port of a Service at one of its ClusterIPs.
    pub(crate) fn at_address(&self, address: SocketAddr) -> Option<PortId> {
        self.by_address.get(&address).copied()
    }

    pub(crate) fn of_service(&self, service: &ServiceName, port: u16) -> Option<PortId> {
        self.by_service.get(&(service.clone(), port)).copied()
    }

    pub(crate) fn service(&self, id: PortId) -> &Arc<Service> {
        &self.ports[id.0].service
    }

    pub(crate) fn port(&self, id: PortId) -> &ServicePort {
        let port = &self.ports[id.0];
        &port.service.ports[port.at]
    }

    /// The port that a backend's share goes to; `None` while its Service is unknown.
    pub(crate) fn backend(&self, id: PortId, split: usize, backend: usize) -> Option<PortId> {
        self.ports[id.0].backends[split][backend]
    }

    /// The pod at this address, as an endpoint at the port that is dialled (T25).
    pub(crate) fn pod_at(&self, address: SocketAddr) -> Option<Endpoint> {
        self.by_pod.get(&address.ip()).map(|pod| Endpoint { address, ..pod.clone() })
    }

    /// What a pod's port speaks, as far as a Service says it.
    pub(crate) fn protocol_at(&self, address: SocketAddr) -> Protocol {
        self.protocols.get(&address).copied().unwrap_or_default()
    }

    /// The Service that a host name means, in each form that the cluster's DNS knows (T1): `name`, `name.namespace`,
    /// `name.namespace.svc` and `name.namespace.svc.<cluster domain>`, with or without a dot at the end.
    pub(crate) fn service_named(&self, host: &str) -> Option<ServiceName> {
        let settings = self.config.settings.as_ref()?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let (name, rest) = host.split_once('.').unwrap_or((&host, ""));
        let (namespace, rest) = match rest.split_once('.') {
            Some(parts) => parts,
            None if rest.is_empty() => (&*settings.pod.namespace, "svc"),
            None => (rest, "svc"),
        };
        let domain = rest.strip_prefix("svc")?;
        let is_ours = domain.is_empty() || domain.strip_prefix('.') == Some(&settings.cluster_domain);
        let name = ServiceName::new(namespace, name);
        (is_ours && self.config.services.contains_key(&name)).then_some(name)
    }
}
