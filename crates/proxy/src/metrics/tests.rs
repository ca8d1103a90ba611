//! What a scrape says.

use std::sync::Arc;
use std::time::Duration;

use heddle_identity::Store;
use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{PodName, ProxyConfig, Reason, ServiceName, SpiffeId};
use serde_json::json;

use super::*;
use crate::Options;
use crate::limits;
use crate::snapshot::Snapshot;

/// A proxy of the pod `shop/web-1` of the Deployment `web`.
fn shared() -> Arc<Shared> {
    let shared = Shared::new(Options::example(), Vec::new(), Store::empty());
    let settings = json!({
        "pod": "shop/web-1", "workload": "Deployment/web",
        "identity": "spiffe://cluster.local/ns/shop/sa/web", "clusterDomain": "cluster.local",
    });
    let config: ProxyConfig = serde_json::from_value(json!({ "settings": settings })).unwrap();
    shared.config.store(Arc::new(Snapshot::new(Arc::new(config), 1)));
    shared
}

fn identity(name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "shop", name).unwrap()
}

/// The edge to a pod, which a split chose for the Service `api`.
fn edge_to(pod: &str, backend: &str) -> Edge {
    Edge {
        side: Side::Client,
        pod: PodName::new("shop", "web-1"),
        peer: Some(identity("api")),
        peer_pod: Some(PodName::new("shop", pod)),
        service: Some(ServiceName::new("shop", "api")),
        backend: Some(ServiceName::new("shop", backend)),
    }
}

fn edge_from(identity: Option<SpiffeId>) -> Edge {
    let pod = PodName::new("shop", "web-1");
    Edge { side: Side::Server, pod, peer: identity, peer_pod: None, service: None, backend: None }
}

/// Counts so many answers of 3 ms on a worker of its own.
fn count(shared: &Shared, edge: &Edge, workload: Option<&str>, status: u16, times: u64) {
    let counters = shared.meter.counters(edge.clone(), workload.map(Into::into));
    for _ in 0..times {
        counters.request(if status >= 500 { Outcome::Failure } else { Outcome::Success }, status);
        counters.latency(Duration::from_millis(3));
        counters.bytes(10, 20);
    }
}

fn scrape(shared: &Arc<Shared>) -> String {
    encode(shared, Format::OpenMetrics).unwrap()
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
    }
}

#[test]
fn osm_metrics_are_labelled_as_osm_did() {
    let shared = shared();
    // Two workers count the same edge.
    count(&shared, &edge_to("api-7d4-x", "api-v1"), Some("Deployment/api-v1"), 200, 2);
    count(&shared, &edge_to("api-7d4-x", "api-v1"), Some("Deployment/api-v1"), 200, 1);
    count(&shared, &edge_to("api-7d4-x", "api-v1"), Some("Deployment/api-v1"), 503, 1);
    count(&shared, &edge_from(Some(identity("buyer"))), None, 200, 5);
    let edge = r#"source_namespace="shop",source_kind="Deployment",source_name="web",source_pod="web-1",destination_namespace="shop",destination_kind="Deployment",destination_name="api-v1",destination_pod="api-7d4-x""#;
    let text = scrape(&shared);
    assert_has(
        &text,
        &[
            &format!(r#"osm_request_total{{response_code="200",{edge}}} 3"#),
            &format!(r#"osm_request_total{{response_code="503",{edge}}} 1"#),
            &format!(r#"osm_request_duration_ms_bucket{{le="2.5",{edge}}} 0"#),
            &format!(r#"osm_request_duration_ms_bucket{{le="5.0",{edge}}} 4"#),
            &format!(r#"osm_request_duration_ms_bucket{{le="+Inf",{edge}}} 4"#),
            &format!(r#"osm_request_duration_ms_count{{{edge}}} 4"#),
        ],
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("osm_request_total")).count(), 2, "of the client's side");
}

#[test]
fn heddles_metrics_name_both_ends_the_service_and_the_backend() {
    let shared = shared();
    count(&shared, &edge_to("api-7d4-x", "api-v1"), Some("Deployment/api-v1"), 200, 2);
    let from_buyer = shared.meter.counters(edge_from(Some(identity("buyer"))), None);
    from_buyer.refused(Reason::NoTarget);
    shared.meter.counters(edge_from(None), None).connection(Outcome::Denied);
    let _open = [from_buyer.open(), from_buyer.open()];
    drop(from_buyer.open());
    let own = r#"destination_namespace="shop",destination_kind="Deployment",destination_name="web""#;
    let client = r#"side="client",source_namespace="shop",source_kind="Deployment",source_name="web""#;
    let api = r#"destination_namespace="shop",destination_kind="Deployment",destination_name="api-v1",service="shop/api",backend="shop/api-v1""#;
    let buyer = r#"side="server",source_namespace="shop",source_kind="ServiceAccount",source_name="buyer""#;
    let nobody = r#"side="server",source_namespace="unknown",source_kind="unknown",source_name="unknown""#;
    assert_has(
        &scrape(&shared),
        &[
            &format!(r#"heddle_requests_total{{{client},{api},outcome="success"}} 2"#),
            &format!(r#"heddle_requests_total{{{client},{api},outcome="failure"}} 0"#),
            &format!(r#"heddle_requests_total{{{buyer},{own},outcome="denied"}} 1"#),
            &format!(r#"heddle_reasons_total{{{buyer},{own},reason="no-target"}} 1"#),
            &format!(r#"heddle_tcp_connections_total{{{nobody},{own},outcome="denied"}} 1"#),
            &format!(r#"heddle_tcp_connections_open{{{buyer},{own}}} 2"#),
            &format!(r#"heddle_tcp_connections_open{{{nobody},{own}}} 0"#),
            &format!(r#"heddle_sent_bytes_total{{{client}}} 20"#),
            &format!(r#"heddle_received_bytes_total{{{client}}} 40"#),
            &format!(r#"heddle_request_duration_seconds_bucket{{le="0.005",{client}}} 2"#),
            &format!(r#"heddle_build_info{{version="{}"}} 1"#, env!("CARGO_PKG_VERSION")),
            "heddle_panics_total 0",
            "heddle_config_revision 1",
        ],
    );
}

#[test]
fn a_deployment_keeps_its_name_however_many_pods_it_has_had() {
    let shared = shared();
    for pod in 0..limits::LABELLED_PODS + 10 {
        count(&shared, &edge_to(&format!("api-{pod}"), "api-v1"), Some("Deployment/api-v1"), 200, 1);
    }
    let text = scrape(&shared);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("osm_request_total")).collect();
    assert_eq!(lines.len(), limits::LABELLED_PODS + 1);
    let rest: Vec<_> = lines.iter().filter(|line| line.contains(r#"destination_pod="other""#)).collect();
    assert!(
        rest.len() == 1 && rest[0].contains(r#"destination_name="api-v1""#) && rest[0].ends_with(" 10"),
        "{rest:?}"
    );
}

/// The budget is stated in docs/metrics.md.
#[test]
fn five_hundred_workloads_that_all_talk_to_each_other_stay_within_the_budget() {
    let shared = shared();
    for number in 0..499 {
        let name = format!("w{number}");
        let mut edge = edge_to(&format!("{name}-7d4-x"), &name);
        edge.service = Some(ServiceName::new("shop", name.clone()));
        count(&shared, &edge, Some(&format!("Deployment/{name}")), 200, 1);
        count(&shared, &edge, Some(&format!("Deployment/{name}")), 503, 1);
        count(&shared, &edge_from(Some(identity(&name))), None, 200, 1);
    }
    let text = scrape(&shared);
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    println!("{} series of one of 500 proxies, {} bytes a scrape", samples.len(), text.len());
    assert!(samples.len() <= 10_000, "{} series", samples.len());
    let total = |name: &str| -> u64 {
        let of_name = samples.iter().filter(|line| line.starts_with(name));
        of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    assert_eq!(total("osm_request_total"), 2 * 499, "nothing is lost by the bound");
    assert_eq!(total("heddle_requests_total"), 3 * 499);
    // More peers make no more series.
    let before = samples.len();
    for number in 500..2_000 {
        let name = format!("w{number}");
        count(&shared, &edge_to(&name, "api"), Some(&format!("Deployment/{name}")), 200, 1);
    }
    let text = scrape(&shared);
    let after = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(after, before);
}

#[test]
fn counters_of_workloads_never_go_back_when_edges_are_let_go() {
    let shared = shared();
    for pod in ["api-1", "api-2"] {
        count(&shared, &edge_to(pod, "api-v1"), Some("Deployment/api-v1"), 200, 2);
    }
    count(&shared, &edge_from(Some(identity("buyer"))), None, 200, 3);
    let held = shared.meter.counters(edge_to("api-2", "api-v2"), Some("Deployment/api-v1".into()));
    let of_workloads = |text: &str| {
        let is_of_workload = |line: &&str| line.starts_with("heddle_requests") || line.starts_with("heddle_sent");
        text.lines().filter(is_of_workload).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = scrape(&shared);
    let settled = shared.meter.settle();
    assert_eq!(settled.iter().map(|(_, totals)| totals.requests.success).sum::<u64>(), 5);
    // Of the pod that is still counted nothing goes away: what its metrics add up would go back.
    assert_eq!(shared.meter.totals().len(), 2);
    let after = scrape(&shared);
    assert_eq!(of_workloads(&after), of_workloads(&before));
    let told = |text: &str, pod: &str| text.contains(&format!(r#"destination_pod="{pod}""#));
    assert_eq!((told(&before, "api-1"), told(&after, "api-1"), told(&after, "api-2")), (true, false, true));
    assert!(!told(&after, "other"), "it would look like new traffic");

    // A pod that takes the place is named, and what comes back goes on from zero.
    count(&shared, &edge_to("api-1", "api-v1"), Some("Deployment/api-v1"), 200, 1);
    drop(held);
    assert_eq!(shared.meter.settle().len(), 3);
    let own = r#"side="client",source_namespace="shop",source_kind="Deployment",source_name="web""#;
    let api = r#"destination_namespace="shop",destination_kind="Deployment",destination_name="api-v1",service="shop/api",backend="shop/api-v1""#;
    assert_has(&scrape(&shared), &[&format!(r#"heddle_requests_total{{{own},{api},outcome="success"}} 5"#)]);
    assert_eq!(shared.meter.totals(), []);
}
