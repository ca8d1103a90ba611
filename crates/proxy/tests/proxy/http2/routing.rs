//! Where requests go, and on which connections.

use h2::server::Builder;
use http::{Request, Response};
use serde_json::{Value, json};

use super::peer::{App, Call, Pair, ask, connect, get, grpc};
use crate::mesh::{Mesh, allow, service};

#[tokio::test]
async fn t6_t14_requests_of_one_connection_reach_each_the_backend_that_is_theirs() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let pods = ["shop/v1", "shop/v2"].map(|name| mesh.pod(name, &[], &[]));
    let apps = [App::saying(pods[0].ip, "v1").await, App::saying(pods[1].ip, "v2").await];
    pods.iter().for_each(|pod| pod.configure(allow(&[&client], false), json!([])));
    let origin = json!({ "kind": "TrafficSplit", "namespace": "shop", "name": "canary" });
    let backends = |weights: [u64; 2]| {
        let backend =
            |at: usize| json!({ "origin": origin, "service": format!("shop/v{}", at + 1), "weight": weights[at] });
        json!([backend(0), backend(1)])
    };
    let matches = json!([{ "origin": origin, "headers": [{ "name": "x-canary", "value": "yes" }] }]);
    let splits = json!([
        { "origin": origin, "matches": matches, "backends": backends([0, 1]) },
        { "origin": origin, "backends": backends([1, 0]) },
    ]);
    let endpoints = [0, 1].map(|at: usize| pods[at].endpoint(apps[at].address.port()));
    let named = |name: &str, endpoint: &Value| service(name, 80, "http", std::slice::from_ref(endpoint), json!([]));
    let services = json!([
        service("shop/web", 80, "http", &endpoints, splits),
        named("shop/v1", &endpoints[0]),
        named("shop/v2", &endpoints[1]),
    ]);
    client.configure(json!({ "mode": "enforce" }), services);
    let connection = connect(client.service("shop/web", 80)).await;
    for _ in 0..50 {
        let canary = Request::get("http://web.shop/").header("x-canary", "yes").body(()).unwrap();
        assert_eq!(ask(&connection, canary, "").await.text(), "v2");
        assert_eq!(ask(&connection, get("/"), "").await.text(), "v1");
    }
    assert_eq!(apps.each_ref().map(App::connections), [1, 1]);
}

#[tokio::test]
async fn an_endpoint_without_a_proxy_is_reached_in_plaintext() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let app = App::saying(crate::mesh::address(), "plain").await;
    let endpoint = json!({ "address": app.address, "pod": "legacy/old" });
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http2", &[endpoint], json!([]))]));
    let connection = connect(client.service("shop/web", 80)).await;
    for _ in 0..3 {
        assert_eq!(ask(&connection, get("/"), "").await.text(), "plain");
    }
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn without_an_endpoint_that_can_be_connected_to_a_call_is_unavailable() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let endpoint = json!({ "address": format!("{}:1", crate::mesh::address()), "pod": "legacy/old" });
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    let connection = connect(client.service("shop/web", 80)).await;
    let answer = ask(&connection, get("/"), "").await;
    assert_eq!((answer.status, answer.reason()), (502, "connect-failed"));
    let answer = ask(&connection, grpc("/shop.Books/Buy"), "m").await;
    assert_eq!((answer.header("grpc-status"), answer.reason()), ("14", "connect-failed"));
}

#[tokio::test]
async fn requests_beyond_what_a_server_takes_at_once_wait_for_their_turn() {
    let mut settings = Builder::new();
    settings.max_concurrent_streams(1);
    let pair = Pair::with(settings, usize::MAX, |mut call: Call| async move {
        tokio::task::yield_now().await;
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let connection = pair.connect().await;
    let asked = (0..200).map(|_| ask(&connection, grpc("/shop.Books/Buy"), "m"));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.reason() == "none"));
}

#[tokio::test]
async fn a_server_that_ends_its_connections_costs_no_request() {
    let pair = Pair::with(Builder::new(), 3, |mut call: Call| async move {
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let connection = pair.connect().await;
    for _ in 0..30 {
        assert_eq!(ask(&connection, get("/"), "").await.status, 200);
    }
    assert!(pair.app.connections() >= 10);
}

#[tokio::test]
async fn rotated_certificates_cost_no_request() {
    let pair = Pair::new(|mut call: Call| async move {
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let connection = pair.connect().await;
    for _ in 0..10 {
        pair.mesh.certify(&pair.client, std::time::Duration::from_secs(3600));
        for _ in 0..5 {
            assert_eq!(ask(&connection, get("/"), "").await.status, 200);
        }
    }
}
