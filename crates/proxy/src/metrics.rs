//! The proxy's metrics as OpenMetrics text.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use heddle_policy::telemetry::{Counts, Edge, Histogram, Side, Totals, bucket_value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::worker::Shared;

pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bounds of the latency buckets, in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, f64::INFINITY];

type Labels = Vec<(&'static str, String)>;

/// Everything that is counted, as it stands.
pub(crate) fn encode(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("heddle");
    registry.register_collector(Box::new(Proxy { shared: shared.clone(), edges: shared.meter.totals() }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Proxy {
    shared: Arc<Shared>,
    edges: Vec<(Edge, Totals)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("edges", &self.edges.len()).finish_non_exhaustive()
    }
}

impl Collector for Proxy {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_outcomes(&mut encoder, "requests", "HTTP requests", |totals| totals.requests)?;
        self.encode_outcomes(&mut encoder, "tcp_connections", "TCP connections", |totals| totals.connections)?;
        self.encode_counts(&mut encoder, "would_deny", "Let pass against policy", |totals| totals.would_deny)?;
        self.encode_counts(&mut encoder, "bytes_received", "Bytes from the peer", |totals| totals.bytes_received)?;
        self.encode_counts(&mut encoder, "bytes_sent", "Bytes to the peer", |totals| totals.bytes_sent)?;
        self.encode_reasons(&mut encoder)?;
        self.encode_latency(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Proxy {
    fn encode_outcomes(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&Totals) -> Counts,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (edge, totals) in &self.edges {
            let counts = of(totals);
            let outcomes = [("success", counts.success), ("failure", counts.failure), ("denied", counts.denied)];
            for (outcome, count) in outcomes.into_iter().filter(|(_, count)| *count > 0) {
                let mut labels = labels(edge);
                labels.push(("outcome", outcome.to_owned()));
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_counts(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&Totals) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (edge, totals) in &self.edges {
            ConstCounter::new(of(totals)).encode(family.encode_family(&labels(edge))?)?;
        }
        Ok(())
    }

    fn encode_reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Answers and closes of the mesh itself, by reason";
        let mut family = encoder.encode_descriptor("reasons", help, None, MetricType::Counter)?;
        for (edge, totals) in &self.edges {
            for (reason, count) in &totals.reasons {
                let mut labels = labels(edge);
                labels.push(("reason", reason.to_string()));
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "From a request's head to the end of its answer";
        let mut family =
            encoder.encode_descriptor("request_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (edge, totals) in &self.edges {
            encode_histogram(&totals.latency, family.encode_family(&labels(edge))?)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let meter = &self.shared.meter;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("panics", "Connections that ended in a panic", load(&meter.panics)),
            ("refused_connections", "Connections beyond the limit", load(&meter.refused)),
        ];
        for (name, help, count) in counters {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let open = ConstGauge::new(load(&meter.connections) as i64);
        open.encode(encoder.encode_descriptor("open_connections", "Accepted connections", None, MetricType::Gauge)?)?;
        let revision = ConstGauge::new(self.shared.config.load().revision as i64);
        let help = "Configurations taken since the start";
        revision.encode(encoder.encode_descriptor("config_revision", help, None, MetricType::Gauge)?)?;
        let Some(credentials) = self.shared.store.current() else { return Ok(()) };
        let expiry = credentials.svid.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "When the certificate expires, in seconds since 1970";
        let unit = Some(&Unit::Seconds);
        let gauge = ConstGauge::new(expiry.as_secs() as i64);
        gauge.encode(encoder.encode_descriptor("svid_expiry", help, unit, MetricType::Gauge)?)
    }
}

fn encode_histogram(latency: &Histogram, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    let mut counts = [0; BOUNDS.len()];
    let mut sum = 0.0;
    for &(bucket, count) in latency.buckets() {
        let seconds = bucket_value(bucket) as f64 / 1e6;
        sum += seconds * count as f64;
        counts[BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len() - 1)] += count;
    }
    let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts).collect();
    encoder.encode_histogram::<NoLabelSet>(sum, latency.count(), &buckets, None)
}

fn labels(edge: &Edge) -> Labels {
    let side = match edge.side {
        Side::Client => "client",
        Side::Server => "server",
    };
    let text = |value: Option<String>| value.unwrap_or_default();
    vec![
        ("side", side.to_owned()),
        ("pod", edge.pod.to_string()),
        ("peer", text(edge.peer.as_ref().map(ToString::to_string))),
        ("peer_pod", text(edge.peer_pod.as_ref().map(ToString::to_string))),
        ("service", text(edge.service.as_ref().map(ToString::to_string))),
        ("backend", text(edge.backend.as_ref().map(ToString::to_string))),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use heddle_identity::Store;
    use heddle_policy::telemetry::Outcome;
    use heddle_policy::{PodName, Reason};

    use super::*;
    use crate::Options;

    #[test]
    fn what_is_counted_is_told_per_edge() {
        let options = Options {
            pod_ip: Ipv4Addr::LOCALHOST.into(),
            mesh_port: 0,
            mark: None,
            workers: 1,
            drain: Duration::ZERO,
            listen: Vec::new(),
            admin: Vec::new(),
        };
        let shared = Shared::new(options, Vec::new(), Store::empty());
        let pod = PodName::new("shop", "web-1");
        let edge = Edge { side: Side::Server, pod, peer: None, peer_pod: None, service: None, backend: None };
        // Two workers count the same edge.
        for _ in 0..2 {
            let counters = shared.meter.counters(edge.clone());
            counters.request(Outcome::Denied);
            counters.reason(Reason::NoIdentity);
            counters.latency(Duration::from_millis(3));
            counters.bytes(10, 20);
        }
        let text = encode(&shared).unwrap();
        let labels = r#"side="server",pod="shop/web-1",peer="",peer_pod="",service="",backend="""#;
        for line in [
            format!(r#"heddle_requests_total{{{labels},outcome="denied"}} 2"#),
            format!(r#"heddle_reasons_total{{{labels},reason="no-identity"}} 2"#),
            format!("heddle_bytes_received_total{{{labels}}} 20"),
            format!("heddle_bytes_sent_total{{{labels}}} 40"),
            format!("heddle_request_duration_seconds_count{{{labels}}} 2"),
            "heddle_panics_total 0".to_owned(),
            "heddle_config_revision 0".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for (bound, count) in [("0.0025", 0), ("0.005", 2), ("+Inf", 2)] {
            let line = format!(r#"heddle_request_duration_seconds_bucket{{le="{bound}",{labels}}} {count}"#);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
