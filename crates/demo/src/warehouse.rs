//! The warehouse: writes each order for books to the database.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::{Warehouse, dial};

/// How long the database may take.
const PATIENCE: Duration = Duration::from_secs(5);

struct Orders {
    database: String,
    /// The one connection to the database, when it is open.
    session: Mutex<Option<BufStream<TcpStream>>>,
}

pub(crate) async fn run(args: Warehouse) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen.listen).await?;
    let orders = Arc::new(Orders { database: args.database, session: Mutex::default() });
    let app = Router::new()
        .route("/restock-books", post(restock))
        .route("/ready", get(async || "ready\n"))
        .with_state(orders);
    Ok(axum::serve(listener, app).await?)
}

async fn restock(State(orders): State<Arc<Orders>>) -> (StatusCode, String) {
    match tokio::time::timeout(PATIENCE, orders.store()).await {
        Ok(Ok(total)) => (StatusCode::OK, format!("{{\"restocked\":{total}}}\n")),
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, format!("the database: {error:#}\n")),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the database did not answer\n".to_owned()),
    }
}

impl Orders {
    /// Writes one order, on the open connection or, when that has gone, on a new one.
    async fn store(&self) -> anyhow::Result<u64> {
        let mut session = self.session.lock().await;
        if let Some(open) = session.as_mut()
            && let Ok(total) = insert(open).await
        {
            return Ok(total);
        }
        *session = None;
        let mut fresh = BufStream::new(dial::connect(&self.database).await?);
        let greeting = line(&mut fresh).await?;
        ensure!(greeting.starts_with("BOOKDB"), "it greeted with {greeting:?}");
        let total = insert(&mut fresh).await?;
        *session = Some(fresh);
        Ok(total)
    }
}

async fn insert(session: &mut BufStream<TcpStream>) -> anyhow::Result<u64> {
    session.write_all(b"INSERT book\n").await?;
    session.flush().await?;
    let answer = line(session).await?;
    answer.strip_prefix("OK ").and_then(|total| total.parse().ok()).with_context(|| format!("it answered {answer:?}"))
}

async fn line(session: &mut BufStream<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    session.read_line(&mut line).await?;
    ensure!(line.ends_with('\n'), "it closed the connection");
    Ok(line.trim_end().to_owned())
}
