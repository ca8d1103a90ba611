//! Families of metrics about traffic: Heddle's own, and those of OSM for the tools that read them.

use std::fmt;
use std::sync::Arc;

use heddle_policy::telemetry::{Counts, Histogram, Side, bucket_value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::labels::{Labels, Sum, Workload, add_up, other_label, pod_label};
use crate::limits;
use crate::meter::{Counted, Naming};

/// Heddle's own families.
#[derive(Debug)]
pub(super) struct Own {
    /// By peer.
    edges: Vec<(Labels, Sum)>,
    /// All peers of a side together: a histogram for each would cost most of all series.
    sides: Vec<(Labels, Sum)>,
}

/// The families of OSM, which are of the client's side.
#[derive(Debug)]
pub(super) struct Osm(Vec<(Labels, Sum)>);

/// The upper bounds of the latency buckets, in milliseconds.
const BOUNDS_MS: [f64; 15] =
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, f64::INFINITY];

// === impl Own ===

impl Own {
    pub(super) fn of(own: &Workload, edges: &[Counted]) -> Self {
        let of_side = |side| edges.iter().filter(move |counted: &&Counted| counted.edge.side == side);
        let rooms = [limits::LABELLED_WORKLOADS, usize::MAX];
        let mut by_peer = add_up(of_side(Side::Client), rooms, |counted| client_labels(own, counted));
        by_peer.extend(add_up(of_side(Side::Server), rooms, |counted| server_labels(own, counted)));
        let all = |side, labels: Labels| add_up(of_side(side), [usize::MAX], |_| [Some(labels.clone())]);
        let client = all(Side::Client, side_labels("client", own.as_source()));
        let server = all(Side::Server, side_labels("server", own.as_destination()));
        Self { edges: by_peer, sides: client.into_iter().chain(server).collect() }
    }
}

fn client_labels(own: &Workload, counted: &Counted) -> [Option<Labels>; 2] {
    let (source, destination) = (own.as_source(), Workload::of_peer(counted).as_destination());
    let name = |name: Option<&heddle_policy::ServiceName>| name.map_or("".into(), |name| name.to_string().into());
    let services =
        vec![("service", name(counted.edge.service.as_ref())), ("backend", name(counted.edge.backend.as_ref()))];
    let others = vec![("service", other_label()), ("backend", other_label())];
    let labels = |destination, services| side_labels("client", [source.clone(), destination, services].concat());
    let named = (counted.naming != Naming::Nothing).then(|| labels(destination, services));
    [named, Some(labels(Workload::other().as_destination(), others))]
}

fn server_labels(own: &Workload, counted: &Counted) -> [Option<Labels>; 2] {
    let labels = |source: Workload| side_labels("server", [source.as_source(), own.as_destination()].concat());
    let named = (counted.naming != Naming::Nothing).then(|| labels(Workload::of_peer(counted)));
    [named, Some(labels(Workload::other()))]
}

fn side_labels(side: &str, rest: Labels) -> Labels {
    [vec![("side", side.into())], rest].concat()
}

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        self.encode_outcomes(encoder, "requests", "HTTP requests by outcome", |sum| sum.requests)?;
        self.encode_outcomes(encoder, "tcp_connections", "TCP connections by outcome", |sum| sum.connections)?;
        self.encode_open(encoder)?;
        let help = "Requests and connections that audit or permissive let pass against policy";
        encode_counter(encoder, "would_deny", help, None, non_zero(&self.edges, |sum| sum.would_deny))?;
        let reasons = self.edges.iter().flat_map(|(labels, sum)| {
            sum.reasons.iter().map(|(reason, count)| (with(labels, "reason", reason.code()), *count))
        });
        encode_counter(encoder, "reasons", "Answers and closes of the mesh itself, by reason", None, reasons)?;
        let bytes = Some(&Unit::Bytes);
        let (received, sent) = (non_zero(&self.sides, |sum| sum.received), non_zero(&self.sides, |sum| sum.sent));
        encode_counter(encoder, "received", "Bytes that came from the other end", bytes, received)?;
        encode_counter(encoder, "sent", "Bytes that went to the other end", bytes, sent)?;
        let help = "From a request's head to the end of its answer";
        encode_latency(encoder, "request_duration", help, Some(&Unit::Seconds), 1000.0, &self.sides)
    }
}

impl Own {
    /// All outcomes of what has occurred, zeros included: a rate needs the zero before the first failure.
    fn encode_outcomes(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&Sum) -> Counts,
    ) -> Result<(), fmt::Error> {
        let samples = self.edges.iter().filter(|(_, sum)| of(sum) != Counts::default()).flat_map(|(labels, sum)| {
            let counts = of(sum);
            let outcomes = [("success", counts.success), ("failure", counts.failure), ("denied", counts.denied)];
            outcomes.map(|(outcome, count)| (with(labels, "outcome", outcome), count))
        });
        encode_counter(encoder, name, help, None, samples)
    }
}

impl Own {
    /// Also of edges that have none now: a gauge that goes away looks like one that cannot be read.
    fn encode_open(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (name, help) = ("tcp_connections_open", "TCP connections open now, those of upgraded requests among them");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, sum) in self.edges.iter().filter(|(_, sum)| sum.open + sum.connections.total() > 0) {
            let open = i64::try_from(sum.open).unwrap_or(i64::MAX);
            ConstGauge::new(open).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

// === impl Osm ===

impl Osm {
    pub(super) fn of(own: &Workload, pod: &Arc<str>, edges: &[Counted]) -> Self {
        let client = edges.iter().filter(|counted| counted.edge.side == Side::Client);
        // The meter bounds the pods that are named.
        let rooms = [usize::MAX, limits::LABELLED_WORKLOADS, usize::MAX];
        Self(add_up(client, rooms, |counted| osm_labels(own, pod, counted)))
    }
}

fn osm_labels(own: &Workload, pod: &Arc<str>, counted: &Counted) -> [Option<Labels>; 3] {
    let source = [own.as_source(), vec![("source_pod", pod.clone())]].concat();
    let labels = |destination: &Workload, pod: Arc<str>| {
        [source.clone(), destination.as_destination(), vec![("destination_pod", pod)]].concat()
    };
    let destination = Workload::of_peer(counted);
    let of_pod = || labels(&destination, pod_label(counted.edge.peer_pod.as_ref()));
    // The workload stays known, so that what is asked of a Deployment stays right however many pods it has had.
    let of_workload = || labels(&destination, other_label());
    let of_others = || labels(&Workload::other(), other_label());
    match counted.naming {
        Naming::Pod => [Some(of_pod()), None, None],
        Naming::Workload => [None, Some(of_workload()), Some(of_others())],
        // Its counts end with the labels of its pod: under others they would look like new traffic.
        Naming::PodGone | Naming::Nothing => [None, None, None],
    }
}

impl Collector for Osm {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let statuses = self.0.iter().flat_map(|(labels, sum)| {
            let code = |(status, count): (&&'static str, &u64)| {
                ([vec![("response_code", (*status).into())], labels.clone()].concat(), *count)
            };
            sum.statuses.iter().map(code).collect::<Vec<_>>()
        });
        encode_counter(encoder, "osm_request", "HTTP requests by the status of their answer", None, statuses)?;
        let help = "From a request's head to the end of its answer, in milliseconds";
        encode_latency(encoder, "osm_request_duration_ms", help, None, 1.0, &self.0)
    }
}

// === families ===

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    [labels.clone(), vec![(name, value.into())]].concat()
}

fn non_zero(sums: &[(Labels, Sum)], of: impl Fn(&Sum) -> u64) -> impl Iterator<Item = (Labels, u64)> {
    sums.iter().map(move |(labels, sum)| (labels.clone(), of(sum))).filter(|(_, count)| *count > 0)
}

fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    samples: impl Iterator<Item = (Labels, u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (labels, count) in samples {
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// `unit_ms` is how many milliseconds one of the family's unit has.
fn encode_latency(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    unit_ms: f64,
    sums: &[(Labels, Sum)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    for (labels, sum) in sums.iter().filter(|(_, sum)| sum.latency.count() > 0) {
        encode_histogram(&sum.latency, unit_ms, family.encode_family(labels)?)?;
    }
    Ok(())
}

fn encode_histogram(latency: &Histogram, unit_ms: f64, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    let mut counts = [0; BOUNDS_MS.len()];
    let mut sum = 0.0;
    for &(bucket, count) in latency.buckets() {
        let ms = bucket_value(bucket) as f64 / 1e3;
        sum += ms / unit_ms * count as f64;
        counts[BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS_MS.len() - 1)] += count;
    }
    let buckets: Vec<(f64, u64)> = BOUNDS_MS.into_iter().map(|bound| bound / unit_ms).zip(counts).collect();
    encoder.encode_histogram::<NoLabelSet>(sum, latency.count(), &buckets, None)
}
