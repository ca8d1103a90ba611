//! Bodies move no faster than they are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::Builder;
use heddle_proxy::limits;
use http::Response;
use serde_json::json;
use tokio::task::JoinHandle;

use super::peer::{Answer, App, Call, Pair, ask, connect, get, grpc, receive, send_all};
use crate::mesh::{Mesh, allow, service};

const BODY: usize = 32 * 1024 * 1024;

/// What may be under way: the windows of a client, two proxies and a server, and what waits to be written.
const UNDER_WAY: usize = 4 * 1024 * 1024;

#[tokio::test]
async fn what_a_slow_reader_has_not_taken_stays_with_the_sender() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let pair = Pair::new(move |mut call: Call| {
        let taken = counter.clone();
        async move {
            while let Some(bytes) = receive(&mut call.body).await {
                taken.fetch_add(bytes.len(), Ordering::SeqCst);
                // Everyone else has a turn before the next bytes.
                tokio::task::yield_now().await;
            }
            call.respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/shop.Books/Upload"), false).unwrap();
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    for sent in (0..BODY).step_by(chunk.len()) {
        send_all(&mut stream, chunk.clone()).await.unwrap();
        let under_way = sent + chunk.len() - taken.load(Ordering::SeqCst);
        assert!(under_way <= UNDER_WAY, "{under_way} bytes are under way");
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(taken.load(Ordering::SeqCst), BODY);
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let pair = Pair::new(move |mut call: Call| {
        let sent = counter.clone();
        async move {
            let mut stream = call.respond.send_response(Response::new(()), false).unwrap();
            let chunk = Bytes::from_static(&[7; 16 * 1024]);
            let chunks = if call.request.uri().path() == "/large" { BODY / chunk.len() } else { 1 };
            for _ in 0..chunks {
                if send_all(&mut stream, chunk.clone()).await.is_err() {
                    return;
                }
                sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, _) = client.send_request(get("/large"), true).unwrap();
    let mut unread = response.await.unwrap().into_body();
    for _ in 0..200 {
        assert_eq!(ask(&pair.connect().await, get("/small"), "").await.body.len(), 16 * 1024);
    }
    assert!(sent.load(Ordering::SeqCst) < UNDER_WAY + 200 * 16 * 1024);
    let mut received = 0;
    while let Some(bytes) = receive(&mut unread).await {
        received += bytes.len();
    }
    assert_eq!(received, BODY);
}

#[tokio::test]
async fn many_small_messages_that_are_not_read_yet_end_no_connection() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let mut settings = Builder::new();
    // The proxies are to be tested, not the patience of the application.
    settings.data_frame_budget(usize::MAX / 2).initial_connection_window_size(4 * 1024 * 1024);
    let pair = Pair::with(settings, usize::MAX, move |mut call: Call| {
        let released = released.clone();
        async move {
            if call.request.uri().path() == "/held" {
                released.notified().await;
            }
            let mut count = 0;
            while let Some(bytes) = receive(&mut call.body).await {
                count += bytes.len();
            }
            let head = Response::builder().header("x-count", count.to_string()).body(()).unwrap();
            call.respond.send_response(head, true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/held"), false).unwrap();
    let sending = async {
        for _ in 0..200_000 {
            send_all(&mut stream, Bytes::from_static(b"12345678")).await.unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    };
    let others = async {
        for _ in 0..100 {
            assert_eq!(ask(&pair.connect().await, grpc("/"), "12345678").await.header("x-count"), "8");
        }
        release.notify_one();
    };
    tokio::join!(sending, others);
    assert_eq!(response.await.unwrap().headers()["x-count"], "1600000");
}

/// An application that does not take what it is sent on `/stuck`.
async fn deaf(ip: std::net::IpAddr) -> App {
    App::start(ip, |mut call: Call| async move {
        if call.request.uri().path() == "/stuck" {
            let _until_reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            return;
        }
        while receive(&mut call.body).await.is_some() {}
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await
}

/// Begins an upload that fills whatever the application takes for a connection.
async fn begin_stuck_upload(client: &SendRequest<Bytes>) -> JoinHandle<()> {
    let (response, mut stream) = client.clone().ready().await.unwrap().send_request(grpc("/stuck"), false).unwrap();
    tokio::spawn(async move {
        while send_all(&mut stream, Bytes::from_static(&[7; 16 * 1024])).await.is_ok() {}
        drop(response);
    })
}

#[tokio::test]
async fn an_upload_that_one_client_leaves_stuck_holds_up_no_other_client() {
    let mesh = Mesh::new();
    let clients = ["shop/one", "shop/other"].map(|name| mesh.pod(name, &[("shop/web", 80)], &[]));
    let server = mesh.pod("shop/server", &[], &[]);
    let app = deaf(server.ip).await;
    server.configure(allow(&[&clients[0], &clients[1]], false), json!([]));
    let services = json!([service("shop/web", 80, "http2", &[server.endpoint(app.address.port())], json!([]))]);
    clients.iter().for_each(|client| client.configure(json!({ "mode": "enforce" }), services.clone()));
    let one = connect(clients[0].service("shop/web", 80)).await;
    let stuck = begin_stuck_upload(&one).await;
    // Most of these come when the upload has filled what it can.
    for _ in 0..100 {
        let other = connect(clients[1].service("shop/web", 80)).await;
        assert_eq!(ask(&other, grpc("/"), "message").await.status, 200);
    }
    stuck.abort();
}

#[tokio::test]
async fn an_upload_that_is_stuck_holds_up_no_request_that_comes_later() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = deaf(server.ip).await;
    server.configure(allow(&[&client], false), json!([]));
    let services = json!([service("shop/web", 80, "http2", &[server.endpoint(app.address.port())], json!([]))]);
    client.configure(json!({ "mode": "enforce" }), services);
    let connection = connect(client.service("shop/web", 80)).await;
    let stuck = begin_stuck_upload(&connection).await;
    // Those that come before it is known to be stuck may have to wait with it.
    let mut asked: Vec<JoinHandle<Answer>> = Vec::new();
    let mut pace = tokio::time::interval(limits::HTTP2_STUCK / 10);
    while asked.len() < 10 || !asked.iter().any(JoinHandle::is_finished) {
        pace.tick().await;
        let connection = connection.clone();
        asked.push(tokio::spawn(async move { ask(&connection, grpc("/"), "message").await }));
    }
    stuck.abort();
    for asked in asked {
        assert_eq!(asked.await.unwrap().status, 200);
    }
}
