//! What the server's proxy lets in.

use bytes::Bytes;
use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use http::Request;
use serde_json::{Value, json};

use super::peer::{App, Call, Pair, ask, connect, get, grpc, grpc_head, receive, trailers};
use crate::mesh::{Mesh, allow, eventually};

async fn never(_: Call) {
    panic!("a request that is denied reached the application");
}

/// A policy by which the client of `pair` may call `path`.
fn only(pair: &Pair, path: &str) -> Value {
    let origin = json!({ "kind": "TrafficTarget", "namespace": "shop", "name": "buyers" });
    json!({ "mode": "enforce", "authorizations": [{
        "origin": origin,
        "sources": [{ "identity": pair.client.identity.as_str(), "origin": origin }],
        "http": [{ "origin": origin, "path": path }],
    }]})
}

#[tokio::test]
async fn a31_a_denied_request_is_answered_403_and_a_denied_call_permission_denied() {
    let pair = Pair::new(never).await;
    pair.server.configure(json!({ "mode": "enforce" }), json!([]));
    let client = pair.connect().await;
    let answer = ask(&client, get("/"), "").await;
    assert_eq!((answer.status, answer.reason()), (403, "no-target"));
    assert!(answer.text().starts_with("denied by the mesh"));
    let head = Request::head("http://web.shop/").body(()).unwrap();
    let answer = ask(&client, head, "").await;
    assert_eq!((answer.status, answer.text()), (403, ""));
    let answer = ask(&client, grpc("/shop.Books/Buy"), "m").await;
    assert_eq!((answer.status, answer.reason()), (200, "no-target"));
    assert_eq!((answer.header("grpc-status"), answer.header("content-type")), ("7", "application/grpc"));
    assert!(answer.header("grpc-message").starts_with("denied by the mesh"));
    eventually("both sides count the denials", || {
        pair.server.total(Side::Server, |totals| totals.requests.denied) == 3
            && pair.client.total(Side::Client, |totals| totals.requests.denied) == 3
    });
}

#[tokio::test]
async fn a27_each_request_of_a_connection_is_judged_by_the_newest_policy() {
    let mut pair = Pair::new(never).await;
    pair.app = App::saying(pair.server.ip, "books").await;
    let endpoint = pair.server.endpoint(pair.app.address.port());
    let services = json!([crate::mesh::service("shop/web", 80, "http", &[endpoint], json!([]))]);
    pair.client.configure(json!({ "mode": "enforce" }), services);
    pair.server.configure(only(&pair, "/books"), json!([]));
    let client = pair.connect().await;
    assert_eq!(ask(&client, get("//books?x"), "").await.text(), "books");
    assert_eq!(ask(&client, get("/books/../admin"), "").await.reason(), "route-not-allowed");
    assert_eq!(ask(&client, get("/b%2Fooks"), "").await.reason(), "bad-request");
    pair.server.configure(only(&pair, "/admin"), json!([]));
    assert_eq!(ask(&client, get("/books"), "").await.reason(), "route-not-allowed");
    assert_eq!(ask(&client, get("/books/../admin"), "").await.text(), "books");
}

#[tokio::test]
async fn a28_a_call_under_way_ends_when_its_grant_is_withdrawn() {
    let pair = Pair::new(|mut call: Call| async move {
        let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
        while let Some(message) = receive(&mut call.body).await {
            stream.send_data(message, false).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/shop.Books/Watch"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    stream.send_data(Bytes::from_static(b"1"), false).unwrap();
    assert_eq!(receive(&mut body).await.unwrap(), "1");
    pair.server.configure(only(&pair, "/shop.Books/.*"), json!([]));
    stream.send_data(Bytes::from_static(b"2"), false).unwrap();
    assert_eq!(receive(&mut body).await.unwrap(), "2");
    pair.server.configure(only(&pair, "/admin"), json!([]));
    assert_eq!(receive(&mut body).await, None);
    let end = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (end["grpc-status"].as_bytes(), end["x-heddle-reason"].as_bytes()),
        (&b"7"[..], &b"route-not-allowed"[..])
    );
    eventually("it counts as denied", || pair.server.total(Side::Server, |totals| totals.requests.denied) == 1);
}

#[tokio::test]
async fn a11_a34_plaintext_is_denied_but_for_the_health_check_of_the_kubelet() {
    let (mesh, ip) = (Mesh::new(), crate::mesh::address());
    let app = App::start(ip, |mut call: Call| async move {
        let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
        stream.send_trailers(trailers(0)).unwrap();
    })
    .await;
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    let health = "/grpc.health.v1.Health/Check";
    let inbound = |mode: &str, node: &str| json!({ "mode": mode, "probes": [{ "port": port, "path": health }], "nodeAddresses": [node] });
    let entrance = server.entrance(&Entrance::Plaintext(port));
    server.configure(inbound("enforce", "127.0.0.1"), json!([]));
    let client = connect(entrance).await;
    let answer = ask(&client, grpc("/shop.Books/Buy"), "m").await;
    assert_eq!((answer.header("grpc-status"), answer.reason()), ("7", "no-identity"));
    assert_eq!(ask(&client, grpc(health), "m").await.trailers["grpc-status"], "0");
    server.configure(inbound("enforce", "10.0.0.9"), json!([]));
    assert_eq!(ask(&client, grpc(health), "m").await.reason(), "no-identity");
    server.configure(inbound("permissive", "10.0.0.9"), json!([]));
    assert_eq!(ask(&client, grpc("/shop.Books/Buy"), "m").await.trailers["grpc-status"], "0");
    assert_eq!(server.total(Side::Server, |totals| totals.would_deny), 1);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let pair = Pair::new(never).await;
    let client = pair.connect().await;
    let other = Request::get("http://web.shop/").header("host", "bank.shop").body(()).unwrap();
    let port = Request::get("http://web.shop/").header("x-heddle-port", "many").body(()).unwrap();
    let mut many = get("/");
    (0..200).for_each(|_| {
        many.headers_mut().append("x", "1".parse().unwrap());
    });
    let mut large = get("/");
    large.headers_mut().insert("x", "a".repeat(80 * 1024).parse().unwrap());
    for (request, status) in [(other, 400), (port, 400), (many, 431), (large, 431)] {
        assert_eq!(ask(&client, request, "").await.status, status);
    }
    let connect = Request::connect("web.shop:80").body(()).unwrap();
    assert_eq!(ask(&client, connect, "").await.status, 400);
}

#[tokio::test]
async fn a_port_that_the_client_names_itself_goes_nowhere() {
    let mut pair = Pair::new(never).await;
    pair.app = App::saying(pair.server.ip, "named").await;
    pair.server.configure(allow(&[&pair.client], false), json!([]));
    let endpoint = pair.server.endpoint(pair.app.address.port());
    let services = json!([crate::mesh::service("shop/web", 80, "http", &[endpoint], json!([]))]);
    pair.client.configure(json!({ "mode": "enforce" }), services);
    let request = Request::get("http://web.shop/").header("x-heddle-port", "1").body(()).unwrap();
    assert_eq!(ask(&pair.connect().await, request, "").await.text(), "named");
}
