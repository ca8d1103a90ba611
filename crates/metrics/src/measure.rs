//! From samples to measures: which traffic belongs to a resource, and its sum.
//!
//! Counts and histograms are added, and percentiles are taken of the sum: a percentile of percentiles would be none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy::telemetry::{self, Edge, Totals};
use heddle_policy::{PodName, ServiceName};
use heddle_smi::metrics::{BackendReference, Direction, ObjectReference, Side};

use crate::objects::{Detail, Name, Object, Objects, Split};
use crate::packed::Packed;
use crate::{Kind, Query, Refusal, Samples, Scope, losses};

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    pub rows: Vec<Row>,
    /// The length of the window, which is what was asked for or up to ten seconds more.
    pub window: Duration,
}

/// The traffic of one resource, or of one of its edges or backends.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub resource: ObjectReference,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// When the resource was made, RFC 3339.
    pub created: Option<Arc<str>>,
    pub direction: Direction,
    pub side: Side,
    /// The other end; without any field it is everybody.
    pub other: ObjectReference,
    /// Of a TrafficSplit.
    pub backend: Option<BackendReference>,
    pub totals: Totals,
    /// The connections without HTTP that are open now.
    pub open: u64,
    /// Of how much of the window some counts are missing.
    pub lost: Duration,
}

/// Measures what `query` asks for.
///
/// # Errors
///
/// A resource is asked for by a name that no resource has (M14).
pub fn measure(objects: &Objects, samples: &Samples, query: &Query, now: Instant) -> Result<Measured, Refusal> {
    let candidates = Candidates::find(objects, query)?;
    let within = samples.within(query.window, now);
    let mut sums: BTreeMap<Cell, Sum> = BTreeMap::new();
    for (edge, added) in within.added() {
        let mut sum = None;
        candidates.cells(query, edge, |cell| {
            let sum = sum.get_or_insert_with(|| Packed::sum(&added));
            sums.entry(cell).or_default().totals.merge(sum);
        });
    }
    for (edge, open) in samples.open() {
        candidates.cells(query, edge, |cell| sums.entry(cell).or_default().open += open);
    }
    let mut lost: HashMap<usize, Duration> = HashMap::new();
    for loss in losses(objects, samples, within.length, now) {
        candidates.containing(&loss.pod, |number| *lost.entry(number).or_default() += loss.gap.length());
    }
    let rows = candidates.rows(query, sums, &lost);
    Ok(Measured { rows, window: within.length })
}

/// What is summed up.
#[derive(Default)]
struct Sum {
    totals: Totals,
    open: u64,
}

/// What is summed up apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Cell {
    candidate: usize,
    /// The backend's place in its split.
    backend: Option<usize>,
    direction: Direction,
    other: ObjectReference,
}

/// The resources that are asked for.
struct Candidates<'a> {
    objects: &'a Objects,
    kind: Kind,
    found: Vec<(&'a Name, &'a Object)>,
    by_name: HashMap<&'a Name, usize>,
    /// Of Services alone.
    by_pod: HashMap<PodName, Vec<usize>>,
    /// Of splits alone: by the root Service.
    by_apex: HashMap<ServiceName, Vec<usize>>,
}

/// Whether traffic counted at `side` is wanted in this direction.
fn is_wanted(query: &Query, side: telemetry::Side, direction: Direction) -> bool {
    let (side, own_direction) = match side {
        telemetry::Side::Client => (Side::Client, Direction::To),
        telemetry::Side::Server => (Side::Server, Direction::From),
    };
    let is_split = query.kind == Kind::TrafficSplit;
    let is_own_side = if is_split { side == Side::Client } else { direction == own_direction };
    let both = matches!(query.scope, Scope::Edges { .. }) && !is_split;
    query.side.map_or(is_own_side, |wanted| wanted == side)
        && query.direction.map_or(both || direction == Direction::From, |wanted| wanted == direction)
}

/// The pod that is on the resource's end of an edge, and the one on the other end.
fn ends(edge: &Edge, direction: Direction) -> (Option<&PodName>, Option<&PodName>) {
    let (counting, peer) = (Some(&edge.pod), edge.peer_pod.as_ref());
    match (edge.side, direction) {
        (telemetry::Side::Client, Direction::To) | (telemetry::Side::Server, Direction::From) => (counting, peer),
        _ => (peer, counting),
    }
}

// === impl Candidates ===

impl<'a> Candidates<'a> {
    fn find(objects: &'a Objects, query: &Query) -> Result<Self, Refusal> {
        let (namespace, name) = match &query.scope {
            Scope::List { namespace } => (namespace.as_deref(), query.field_name.as_deref()),
            Scope::One { namespace, name } => (Some(namespace.as_str()), Some(name.as_str())),
            Scope::Edges { namespace, name } => (namespace.as_deref(), name.as_deref().or(query.field_name.as_deref())),
        };
        let is_asked = |(own_namespace, own_name): &Name, object: &Object| {
            namespace.is_none_or(|namespace| **own_namespace == *namespace)
                && query.field_namespace.as_ref().is_none_or(|namespace| **own_namespace == **namespace)
                && name.is_none_or(|name| **own_name == *name)
                && query.selector.matches(&object.labels)
        };
        let found: Vec<_> = objects.of_kind(query.kind).filter(|(name, object)| is_asked(name, object)).collect();
        let one = match &query.scope {
            Scope::One { name, .. } | Scope::Edges { name: Some(name), .. } => Some(name),
            _ => None,
        };
        if let (Some(name), true) = (one, found.is_empty()) {
            let plural = query.kind.plural();
            return Err(Refusal::not_found(format!("{plural}.metrics.smi-spec.io \"{name}\" not found")));
        }
        let by_name = found.iter().enumerate().map(|(number, (name, _))| (*name, number)).collect();
        let by_pod = match query.kind {
            Kind::Service => objects.services_of_pods(found.iter().copied()),
            _ => HashMap::new(),
        };
        let mut by_apex: HashMap<ServiceName, Vec<usize>> = HashMap::new();
        for (number, ((namespace, _), object)) in found.iter().enumerate() {
            if let Detail::Split(split) = &object.detail {
                let apex = ServiceName::new(namespace.clone(), split.apex.clone());
                by_apex.entry(apex).or_default().push(number);
            }
        }
        Ok(Self { objects, kind: query.kind, found, by_name, by_pod, by_apex })
    }

    /// Where traffic of an edge is summed up, as far as it is asked for.
    fn cells(&self, query: &Query, edge: &Edge, mut note: impl FnMut(Cell)) {
        let wanted = |direction: &Direction| is_wanted(query, edge.side, *direction);
        for direction in [Direction::To, Direction::From].into_iter().filter(wanted) {
            self.each(edge, direction, |number| {
                self.cell(query, number, edge, direction).into_iter().for_each(&mut note)
            });
        }
    }

    /// The resources to which this traffic belongs.
    fn each(&self, edge: &Edge, direction: Direction, mut note: impl FnMut(usize)) {
        match self.kind {
            Kind::TrafficSplit => {
                let splits = edge.service.as_ref().and_then(|apex| self.by_apex.get(apex));
                splits.into_iter().flatten().for_each(|number| note(*number));
            }
            // Clients know which Service they meant.
            Kind::Service if (edge.side, direction) == (telemetry::Side::Client, Direction::From) => {
                let backend = edge.backend.as_ref().filter(|backend| Some(*backend) != edge.service.as_ref());
                for service in edge.service.iter().chain(backend) {
                    let name = (service.namespace.clone(), service.name.clone());
                    self.by_name.get(&name).into_iter().for_each(|number| note(*number));
                }
            }
            _ => {
                if let Some(pod) = ends(edge, direction).0 {
                    self.containing(pod, note);
                }
            }
        }
    }

    /// The resources that contain a pod.
    fn containing(&self, pod: &PodName, mut note: impl FnMut(usize)) {
        match self.kind {
            Kind::TrafficSplit => {}
            Kind::Service => self.by_pod.get(pod).into_iter().flatten().for_each(|number| note(*number)),
            kind => {
                let container = self.objects.container(kind, pod);
                container.and_then(|name| self.by_name.get(&name)).into_iter().for_each(|number| note(*number));
            }
        }
    }

    /// Where traffic of a candidate is summed up; `None` for traffic of a split's root that went to no backend of it.
    fn cell(&self, query: &Query, candidate: usize, edge: &Edge, direction: Direction) -> Option<Cell> {
        let backend = match &self.found[candidate].1.detail {
            Detail::Split(split) => Some(split.backend(edge.backend.as_ref()?)?),
            _ => None,
        };
        let other = match query.scope {
            Scope::Edges { .. } => self.other(edge, direction),
            _ => ObjectReference::default(),
        };
        Some(Cell { candidate, backend, direction, other })
    }

    /// The other end of an edge: of the kind that is asked for when there is such a one, else the workload; what is
    /// known of it, when it is no pod.
    fn other(&self, edge: &Edge, direction: Direction) -> ObjectReference {
        let pod = ends(edge, direction).1;
        let is_sent = (edge.side, direction) == (telemetry::Side::Client, Direction::To);
        if let (Kind::Service, true, Some(service)) = (self.kind, is_sent, &edge.service) {
            return reference(Kind::Service, &(service.namespace.clone(), service.name.clone()));
        }
        if let Some(pod) = pod {
            let container = self.objects.container(self.kind, pod).map(|name| (self.kind, name));
            let (kind, name) = container.unwrap_or_else(|| self.objects.workload(pod));
            return reference(kind, &name);
        }
        let account = edge.peer.as_ref().and_then(|identity| identity.service_account());
        match (account, &edge.service) {
            (Some((namespace, _)), _) if self.kind == Kind::Namespace => {
                reference(Kind::Namespace, &(Arc::default(), namespace.into()))
            }
            (Some((namespace, name)), _) => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("ServiceAccount".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
            },
            (None, Some(service)) => reference(Kind::Service, &(service.namespace.clone(), service.name.clone())),
            (None, None) => ObjectReference { kind: Some(OUTSIDE.to_owned()), ..ObjectReference::default() },
        }
    }

    /// A row for every sum; of resources as a whole also where there is none (M14).
    fn rows(&self, query: &Query, mut sums: BTreeMap<Cell, Sum>, lost: &HashMap<usize, Duration>) -> Vec<Row> {
        if !matches!(query.scope, Scope::Edges { .. }) {
            let direction = query.direction.unwrap_or_default();
            for (candidate, (_, object)) in self.found.iter().enumerate() {
                let backends = match &object.detail {
                    Detail::Split(split) => (0..split.backends.len()).map(Some).collect(),
                    _ => vec![None],
                };
                for backend in backends {
                    let other = ObjectReference::default();
                    sums.entry(Cell { candidate, backend, direction, other }).or_default();
                }
            }
        }
        let row = |(cell, Sum { totals, open }): (Cell, Sum)| {
            let (name, object) = self.found[cell.candidate];
            let own = match (self.kind, cell.direction) {
                (Kind::TrafficSplit, _) | (_, Direction::To) => Side::Client,
                (_, Direction::From) => Side::Server,
            };
            Row {
                resource: reference(self.kind, name),
                labels: object.labels.clone(),
                created: object.created.clone(),
                direction: cell.direction,
                side: query.side.unwrap_or(own),
                other: cell.other,
                backend: cell.backend.and_then(|number| match &object.detail {
                    Detail::Split(split) => split.reference(number),
                    _ => None,
                }),
                totals,
                open,
                lost: lost.get(&cell.candidate).copied().unwrap_or_default(),
            }
        };
        sums.into_iter().map(row).collect()
    }
}

/// The kind of an end that is no pod of the mesh.
pub(crate) const OUTSIDE: &str = "Outside";

impl Split {
    fn backend(&self, backend: &ServiceName) -> Option<usize> {
        self.backends.iter().position(|(name, _)| *name == backend.name)
    }

    fn reference(&self, number: usize) -> Option<BackendReference> {
        let (name, weight) = self.backends.get(number)?;
        Some(BackendReference { apex: self.apex.to_string(), name: name.to_string(), weight: *weight })
    }
}

pub(crate) fn reference(kind: Kind, (namespace, name): &Name) -> ObjectReference {
    ObjectReference {
        api_version: Some(kind.api_version().to_owned()),
        kind: Some(kind.name().to_owned()),
        namespace: kind.is_namespaced().then(|| namespace.to_string()),
        name: Some(name.to_string()),
    }
}
