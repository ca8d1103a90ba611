//! Connections that are not HTTP.

use std::time::Duration;

use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use serde_json::json;

use crate::mesh::{Client, Mesh, Pod, allow, serve, service};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

fn speak_first(stream: std::net::TcpStream) {
    let mut app = Client(stream);
    app.send("ready\n");
    let said = app.read_exactly(5);
    app.send(said.to_uppercase());
    app.is_closed();
}

/// A client and a server whose application speaks first and then echoes in capitals.
fn server_first(protocol: &str) -> (Mesh, Pod, Pod) {
    server_first_in(Mesh::new(), protocol)
}

fn server_first_in(mesh: Mesh, protocol: &str) -> (Mesh, Pod, Pod) {
    let (client, server) = (mesh.pod("shop/client", &[("shop/db", 5432)], &[]), mesh.pod("shop/db", &[], &[]));
    let app = serve(server.ip, speak_first);
    let endpoint = server.endpoint(app.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/db", 5432, protocol, &[endpoint], json!([]))]));
    server.configure(allow(&[&client], true), json!([]));
    (mesh, client, server)
}

#[test]
fn a_server_that_speaks_first_is_heard_whether_or_not_its_port_is_declared() {
    for protocol in ["tcp", "detect"] {
        let (_mesh, client, server) = server_first(protocol);
        let mut connection = Client::connect(client.service("shop/db", 5432));
        assert_eq!(connection.read_exactly(6), "ready\n");
        connection.send("hello");
        assert_eq!(connection.read_exactly(5), "HELLO");
        let open = || [client.open(), server.open()];
        assert_eq!(open(), [1; 2], "both sides know of the connection");
        drop(connection);
        crate::mesh::eventually("both sides count the connection", || {
            client.total(Side::Client, |totals| totals.connections.success) == 1
                && server.total(Side::Server, |totals| totals.connections.success) == 1
        });
        crate::mesh::eventually("it is open no more", || open() == [0; 2]);
    }
}

#[test]
fn a18_where_only_http_is_allowed_raw_tcp_is_closed() {
    let (_mesh, client, server) = server_first("tcp");
    server.configure(allow(&[&client], false), json!([]));
    let mut connection = Client::connect(client.service("shop/db", 5432));
    connection.send("\x01\x02\x03 not http");
    assert!(connection.is_closed());
    crate::mesh::eventually("the denial is counted with its reason", || {
        let edges = server.edges(Side::Server);
        edges.iter().any(|(_, totals)| {
            totals.connections.denied == 1 && totals.reasons.iter().any(|(reason, _)| reason.code() == "not-http")
        })
    });
}

#[test]
fn a18_http_in_a_connection_called_tcp_is_judged_by_request() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = crate::mesh::App::saying(server.ip, "judged");
    let endpoint = server.endpoint(app.address.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "tcp", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], false), json!([]));
    let mut connection = Client::connect(client.service("shop/web", 80));
    assert_eq!(connection.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").body, "judged");
}

#[test]
fn a28_a_tcp_connection_is_closed_when_its_access_is_revoked() {
    let (_mesh, client, server) = server_first("tcp");
    let mut connection = Client::connect(client.service("shop/db", 5432));
    assert_eq!(connection.read_exactly(6), "ready\n");
    server.configure(allow(&[&client], true), json!([]));
    connection.send("still");
    assert_eq!(connection.read_exactly(5), "STILL");
    server.configure(json!({ "mode": "enforce" }), json!([]));
    assert!(connection.is_closed());
}

#[test]
fn a_client_of_http_that_is_silent_at_first_is_still_one_of_http() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let server = mesh.pod("shop/server", &[], &[]);
    let (told, connected) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let app = serve(server.ip, move |stream| {
        let mut app = Client(stream);
        told.lock().unwrap().send(()).unwrap();
        let mut request = [0; GET.len()];
        while std::io::Read::read_exact(&mut app.0, &mut request).is_ok() {
            app.send(crate::mesh::ok("late"));
        }
    });
    let endpoint = server.endpoint(app.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "detect", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], true), json!([]));
    let mut connection = Client::connect(client.service("shop/web", 80));
    // The application is connected to in case it speaks first.
    connected.recv().unwrap();
    for _ in 0..2 {
        assert_eq!(connection.ask(GET).body, "late");
    }
    crate::mesh::eventually("both sides count requests", || {
        client.total(Side::Client, |totals| totals.requests.success) == 2
            && server.total(Side::Server, |totals| totals.requests.success) == 2
    });
    drop(connection);
    assert_eq!(server.total(Side::Server, |totals| totals.connections.success), 0, "nothing passed as TCP");
}

#[test]
fn on_an_undeclared_port_rules_for_http_hold_whoever_speaks_first() {
    let (_mesh, client, server) = server_first("detect");
    server.configure(allow(&[&client], false), json!([]));
    // Nothing that the application says reaches the client, which is closed once it says what is not HTTP.
    let mut connection = Client::connect(client.service("shop/db", 5432));
    connection.send("\x01\x02\x03 not http");
    assert!(connection.is_closed());
    let refusing = json!({ "mode": "enforce" });
    server.configure(refusing, json!([]));
    let mut connection = Client::connect(client.service("shop/db", 5432));
    assert!(connection.is_closed(), "a silent client that may not connect is closed");
}

#[test]
fn a_server_speaks_first_in_plaintext_too_where_that_is_admitted() {
    let mesh = Mesh::new();
    let ip = crate::mesh::address();
    let port = serve(ip, speak_first).port();
    let server = mesh.pod_at(ip, "shop/db", &[], &[port]);
    server.configure(json!({ "mode": "permissive" }), json!([]));
    let mut connection = Client::connect(server.entrance(&Entrance::Plaintext(port)));
    assert_eq!(connection.read_exactly(6), "ready\n");
    connection.send("hello");
    assert_eq!(connection.read_exactly(5), "HELLO");
    drop(connection);
    crate::mesh::eventually("it is counted once, as against policy", || {
        server.total(Side::Server, |totals| totals.connections.success) == 1
            && server.total(Side::Server, |totals| totals.would_deny) == 1
    });
    server.configure(json!({ "mode": "enforce" }), json!([]));
    assert!(Client::connect(server.entrance(&Entrance::Plaintext(port))).is_closed());
}

#[test]
fn a_connection_that_is_open_at_the_deadline_is_counted_by_the_proxy_that_ends_it() {
    for ended in [Side::Client, Side::Server] {
        let mut mesh = Mesh::new();
        mesh.drain = Duration::from_millis(50);
        let (_mesh, client, server) = server_first_in(mesh, "tcp");
        let mut connection = Client::connect(client.service("shop/db", 5432));
        assert_eq!(connection.read_exactly(6), "ready\n");
        connection.send("hello");
        assert_eq!(connection.read_exactly(5), "HELLO");
        let pod = if ended == Side::Client { client } else { server };
        pod.proxy().drain();
        let (up, down) =
            (pod.total(ended, |totals| totals.bytes_sent), pod.total(ended, |totals| totals.bytes_received));
        assert_eq!(if ended == Side::Client { (up, down) } else { (down, up) }, (5, 11), "{ended:?}");
        assert_eq!(pod.total(ended, |totals| totals.connections.failure), 1, "{ended:?}");
        assert_eq!(pod.open(), 0);
    }
}
