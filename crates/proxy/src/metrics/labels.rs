//! Who is at each end of an edge, as labels say it, and the bound on how many there may be.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use heddle_policy::telemetry::{Counts, Histogram, Side};
use heddle_policy::{PodName, Reason, Settings, SpiffeId};

use crate::meter::Counted;

/// Label names and values, in the order in which they are written.
pub(super) type Labels = Vec<(&'static str, Arc<str>)>;

/// What owns pods, as metrics name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Workload {
    pub(super) namespace: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

/// What is counted of the edges that share a set of labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    pub(super) requests: Counts,
    pub(super) connections: Counts,
    pub(super) open: u64,
    pub(super) would_deny: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) latency: Histogram,
    pub(super) reasons: BTreeMap<Reason, u64>,
    pub(super) statuses: BTreeMap<&'static str, u64>,
}

/// The other end of an edge when nothing says who it is.
const UNKNOWN: &str = "unknown";
/// Stands for those that have no labels of their own, because there are too many.
const OTHER: &str = "other";

// === impl Workload ===

impl Workload {
    /// What owns the pod: `kind/name`, or the pod itself.
    pub(super) fn of_pod(pod: &PodName, owner: Option<&str>) -> Self {
        let (kind, name) = owner.and_then(|owner| owner.split_once('/')).unwrap_or(("Pod", &pod.name));
        Self { namespace: pod.namespace.clone(), kind: kind.into(), name: name.into() }
    }

    /// The workload of this proxy.
    pub(super) fn own(settings: Option<&Settings>) -> Self {
        settings.map_or_else(Self::unknown, |settings| Self::of_pod(&settings.pod, settings.workload.as_deref()))
    }

    /// What a certificate proves: the ServiceAccount, or the identity as it stands.
    pub(super) fn of_identity(identity: Option<&SpiffeId>) -> Self {
        let Some(identity) = identity else { return Self::unknown() };
        match identity.service_account() {
            Some((namespace, name)) => {
                Self { namespace: namespace.into(), kind: "ServiceAccount".into(), name: name.into() }
            }
            None => Self { namespace: UNKNOWN.into(), kind: "SpiffeId".into(), name: identity.as_str().into() },
        }
    }

    /// The peer of an edge: on the client's side what owns its pod, on the server's side who it proved to be.
    pub(super) fn of_peer(counted: &Counted) -> Self {
        match (counted.edge.side, &counted.edge.peer_pod) {
            (Side::Client, Some(pod)) => Self::of_pod(pod, counted.peer_workload.as_deref()),
            (Side::Client, None) => Self::unknown(),
            (Side::Server, _) => Self::of_identity(counted.edge.peer.as_ref()),
        }
    }

    pub(super) fn other() -> Self {
        Self { namespace: OTHER.into(), kind: OTHER.into(), name: OTHER.into() }
    }

    fn unknown() -> Self {
        Self { namespace: UNKNOWN.into(), kind: UNKNOWN.into(), name: UNKNOWN.into() }
    }

    pub(super) fn as_source(&self) -> Labels {
        self.named(["source_namespace", "source_kind", "source_name"])
    }

    pub(super) fn as_destination(&self) -> Labels {
        self.named(["destination_namespace", "destination_kind", "destination_name"])
    }

    fn named(&self, [namespace, kind, name]: [&'static str; 3]) -> Labels {
        vec![(namespace, self.namespace.clone()), (kind, self.kind.clone()), (name, self.name.clone())]
    }
}

/// The name of a pod as a label.
pub(super) fn pod_label(pod: Option<&PodName>) -> Arc<str> {
    pod.map_or_else(|| UNKNOWN.into(), |pod| pod.name.clone())
}

pub(super) fn other_label() -> Arc<str> {
    OTHER.into()
}

/// Adds edges up by their labels. `levels` gives the labels of an edge from the finest to the coarsest, as far as it has
/// any: it is told at the first level that has room. `rooms` bounds the sets of each level. As edges come in the order in
/// which they were met, and the labels of a level with bounds are never forgotten, an edge stays at its level.
pub(super) fn add_up<'a, K: Clone + Eq + Hash, const LEVELS: usize>(
    edges: impl Iterator<Item = &'a Counted>,
    rooms: [usize; LEVELS],
    levels: impl Fn(&Counted) -> [Option<K>; LEVELS],
) -> Vec<(K, Sum)> {
    let mut sums: Vec<(K, Sum)> = Vec::new();
    let mut places: HashMap<K, usize> = HashMap::new();
    let mut used = [0; LEVELS];
    for counted in edges {
        for (level, key) in levels(counted).into_iter().enumerate() {
            let Some(key) = key else { continue };
            let place = match places.get(&key) {
                Some(place) => *place,
                None if used[level] < rooms[level] => {
                    used[level] += 1;
                    places.insert(key.clone(), sums.len());
                    sums.push((key, Sum::default()));
                    sums.len() - 1
                }
                None => continue,
            };
            sums[place].1.add(counted);
            break;
        }
    }
    sums
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, counted: &Counted) {
        let totals = &counted.totals;
        self.requests = both(self.requests, totals.requests);
        self.connections = both(self.connections, totals.connections);
        self.open += counted.open;
        self.would_deny += totals.would_deny;
        self.received += totals.bytes_received;
        self.sent += totals.bytes_sent;
        self.latency.merge(&totals.latency);
        for (reason, count) in &totals.reasons {
            *self.reasons.entry(*reason).or_default() += count;
        }
        for (status, count) in &counted.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }
}

fn both(one: Counts, other: Counts) -> Counts {
    Counts {
        success: one.success + other.success,
        failure: one.failure + other.failure,
        denied: one.denied + other.denied,
    }
}
