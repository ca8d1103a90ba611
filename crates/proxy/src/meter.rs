//! Counts: per edge and worker while traffic passes, added up when somebody asks.

use std::collections::{HashMap, HashSet, hash_map};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use heddle_policy::telemetry::{self, BUCKETS, Counts, Edge, Histogram, Outcome, Side, Totals};
use heddle_policy::{PodName, Reason};
use tokio::sync::watch;

use crate::limits;
use crate::statuses::Statuses;
use crate::tasks::Panics;
use crate::upstream::Ended;

/// Every worker's counters.
#[derive(Default)]
pub(crate) struct Meter {
    edges: Mutex<Edges>,
    /// The edges of which nothing was counted for long. Workers let go of those that nothing uses.
    pub(crate) idle: watch::Sender<Arc<HashSet<Edge>>>,
    pub(crate) panics: Panics,
    /// Open connections.
    pub(crate) connections: AtomicU64,
    /// Connections that were not accepted because of a limit.
    pub(crate) refused: AtomicU64,
    /// Connections to the port for other proxies that did not prove to be one.
    pub(crate) unproven: AtomicU64,
    /// Spans that the collector has taken.
    pub(crate) spans_exported: AtomicU64,
    /// Of how much time the counts of the pod's killed proxies are missing.
    pub(crate) lost_ms: AtomicU64,
}

/// The edges that have been met.
#[derive(Default)]
struct Edges {
    known: HashMap<Edge, Known>,
    /// How many have ever been met.
    met: usize,
    /// The peers' pods that metrics name, of servers.
    named: HashSet<PodName>,
    /// What was counted of edges that were let go. Metrics alone read it, whose counters never go back.
    past: HashMap<Workload, Counted>,
}

/// What metrics tell apart of edges that were let go.
#[derive(PartialEq, Eq, Hash)]
struct Workload {
    /// Without the peer's pod.
    edge: Edge,
    /// The namespace of the peer's pod, and what owns it; of clients' edges.
    peer: Option<(Arc<str>, Arc<str>)>,
    naming: Naming,
}

/// An edge that has been met.
struct Known {
    /// How many were met before it.
    order: usize,
    peer_workload: Option<Arc<str>>,
    naming: Naming,
    /// One of each worker that met it.
    workers: Vec<Arc<Counters>>,
}

/// How much of the other end metrics tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Naming {
    Pod,
    /// Its pod was named, and is no more: metrics that name pods do not tell the edge any more.
    PodGone,
    /// There was no room for its pod.
    Workload,
    Nothing,
}

/// An edge and all that is counted of it.
#[derive(Clone)]
pub(crate) struct Counted {
    /// How many were met before it.
    order: usize,
    pub(crate) edge: Edge,
    /// What owns the peer's pod, when that was known at the first request.
    pub(crate) peer_workload: Option<Arc<str>>,
    pub(crate) naming: Naming,
    pub(crate) totals: Totals,
    /// Connections open now that carry no HTTP, or no longer.
    pub(crate) open: u64,
    /// HTTP answers by status. What the mesh answered itself counts with the status that it gave.
    pub(crate) statuses: HashMap<&'static str, u64>,
}

/// The totals of one edge on one worker, which alone writes them.
pub(crate) struct Counters {
    pub(crate) edge: Edge,
    requests: [AtomicU64; 3],
    statuses: Statuses,
    connections: [AtomicU64; 3],
    open: AtomicU64,
    would_deny: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    reasons: [AtomicU64; REASONS.len()],
    latency: Latency,
}

/// A connection that is open and carries no HTTP, until this is dropped.
pub(crate) struct Open(pub(crate) Arc<Counters>);

/// Dense counts, of those octaves that occur.
struct Latency([OnceLock<Box<[AtomicU64; OCTAVE]>>; BUCKETS / OCTAVE]);

const OCTAVE: usize = 64;

/// Every reason, at the place of its discriminant.
const REASONS: [Reason; 18] = [
    Reason::NoIdentity,
    Reason::NoTarget,
    Reason::SourceNotAllowed,
    Reason::PortNotAllowed,
    Reason::RouteNotAllowed,
    Reason::NotHttp,
    Reason::SplitAllZero,
    Reason::NoEndpoint,
    Reason::ConnectFailed,
    Reason::PeerIdentity,
    Reason::UpstreamReset,
    Reason::UpstreamTimeout,
    Reason::NotHttp2,
    Reason::BadRequest,
    Reason::HeadTooLarge,
    Reason::RequestTimeout,
    Reason::Overloaded,
    Reason::GivenUp,
];

const _: () = {
    let mut at = 0;
    while at < REASONS.len() {
        assert!(REASONS[at] as usize == at, "a reason is not at the place of its discriminant");
        at += 1;
    }
};

// === impl Meter ===

impl Meter {
    /// New counters for an edge, of one worker.
    pub(crate) fn counters(&self, edge: Edge, peer_workload: Option<Arc<str>>) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(edge.clone()));
        self.edges().meet(edge, peer_workload).workers.push(counters.clone());
        counters
    }

    /// Every edge with its totals over all workers.
    pub(crate) fn totals(&self) -> Vec<(Edge, Totals)> {
        self.edges().known.iter().map(|(edge, known)| (edge.clone(), add_up(&known.workers))).collect()
    }

    /// Every edge that has open connections, and how many.
    pub(crate) fn open(&self) -> Vec<(Edge, u64)> {
        let edges = self.edges();
        let open = edges.known.iter().map(|(edge, known)| (edge, known.open()));
        open.filter(|(_, open)| *open > 0).map(|(edge, open)| (edge.clone(), open)).collect()
    }

    /// Every edge with all that is counted of it, in the order in which they were met. What was let go is told too, by
    /// workload.
    pub(crate) fn counted(&self) -> Vec<Counted> {
        let edges = self.edges();
        let known = edges.known.iter().map(|(edge, known)| known.counted(edge));
        let mut counted: Vec<Counted> = known.chain(edges.past.values().cloned()).collect();
        counted.sort_by_key(|counted| counted.order);
        counted
    }

    /// Lets go of the edges that no worker holds any more, and tells what was counted of them.
    pub(crate) fn settle(&self) -> Vec<(Edge, Totals)> {
        self.edges().settle()
    }

    fn edges(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Edges ===

impl Edges {
    fn meet(&mut self, edge: Edge, peer_workload: Option<Arc<str>>) -> &mut Known {
        let naming = self.naming(&edge);
        let order = self.met;
        self.known.entry(edge).or_insert_with(|| {
            self.met += 1;
            Known { order, peer_workload, naming, workers: Vec::new() }
        })
    }

    /// Whether metrics may name the peer's pod: decided once for an edge, as counters must not go from one name to another.
    fn naming(&mut self, edge: &Edge) -> Naming {
        let (Side::Client, Some(pod)) = (edge.side, &edge.peer_pod) else { return Naming::Pod };
        if self.named.contains(pod) {
            return Naming::Pod;
        }
        if self.named.len() >= limits::LABELLED_PODS {
            return Naming::Workload;
        }
        self.named.insert(pod.clone());
        Naming::Pod
    }

    fn settle(&mut self) -> Vec<(Edge, Totals)> {
        // The edges with a pod go together: they may share a counter of metrics, which can go away but not back.
        let held = self.known.iter_mut().filter_map(|(edge, known)| known.is_held().then(|| peer(edge)));
        let held: HashSet<_> = held.collect();
        let settled: Vec<_> = self.known.extract_if(|edge, _| !held.contains(&peer(edge))).collect();
        settled.into_iter().map(|(edge, known)| self.keep(known.counted(&edge))).collect()
    }

    /// Keeps for metrics what was counted of an edge that is let go.
    fn keep(&mut self, mut counted: Counted) -> (Edge, Totals) {
        let settled = (counted.edge.clone(), counted.totals.clone());
        if let (Side::Client, Some(pod), Naming::Pod) = (counted.edge.side, &counted.edge.peer_pod, counted.naming) {
            self.named.remove(pod);
            counted.naming = Naming::PodGone;
        }
        if self.past.len() >= limits::EDGES && !self.past.contains_key(&counted.workload()) {
            counted.edge = plain_edge(counted.edge.side, counted.edge.pod);
            counted.naming = Naming::Nothing;
        }
        match self.past.entry(counted.workload()) {
            hash_map::Entry::Occupied(mut past) => past.get_mut().merge(&counted),
            hash_map::Entry::Vacant(place) => drop(place.insert(counted)),
        }
        settled
    }
}

/// Whose edges are let go together.
fn peer(edge: &Edge) -> (Side, Option<PodName>) {
    (edge.side, edge.peer_pod.clone())
}

/// What the `counting` benchmark runs: all that is counted of a request, so many times, the clock included.
#[doc(hidden)]
pub fn count_requests(times: u64) -> u64 {
    let meter = Meter::default();
    let pod = PodName::new("bench", "web");
    let edge = Edge { side: Side::Client, pod, peer: None, peer_pod: None, service: None, backend: None };
    let counters = meter.counters(edge, None);
    for time in 0..times {
        let started = tokio::time::Instant::now();
        let latency = started.elapsed() + Duration::from_micros(time % 5_000);
        let (outcome, reason) = (Some(Outcome::Success), None);
        Ended { outcome, status: 200, grpc_status: None, reason, latency, uploaded: 100, downloaded: 1_000 }
            .count(&counters);
    }
    meter.totals().iter().map(|(_, totals)| totals.requests.success).sum()
}

// === impl Known, Counted ===

impl Known {
    fn counted(&self, edge: &Edge) -> Counted {
        let mut statuses = HashMap::new();
        for (status, count) in self.workers.iter().flat_map(|counters| counters.statuses.counts()) {
            *statuses.entry(status).or_default() += count;
        }
        let (edge, peer_workload) = (edge.clone(), self.peer_workload.clone());
        let (totals, open) = (add_up(&self.workers), self.open());
        Counted { order: self.order, edge, peer_workload, naming: self.naming, totals, open, statuses }
    }

    fn open(&self) -> u64 {
        self.workers.iter().map(|counters| counters.open.load(Ordering::Relaxed)).sum()
    }

    /// Whether a worker may still count. If not, all that the workers counted is seen from here.
    fn is_held(&mut self) -> bool {
        self.workers.iter_mut().any(|counters| Arc::get_mut(counters).is_none())
    }
}

impl Counted {
    /// Adds what was counted of another edge that metrics tell by the same names.
    fn merge(&mut self, other: &Self) {
        self.order = self.order.min(other.order);
        self.totals.merge(&other.totals);
        for (status, count) in &other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    fn workload(&self) -> Workload {
        let edge = Edge { peer_pod: None, ..self.edge.clone() };
        let pod = self.edge.peer_pod.as_ref().filter(|_| self.edge.side == Side::Client);
        let owner = |pod: &PodName| self.peer_workload.clone().unwrap_or_else(|| pod.name.clone());
        Workload { edge, peer: pod.map(|pod| (pod.namespace.clone(), owner(pod))), naming: self.naming }
    }
}

// === impl Counters ===

impl Counters {
    fn new(edge: Edge) -> Self {
        Self {
            edge,
            requests: Default::default(),
            statuses: Statuses::new(),
            connections: Default::default(),
            open: AtomicU64::new(0),
            would_deny: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            reasons: Default::default(),
            latency: Latency(std::array::from_fn(|_| OnceLock::new())),
        }
    }

    /// Counts a request that was answered with `status`.
    pub(crate) fn request(&self, outcome: Outcome, status: u16) {
        add(&self.requests[outcome as usize], 1);
        add(self.statuses.of(status), 1);
    }

    /// Counts a request that the mesh answered in the server's stead.
    pub(crate) fn refused(&self, reason: Reason) {
        let outcome = if reason.status() == 403 { Outcome::Denied } else { Outcome::Failure };
        self.request(outcome, reason.status());
        self.reason(reason);
    }

    /// Notes a connection that begins, or that carries another protocol than HTTP from here on. What becomes of the
    /// former is counted when it has ended; the latter has been, as a request.
    pub(crate) fn open(self: &Arc<Self>) -> Open {
        add(&self.open, 1);
        Open(self.clone())
    }

    pub(crate) fn connection(&self, outcome: Outcome) {
        add(&self.connections[outcome as usize], 1);
    }

    pub(crate) fn reason(&self, reason: Reason) {
        add(&self.reasons[reason as usize], 1);
    }

    pub(crate) fn would_deny(&self) {
        add(&self.would_deny, 1);
    }

    pub(crate) fn latency(&self, latency: Duration) {
        let bucket = usize::from(telemetry::bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)));
        let octave = self.latency.0[bucket / OCTAVE].get_or_init(|| Box::new([const { AtomicU64::new(0) }; OCTAVE]));
        add(&octave[bucket % OCTAVE], 1);
    }

    /// Bytes from the client to the server, and back.
    pub(crate) fn bytes(&self, uploaded: u64, downloaded: u64) {
        let (sent, received) = match self.edge.side {
            Side::Client => (uploaded, downloaded),
            Side::Server => (downloaded, uploaded),
        };
        add(&self.bytes_sent, sent);
        add(&self.bytes_received, received);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // One less.
        add(&self.0.open, u64::MAX);
    }
}

/// One thread writes a counter, so that no read-modify-write is needed.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// The edge of traffic whose other end is not known.
pub(crate) fn plain_edge(side: Side, pod: PodName) -> Edge {
    Edge { side, pod, peer: None, peer_pod: None, service: None, backend: None }
}

fn add_up(workers: &[Arc<Counters>]) -> Totals {
    let sum = |of: &dyn Fn(&Counters) -> &AtomicU64| {
        workers.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum::<u64>()
    };
    let counts = |of: fn(&Counters) -> &[AtomicU64; 3]| Counts {
        success: sum(&|counters| &of(counters)[Outcome::Success as usize]),
        failure: sum(&|counters| &of(counters)[Outcome::Failure as usize]),
        denied: sum(&|counters| &of(counters)[Outcome::Denied as usize]),
    };
    let reasons = REASONS.iter().map(|reason| (*reason, sum(&|counters| &counters.reasons[*reason as usize])));
    Totals {
        requests: counts(|counters| &counters.requests),
        connections: counts(|counters| &counters.connections),
        would_deny: sum(&|counters| &counters.would_deny),
        bytes_received: sum(&|counters| &counters.bytes_received),
        bytes_sent: sum(&|counters| &counters.bytes_sent),
        latency: Histogram::from_buckets(workers.iter().flat_map(|counters| counters.latency.buckets())),
        reasons: reasons.filter(|(_, count)| *count > 0).collect(),
    }
}

impl Latency {
    fn buckets(&self) -> impl Iterator<Item = (u16, u64)> {
        let octaves = self.0.iter().enumerate().filter_map(|(octave, counts)| Some((octave, counts.get()?)));
        octaves.flat_map(|(octave, counts)| {
            let loaded = counts.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            loaded.map(move |(at, count)| ((octave * OCTAVE + at) as u16, count))
        })
    }
}
