//! What is counted, as text for Prometheus. `docs/metrics.md` describes every family.

mod labels;
mod text;
mod traffic;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::text::Format;

use self::labels::{Workload, pod_label};
use self::traffic::{Osm, Own};
use crate::worker::Shared;

/// Everything that is counted, as it stands.
pub(crate) fn encode(shared: &Arc<Shared>, format: Format) -> Result<String, fmt::Error> {
    let snapshot = shared.config.load();
    let settings = snapshot.config.settings.as_deref();
    let (own, pod) = (Workload::own(settings), pod_label(settings.map(|settings| &settings.pod)));
    let edges = shared.meter.counted();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Osm::of(&own, &pod, &edges)));
    let heddle = registry.sub_registry_with_prefix("heddle");
    heddle.register("build", "The version of the proxy", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    heddle.register_collector(Box::new(Own::of(&own, &edges)));
    heddle.register_collector(Box::new(Process(shared.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(format.of_open_metrics(text))
}

/// What the proxy says of itself.
struct Process(Arc<Shared>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let meter = &self.0.meter;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("panics", "Connections that ended in a panic", meter.panics.count()),
            ("refused_connections", "Connections beyond the limit", load(&meter.refused)),
            ("unproven_connections", "Connections that proved no identity of the mesh", load(&meter.unproven)),
            ("access_log_dropped", "Lines of the access log that there was no room for", self.0.access_log.dropped()),
            ("spans_exported", "Spans that the collector has taken", load(&meter.spans_exported)),
            ("spans_dropped", "Spans that there was no room for, or no collector", self.0.spans.dropped()),
        ];
        for (name, help, count) in counters {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let seconds = Some(&Unit::Seconds);
        let lost = ConstCounter::new(load(&meter.lost_ms) as f64 / 1e3);
        let help = "Time of which counts are missing, as proxies of the pod were killed";
        lost.encode(encoder.encode_descriptor("counts_lost", help, seconds, MetricType::Counter)?)?;
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        gauge("open_connections", "Accepted connections", None, load(&meter.connections))?;
        let revision = self.0.config.load().revision;
        gauge("config_revision", "Configurations taken since the start", None, revision)?;
        let Some(credentials) = self.0.store.current() else { return Ok(()) };
        let expiry = credentials.svid.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge("svid_expiry", "When the certificate expires, since 1970", seconds, expiry.as_secs())
    }
}
