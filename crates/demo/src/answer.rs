//! A server that answers as it is asked to, for trying out what becomes of failures and slow answers.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::Listen;

pub(crate) async fn run(args: Listen) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let app = Router::new()
        .route("/status/{code}", get(status))
        .route("/delay/{milliseconds}", get(delay))
        .fallback(async || "ok\n");
    Ok(axum::serve(listener, app).await?)
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn delay(Path(milliseconds): Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    "late\n"
}
