//! The health end: liveness, readiness, and for Prometheus a few metrics and what there is to scrape, over plain HTTP.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::get;
use axum::{Json, Router};
use heddle_xds::Proxies;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::plane::Snapshot;
use crate::targets::Targets;
use crate::traffic::Traffic;

#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    pub(crate) targets: Targets,
    pub(crate) traffic: Traffic,
    /// Nobody before the control plane serves.
    pub(crate) proxies: watch::Receiver<Option<watch::Receiver<Proxies>>>,
}

const REQUEST: Duration = Duration::from_secs(5);

const CONTENT_TYPE: (HeaderName, &str) =
    (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, sources: Sources) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/live", get(async || "ok"))
        .route("/ready", get(ready))
        .route(
            "/metrics",
            get(async |state| ([CONTENT_TYPE], timeout(REQUEST, metrics(state)).await.unwrap_or_default())),
        )
        .route("/targets", get(async |State(sources): State<Sources>| Json(sources.targets.list())))
        .with_state(sources);
    Ok(axum::serve(listener, router).await?)
}

/// Ready once proxies can be served: the mesh is known, and the servers are up.
async fn ready(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    let known = sources.snapshots.borrow().revision > 0;
    match (known, sources.proxies.borrow().is_some()) {
        (true, true) => (StatusCode::OK, "ok"),
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "the Kubernetes API has not been reached yet"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "not everything has been read yet"),
    }
}

async fn metrics(State(sources): State<Sources>) -> String {
    let snapshot = sources.snapshots.borrow().clone();
    let proxies = sources.proxies.borrow().as_ref().map_or(0, |proxies| proxies.borrow().len());
    let mut registry = Registry::with_prefix("heddle_control");
    let mut gauge = |name: &str, help: &str, value: f64| {
        let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge("revision", "Meshes compiled since the start", snapshot.revision as f64);
    gauge("compile_seconds", "How long the last compilation took", snapshot.compile_time.as_secs_f64());
    gauge("proxies_connected", "Proxies with a stream of configurations", proxies as f64);
    gauge("problems", "Problems in resources", snapshot.compiled.problems.len() as f64);
    let lost: u64 = sources.traffic.losses().iter().map(|loss| loss.gap.length().as_millis() as u64).sum();
    gauge(
        "counts_lost_seconds",
        "Time of which counts of a pod are missing, in the last ten minutes",
        lost as f64 / 1e3,
    );
    let unreadable = Family::<Vec<(String, String)>, Gauge>::default();
    for kind in &snapshot.unreadable {
        unreadable.get_or_create(&vec![("kind".to_owned(), kind.kind.clone())]).set(1);
    }
    registry.register("unreadable", "1 for a kind that cannot be read", unreadable);
    let mut text = String::new();
    // Writing to a String does not fail.
    encode(&mut text, &registry).ok();
    text
}
