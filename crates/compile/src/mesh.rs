//! The whole mesh as a value, and the part of it that one proxy is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_policy::{Endpoint, Inbound, PodName, ProxyConfig, Service, ServiceName, Settings};

use crate::access::{Access, access, udp_routes};
use crate::identities::Identities;
use crate::protocol::inbound_ports;
use crate::services::{endpoints, lone_pods, services};
use crate::splits::splits;
use crate::status::statuses;
use crate::workloads::{Workloads, workloads};
use crate::{Problem, ResourceSet, ResourceStatus, settings};

/// What [`compile`] gives.
#[derive(Clone, PartialEq, Debug)]
pub struct Compiled {
    pub mesh: Mesh,
    /// Ordered by resource and field.
    pub problems: Vec<Problem>,
    /// One of every SMI resource.
    pub statuses: Vec<ResourceStatus>,
}

/// What every proxy of the mesh does. Parts are shared, so that a clone or a projection copies pointers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mesh {
    services: Arc<BTreeMap<ServiceName, Arc<Service>>>,
    lone_pods: Arc<BTreeMap<PodName, Arc<Endpoint>>>,
    proxies: BTreeMap<PodName, Proxy>,
}

#[derive(Clone, PartialEq, Debug)]
struct Proxy {
    settings: Arc<Settings>,
    inbound: Arc<Inbound>,
}

/// Compiles the whole set. It always gives a mesh: what is wrong is left out, and said in the problems.
pub fn compile(set: &ResourceSet) -> Compiled {
    let mut problems = set.problems();
    let settings = settings::settings(set, &mut problems);
    let workloads = workloads(set, &settings, &mut problems);
    let endpoints = endpoints(set, &workloads);
    let splits = splits(set, &settings, &endpoints, &mut problems);
    let identities = Identities { set, settings: &settings, workloads: &workloads };
    identities.bindings(&mut problems);
    let access = access(&identities, &mut problems);
    let proxies = proxies(&settings, &workloads, access, &mut problems);
    udp_routes(set, &mut problems);
    let services = services(set, endpoints, splits);
    let lone_pods = lone_pods(&workloads, &services);
    problems.sort();
    problems.dedup();
    let statuses = statuses(set, &problems);
    let mesh = Mesh { services: Arc::new(services), lone_pods: Arc::new(lone_pods), proxies };
    Compiled { mesh, problems, statuses }
}

/// Every pod of the mesh, with what its own proxy does. Templates are looked at for their problems only.
fn proxies(
    settings: &settings::Settings,
    workloads: &Workloads<'_>,
    access: Access,
    problems: &mut Vec<Problem>,
) -> BTreeMap<PodName, Proxy> {
    let mut proxies = BTreeMap::new();
    for (member, authorizations) in workloads.all.iter().zip(access) {
        let ports = inbound_ports(member, problems);
        let workload = member.workload;
        let Some(identity) = member.identity.clone().filter(|_| !workload.is_template) else { continue };
        let inbound = Inbound {
            mode: settings.mode(&workload.name.namespace),
            ports,
            authorizations,
            probes: workload.probes.clone(),
            node_addresses: workload.node_addresses.clone(),
        };
        let settings = Settings {
            pod: workload.name.clone(),
            workload: workload.owner.clone(),
            identity,
            cluster_domain: settings.cluster_domain.clone(),
            access_log: member.access_log,
            tracing: settings.tracing.clone(),
        };
        let proxy = Proxy { settings: Arc::new(settings), inbound: Arc::new(inbound) };
        proxies.insert(workload.name.clone(), proxy);
    }
    proxies
}

// === impl Mesh ===

impl Mesh {
    /// What the proxy of this pod is told; `None` when the pod is not in the mesh. Every proxy knows all Services, so
    /// that what it may not call is refused by the server with its reason, and not for want of a name.
    pub fn proxy_config(&self, pod: &PodName) -> Option<ProxyConfig> {
        let proxy = self.proxies.get(pod)?;
        Some(ProxyConfig {
            settings: Some(proxy.settings.clone()),
            inbound: proxy.inbound.clone(),
            services: self.services.clone(),
            pods: self.lone_pods.clone(),
        })
    }

    /// The pods of the mesh: those that have a proxy.
    pub fn pods(&self) -> impl Iterator<Item = &PodName> {
        self.proxies.keys()
    }

    /// The Services of the cluster, as every proxy knows them.
    pub fn services(&self) -> &BTreeMap<ServiceName, Arc<Service>> {
        &self.services
    }
}
