//! The buyer and the thief: the same program under two names, so that only policy tells them apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use crate::{Shopper, dial};

#[derive(Default)]
struct Ledger {
    bought: AtomicU64,
    refused: AtomicU64,
}

pub(crate) async fn run(name: &'static str, args: Shopper) -> anyhow::Result<()> {
    let ledger = Arc::new(Ledger::default());
    let listener = TcpListener::bind(args.listen.listen).await?;
    let page = {
        let ledger = ledger.clone();
        move || async move {
            let (bought, refused) = (ledger.bought.load(Ordering::Relaxed), ledger.refused.load(Ordering::Relaxed));
            format!("{name}: bought {bought}, refused {refused}\n")
        }
    };
    let app = Router::new().route("/", get(page)).route("/ready", get(async || "ready\n"));
    tokio::select! {
        served = axum::serve(listener, app) => Ok(served?),
        () = shop(name, &args, &ledger) => Ok(()),
    }
}

/// Shops for ever, at the rate asked for.
async fn shop(name: &str, args: &Shopper, ledger: &Ledger) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / args.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        let outcome = match buy(name, &args.store).await {
            Ok(store) => {
                ledger.bought.fetch_add(1, Ordering::Relaxed);
                format!("buying from {store}")
            }
            Err(error) => {
                ledger.refused.fetch_add(1, Ordering::Relaxed);
                format!("cannot buy: {error:#}")
            }
        };
        if outcome != last {
            tracing::info!("{outcome}");
            last = outcome;
        }
    }
}

/// Asks how many books were sold, then buys one. Returns the name of the store that sold it.
async fn buy(name: &str, store: &str) -> anyhow::Result<String> {
    let mut seller = String::new();
    for path in ["/books-bought", "/buy-a-book/new"] {
        let response = dial::request(Method::GET, &format!("{store}{path}"), name, HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            let reason = response.headers().get("x-heddle-reason").and_then(|reason| reason.to_str().ok());
            anyhow::bail!("GET {path}: {} ({})", response.status(), reason.unwrap_or("no reason given"));
        }
        seller = response.headers().get("identity").and_then(|name| name.to_str().ok()).unwrap_or("?").to_owned();
    }
    Ok(seller)
}
