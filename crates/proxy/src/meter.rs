//! Counts: per edge and worker while traffic passes, added up when somebody asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heddle_policy::Reason;
use heddle_policy::telemetry::{self, BUCKETS, Counts, Edge, Histogram, Outcome, Side, Totals};

/// Every worker's counters.
#[derive(Default)]
pub(crate) struct Meter {
    edges: Mutex<HashMap<Edge, Vec<Arc<Counters>>>>,
    /// Tasks of connections that ended in a panic.
    pub(crate) panics: AtomicU64,
    /// Open connections.
    pub(crate) connections: AtomicU64,
    /// Connections that were not accepted because of a limit.
    pub(crate) refused: AtomicU64,
}

/// The totals of one edge on one worker, which alone writes them.
pub(crate) struct Counters {
    side: Side,
    requests: [AtomicU64; 3],
    connections: [AtomicU64; 3],
    would_deny: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    reasons: [AtomicU64; REASONS.len()],
    latency: Latency,
}

/// Dense counts, of those octaves that occur.
struct Latency([OnceLock<Box<[AtomicU64; OCTAVE]>>; BUCKETS / OCTAVE]);

const OCTAVE: usize = 64;

/// Every reason, at the place of its discriminant.
const REASONS: [Reason; 16] = [
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
    pub(crate) fn counters(&self, edge: Edge) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(edge.side));
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.entry(edge).or_default().push(counters.clone());
        counters
    }

    /// Every edge with its totals over all workers.
    pub(crate) fn totals(&self) -> Vec<(Edge, Totals)> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.iter().map(|(edge, workers)| (edge.clone(), add_up(workers))).collect()
    }
}

// === impl Counters ===

impl Counters {
    fn new(side: Side) -> Self {
        Self {
            side,
            requests: Default::default(),
            connections: Default::default(),
            would_deny: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            reasons: Default::default(),
            latency: Latency(std::array::from_fn(|_| OnceLock::new())),
        }
    }

    pub(crate) fn request(&self, outcome: Outcome) {
        add(&self.requests[outcome as usize], 1);
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
        let (sent, received) = match self.side {
            Side::Client => (uploaded, downloaded),
            Side::Server => (downloaded, uploaded),
        };
        add(&self.bytes_sent, sent);
        add(&self.bytes_received, received);
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
