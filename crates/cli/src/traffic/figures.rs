//! The figures of one measure: numbers out of quantities, rates out of counts.

use heddle_smi::metrics::{
    CONNECTION_COUNT, DENIED_COUNT, FAILURE_COUNT, LOST_TIME, OPEN_CONNECTION_COUNT, P50_RESPONSE_LATENCY,
    P99_RESPONSE_LATENCY, REASON_COUNT_PREFIX, SUCCESS_COUNT, TrafficMetrics, WOULD_DENY_COUNT,
};
use serde::Serialize;

/// What happened within a window.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// The length of the window.
    pub seconds: f64,
    /// Requests and TCP connections.
    pub success: f64,
    pub failure: f64,
    /// Refused by policy.
    pub denied: f64,
    /// How many of them were TCP connections.
    pub connections: f64,
    /// Connections without HTTP that are open now.
    pub open: f64,
    /// Let pass against policy, by a mode that is not `enforce`.
    pub would_deny: f64,
    /// Milliseconds; absent when there were no requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Why the mesh itself answered, by its stable codes.
    pub reasons: Vec<String>,
    /// Of how many seconds of the window some counts are missing.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: f64,
}

impl Figures {
    pub fn of(metrics: &TrafficMetrics) -> Self {
        let value = |name: &str| {
            let found = metrics.metrics.iter().find(|metric| metric.name == name);
            found.and_then(|metric| quantity(&metric.value)).unwrap_or_default()
        };
        let (success, failure) = (value(SUCCESS_COUNT), value(FAILURE_COUNT));
        let latency = |name: &str| Some(value(name)).filter(|value| *value > 0.0);
        let reasons = metrics.metrics.iter().filter_map(|metric| metric.name.strip_prefix(REASON_COUNT_PREFIX));
        Self {
            seconds: seconds(&metrics.window).unwrap_or_default(),
            success,
            failure,
            denied: value(DENIED_COUNT),
            connections: value(CONNECTION_COUNT),
            open: value(OPEN_CONNECTION_COUNT),
            would_deny: value(WOULD_DENY_COUNT),
            p50: latency(P50_RESPONSE_LATENCY),
            p99: latency(P99_RESPONSE_LATENCY),
            reasons: reasons.map(str::to_owned).collect(),
            lost: value(LOST_TIME),
        }
    }

    /// Requests and connections of every outcome.
    pub fn total(&self) -> f64 {
        self.success + self.failure + self.denied
    }

    /// Whether there is anything to show.
    pub fn is_idle(&self) -> bool {
        self.total() + self.open == 0.0
    }

    /// How many connections are open, where there are any: `3 open`.
    pub fn open_text(&self) -> String {
        if self.open > 0.0 { format!("{} open", self.open) } else { String::new() }
    }

    /// So many a second.
    pub fn rate(&self, count: f64) -> f64 {
        if self.seconds > 0.0 { count / self.seconds } else { 0.0 }
    }

    /// The share that succeeded of those that were not denied; absent when there were none.
    pub fn success_share(&self) -> Option<f64> {
        let served = self.success + self.failure;
        (served > 0.0).then(|| self.success / served)
    }
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// A quantity of Kubernetes: a number, or one in thousandths.
fn quantity(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok().map(|number| number / 1000.0),
        None => text.parse().ok(),
    }
}

/// A window as the API writes it: `30s`, `1m0s`, `1h0m0s`.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let number: f64 = rest[..unit].parse().ok()?;
        let factor = match rest.as_bytes()[unit] {
            b'h' => 3600.0,
            b'm' => 60.0,
            b's' => 1.0,
            _ => return None,
        };
        sum += number * factor;
        rest = &rest[unit + 1..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use heddle_smi::metrics::Metric;

    use super::*;

    #[test]
    fn figures_are_read_from_quantities() {
        let metrics = TrafficMetrics {
            window: "1m30s".to_owned(),
            metrics: vec![
                Metric::latency(P99_RESPONSE_LATENCY, 296.875),
                Metric::count(SUCCESS_COUNT, 27.0),
                Metric::count(FAILURE_COUNT, 3.0),
                Metric::count("reason_count/no-endpoint", 3.0),
            ],
            ..TrafficMetrics::default()
        };
        let figures = Figures::of(&metrics);
        assert_eq!((figures.seconds, figures.p50, figures.p99), (90.0, None, Some(296.875)));
        assert_eq!((figures.total(), figures.success_share()), (30.0, Some(0.9)));
        assert_eq!(figures.reasons, ["no-endpoint"]);
        assert_eq!(Figures::default().success_share(), None);
    }
}
