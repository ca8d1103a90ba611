//! The bookstore: counts what it sells, and restocks from the warehouse at each sale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::Method;
use tokio::net::TcpListener;

use crate::{Store, dial};

struct Shop {
    name: String,
    warehouse: String,
    sold: AtomicU64,
}

pub(crate) async fn run(args: Store) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen.listen).await?;
    let shop = Arc::new(Shop { name: args.name, warehouse: args.warehouse, sold: AtomicU64::new(0) });
    let app = Router::new()
        .route("/books-bought", get(books_bought))
        .route("/buy-a-book/new", get(buy_a_book))
        .route("/ready", get(async || "ready\n"))
        .with_state(shop);
    Ok(axum::serve(listener, app).await?)
}

async fn books_bought(State(shop): State<Arc<Shop>>) -> Response {
    shop.answer(StatusCode::OK, format!("{{\"bought\":{}}}\n", shop.sold.load(Ordering::Relaxed)))
}

async fn buy_a_book(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Response {
    let url = format!("{}/restock-books", shop.warehouse);
    match dial::request(Method::POST, &url, &shop.name, trace_of(&headers)).await {
        Ok(restocked) if restocked.status().is_success() => {
            let sold = shop.sold.fetch_add(1, Ordering::Relaxed) + 1;
            shop.answer(StatusCode::OK, format!("{{\"bought\":{sold}}}\n"))
        }
        Ok(refused) => shop.answer(StatusCode::BAD_GATEWAY, format!("the warehouse answered {}\n", refused.status())),
        Err(error) => shop.answer(StatusCode::BAD_GATEWAY, format!("the warehouse did not answer: {error:#}\n")),
    }
}

/// The headers by which a request belongs to a trace: those that it makes must carry them, in a mesh or not.
fn trace_of(headers: &HeaderMap) -> HeaderMap {
    let names = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];
    names.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

impl Shop {
    fn answer(&self, status: StatusCode, body: String) -> Response {
        (status, [("identity", self.name.clone())], body).into_response()
    }
}
