//! Counts: per edge and worker while traffic passes, added up when somebody asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heddle_policy::Reason;
use heddle_policy::telemetry::{self, BUCKETS, Counts, Edge, Histogram, Outcome, Side, Totals};

use crate::statuses::Statuses;
use crate::tasks::Panics;
use crate::upstream::Ended;

/// Every worker's counters.
#[derive(Default)]
pub(crate) struct Meter {
    edges: Mutex<HashMap<Edge, Known>>,
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

/// An edge that has been met.
struct Known {
    /// How many were met before it.
    order: usize,
    peer_workload: Option<Arc<str>>,
    /// One of each worker that met it.
    workers: Vec<Arc<Counters>>,
}

/// An edge and all that is counted of it.
pub(crate) struct Counted {
    pub(crate) edge: Edge,
    /// What owns the peer's pod, when that was known at the first request.
    pub(crate) peer_workload: Option<Arc<str>>,
    pub(crate) totals: Totals,
    /// Connections open now that carry no HTTP, or no longer.
    pub(crate) open: u64,
    /// HTTP answers by status. What the mesh answered itself counts with the status that it gave.
    pub(crate) statuses: Vec<(&'static str, u64)>,
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
pub(crate) struct Open(Arc<Counters>);

/// Dense counts, of those octaves that occur.
struct Latency([OnceLock<Box<[AtomicU64; OCTAVE]>>; BUCKETS / OCTAVE]);

const OCTAVE: usize = 64;

/// Every reason, at the place of its discriminant.
const REASONS: [Reason; 17] = [
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
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let order = edges.len();
        let known = edges.entry(edge).or_insert_with(|| Known { order, peer_workload, workers: Vec::new() });
        known.workers.push(counters.clone());
        counters
    }

    /// Every edge with its totals over all workers.
    pub(crate) fn totals(&self) -> Vec<(Edge, Totals)> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.iter().map(|(edge, known)| (edge.clone(), add_up(&known.workers))).collect()
    }

    /// Every edge that has open connections, and how many.
    pub(crate) fn open(&self) -> Vec<(Edge, u64)> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let open = edges.iter().map(|(edge, known)| (edge, known.open()));
        open.filter(|(_, open)| *open > 0).map(|(edge, open)| (edge.clone(), open)).collect()
    }

    /// Every edge with all that is counted of it, in the order in which they were met.
    pub(crate) fn edges(&self) -> Vec<Counted> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted: Vec<(usize, Counted)> = edges.iter().map(|(edge, known)| known.counted(edge)).collect();
        counted.sort_by_key(|(order, _)| *order);
        counted.into_iter().map(|(_, counted)| counted).collect()
    }
}

/// What the `counting` benchmark runs: all that is counted of a request, so many times, the clock included.
#[doc(hidden)]
pub fn count_requests(times: u64) -> u64 {
    let meter = Meter::default();
    let pod = heddle_policy::PodName::new("bench", "web");
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

// === impl Known ===

impl Known {
    fn counted(&self, edge: &Edge) -> (usize, Counted) {
        let mut statuses = HashMap::new();
        for (status, count) in self.workers.iter().flat_map(|counters| counters.statuses.counts()) {
            *statuses.entry(status).or_default() += count;
        }
        let statuses = statuses.into_iter().collect();
        let (edge, peer_workload) = (edge.clone(), self.peer_workload.clone());
        let totals = add_up(&self.workers);
        (self.order, Counted { edge, peer_workload, totals, open: self.open(), statuses })
    }

    fn open(&self) -> u64 {
        self.workers.iter().map(|counters| counters.open.load(Ordering::Relaxed)).sum()
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
