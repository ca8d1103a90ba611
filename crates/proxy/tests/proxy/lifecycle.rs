//! What happens to connections while the proxy's surroundings change.

use std::time::Duration;

use heddle_policy::telemetry::Side;
use serde_json::json;

use crate::mesh::{Client, Mesh, allow, eventually, ok, serve, service};
use crate::traffic::Pair;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[test]
fn rotated_certificates_lose_no_request() {
    let pair = Pair::new(|_| ok("on"));
    let mut client = pair.connect();
    for round in 0..20 {
        pair.mesh.certify(&pair.client, Duration::from_secs(3600));
        if round % 2 == 0 {
            pair.mesh.certify(&pair.server, Duration::from_secs(3600));
        }
        for _ in 0..10 {
            assert_eq!(client.ask(GET).body, "on");
        }
    }
}

#[test]
fn before_its_first_configuration_a_proxy_answers_503() {
    let pair = Pair::new(|_| ok("later"));
    let fresh = pair.mesh.pod("shop/fresh", &[("shop/web", 80)], &[]);
    let response = Client::connect(fresh.service("shop/web", 80)).ask(GET);
    assert_eq!(response.status, 503);
}

#[test]
fn a_draining_server_finishes_what_is_under_way_and_closes_what_is_idle() {
    let (begun, wait) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (begun_sender, release) = (begun.0, std::sync::Mutex::new(wait.1));
    let mut pair = Pair::new(move |request| {
        if request.starts_with("GET /slow") {
            begun_sender.send(()).unwrap();
            release.lock().unwrap().recv().unwrap();
        }
        ok("done")
    });
    let mut busy = pair.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: web\r\n\r\n");
    begun.1.recv().unwrap();
    let draining = pair.server.drain();
    wait.0.send(()).unwrap();
    assert_eq!(busy.response().body, "done");
    draining.join().unwrap();
}

#[test]
fn a_draining_client_side_closes_idle_connections_and_says_so_on_busy_ones() {
    let (begun, wait) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (begun_sender, release) = (begun.0, std::sync::Mutex::new(wait.1));
    let mut pair = Pair::new(move |request| {
        if request.starts_with("GET /slow") {
            begun_sender.send(()).unwrap();
            release.lock().unwrap().recv().unwrap();
        }
        ok("done")
    });
    let (mut idle, mut busy) = (pair.connect(), pair.connect());
    assert_eq!(idle.ask(GET).body, "done");
    busy.send("GET /slow HTTP/1.1\r\nHost: web\r\n\r\n");
    begun.1.recv().unwrap();
    let draining = pair.client.drain();
    assert!(idle.is_closed());
    wait.0.send(()).unwrap();
    assert_eq!(busy.response().body, "done");
    assert!(busy.is_closed());
    draining.join().unwrap();
}

#[test]
fn the_bytes_of_an_upgraded_connection_that_is_open_at_the_deadline_are_counted() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
    let request = "GET / HTTP/1.1\r\nHost: web\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
    for ended in [Side::Client, Side::Server] {
        let mut mesh = Mesh::new();
        mesh.drain = Duration::from_millis(50);
        let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
        let app = serve(server.ip, move |stream| {
            let mut app = Client(stream);
            app.read_exactly(request.len());
            app.send(head);
            let said = app.read_exactly(5);
            app.send(said);
            app.is_closed();
        });
        let endpoint = server.endpoint(app.port());
        client
            .configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
        server.configure(allow(&[&client], false), json!([]));
        let mut connection = Client::connect(client.service("shop/web", 80));
        connection.send(request);
        connection.read_exactly(head.len());
        let pod = if ended == Side::Client { client } else { server };
        eventually("the request is counted", || pod.total(ended, |totals| totals.requests.success) == 1);
        let bytes = || pod.total(ended, |totals| totals.bytes_sent + totals.bytes_received);
        let before = bytes();
        connection.send("hello");
        assert_eq!(connection.read_exactly(5), "hello");
        pod.proxy().drain();
        assert_eq!(bytes() - before, 10, "{ended:?}");
        assert_eq!(pod.total(ended, |totals| totals.connections.total()), 0, "it was counted as a request");
    }
}

#[test]
fn a_server_proxy_that_comes_back_is_used_again() {
    let mut pair = Pair::new(|_| ok("back"));
    let mut client = pair.connect();
    assert_eq!(client.ask(GET).body, "back");
    pair.server.drain().join().unwrap();
    assert_eq!(client.ask(GET).status, 502);
    let server = pair.mesh.pod_at(pair.server.ip, "shop/server", &[], &[]);
    server.configure(crate::mesh::allow(&[&pair.client], false), json!([]));
    eventually("the endpoint is tried again", || {
        Client::connect(pair.client.service("shop/web", 80)).ask(GET).status == 200
    });
}
