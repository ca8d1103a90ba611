//! TrafficTargets to authorizations, for the workloads that they are about.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_policy::{Authorization, HttpMatch, Ports};
use heddle_smi::{PortMatch, RouteKind, Rule, TrafficTarget};

use crate::facts::{Fact, Transport};
use crate::identities::Identities;
use crate::missing::{self, Elsewhere};
use crate::resource_set::Facts;
use crate::{Problem, ProblemReason, ResourceSet};

/// What each workload grants, by its number.
pub(crate) type Access = Vec<Vec<Arc<Authorization>>>;

/// The layers of one target (A16), as they are written. A layer that a rule of it mentions is there, however little of
/// it resolves: what is missing never widens what is left.
#[derive(Default)]
struct Layers {
    tcp: Option<Vec<Written>>,
    http: Option<Vec<Arc<HttpMatch>>>,
    udp: Option<Vec<Written>>,
}

/// Ports that a rule or a target names: container ports or Service ports, which each workload has at its own numbers.
enum Written {
    All,
    Only { ports: Vec<u16>, field: String },
}

/// Ports of both transports, as the container ports of one workload.
#[derive(PartialEq)]
struct Resolved {
    tcp: Option<Ports>,
    udp: Option<Ports>,
}

/// What to do about UDP.
const NO_UDP: &str = "it may stay for a mesh that carries UDP";

/// Compiles every target on its own: one that is not valid, or does not resolve, costs only itself (A2, A9).
pub(crate) fn access(identities: &Identities<'_>, problems: &mut Vec<Problem>) -> Access {
    let mut access = vec![Vec::new(); identities.workloads.all.len()];
    for fact in identities.set.targets.values() {
        let Some(target) = &fact.value else { continue };
        let mut context = Context { identities, fact, target, problems };
        for (authorization, members) in context.authorizations() {
            let authorization = Arc::new(authorization);
            members.into_iter().for_each(|number| access[number].push(authorization.clone()));
        }
    }
    access
}

/// Says of every UDPRoute that it has no effect yet.
pub(crate) fn udp_routes(set: &ResourceSet, problems: &mut Vec<Problem>) {
    for fact in set.udp_routes.values().filter(|fact| fact.value.is_some()) {
        let message = "the route is kept, and has no effect yet: no proxy carries UDP";
        let problem = Problem::warning(fact.origin.clone(), ProblemReason::UdpNotCarried, message);
        problems.push(problem.hint(NO_UDP));
    }
}

/// One target that is being compiled.
struct Context<'a> {
    identities: &'a Identities<'a>,
    fact: &'a Fact<TrafficTarget>,
    target: &'a TrafficTarget,
    problems: &'a mut Vec<Problem>,
}

// === impl Context ===

impl<'a> Context<'a> {
    /// What the target grants, and at which workloads, by number. Those whose ports have the same numbers share it.
    fn authorizations(&mut self) -> Vec<(Authorization, Vec<usize>)> {
        let spec = &self.target.spec;
        if self.is_foreign() {
            let message = "the destination is in another namespace than the target: the target grants nothing";
            let problem = self.error("spec.destination.namespace", ProblemReason::ForeignTarget, message);
            self.problems.push(problem.hint(
                "move the target to its destination's namespace, or set `allowForeignTargets` in the MeshConfig",
            ));
            return Vec::new();
        }
        let members = self.identities.destination(self.fact, &spec.destination, self.problems);
        let sources = self.identities.sources(self.fact, &spec.sources, self.problems);
        let layers = self.layers();
        let Some(limit) = self.limit() else { return Vec::new() };
        let groups = self.by_ports(members, &layers, limit.as_ref());
        if sources.is_empty() || (layers.tcp.is_none() && layers.http.is_none() && layers.udp.is_none()) {
            return Vec::new();
        }
        let authorization = |Resolved { tcp, udp }| {
            let (origin, sources, http) = (self.fact.origin.clone(), sources.clone(), layers.http.clone());
            Authorization { origin, sources, tcp, http, udp }
        };
        groups.into_iter().map(|(ports, members)| (authorization(ports), members)).collect()
    }

    /// The members by the numbers that the written ports have on them: they differ while a new version that listens
    /// elsewhere is rolled out.
    fn by_ports(
        &mut self,
        members: Vec<usize>,
        layers: &Layers,
        limit: Option<&Written>,
    ) -> Vec<(Resolved, Vec<usize>)> {
        let mut groups: Vec<(Resolved, Vec<usize>)> = Vec::new();
        for number in members {
            let ports = self.resolve_ports(number, layers, limit);
            match groups.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, members)) => members.push(number),
                None => groups.push((ports, vec![number])),
            }
        }
        groups
    }

    /// The ports of both layers on one workload. `limit` applies to every layer (A14).
    fn resolve_ports(&mut self, member: usize, layers: &Layers, limit: Option<&Written>) -> Resolved {
        let mut resolve = |written: Option<&[Written]>, transport| {
            let ports = written?.iter().map(|ports| self.container_ports(member, ports, transport)).reduce(either)?;
            Some(match limit {
                Some(limit) => both(ports, self.container_ports(member, limit, transport)),
                None => ports,
            })
        };
        let http_alone = limit.filter(|_| layers.http.is_some()).map(|_| &[Written::All][..]);
        Resolved {
            tcp: resolve(layers.tcp.as_deref().or(http_alone), Transport::Tcp),
            udp: resolve(layers.udp.as_deref(), Transport::Udp),
        }
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
                    let ports = self.ports(route, rule, field);
                    layers.tcp.get_or_insert_default().push(ports);
                }
                RouteKind::UdpRoute => {
                    let route = self.resolve(&set.udp_routes, rule, &field).map(|route| &route.spec.matches);
                    let message = "the rule is kept, and has no effect yet: no proxy carries UDP";
                    let problem = Problem::note(self.fact.at(&field), ProblemReason::UdpNotCarried, message);
                    self.problems.push(problem.hint(NO_UDP));
                    let ports = self.ports(route, rule, field);
                    layers.udp.get_or_insert_default().push(ports);
                }
            }
        }
        layers
    }

    /// `destination.port` of the old versions (A14). `None` when it cannot be read: then nothing is granted.
    fn limit(&mut self) -> Option<Option<Written>> {
        match self.target.port() {
            Ok(port) => {
                Some(port.map(|port| Written::Only { ports: vec![port], field: "spec.destination.port".to_owned() }))
            }
            Err(invalid) => {
                self.problems.push(Problem::refused(&self.fact.origin, &invalid));
                None
            }
        }
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
                None => self.no_match(rule, number, field, group.matches.iter().map(|(own, _)| &**own)),
            }
        }
        all
    }

    /// The ports of a route. The names in `rule.matches` can only be that of the route's one match.
    fn ports(&mut self, route: Option<&PortMatch>, rule: &Rule, field: String) -> Written {
        let Some(route) = route else { return Written::Only { ports: Vec::new(), field } };
        let mut is_named = rule.matches.is_empty();
        for (number, name) in rule.matches.iter().enumerate() {
            match route.name.as_ref() == Some(name) {
                true => is_named = true,
                false => self.no_match(rule, number, &field, route.name.as_deref().into_iter()),
            }
        }
        match route.ports.as_slice() {
            _ if !is_named => Written::Only { ports: Vec::new(), field },
            [] => Written::All,
            ports => Written::Only { ports: ports.to_vec(), field },
        }
    }

    /// Container ports as they are; a Service port by what it maps to on this workload, when that is one port (S16).
    fn container_ports(&mut self, member: usize, written: &Written, transport: Transport) -> Ports {
        let Written::Only { ports, field } = written else { return Ports::All };
        let member = &self.identities.workloads.all[member];
        let mut all = BTreeSet::new();
        for &port in ports {
            let mapped = member.container_ports(port, transport);
            if mapped.len() == 1 {
                all.extend(mapped);
                continue;
            }
            let list: Vec<String> = mapped.iter().map(u16::to_string).collect();
            let message = format!(
                "port {port} is a Service port that maps to the container ports {} of one workload: it stands for none",
                list.join(", ")
            );
            let problem = self.error(field, ProblemReason::PortAmbiguous, message);
            self.problems.push(problem.hint("name the container ports"));
        }
        Ports::Only(all)
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
            let hint = missing::hint(facts, rule.kind.as_str(), namespace, &rule.name, Elsewhere::Ignored);
            self.problems.push(self.error(field, ProblemReason::RefNotFound, message).hint(hint));
        }
        found
    }

    fn no_match<'n>(&mut self, rule: &Rule, number: usize, field: &str, known: impl Iterator<Item = &'n str>) {
        let (kind, name, wanted) = (rule.kind, &rule.name, &rule.matches[number]);
        let message = format!("the {kind} `{name}` has no match named `{wanted}`: the name allows nothing");
        let problem = self.error(&format!("{field}.matches[{number}]"), ProblemReason::MatchNotFound, message);
        self.problems.push(problem.hint(missing::match_hint(wanted, known)));
    }

    fn error(&self, field: &str, reason: ProblemReason, message: impl Into<String>) -> Problem {
        Problem::error(self.fact.at(field), reason, message)
    }
}

/// Entries of one layer are ORed.
fn either(one: Ports, other: Ports) -> Ports {
    match (one, other) {
        (Ports::All, _) | (_, Ports::All) => Ports::All,
        (Ports::Only(a), Ports::Only(b)) => Ports::Only(&a | &b),
    }
}

fn both(one: Ports, other: Ports) -> Ports {
    match (one, other) {
        (Ports::All, ports) | (ports, Ports::All) => ports,
        (Ports::Only(a), Ports::Only(b)) => Ports::Only(&a & &b),
    }
}
