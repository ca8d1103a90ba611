//! Measures as the documents of SMI.

use heddle_policy::telemetry::{Counts, Totals};
use heddle_smi::metrics::{
    Edge, FAILURE_COUNT, Metric, MetricsMetadata, ObjectReference, P50_RESPONSE_LATENCY, P90_RESPONSE_LATENCY,
    P99_RESPONSE_LATENCY, SUCCESS_COUNT, Selector, TrafficMetrics, TrafficMetricsList,
};

use crate::query::go_text;
use crate::{Kind, Measured, Query, Row, Scope};

/// How the documents of one answer name themselves.
pub(crate) struct Frame<'a> {
    /// Such as `v1alpha1`.
    pub(crate) version: &'a str,
    /// The path that was asked.
    pub(crate) path: &'a str,
    /// When it was asked, RFC 3339.
    pub(crate) now: &'a str,
}

impl Frame<'_> {
    /// One resource, as SMI's clients expect it.
    pub(crate) fn one(&self, row: &Row, measured: &Measured) -> TrafficMetrics {
        self.metrics(row, measured, self.path.to_owned())
    }

    /// Several resources, edges, or the backends of a split (M9).
    pub(crate) fn list(&self, query: &Query, measured: &Measured) -> TrafficMetricsList {
        let items = measured.rows.iter().map(|row| self.metrics(row, measured, self.link(query, row)));
        let labels = query.selector.equalities();
        TrafficMetricsList {
            api_version: self.api_version(),
            kind: "TrafficMetricsList".to_owned(),
            metadata: MetricsMetadata { self_link: Some(self.path.to_owned()), ..MetricsMetadata::default() },
            resource: listed(query),
            selector: (!labels.is_empty()).then_some(Selector { match_labels: labels }),
            items: items.collect(),
        }
    }

    fn api_version(&self) -> String {
        format!("{}/{}", heddle_smi::metrics::GROUP, self.version)
    }

    /// The path of an item: that of its resource, and of an edge that of all its edges, as one edge has none (M6).
    fn link(&self, query: &Query, row: &Row) -> String {
        let name = row.resource.name.as_deref().unwrap_or_default();
        let place = row.resource.namespace.as_ref().map(|namespace| format!("namespaces/{namespace}/"));
        let edges = if matches!(query.scope, Scope::Edges { .. }) { "/edges" } else { "" };
        format!("/apis/{}/{}{}/{name}{edges}", self.api_version(), place.unwrap_or_default(), query.kind.plural())
    }

    fn metrics(&self, row: &Row, measured: &Measured, link: String) -> TrafficMetrics {
        let metadata = MetricsMetadata {
            name: row.resource.name.clone(),
            namespace: row.resource.namespace.clone(),
            self_link: Some(link),
            creation_timestamp: Some(row.created.as_deref().unwrap_or(self.now).to_owned()),
        };
        TrafficMetrics {
            api_version: self.api_version(),
            kind: "TrafficMetrics".to_owned(),
            metadata,
            timestamp: self.now.to_owned(),
            window: go_text(measured.window),
            resource: row.resource.clone(),
            edge: Edge { direction: row.direction, side: row.side, resource: row.other.clone() },
            backend: row.backend.clone(),
            metrics: values(row),
        }
    }
}

/// What a list is of (M4).
fn listed(query: &Query) -> ObjectReference {
    let (namespace, name) = match &query.scope {
        Scope::List { namespace } => (namespace.clone(), None),
        Scope::One { namespace, name } => (Some(namespace.clone()), Some(name.clone())),
        Scope::Edges { namespace, name } => (namespace.clone(), name.clone()),
    };
    ObjectReference {
        api_version: Some(query.kind.api_version().to_owned()),
        kind: Some(query.kind.name().to_owned()),
        namespace: namespace.filter(|namespace| !namespace.is_empty()),
        name,
    }
}

/// Requests and connections together: an edge most often has one of them.
pub(crate) fn counts(totals: &Totals) -> Counts {
    let Totals { requests, connections, .. } = totals;
    Counts {
        success: requests.success.saturating_add(connections.success),
        failure: requests.failure.saturating_add(connections.failure),
        denied: requests.denied.saturating_add(connections.denied),
    }
}

/// The latency in milliseconds that this share of requests did not exceed; 0 without requests (M14).
pub(crate) fn latency(totals: &Totals, quantile: f64) -> f64 {
    totals.latency.quantile(quantile).unwrap_or_default() as f64 / 1000.0
}

/// The five measures of the specification and the count of what was denied; others where they are not zero.
fn values(row: &Row) -> Vec<Metric> {
    let totals = &row.totals;
    let Counts { success, failure, denied } = counts(totals);
    let mut values = vec![
        Metric::latency(P99_RESPONSE_LATENCY, latency(totals, 0.99)),
        Metric::latency(P90_RESPONSE_LATENCY, latency(totals, 0.90)),
        Metric::latency(P50_RESPONSE_LATENCY, latency(totals, 0.50)),
        Metric::count(SUCCESS_COUNT, success as f64),
        Metric::count(FAILURE_COUNT, failure as f64),
        Metric::count(heddle_smi::metrics::DENIED_COUNT, denied as f64),
    ];
    let more = [
        (heddle_smi::metrics::CONNECTION_COUNT, totals.connections.total()),
        (heddle_smi::metrics::OPEN_CONNECTION_COUNT, row.open),
        (heddle_smi::metrics::WOULD_DENY_COUNT, totals.would_deny),
    ];
    values.extend(
        more.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| Metric::count(name, count as f64)),
    );
    let mut reasons = totals.reasons.clone();
    reasons.sort_by_key(|(reason, _)| reason.code());
    values.extend(reasons.into_iter().map(|(reason, count)| {
        Metric::count(&format!("{}{}", heddle_smi::metrics::REASON_COUNT_PREFIX, reason.code()), count as f64)
    }));
    if !row.lost.is_zero() {
        values.push(Metric::seconds(heddle_smi::metrics::LOST_TIME, row.lost.as_secs_f64()));
    }
    values
}

/// Whether the answer is a list. One TrafficSplit is: it has a measure for each backend (M9).
pub(crate) fn is_list(query: &Query) -> bool {
    query.kind == Kind::TrafficSplit || !matches!(query.scope, Scope::One { .. })
}
