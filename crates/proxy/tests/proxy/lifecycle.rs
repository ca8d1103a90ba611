//! What happens to connections while the proxy's surroundings change.

use std::time::Duration;

use serde_json::json;

use crate::mesh::{Client, eventually, ok};
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
