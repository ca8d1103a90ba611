//! The admin end: whether the proxy lives and is ready, its metrics, and its configuration.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::dial;
use crate::metrics;
use crate::worker::Shared;

/// Listens at the admin addresses; the future serves them, for ever.
pub(crate) async fn serve(shared: Arc<Shared>) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let router = router(shared.clone());
    let mut serving = Vec::new();
    for address in &shared.options.admin {
        let listener = dial::listen(*address).and_then(dial::register);
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        serving.push(axum::serve(listener, router.clone()).into_future());
    }
    Ok(async move { futures::future::try_join_all(serving).await.map(drop).context("the admin end") })
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(encode_metrics))
        .route("/config", get(dump_config))
        .with_state(shared)
}

/// Ready with a configuration and a certificate.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let missing = match (shared.config.load().config.settings.is_some(), shared.store.current().is_some()) {
        (true, true) => return "ready\n".into_response(),
        (false, true) => "no configuration yet\n",
        (true, false) => "no certificate yet\n",
        (false, false) => "neither configuration nor certificate yet\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, missing).into_response()
}

async fn encode_metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = metrics::Format::accepted(accept);
    match metrics::encode(&shared, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn dump_config(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(&*shared.config.load().config).into_response()
}
