//! What is counted, under which names: one vocabulary for the proxy that counts and those who read.
//!
//! The unit is the *edge*: traffic of one peer with one workload, seen from one side. Latencies are kept in
//! [`Histogram`]s that can be merged without loss, so that a percentile of any aggregation is a true one.

use std::sync::Arc;

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

/// What a proxy reports: its edges with their totals.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Changes when the proxy restarts, and its totals with it.
    pub instance: Arc<str>,
    pub edges: Vec<(Edge, Totals)>,
}

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
