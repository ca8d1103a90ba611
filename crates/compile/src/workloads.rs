//! Pods and templates of the whole set: who is in the mesh with which identity, what selectors select, and which
//! container ports the Services' ports mean.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heddle_policy::{AccessLog, Origin, PodName, SpiffeId};

use crate::facts::{Fact, Labels, Service, ServicePort, Transport, UnknownInject, Workload};
use crate::lower::INJECT_LABEL;
use crate::settings::Settings;
use crate::{Problem, ProblemReason, ResourceSet};

/// The namespaces whose pods have no proxy.
const OUTSIDE: [&str; 2] = ["heddle-system", "kube-system"];

/// Every workload, with indexes. Others refer to a workload by its number in `all`.
#[derive(Default)]
pub(crate) struct Workloads<'a> {
    pub(crate) all: Vec<Member<'a>>,
    by_pod: HashMap<&'a PodName, usize>,
    /// Pods of the mesh only: others share addresses with their node.
    by_address: HashMap<IpAddr, usize>,
    /// By namespace and ServiceAccount.
    by_account: HashMap<&'a str, HashMap<&'a str, Vec<usize>>>,
    /// By namespace, key and value.
    by_label: HashMap<&'a str, HashMap<&'a str, HashMap<&'a str, Vec<usize>>>>,
}

/// A workload and its place in the mesh.
pub(crate) struct Member<'a> {
    pub(crate) workload: &'a Workload,
    /// Absent outside the mesh.
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) access_log: AccessLog,
    /// What Services' ports mean on it.
    pub(crate) targets: Vec<Target<'a>>,
}

/// A port of a Service, on one workload that the Service selects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) service: &'a Fact<Service>,
    pub(crate) port: &'a ServicePort,
    pub(crate) container_port: u16,
}

/// Finds who is in the mesh, and with which identity.
pub(crate) fn workloads<'a>(set: &'a ResourceSet, settings: &Settings, problems: &mut Vec<Problem>) -> Workloads<'a> {
    let mut workloads = Workloads::default();
    let mut identities = HashMap::new();
    for fact in set.pods.values().chain(set.templates.values()) {
        let Some(workload) = fact.value.as_ref().filter(|workload| !workload.finished) else { continue };
        let account = (&*workload.name.namespace, &*workload.service_account);
        let identity = identities
            .entry(account)
            .or_insert_with(|| SpiffeId::of_service_account(&settings.trust_domain, account.0, account.1).ok());
        if identity.is_none() {
            let message = format!("no identity can be made of the ServiceAccount `{}`: it has no proxy", account.1);
            let problem = Problem::error(fact.at_pod("spec.serviceAccountName"), ProblemReason::Invalid, message);
            problems.push(problem.hint("a ServiceAccount is named by lower-case letters, digits, `-` and `.`"));
        }
        let identity = identity.clone().filter(|_| is_in_mesh(set, workload));
        let access_log = settings.access_log(fact, workload, problems);
        problems.extend(unknown_inject(&workload.unknown_inject, |label| fact.at_pod(label)));
        workloads.insert(Member { workload, identity, access_log, targets: Vec::new() });
    }
    for fact in set.namespaces.values() {
        let text = fact.value.as_ref().and_then(|namespace| namespace.unknown_inject.clone());
        problems.extend(unknown_inject(&text, |label| fact.at(label)));
    }
    for service in set.services.values() {
        workloads.map_ports(service, problems);
    }
    workloads
}

fn is_in_mesh(set: &ResourceSet, workload: &Workload) -> bool {
    let namespace = &workload.name.namespace;
    let fact = set.namespaces.get(&(Arc::default(), namespace.clone()));
    let is_out = fact.and_then(|fact| fact.value.as_ref()).is_some_and(|namespace| namespace.opted_out);
    !workload.opted_out && !is_out && !OUTSIDE.contains(&&**namespace)
}

/// Of a label that was meant to keep pods out of the mesh, and does not. `at` gives the place of the label.
fn unknown_inject(text: &UnknownInject, at: impl Fn(&str) -> Origin) -> Option<Problem> {
    let text = text.as_ref()?;
    let message = format!("`{text}` means nothing here; it is as if there were no label");
    let problem = Problem::warning(at(&format!("metadata.labels[{INJECT_LABEL}]")), ProblemReason::Doubtful, message);
    Some(problem.hint("`disabled` keeps pods out of the mesh, `enabled` is the default"))
}

// === impl Workloads ===

impl<'a> Workloads<'a> {
    fn insert(&mut self, member: Member<'a>) {
        let (workload, number) = (member.workload, self.all.len());
        let namespace = &*workload.name.namespace;
        if !workload.is_template {
            self.by_pod.insert(&workload.name, number);
        }
        if member.identity.is_some() {
            self.by_address.extend(workload.addresses.iter().map(|&address| (address, number)));
        }
        let accounts = self.by_account.entry(namespace).or_default();
        accounts.entry(&workload.service_account).or_default().push(number);
        let labels = self.by_label.entry(namespace).or_default();
        for (key, value) in &workload.labels {
            labels.entry(key).or_default().entry(value).or_default().push(number);
        }
        self.all.push(member);
    }

    pub(crate) fn pod(&self, name: &PodName) -> Option<&Member<'a>> {
        self.by_pod.get(name).map(|&number| &self.all[number])
    }

    /// The pod of the mesh that has this address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Member<'a>> {
        self.by_address.get(&address).map(|&number| &self.all[number])
    }

    /// The workloads that run as a ServiceAccount.
    pub(crate) fn of_account(&self, namespace: &str, name: &str) -> &[usize] {
        self.by_account.get(namespace).and_then(|accounts| accounts.get(name)).map_or(&[], Vec::as_slice)
    }

    /// The workloads of `namespace` that have all of `labels`. An empty selector selects nothing (I7).
    pub(crate) fn select(&self, namespace: &str, labels: &Labels) -> Vec<usize> {
        let own = self.by_label.get(namespace);
        let with = |(key, value): (&Arc<str>, &Arc<str>)| {
            own.and_then(|own| own.get(&**key)?.get(&**value)).map_or(&[][..], Vec::as_slice)
        };
        let Some(fewest) = labels.iter().map(with).min_by_key(|numbers| numbers.len()) else { return Vec::new() };
        let has_all = |number: &usize| {
            let own = &self.all[*number].workload.labels;
            labels.iter().all(|(key, value)| own.get(key) == Some(value))
        };
        fewest.iter().copied().filter(has_all).collect()
    }

    /// Notes on the workloads that `service` selects which of their ports it means (T12, T13).
    fn map_ports(&mut self, fact: &'a Fact<Service>, problems: &mut Vec<Problem>) {
        let Some(service) = &fact.value else { return };
        let selected = self.select(&service.name.namespace, &service.selector);
        for (number, port) in service.ports.iter().enumerate() {
            let mut found = selected.is_empty();
            for &member in &selected {
                let member = &mut self.all[member];
                if let Some(container_port) = member.workload.resolve(&port.target, port.transport) {
                    member.targets.push(Target { service: fact, port, container_port });
                    found = true;
                }
            }
            if !found {
                let origin = fact.at(&format!("spec.ports[{number}].targetPort"));
                let message = "no selected workload has a container port of this name: the port has no endpoints";
                let problem = Problem::warning(origin, ProblemReason::TargetPortNotFound, message);
                problems.push(problem.hint("give a container port this name, or write its number here"));
            }
        }
    }
}

// === impl Member ===

impl Member<'_> {
    /// The container ports that `port` means here to the author of a target (S16): itself when the workload has or is
    /// sent to such a port, or when no Service has it; otherwise what the Services' port of this number maps to.
    pub(crate) fn container_ports(&self, port: u16, transport: Transport) -> BTreeSet<u16> {
        let targets = || self.targets.iter().filter(|target| target.port.transport == transport);
        let declared = self.workload.ports.iter().any(|own| own.port == port && own.transport == transport);
        let is_container_port = declared || targets().any(|target| target.container_port == port);
        let mapped: BTreeSet<u16> =
            targets().filter(|target| target.port.port == port).map(|target| target.container_port).collect();
        if is_container_port || mapped.is_empty() { BTreeSet::from([port]) } else { mapped }
    }
}
