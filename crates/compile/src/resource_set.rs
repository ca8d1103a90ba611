//! Everything known: the objects of a cluster or of a directory of manifests, lowered to facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_policy::Origin;
use heddle_smi as smi;
use serde_json::Value;

use crate::facts::{Fact, Namespace, RouteGroup, Service, Slice, Workload};
use crate::route_group::route_group;
use crate::{Problem, ProblemReason, lower, pod};

/// The objects that the mesh is made of, by kind and name.
///
/// An object is lowered once, when it is inserted; what it was is not kept. Kinds that have no part in the mesh are
/// ignored, so that every object of a cluster may be offered. A clone shares what was lowered.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    pub(crate) namespaces: Facts<Namespace>,
    pub(crate) services: Facts<Service>,
    pub(crate) slices: Facts<Slice>,
    pub(crate) pods: Facts<Workload>,
    /// Deployments and the like, by `Kind/name`.
    pub(crate) templates: Facts<Workload>,
    pub(crate) accounts: Facts<()>,
    pub(crate) targets: Facts<smi::TrafficTarget>,
    pub(crate) bindings: Facts<smi::IdentityBinding>,
    pub(crate) groups: Facts<RouteGroup>,
    pub(crate) tcp_routes: Facts<smi::TcpRoute>,
    pub(crate) udp_routes: Facts<smi::UdpRoute>,
    pub(crate) splits: Facts<smi::TrafficSplit>,
    pub(crate) mesh_configs: Facts<smi::MeshConfig>,
    /// Objects of SMI's groups and of no kind that they have, by `Kind/name`.
    unknown: Facts<()>,
}

/// The objects of one kind, by namespace and name. The namespace is empty for cluster-scoped kinds.
pub(crate) type Facts<T> = BTreeMap<(Arc<str>, Arc<str>), Arc<Fact<T>>>;

/// What names an object.
pub(crate) struct Identity<'a> {
    group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// The kinds that have no namespace.
const CLUSTER_SCOPED: [&str; 2] = ["Namespace", "MeshConfig"];

// === impl ResourceSet ===

impl ResourceSet {
    /// Puts an object in its place, in stead of the one with its name. `at` is where it stands: `file:line:column` of
    /// a manifest, or `resourceVersion N`.
    pub fn insert(&mut self, object: &Value, at: Arc<str>) {
        self.apply(object, Some(at));
    }

    /// Removes the object of this kind and name; the rest of `object` does not matter.
    pub fn remove(&mut self, object: &Value) {
        self.apply(object, None);
    }

    fn apply(&mut self, object: &Value, at: Option<Arc<str>>) {
        let Some(identity) = Identity::of(object) else { return };
        let entry = Entry { object, identity: &identity, key: identity.name.clone(), at };
        match (identity.group, identity.kind) {
            ("", "Namespace") => entry.lower(&mut self.namespaces, |_, object| lower::namespace(object).map(Some)),
            ("", "Service") => entry.lower(&mut self.services, |id, object| lower::service(id, object).map(Some)),
            ("", "ServiceAccount") => entry.lower(&mut self.accounts, |_, _| Ok(Some(()))),
            ("discovery.k8s.io", "EndpointSlice") => entry.lower(&mut self.slices, lower::slice),
            ("", "Pod") => entry.lower(&mut self.pods, |id, object| pod::pod(id, object).map(Some)),
            ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
            | ("batch", "Job" | "CronJob")
            | ("", "ReplicationController") => {
                entry.by_kind().lower(&mut self.templates, |id, object| pod::template(id, object).map(Some));
            }
            _ => self.apply_smi(entry),
        }
    }

    fn apply_smi(&mut self, entry: Entry<'_>) {
        use smi::Resource as R;
        macro_rules! put {
            ($map:ident, $variant:ident) => {
                entry.parse(&mut self.$map, |resource, _| match resource {
                    R::$variant(value) => (Some(value), Vec::new()),
                    _ => (None, Vec::new()),
                })
            };
        }
        match (entry.identity.group, entry.identity.kind) {
            ("access.smi-spec.io", "TrafficTarget") => put!(targets, TrafficTarget),
            ("access.smi-spec.io", "IdentityBinding") => put!(bindings, IdentityBinding),
            ("specs.smi-spec.io", "TCPRoute") => put!(tcp_routes, TcpRoute),
            ("specs.smi-spec.io", "UDPRoute") => put!(udp_routes, UdpRoute),
            ("split.smi-spec.io", "TrafficSplit") => put!(splits, TrafficSplit),
            ("heddle.dev", "MeshConfig") => put!(mesh_configs, MeshConfig),
            ("specs.smi-spec.io", "HTTPRouteGroup") => entry.parse(&mut self.groups, |resource, fact| match resource {
                R::HttpRouteGroup(group) => route_group(&group, fact),
                _ => (None, Vec::new()),
            }),
            // A kind that SMI does not have is a mistake in its name.
            (group, _) if group == "heddle.dev" || group.ends_with(".smi-spec.io") => {
                entry.by_kind().parse(&mut self.unknown, |_, _| (None, Vec::new()));
            }
            _ => {}
        }
    }

    /// What was found wrong when the objects were inserted.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        fn of<T>(facts: &Facts<T>) -> impl Iterator<Item = &Problem> {
            facts.values().flat_map(|fact| &fact.problems)
        }
        let core = of(&self.namespaces).chain(of(&self.services)).chain(of(&self.slices));
        let workloads = of(&self.pods).chain(of(&self.templates)).chain(of(&self.accounts));
        let access = of(&self.targets).chain(of(&self.bindings));
        let specs = of(&self.groups).chain(of(&self.tcp_routes)).chain(of(&self.udp_routes));
        let rest = of(&self.splits).chain(of(&self.mesh_configs)).chain(of(&self.unknown));
        core.chain(workloads).chain(access).chain(specs).chain(rest).cloned().collect()
    }
}

// === impl Identity ===

impl<'a> Identity<'a> {
    /// `None` when the value is not a Kubernetes object. A missing namespace is `default`, as for kubectl.
    fn of(object: &'a Value) -> Option<Self> {
        let text = |value: &'a Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text(object, "apiVersion"), text(object, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let metadata = object.get("metadata")?;
        let namespace = match text(metadata, "namespace") {
            _ if CLUSTER_SCOPED.contains(&kind) => "",
            "" => "default",
            namespace => namespace,
        };
        Some(Self { group, version, kind, namespace: namespace.into(), name: text(metadata, "name").into() })
    }

    /// Names are written `namespace/name` on the way to a proxy.
    fn is_nameable(&self) -> bool {
        !self.name.is_empty() && !self.name.contains('/') && !self.namespace.contains('/')
    }
}

/// An object on its way into the set, or out of it.
struct Entry<'a> {
    object: &'a Value,
    identity: &'a Identity<'a>,
    /// Its name among the objects of its map.
    key: Arc<str>,
    /// Absent for one that leaves.
    at: Option<Arc<str>>,
}

// === impl Entry ===

impl Entry<'_> {
    /// Keyed by kind and name, for a map of several kinds.
    fn by_kind(self) -> Self {
        Self { key: format!("{}/{}", self.identity.kind, self.identity.name).into(), ..self }
    }

    /// Inserts what `lower` makes of a Kubernetes object.
    fn lower<T>(self, map: &mut Facts<T>, lower: impl Fn(&Identity<'_>, &Value) -> serde_json::Result<Option<T>>) {
        self.place(map, |entry, fact| match lower(entry.identity, entry.object) {
            Ok(value) => fact.value = value,
            Err(error) => {
                let message = format!("the {} cannot be read and is left out: {error}", entry.identity.kind);
                let problem = Problem::error(fact.origin.clone(), ProblemReason::Invalid, message);
                fact.problems.push(problem.hint(format!("compare it with `kubectl explain {}`", entry.identity.kind)));
            }
        });
    }

    /// Inserts what `convert` makes of an SMI resource in its newest version. The `Fact` it is given has its place.
    fn parse<T>(self, map: &mut Facts<T>, convert: impl Fn(smi::Resource, &Fact<T>) -> (Option<T>, Vec<Problem>)) {
        self.place(map, |entry, fact| match smi::parse(entry.object) {
            Ok(parsed) => {
                fact.problems.extend(parsed.warnings.iter().map(|warning| Problem::doubtful(&fact.origin, warning)));
                let (value, problems) = convert(parsed.resource, fact);
                fact.value = value;
                fact.problems.extend(problems);
            }
            Err(invalid) => {
                fact.problems.extend(invalid.iter().map(|invalid| Problem::refused(&fact.origin, invalid)));
            }
        });
    }

    fn place<T>(self, map: &mut Facts<T>, fill: impl FnOnce(&Self, &mut Fact<T>)) {
        let key = (self.identity.namespace.clone(), self.key.clone());
        let Some(at) = &self.at else {
            map.remove(&key);
            return;
        };
        let mut fact = Fact::new(self.identity);
        fact.origin.at = at.clone();
        let created = self.object.get("metadata").and_then(|metadata| metadata.get("creationTimestamp"));
        fact.created = created.and_then(Value::as_str).map(Arc::from);
        if self.identity.is_nameable() {
            fill(&self, &mut fact);
        } else {
            let origin = fact.at("metadata.name");
            let message = "an object needs a name, and no name contains `/`; it is left out";
            fact.problems.push(Problem::error(origin, ProblemReason::Invalid, message).hint("write another name"));
        }
        map.insert(key, Arc::new(fact));
    }
}

impl<T> Fact<T> {
    fn new(identity: &Identity<'_>) -> Self {
        let origin = Origin {
            kind: identity.kind.into(),
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            field: Arc::default(),
            at: Arc::default(),
        };
        Self { origin, version: identity.version.into(), created: None, value: None, problems: Vec::new() }
    }
}
