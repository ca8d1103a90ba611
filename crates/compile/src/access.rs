//! TrafficTargets to authorizations, for the workloads that they are about.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_policy::{Authorization, HttpMatch, Ports};
use heddle_smi::{PortMatch, RouteKind, Rule, TrafficTarget};

use crate::facts::{Fact, Transport};
use crate::identities::Identities;
use crate::resource_set::Facts;
use crate::{Problem, ProblemReason, ResourceSet};

/// What each workload grants, by its number.
pub(crate) type Access = Vec<Vec<Arc<Authorization>>>;

/// The layers of one target (A16). A layer that a rule of it mentions is there, however little of it resolves: what
/// is missing never widens what is left.
#[derive(Default)]
struct Layers {
    tcp: Option<Ports>,
    http: Option<Vec<Arc<HttpMatch>>>,
    udp: Option<Ports>,
}

/// Compiles every target on its own: one that is not valid, or does not resolve, costs only itself (A2, A9).
pub(crate) fn access(identities: &Identities<'_>, problems: &mut Vec<Problem>) -> Access {
    let mut access = vec![Vec::new(); identities.workloads.all.len()];
    for fact in identities.set.targets.values() {
        let Some(target) = &fact.value else { continue };
        let mut context = Context { identities, fact, target, members: Vec::new(), problems };
        if let Some(authorization) = context.authorization().map(Arc::new) {
            context.members.into_iter().for_each(|number| access[number].push(authorization.clone()));
        }
    }
    access
}

/// Says of every UDPRoute that it has no effect yet.
pub(crate) fn udp_routes(set: &ResourceSet, problems: &mut Vec<Problem>) {
    for fact in set.udp_routes.values().filter(|fact| fact.value.is_some()) {
        let message = "the route is kept, and has no effect yet: no proxy carries UDP";
        problems.push(Problem::warning(fact.origin.clone(), ProblemReason::UdpNotCarried, message));
    }
}

/// One target that is being compiled.
struct Context<'a> {
    identities: &'a Identities<'a>,
    fact: &'a Fact<TrafficTarget>,
    target: &'a TrafficTarget,
    /// The workloads of its destination, by number.
    members: Vec<usize>,
    problems: &'a mut Vec<Problem>,
}

// === impl Context ===

impl<'a> Context<'a> {
    /// What the target grants to the workloads in `members`; `None` when it grants nothing.
    fn authorization(&mut self) -> Option<Authorization> {
        let spec = &self.target.spec;
        if self.is_foreign() {
            let message = "the destination is in another namespace than the target: the target grants nothing";
            let problem = self.error("spec.destination.namespace", ProblemReason::ForeignTarget, message);
            self.problems.push(problem.hint(
                "move the target to its destination's namespace, or set `allowForeignTargets` in the MeshConfig",
            ));
            return None;
        }
        self.members = self.identities.destination(self.fact, &spec.destination, self.problems);
        let sources = self.identities.sources(self.fact, &spec.sources, self.problems);
        let Layers { tcp, http, udp } = self.layers();
        let grants = tcp.is_some() || http.is_some() || udp.is_some();
        let origin = self.fact.origin.clone();
        (grants && !sources.is_empty()).then_some(Authorization { origin, sources, tcp, http, udp })
    }

    /// Whether the destination is in another namespace, which the mesh does not allow unless it says so (A23, A25).
    fn is_foreign(&self) -> bool {
        let namespace = self.target.spec.destination.namespace.as_deref();
        let is_other = namespace.is_some_and(|namespace| namespace != &*self.fact.origin.namespace);
        is_other && !self.identities.settings.allow_foreign_targets
    }

    fn layers(&mut self) -> Layers {
        let (target, set) = (self.target, self.identities.set);
        let mut layers = Layers::default();
        for (number, rule) in target.spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{number}]");
            match rule.kind {
                RouteKind::HttpRouteGroup => {
                    layers.http.get_or_insert_default().extend(self.http(rule, &field));
                }
                RouteKind::TcpRoute => {
                    let route = self.resolve(&set.tcp_routes, rule, &field).map(|route| &route.spec.matches);
                    let ports = self.ports(route, rule, &field, Transport::Tcp);
                    layers.tcp = Some(either(layers.tcp.take(), ports));
                }
                RouteKind::UdpRoute => {
                    let route = self.resolve(&set.udp_routes, rule, &field).map(|route| &route.spec.matches);
                    let ports = self.ports(route, rule, &field, Transport::Udp);
                    layers.udp = Some(either(layers.udp.take(), ports));
                    let message = "the rule is kept, and has no effect yet: no proxy carries UDP";
                    self.problems.push(Problem::note(self.fact.at(&field), ProblemReason::UdpNotCarried, message));
                }
            }
        }
        self.constrain(layers)
    }

    /// Applies `destination.port` of the old versions to every layer (A14).
    fn constrain(&mut self, layers: Layers) -> Layers {
        let port = match self.target.port() {
            Ok(None) => return layers,
            Ok(Some(port)) => port,
            Err(invalid) => {
                self.problems.push(Problem::refused(&self.fact.origin, &invalid));
                return Layers::default();
            }
        };
        let Layers { tcp, http, udp } = layers;
        let mut limit = |ports, transport| match ports {
            Ports::All => Ports::Only(self.container_ports(&[port], "spec.destination.port", transport)),
            Ports::Only(ports) => {
                Ports::Only(&ports & &self.container_ports(&[port], "spec.destination.port", transport))
            }
        };
        let tcp = tcp.or(http.is_some().then_some(Ports::All)).map(|ports| limit(ports, Transport::Tcp));
        Layers { tcp, http, udp: udp.map(|ports| limit(ports, Transport::Udp)) }
    }

    /// The matches that a rule names; all of the group when it names none (A6, A7).
    fn http(&mut self, rule: &Rule, field: &str) -> Vec<Arc<HttpMatch>> {
        let Some(group) = self.resolve(&self.identities.set.groups, rule, field) else { return Vec::new() };
        if rule.matches.is_empty() {
            return group.matches.iter().map(|(_, found)| found.clone()).collect();
        }
        let mut all = Vec::new();
        for (number, name) in rule.matches.iter().enumerate() {
            match group.matches.iter().find(|(own, _)| **own == **name) {
                Some((_, found)) => all.push(found.clone()),
                None => self.no_match(rule, number, field),
            }
        }
        all
    }

    /// The ports of a route, as container ports. The names in `rule.matches` can only be that of the route's one match.
    fn ports(&mut self, route: Option<&PortMatch>, rule: &Rule, field: &str, transport: Transport) -> Ports {
        let Some(route) = route else { return Ports::Only(BTreeSet::new()) };
        let mut is_named = rule.matches.is_empty();
        for (number, name) in rule.matches.iter().enumerate() {
            match route.name.as_ref() == Some(name) {
                true => is_named = true,
                false => self.no_match(rule, number, field),
            }
        }
        match route.ports.as_slice() {
            _ if !is_named => Ports::Only(BTreeSet::new()),
            [] => Ports::All,
            ports => Ports::Only(self.container_ports(ports, field, transport)),
        }
    }

    /// Container ports as they are; a Service port by what it maps to, when that is one port (S16).
    fn container_ports(&mut self, ports: &[u16], field: &str, transport: Transport) -> BTreeSet<u16> {
        let mut all = BTreeSet::new();
        for &port in ports {
            let mapped = self.identities.workloads.container_ports(&self.members, port, transport);
            if mapped.len() == 1 {
                all.extend(mapped);
                continue;
            }
            let list: Vec<String> = mapped.iter().map(u16::to_string).collect();
            let list = list.join(", ");
            let message =
                format!("port {port} is a Service port that maps to the container ports {list}: it stands for none");
            let problem = self.error(field, ProblemReason::PortAmbiguous, message);
            self.problems.push(problem.hint("name the container ports"));
        }
        all
    }

    /// The traffic spec that a rule refers to, in the target's namespace (A24). Missing or not valid it contributes
    /// nothing, until it is there (A9).
    fn resolve<T>(&mut self, facts: &'a Facts<T>, rule: &Rule, field: &str) -> Option<&'a T> {
        let namespace = &self.fact.origin.namespace;
        let fact = facts.get(&(namespace.clone(), rule.name.as_str().into()));
        let found = fact.and_then(|fact| fact.value.as_ref());
        if found.is_none() {
            let state = if fact.is_some() { "is not valid" } else { "does not exist" };
            let message = format!("the {} `{namespace}/{}` {state}: the rule allows nothing", rule.kind, rule.name);
            self.problems.push(self.error(field, ProblemReason::RefNotFound, message));
        }
        found
    }

    fn no_match(&mut self, rule: &Rule, number: usize, field: &str) {
        let (kind, name, wanted) = (rule.kind, &rule.name, &rule.matches[number]);
        let message = format!("the {kind} `{name}` has no match named `{wanted}`: the name allows nothing");
        let problem = self.error(&format!("{field}.matches[{number}]"), ProblemReason::MatchNotFound, message);
        self.problems.push(problem);
    }

    fn error(&self, field: &str, reason: ProblemReason, message: impl Into<String>) -> Problem {
        Problem::error(self.fact.at(field), reason, message)
    }
}

/// Entries of one layer are ORed.
fn either(before: Option<Ports>, more: Ports) -> Ports {
    match (before, more) {
        (None, more) => more,
        (Some(Ports::All), _) | (_, Ports::All) => Ports::All,
        (Some(Ports::Only(a)), Ports::Only(b)) => Ports::Only(&a | &b),
    }
}
