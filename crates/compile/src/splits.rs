//! TrafficSplits to the splits of their roots' ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy::{Backend, HttpMatch, Protocol, ServiceName, Split};
use heddle_smi::TrafficSplit;

use crate::facts::{Fact, Service, ServiceKind, Transport};
use crate::missing::{self, Elsewhere};
use crate::services::{Endpoints, Splits, tcp_ports};
use crate::settings::Settings;
use crate::{Problem, ProblemReason, ResourceSet};

/// Compiles the splits in order of age: those with matches are tried first, and of those without one counts (T21).
pub(crate) fn splits(
    set: &ResourceSet,
    settings: &Settings,
    endpoints: &Endpoints,
    problems: &mut Vec<Problem>,
) -> Splits {
    let mut contexts: Vec<Context<'_>> = Vec::new();
    for fact in set.splits.values() {
        let context = fact.value.as_ref().and_then(|split| {
            Context::new(set, settings, endpoints, fact, split).map_err(|found| problems.extend(found)).ok()
        });
        contexts.extend(context);
    }
    contexts.sort_by_key(Context::age);
    let contexts = without_conflicts(contexts, problems);
    let roots: BTreeSet<&ServiceName> = contexts.iter().map(|context| &context.root.name).collect();
    let mut splits = Splits::new();
    for has_matches in [true, false] {
        for context in contexts.iter().filter(|context| context.has_matches() == has_matches) {
            context.nested(&roots, problems);
            for (port, split) in context.compile(problems) {
                splits.entry(context.root.name.clone()).or_default().entry(port).or_default().push(split);
            }
        }
    }
    splits
}

fn without_conflicts<'a>(contexts: Vec<Context<'a>>, problems: &mut Vec<Problem>) -> Vec<Context<'a>> {
    let mut first: BTreeMap<&ServiceName, &Fact<TrafficSplit>> = BTreeMap::new();
    let mut rest = Vec::new();
    for context in contexts {
        if context.has_matches() {
            rest.push(context);
            continue;
        }
        match first.get(&context.root.name) {
            Some(winner) => {
                let message = format!(
                    "the TrafficSplit `{}` already splits all traffic of `{}`: this one has no effect",
                    winner.origin.name, context.root.name
                );
                let problem = Problem::error(context.fact.at("spec.service"), ProblemReason::Conflicted, message);
                problems.push(problem.hint("the older one counts; delete one, or give this one `matches`"));
            }
            None => {
                first.insert(&context.root.name, context.fact);
                rest.push(context);
            }
        }
    }
    rest
}

/// One split that is being compiled. Its root and its backends' names are resolved.
struct Context<'a> {
    set: &'a ResourceSet,
    endpoints: &'a Endpoints,
    fact: &'a Fact<TrafficSplit>,
    split: &'a TrafficSplit,
    root: &'a Service,
    /// In the order in which they are written.
    backends: Vec<ServiceName>,
}

// === impl Context ===

impl<'a> Context<'a> {
    fn new(
        set: &'a ResourceSet,
        settings: &Settings,
        endpoints: &'a Endpoints,
        fact: &'a Fact<TrafficSplit>,
        split: &'a TrafficSplit,
    ) -> Result<Self, Vec<Problem>> {
        let name = |field: &str, text: &str| service_name(fact, field, text, &settings.cluster_domain);
        let root = name("spec.service", &split.spec.service).and_then(|root| root_service(set, fact, &root));
        let mut problems = Vec::new();
        let mut backends = Vec::new();
        for (number, backend) in split.spec.backends.iter().enumerate() {
            let field = format!("spec.backends[{number}].service");
            match name(&field, &backend.service) {
                Ok(backend) if backends.contains(&backend) => {
                    let message = format!("`{backend}` is a backend already: the split has no effect");
                    let problem = Problem::error(fact.at(&field), ProblemReason::DuplicateBackend, message);
                    problems.push(problem.hint("name every Service once, with the sum of its weights"));
                }
                Ok(backend) => backends.push(backend),
                Err(problem) => problems.push(*problem),
            }
        }
        match root {
            Ok(root) if problems.is_empty() => Ok(Self { set, endpoints, fact, split, root, backends }),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(*problem);
                Err(problems)
            }
        }
    }

    /// Oldest first; what has no age, in manifests, last and by name.
    fn age(&self) -> (bool, Option<Arc<str>>, Arc<str>, Arc<str>) {
        let (created, origin) = (&self.fact.created, &self.fact.origin);
        (created.is_none(), created.clone(), origin.namespace.clone(), origin.name.clone())
    }

    fn has_matches(&self) -> bool {
        !self.split.spec.matches.is_empty()
    }

    /// The split at every port of its root.
    fn compile(&self, problems: &mut Vec<Problem>) -> Vec<(u16, Split)> {
        let matches = self.has_matches().then(|| self.matches(problems));
        if self.split.spec.backends.iter().all(|backend| backend.weight == 0) {
            let message = "every weight is zero: nobody receives traffic, and clients are answered 503";
            let origin = self.fact.at("spec.backends");
            let problem = Problem::warning(origin, ProblemReason::AllWeightsZero, message);
            problems.push(problem.hint("give a backend a weight, or delete the split to send all to the root"));
        }
        problems.extend(self.udp_ports());
        let services = self.resolve_backends(problems);
        let ports: Vec<u16> = tcp_ports(self.root).map(|port| port.port).collect();
        ports
            .into_iter()
            .map(|port| {
                let backends = self.backends_at(port, &services, problems);
                (port, Split { origin: self.fact.origin.clone(), matches: matches.clone(), backends })
            })
            .collect()
    }

    /// Says which ports of the root are not split, because no proxy carries UDP (T30).
    fn udp_ports(&self) -> impl Iterator<Item = Problem> {
        let ports = self.root.ports.iter().filter(|port| port.transport == Transport::Udp);
        ports.map(|port| {
            let message = format!("port {} of the root is UDP, which no proxy carries: it is not split", port.port);
            Problem::warning(self.fact.at("spec.service"), ProblemReason::UdpNotCarried, message)
                .hint("its TCP ports are split all the same")
        })
    }

    /// The matches of all groups that the split names, as one (T15, T16). A group that is missing adds nothing, and
    /// never everything (T17).
    fn matches(&self, problems: &mut Vec<Problem>) -> Vec<Arc<HttpMatch>> {
        for port in tcp_ports(self.root).filter(|port| port.protocol == Protocol::Tcp) {
            let message = format!("port {} of the root speaks TCP: `matches` keep the split from it", port.port);
            let problem = Problem::warning(self.fact.at("spec.matches"), ProblemReason::MatchesOnTcp, message);
            problems.push(problem.hint("if it carries HTTP, write `appProtocol: http` in the Service"));
        }
        let mut all = Vec::new();
        for (number, reference) in self.split.spec.matches.iter().enumerate() {
            let namespace = &self.fact.origin.namespace;
            let fact = self.set.groups.get(&(namespace.clone(), reference.name.as_str().into()));
            match fact.and_then(|fact| fact.value.as_ref()) {
                Some(group) => all.extend(group.matches.iter().map(|(_, found)| found.clone())),
                None => {
                    let state = if fact.is_some() { "is not valid" } else { "does not exist" };
                    let message = format!(
                        "the HTTPRouteGroup `{namespace}/{}` {state}: it sends nothing to the split",
                        reference.name
                    );
                    let origin = self.fact.at(&format!("spec.matches[{number}]"));
                    let groups = &self.set.groups;
                    let hint = missing::hint(groups, "HTTPRouteGroup", namespace, &reference.name, Elsewhere::Ignored);
                    problems.push(Problem::error(origin, ProblemReason::RefNotFound, message).hint(hint));
                }
            }
        }
        all
    }

    /// The Services of the backends that can receive traffic, with their numbers (T9, T36).
    fn resolve_backends(&self, problems: &mut Vec<Problem>) -> Vec<(usize, &'a Service)> {
        let mut services = Vec::new();
        for (number, name) in self.backends.iter().enumerate() {
            let origin = self.fact.at(&format!("spec.backends[{number}].service"));
            match find(self.set, name) {
                Some(service) if service.kind == ServiceKind::External => {
                    let message = format!("`{name}` is a name outside the cluster: it receives nothing");
                    let problem = Problem::error(origin, ProblemReason::UnsupportedBackend, message);
                    problems.push(problem.hint("name a Service that has pods"));
                }
                Some(service) => services.push((number, service)),
                // It may be made later, and until then has nothing to receive (T8).
                None if self.split.spec.backends[number].weight == 0 => {}
                None => {
                    let message = format!("the Service `{name}` does not exist: its share goes to the others");
                    let problem = Problem::error(origin, ProblemReason::RefNotFound, message);
                    problems.push(problem.hint(no_service(self.set, name)));
                }
            }
        }
        services
    }

    /// The backends that have this port (T10).
    fn backends_at(&self, port: u16, services: &[(usize, &'a Service)], problems: &mut Vec<Problem>) -> Vec<Backend> {
        let mut backends = Vec::new();
        for (number, service) in services {
            let weight = self.split.spec.backends[*number].weight;
            let origin = self.fact.at(&format!("spec.backends[{number}]"));
            if !tcp_ports(service).any(|own| own.port == port) {
                problems.push(self.port_mismatch(port, service, origin));
                continue;
            }
            if weight > 0 && self.is_known_empty(service, port) {
                let message =
                    format!("`{}` has no ready endpoint at port {port}: its share goes to the others", service.name);
                let problem = Problem::warning(origin.clone(), ProblemReason::NoReadyEndpoints, message);
                problems.push(problem.hint("its pods are not ready, or its selector selects none"));
            }
            backends.push(Backend { origin, service: service.name.clone(), weight });
        }
        // Weights that are all zero say that nobody shall receive traffic. Those that are left over do not say so.
        let is_meant = self.split.spec.backends.iter().all(|backend| backend.weight == 0);
        if !is_meant && backends.iter().all(|backend| backend.weight == 0) {
            backends.clear();
        }
        backends
    }

    fn port_mismatch(&self, port: u16, service: &Service, origin: heddle_policy::Origin) -> Problem {
        let own: Vec<String> = tcp_ports(service).map(|port| port.port.to_string()).collect();
        let message = format!(
            "`{}` has no port {port} as the root has (it has {}): it receives nothing from that port",
            service.name,
            if own.is_empty() { "none".to_owned() } else { own.join(", ") }
        );
        Problem::warning(origin, ProblemReason::PortMismatch, message)
            .hint("ports are matched by number; `targetPort` may differ")
    }

    /// Whether the cluster says that there is no endpoint: a directory of manifests says nothing.
    fn is_known_empty(&self, service: &Service, port: u16) -> bool {
        let ports = self.endpoints.get(&service.name);
        ports.is_some_and(|ports| ports.get(&port).is_none_or(Vec::is_empty))
    }

    /// Says where splits would meet, and do not (T19, T20).
    fn nested(&self, roots: &BTreeSet<&ServiceName>, problems: &mut Vec<Problem>) {
        for (number, name) in self.backends.iter().enumerate() {
            let origin = self.fact.at(&format!("spec.backends[{number}].service"));
            if *name == self.root.name {
                let message = "the root is its own backend: its share goes to the root's plain endpoints";
                let problem = Problem::warning(origin, ProblemReason::SelfReference, message);
                problems.push(problem.hint("name a Service of the stable pods alone if the root selects more"));
            } else if roots.contains(name) {
                let message = format!("`{name}` is the root of another split, which is not followed from here");
                let problem = Problem::warning(origin, ProblemReason::NestedSplit, message);
                problems.push(problem.hint("name the backends of that split here"));
            }
        }
        if self.root.kind == ServiceKind::Headless {
            let message = "the root is headless: clients that dial its pods by address bypass the split";
            let problem = Problem::warning(self.fact.at("spec.service"), ProblemReason::HeadlessRoot, message);
            problems.push(problem.hint("give the Service a ClusterIP, or let clients call it by its name"));
        }
    }
}

fn find<'a>(set: &'a ResourceSet, name: &ServiceName) -> Option<&'a Service> {
    set.services.get(&(name.namespace.clone(), name.name.clone()))?.value.as_ref()
}

/// The root must be a Service of the cluster (T23).
fn root_service<'a>(
    set: &'a ResourceSet,
    fact: &Fact<TrafficSplit>,
    name: &ServiceName,
) -> Result<&'a Service, Box<Problem>> {
    let (reason, message, hint) = match find(set, name) {
        Some(service) if service.kind != ServiceKind::External => return Ok(service),
        Some(_) => {
            let message = format!("the root `{name}` is a name outside the cluster");
            (ProblemReason::UnsupportedRoot, message, "name a Service that has pods".to_owned())
        }
        None => {
            let message = format!("the root Service `{name}` does not exist");
            (ProblemReason::RootNotFound, message, no_service(set, name))
        }
    };
    let message = format!("{message}: the split has no effect");
    Err(Problem::error(fact.at("spec.service"), reason, message).hint(hint).into())
}

fn no_service(set: &ResourceSet, name: &ServiceName) -> String {
    missing::hint(&set.services, "Service", &name.namespace, &name.name, Elsewhere::Ignored)
}

/// Reads any DNS form of a Service of the split's own namespace (T1, T22).
fn service_name(
    fact: &Fact<TrafficSplit>,
    field: &str,
    text: &str,
    cluster_domain: &str,
) -> Result<ServiceName, Box<Problem>> {
    let namespace = &fact.origin.namespace;
    let lower = text.to_ascii_lowercase();
    let relative = lower.strip_suffix('.').unwrap_or(&lower);
    let (name, domain) = relative.split_once('.').unwrap_or((relative, ""));
    let own =
        [String::new(), namespace.to_string(), format!("{namespace}.svc"), format!("{namespace}.svc.{cluster_domain}")];
    if !name.is_empty() && own.iter().any(|own| own == domain) {
        return Ok(ServiceName::new(namespace.clone(), name));
    }
    let message =
        format!("`{text}` is not the name of a Service in the namespace `{namespace}`: the split has no effect");
    Err(Problem::error(fact.at(field), ProblemReason::ForeignService, message)
        .hint(format!("a split and its Services are in one namespace; write the name, or `<name>.{namespace}.svc`"))
        .into())
}
