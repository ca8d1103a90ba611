//! Streams and connections that break, and floods of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use heddle_policy::telemetry::Side;
use heddle_proxy::limits;
use http::Response;
use tokio::sync::mpsc;

use super::peer::{Answer, Call, Pair, ask, get, grpc, grpc_head, receive, trailers};
use crate::mesh::{App, Mesh, allow, eventually, service};
use serde_json::json;

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_application() {
    let (told, mut resets) = mpsc::unbounded_channel();
    let pair = Pair::new(move |mut call: Call| {
        let told = told.clone();
        async move {
            if call.request.uri().path() == "/begun" {
                let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
                stream.send_data(Bytes::from_static(b"1"), false).unwrap();
                told.send(std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()).unwrap();
            } else {
                told.send(Reason::NO_ERROR).unwrap();
                told.send(std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await.unwrap()).unwrap();
            }
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/begun"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(receive(&mut body).await.unwrap(), "1");
    stream.send_reset(Reason::CANCEL);
    assert_eq!(resets.recv().await, Some(Reason::CANCEL));
    let (_response, mut stream) = client.send_request(get("/awaited"), false).unwrap();
    assert_eq!(resets.recv().await, Some(Reason::NO_ERROR));
    stream.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(resets.recv().await, Some(Reason::INTERNAL_ERROR));
    assert_eq!(pair.server.total(Side::Server, |totals| totals.requests.failure), 0, "it says nothing of the server");
}

#[tokio::test]
async fn a_reset_by_the_application_reaches_the_client() {
    let pair = Pair::new(|mut call: Call| async move {
        match call.request.uri().path() {
            "/begun" => {
                let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
                stream.send_data(Bytes::from_static(b"1"), false).unwrap();
                tokio::task::yield_now().await;
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            }
            _ => call.respond.send_reset(Reason::CANCEL),
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, _stream) = client.send_request(get("/awaited"), false).unwrap();
    assert_eq!(response.await.unwrap_err().reason(), Some(Reason::CANCEL));
    let (response, _stream) = client.send_request(grpc("/begun"), false).unwrap();
    let broken = match response.await {
        Ok(response) => Answer::of(response).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(broken.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    eventually("both count as failures", || pair.client.total(Side::Client, |totals| totals.requests.failure) == 2);
}

#[tokio::test]
async fn an_application_that_breaks_off_is_told_from_one_that_ends() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let listener = tokio::net::TcpListener::bind((server.ip, 0)).await.unwrap();
    let endpoint = server.endpoint(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        // Each connection breaks after the head of its first answer.
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            if request.uri().path() != "/unanswered" {
                let mut stream = respond.send_response(grpc_head(), false).unwrap();
                stream.send_data(Bytes::from_static(b"1"), false).unwrap();
                let flushing = tokio::time::timeout(Duration::from_millis(50), connection.accept());
                let _nothing_more_comes = flushing.await;
            }
        }
    });
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http2", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], false), json!([]));
    let connection = super::peer::connect(client.service("shop/web", 80)).await;
    let answer = ask(&connection, grpc("/begun"), "m").await;
    assert_eq!((answer.text(), answer.trailers["grpc-status"].as_bytes()), ("1", &b"14"[..]));
    assert_eq!(answer.trailers["x-heddle-reason"], "upstream-reset");
    let answer = ask(&connection, get("/unanswered"), "").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream-reset"));
    let answer = ask(&connection, grpc("/unanswered"), "m").await;
    assert_eq!((answer.header("grpc-status"), answer.reason()), ("14", "upstream-reset"));
    let (response, _) = connection.clone().send_request(get("/begun"), true).unwrap();
    let broken = Answer::of(response.await.unwrap()).await.unwrap_err();
    assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn an_application_that_speaks_http1_alone_is_told_apart_and_not_translated_for() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = App::saying(server.ip, "HTTP/1");
    let endpoint = server.endpoint(app.address.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], false), json!([]));
    let connection = super::peer::connect(client.service("shop/web", 80)).await;
    let answer = ask(&connection, get("/"), "").await;
    assert_eq!((answer.status, answer.reason()), (502, "not-http2"));
    let answer = ask(&connection, grpc("/"), "m").await;
    assert_eq!((answer.header("grpc-status"), answer.reason()), ("12", "not-http2"));
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_nothing_else() {
    let pair = Pair::new(|mut call: Call| async move {
        if call.request.uri().path() == "/" {
            call.respond.send_response(Response::new(()), true).unwrap();
        } else {
            let _reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
        }
    })
    .await;
    let honest = pair.connect().await;
    assert_eq!(ask(&honest, get("/"), "").await.status, 200);
    let mut flooder = pair.connect().await;
    let end = Instant::now() + Duration::from_secs(60);
    let mut sent = 0;
    while let Ok(mut ready) = flooder.ready().await {
        let Ok((_, mut stream)) = ready.send_request(grpc("/flood"), false) else { break };
        stream.send_reset(Reason::CANCEL);
        flooder = ready;
        sent += 1;
        assert!(Instant::now() < end, "the flood is not stopped");
        match sent % (8 * limits::ABANDONED_STREAMS) {
            // Time for the proxy to read, and to say what it makes of it.
            0 => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => tokio::task::yield_now().await,
        }
    }
    eventually("the flood is counted", || pair.client.reason(Side::Client, "overloaded") == 1);
    for _ in 0..10 {
        assert_eq!(ask(&honest, get("/"), "").await.status, 200);
        assert_eq!(ask(&pair.connect().await, get("/"), "").await.status, 200);
    }
}

#[tokio::test]
async fn a_draining_proxy_says_goodbye_and_loses_no_call_under_way() {
    let (told, mut begun) = mpsc::unbounded_channel();
    let mut pair = Pair::new(move |mut call: Call| {
        told.send(()).unwrap();
        async move {
            let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
            while let Some(message) = receive(&mut call.body).await {
                stream.send_data(message, false).unwrap();
            }
            stream.send_trailers(trailers(0)).unwrap();
        }
    })
    .await;
    for server_drains in [true, false] {
        let mut client = pair.connect().await;
        let (response, mut stream) = client.send_request(grpc("/shop.Books/Chat"), false).unwrap();
        begun.recv().await.unwrap();
        let mut body = response.await.unwrap().into_body();
        let draining = if server_drains { pair.server.drain() } else { pair.client.drain() };
        for message in ["1", "2", "3"] {
            stream.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
            assert_eq!(receive(&mut body).await.unwrap(), message);
        }
        if !server_drains {
            // The client is told to send no more.
            while client.clone().ready().await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(receive(&mut body).await, None);
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        tokio::task::spawn_blocking(|| draining.join().unwrap()).await.unwrap();
        if server_drains {
            pair.server = pair.mesh.pod_at(pair.server.ip, "shop/server", &[], &[]);
            pair.server.configure(allow(&[&pair.client], false), json!([]));
        }
    }
}
