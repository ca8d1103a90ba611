//! The traffic of the last seconds, by edge: reports of running totals in, windows out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy::PodName;
use heddle_policy::telemetry::{Counts, Edge, Report, Totals};

use crate::view::Window;

/// What proxies have reported within the last window. Proxies report about once a second.
#[derive(Default)]
pub(crate) struct Edges {
    proxies: HashMap<PodName, Proxy>,
}

/// The reports of one run of a proxy.
struct Proxy {
    instance: Arc<str>,
    /// Of the last report.
    at: Instant,
    edges: BTreeMap<Edge, VecDeque<(Instant, Totals)>>,
}

/// The length of a window.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// How long a proxy that is silent is remembered.
const FORGET: Duration = Duration::from_secs(30);

/// Reports kept of an edge; more often than once a second is not kept.
const SAMPLES: usize = 12;
const SAMPLE_EVERY: Duration = Duration::from_millis(800);

/// Edges kept of one proxy. The others are counted by the proxy itself, and only missing in the live view.
const EDGES: usize = 2_000;

// === impl Edges ===

impl Edges {
    /// Takes in the report of `pod`'s proxy. What it says of other pods is ignored: a proxy speaks for itself.
    pub(crate) fn add(&mut self, pod: &PodName, report: Report, now: Instant) {
        self.proxies.retain(|_, proxy| now.saturating_duration_since(proxy.at) < FORGET);
        let known = self.proxies.get(pod).filter(|proxy| proxy.instance == report.instance).map(|proxy| proxy.at);
        if known.is_none() {
            let proxy = Proxy { instance: report.instance.clone(), at: now, edges: BTreeMap::new() };
            self.proxies.insert(pod.clone(), proxy);
        }
        let Some(proxy) = self.proxies.get_mut(pod) else { return };
        proxy.at = now;
        for (edge, totals) in report.edges {
            if edge.pod == *pod {
                proxy.add(edge, totals, known, now);
            }
        }
    }

    /// Every edge with its last window, by pod and edge.
    pub(crate) fn windows(&self, now: Instant) -> Vec<(&Edge, Window)> {
        let mut windows: Vec<_> = self
            .proxies
            .values()
            .filter(|proxy| now.saturating_duration_since(proxy.at) < WINDOW)
            .flat_map(|proxy| proxy.edges.iter().map(|(edge, samples)| (edge, window(samples, now))))
            .collect();
        windows.sort_by(|a, b| (&a.0.pod, a.0).cmp(&(&b.0.pod, b.0)));
        windows
    }
}

// === impl Proxy ===

impl Proxy {
    /// `before` is when this proxy reported last: an edge that it did not have then began with zeros.
    fn add(&mut self, edge: Edge, totals: Totals, before: Option<Instant>, now: Instant) {
        if self.edges.len() >= EDGES && !self.edges.contains_key(&edge) {
            return;
        }
        let samples = self
            .edges
            .entry(edge)
            .or_insert_with(|| before.map(|before| (before, Totals::default())).into_iter().collect());
        let recent = samples.len() > 1
            && samples.iter().rev().nth(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) < SAMPLE_EVERY);
        if recent {
            samples.pop_back();
        }
        samples.push_back((now, totals));
        // The newest sample that is older than the window is the one that the window is counted from.
        while samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
            || samples.len() > SAMPLES
        {
            samples.pop_front();
        }
    }
}

fn window(samples: &VecDeque<(Instant, Totals)>, now: Instant) -> Window {
    let start = samples.iter().find(|(at, _)| now.saturating_duration_since(*at) <= WINDOW + SAMPLE_EVERY);
    let (Some((from, before)), Some((to, after))) = (start, samples.back()) else { return Window::default() };
    let reasons = after.reasons.iter().map(|(reason, count)| {
        let earlier = before.reasons.iter().find(|(other, _)| other == reason).map_or(0, |(_, count)| *count);
        (*reason, count.saturating_sub(earlier))
    });
    Window {
        seconds: to.saturating_duration_since(*from).as_secs_f64(),
        requests: since(after.requests, before.requests),
        connections: since(after.connections, before.connections),
        would_deny: after.would_deny.saturating_sub(before.would_deny),
        bytes_received: after.bytes_received.saturating_sub(before.bytes_received),
        bytes_sent: after.bytes_sent.saturating_sub(before.bytes_sent),
        latency: after.latency.since(&before.latency),
        reasons: reasons.filter(|(_, count)| *count > 0).collect(),
    }
}

fn since(after: Counts, before: Counts) -> Counts {
    Counts {
        success: after.success.saturating_sub(before.success),
        failure: after.failure.saturating_sub(before.failure),
        denied: after.denied.saturating_sub(before.denied),
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy::telemetry::Side;

    use super::*;

    fn pod() -> PodName {
        PodName::new("shop", "web")
    }

    fn report(instance: &str, pod: PodName, success: u64) -> Report {
        let edge = Edge { side: Side::Server, pod, peer: None, peer_pod: None, service: None, backend: None };
        let requests = Counts { success, ..Counts::default() };
        Report { instance: instance.into(), edges: vec![(edge, Totals { requests, ..Totals::default() })] }
    }

    /// Reports a total each second and returns the window after the last.
    fn after(reports: &[Report]) -> Option<Window> {
        let (mut edges, start) = (Edges::default(), Instant::now());
        let mut now = start;
        for (second, report) in (0..).zip(reports) {
            now = start + Duration::from_secs(second);
            edges.add(&pod(), report.clone(), now);
        }
        edges.windows(now).pop().map(|(_, window)| window)
    }

    #[test]
    fn a_window_counts_what_was_added_in_ten_seconds() {
        let reports: Vec<_> = (0..30).map(|second| report("a", pod(), 1000 + second * 5)).collect();
        let window = after(&reports).unwrap();
        assert_eq!((window.seconds, window.requests.success), (10.0, 50));
    }

    #[test]
    fn totals_from_before_the_first_report_are_not_traffic_of_now() {
        let window = after(&[report("a", pod(), 1_000_000)]).unwrap();
        assert_eq!((window.seconds, window.requests.success), (0.0, 0));
    }

    #[test]
    fn a_new_edge_of_a_known_proxy_began_with_zero() {
        let empty = Report { edges: Vec::new(), ..report("a", pod(), 0) };
        let window = after(&[empty, report("a", pod(), 7)]).unwrap();
        assert_eq!((window.seconds, window.requests.success), (1.0, 7));
    }

    #[test]
    fn a_restarted_proxy_starts_anew() {
        let window = after(&[report("a", pod(), 500), report("b", pod(), 3), report("b", pod(), 4)]).unwrap();
        assert_eq!(window.requests.success, 1);
    }

    #[test]
    fn a_proxy_speaks_only_for_its_own_pod() {
        assert_eq!(after(&[report("a", PodName::new("bank", "vault"), 1)]), None);
    }
}
