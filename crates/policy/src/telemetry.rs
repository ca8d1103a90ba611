//! What is counted, under which names: one vocabulary for the proxy that counts and those who read.
//!
//! The unit is the *edge*: traffic of one peer with one workload, seen from one side. Latencies are kept in
//! [`Histogram`]s that can be merged without loss, so that a percentile of any aggregation is a true one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{PodName, Reason, ServiceName, SpiffeId};

/// Which end of a connection counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    Client,
    Server,
}

/// What is told apart. Each field is bounded by the mesh's own size, never by what a client sends.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub side: Side,
    /// The pod that counts.
    pub pod: PodName,
    /// The peer's identity; absent for plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SpiffeId>,
    /// The peer's pod, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_pod: Option<PodName>,
    /// The Service the client addressed; on the client side only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The backend Service that a split chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<ServiceName>,
}

/// What became of a request or connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Success,
    /// HTTP 5xx, a gRPC status that says so, a transport error.
    Failure,
    /// Refused by policy: not a failure of the server.
    Denied,
}

/// The totals of an edge since its proxy started. They only grow, so that a reader which missed some loses nothing.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// HTTP requests by outcome.
    pub requests: Counts,
    /// TCP connections by outcome.
    pub connections: Counts,
    /// Requests and connections that `audit` or `permissive` let pass against policy.
    pub would_deny: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// From the request's head to the last byte of the answer; successes and failures.
    pub latency: Histogram,
    /// Denials and failures that the mesh itself answered, by reason.
    pub reasons: Vec<(Reason, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    pub success: u64,
    pub failure: u64,
    pub denied: u64,
}

/// What a proxy reports: its edges with their totals. A newer report of an instance makes the older ones dispensable, and
/// one that arrives twice counts once.
///
/// Every edge is named whose totals have changed within [`HISTORY`], or that is in use. One that a report does not name
/// has been retired: when it is named again its totals have begun with zeros, so that a reader forgets what it knew of
/// them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Names the totals: another instance began with zeros.
    pub instance: Arc<str>,
    pub edges: Vec<(Edge, Totals)>,
    /// The connections without HTTP that are open now, of the edges that have any: TCP connections, which are not among
    /// the totals before they have ended, and such as a request has turned into another protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<(Edge, u64)>,
    /// What proxies of the pod that were killed had counted and not noted.
    #[serde(default)]
    pub lost: Lost,
    /// Whether the proxy has ended, and nothing of it is missing.
    #[serde(default)]
    pub last: bool,
    /// The newest part of the totals by time, oldest first, for a reader that has not followed them.
    #[serde(default, skip_serializing_if = "<[Past]>::is_empty")]
    pub history: Arc<[Past]>,
}

/// What was counted in an interval.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// How many seconds ago the interval ended, as seen from the report.
    pub age: u32,
    /// How many seconds it was long, at most; 0 when that is not known.
    #[serde(default)]
    pub length: u32,
    /// What was added to each edge's totals.
    pub edges: Arc<[(Edge, Totals)]>,
}

/// The time of which counts are missing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lost {
    /// The newest gaps, oldest first.
    pub gaps: Vec<Gap>,
    /// The length of all there ever were, in milliseconds.
    pub total_ms: u64,
}

/// A time within which some counts are missing. Both ends are in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// All that was counted before is there.
    pub from: u64,
    pub until: u64,
}

/// How often totals are reported, when they have changed.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How often totals are noted where the next proxy finds them, so that a proxy which is killed loses no more than its
/// last second. Twice as often as would do, as a note may be late.
pub const NOTE_INTERVAL: Duration = Duration::from_millis(500);

/// The gaps that a report tells of.
const MAX_GAPS: usize = 60;

/// How far back a [history](Report::history) goes.
pub const HISTORY: Duration = Duration::from_secs(600);

/// A log-linear histogram of microseconds: 64 buckets an octave, so that a value is off by at most 1/128 of itself.
/// Sparse: pairs of bucket and count, by bucket. It is read from the wire, so that reading puts it in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub struct Histogram {
    /// Ascending and below [`BUCKETS`], no count is zero.
    buckets: Vec<(u16, u64)>,
}

/// Bits of a value that choose the bucket within its octave.
const PRECISION: u32 = 6;

/// The number of buckets that a value of 64 bits can fall into: the size of a dense array of counts.
pub const BUCKETS: usize = ((64 - PRECISION as usize) << PRECISION) + (1 << PRECISION);

/// The bucket of a value in microseconds.
pub const fn bucket(micros: u64) -> u16 {
    let octave = micros.checked_ilog2();
    match octave {
        Some(octave) if octave > PRECISION => {
            let shift = octave - PRECISION;
            (((shift as u64) << PRECISION) + (micros >> shift)) as u16
        }
        _ => micros as u16,
    }
}

/// The middle of a bucket, in microseconds. A bucket past the last is taken for the last.
pub const fn bucket_value(bucket: u16) -> u64 {
    let bucket = if (bucket as usize) < BUCKETS { bucket as u64 } else { BUCKETS as u64 - 1 };
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let low = (bucket - (shift << PRECISION)) << shift;
    low + ((1 << shift) >> 1)
}

// === impl Report ===

impl Report {
    /// Whether it says more than `earlier`, an older one of the same proxy. What ages is no news.
    pub fn is_news_after(&self, earlier: &Self) -> bool {
        let Self { last, lost, edges, open, .. } = self;
        (last, lost, edges, open) != (&earlier.last, &earlier.lost, &earlier.edges, &earlier.open)
    }
}

// === impl Lost, Gap ===

impl Lost {
    /// Adds a gap that is newer than the others.
    pub fn add(&mut self, gap: Gap) {
        self.total_ms = self.total_ms.saturating_add(gap.length().as_millis() as u64);
        self.gaps.push(gap);
        let too_many = self.gaps.len().saturating_sub(MAX_GAPS);
        self.gaps.drain(..too_many);
    }
}

impl Gap {
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.until.saturating_sub(self.from))
    }
}

// === impl Counts, Totals ===

impl Counts {
    /// All outcomes.
    pub fn total(&self) -> u64 {
        self.success.saturating_add(self.failure).saturating_add(self.denied)
    }

    fn each(&mut self, other: &Self, change: fn(u64, u64) -> u64) {
        self.success = change(self.success, other.success);
        self.failure = change(self.failure, other.failure);
        self.denied = change(self.denied, other.denied);
    }
}

impl Totals {
    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        self.each(other, u64::saturating_add);
        self.latency.merge(&other.latency);
        for &(reason, count) in &other.reasons {
            match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum = sum.saturating_add(count),
                None => self.reasons.push((reason, count)),
            }
        }
    }

    /// What has been added since `earlier`, an older state of the same totals.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |reason| earlier.reasons.iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count);
        let reasons = self.reasons.iter().map(|&(reason, count)| (reason, count.saturating_sub(before(reason))));
        let latency = self.latency.since(&earlier.latency);
        let mut added = Self { reasons: reasons.filter(|(_, count)| *count > 0).collect(), latency, ..self.scalars() };
        added.each(earlier, u64::saturating_sub);
        added
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The counts alone.
    fn scalars(&self) -> Self {
        let Self { requests, connections, would_deny, bytes_received, bytes_sent, .. } = *self;
        Self { requests, connections, would_deny, bytes_received, bytes_sent, ..Self::default() }
    }

    fn each(&mut self, other: &Self, change: fn(u64, u64) -> u64) {
        self.requests.each(&other.requests, change);
        self.connections.each(&other.connections, change);
        self.would_deny = change(self.would_deny, other.would_deny);
        self.bytes_received = change(self.bytes_received, other.bytes_received);
        self.bytes_sent = change(self.bytes_sent, other.bytes_sent);
    }
}

// === impl Histogram ===

impl Histogram {
    /// From pairs of bucket and count, in any order. A bucket past the last counts as the last.
    pub fn from_buckets(pairs: impl IntoIterator<Item = (u16, u64)>) -> Self {
        let mut histogram = Self::default();
        for (bucket, count) in pairs {
            histogram.add(bucket, count);
        }
        histogram
    }

    /// Counts one value, in microseconds.
    pub fn record(&mut self, micros: u64) {
        self.add(bucket(micros), 1);
    }

    /// Adds another's counts: the result is that of all values recorded in one.
    pub fn merge(&mut self, other: &Self) {
        for &(bucket, count) in &other.buckets {
            self.add(bucket, count);
        }
    }

    /// What has been added since `earlier`, an older state of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket| match earlier.buckets.binary_search_by_key(&bucket, |pair| pair.0) {
            Ok(at) => earlier.buckets[at].1,
            Err(_) => 0,
        };
        let rest = self.buckets.iter().map(|&(bucket, count)| (bucket, count.saturating_sub(before(bucket))));
        Self { buckets: rest.filter(|pair| pair.1 > 0).collect() }
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum: u64, pair| sum.saturating_add(pair.1))
    }

    /// The value in microseconds below which a share of `quantile` (0 to 1) of the values lies; `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0_u64;
        self.buckets.iter().find_map(|&(bucket, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then(|| bucket_value(bucket))
        })
    }

    /// Pairs of bucket and count, ascending by bucket, without empty ones.
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
    }

    fn add(&mut self, bucket: u16, count: u64) {
        let bucket = bucket.min(BUCKETS as u16 - 1);
        if count == 0 {
            return;
        }
        match self.buckets.binary_search_by_key(&bucket, |pair| pair.0) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }
}

impl From<Vec<(u16, u64)>> for Histogram {
    fn from(pairs: Vec<(u16, u64)>) -> Self {
        Self::from_buckets(pairs)
    }
}

impl From<Histogram> for Vec<(u16, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.buckets
    }
}
