//! What the server's proxy lets in.

use heddle_policy::telemetry::{Counts, Side};
use heddle_proxy::Entrance;
use serde_json::json;

use crate::mesh::{App, Client, Mesh, allow, eventually, service};
use crate::traffic::Pair;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[test]
fn a1_without_a_target_every_request_is_denied_and_the_connection_is_kept() {
    let pair = Pair::new(|_| crate::mesh::ok("never"));
    pair.server.configure(json!({ "mode": "enforce" }), json!([]));
    let mut client = pair.connect();
    for _ in 0..2 {
        let response = client.ask("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!((response.status, response.reason()), (403, "no-target"));
    }
    assert!(pair.app.received().is_empty());
    eventually("both sides count the denials", || {
        pair.server.total(Side::Server, |totals| totals.requests.denied) == 2
            && pair.client.total(Side::Client, |totals| totals.requests.denied) == 2
    });
}

#[test]
fn a4_a_client_that_is_not_a_source_is_denied() {
    let pair = Pair::new(|_| crate::mesh::ok("never"));
    let other = pair.mesh.pod("shop/other", &[], &[]);
    pair.server.configure(allow(&[&other], false), json!([]));
    assert_eq!(pair.connect().ask(GET).reason(), "source-not-allowed");
}

#[test]
fn a5_a27_rules_decide_each_request_by_the_newest_configuration() {
    let pair = Pair::new(|_| crate::mesh::ok("books"));
    let origin = json!({ "kind": "TrafficTarget", "namespace": "shop", "name": "buyers" });
    let policy = |path: &str| {
        json!({ "mode": "enforce", "authorizations": [{
            "origin": origin,
            "sources": [{ "identity": pair.client.identity.as_str(), "origin": origin }],
            "http": [{ "origin": origin, "path": path, "methods": ["GET"] }],
        }]})
    };
    pair.server.configure(policy("/books"), json!([]));
    let mut client = pair.connect();
    let mut ask = |line: &str| client.ask(format!("{line} HTTP/1.1\r\nHost: web\r\n\r\n"));
    assert_eq!(ask("GET /books/1?x=/").status, 200);
    assert_eq!(ask("GET //books").status, 200);
    assert_eq!(ask("GET /books/../admin").reason(), "route-not-allowed");
    assert_eq!(ask("DELETE /books").reason(), "route-not-allowed");
    assert_eq!(ask("GET /b%2Fooks").reason(), "bad-request");
    pair.server.configure(policy("/admin"), json!([]));
    assert_eq!(ask("GET /books").reason(), "route-not-allowed");
    assert_eq!(ask("GET /books/../admin").status, 200);
}

#[test]
fn a_server_that_proves_another_identity_is_not_spoken_to() {
    let pair = Pair::new(|_| crate::mesh::ok("never"));
    let impostor = pair.mesh.pod("shop/impostor", &[], &[]);
    let port = App::saying(impostor.ip, "gotcha").address.port();
    impostor.configure(allow(&[&pair.client], false), json!([]));
    let mut endpoint = impostor.endpoint(port);
    endpoint["identity"] = json!(pair.server.identity.as_str());
    pair.client
        .configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    let response = pair.connect().ask(GET);
    assert_eq!((response.status, response.reason()), (502, "peer-identity"));
}

#[test]
fn a11_plaintext_is_denied_admitted_or_recorded_by_mode() {
    let mesh = Mesh::new();
    let ip = crate::mesh::address();
    let app = App::saying(ip, "in");
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    let entrance = server.entrance(&Entrance::Plaintext(port));
    for (mode, status, reason, would_deny) in
        [("enforce", 403, "no-identity", 0), ("permissive", 200, "none", 1), ("audit", 200, "none", 2)]
    {
        server.configure(json!({ "mode": mode, "ports": [{ "port": port, "protocol": "http" }] }), json!([]));
        let response = Client::connect(entrance).ask(GET);
        assert_eq!((response.status, response.reason()), (status, reason), "{mode}");
        assert_eq!(server.total(Side::Server, |totals| totals.would_deny), would_deny, "{mode}");
    }
    server.configure(json!({ "mode": "enforce" }), json!([]));
    let mut raw = Client::connect(entrance);
    raw.send("\x16\x03\x01");
    assert!(raw.is_closed());
}

#[test]
fn a34_a_declared_probe_is_answered_and_opens_nothing_else() {
    let mesh = Mesh::new();
    let ip = crate::mesh::address();
    let app = App::saying(ip, "healthy");
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    let inbound = |node: &str| {
        json!({
            "mode": "enforce", "ports": [{ "port": port, "protocol": "http" }],
            "probes": [{ "port": port, "path": "/healthz" }], "nodeAddresses": [node],
        })
    };
    let ask_by = |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: kubelet\r\nConnection: close\r\n\r\n");
        Client::connect(server.entrance(&Entrance::Plaintext(port))).ask(request).status
    };
    let ask = |path: &str| ask_by("GET", path);
    server.configure(inbound("127.0.0.1"), json!([]));
    assert_eq!([ask("/healthz"), ask("/healthz?a"), ask("/"), ask("/healthz/../admin")], [200, 200, 403, 403]);
    assert_eq!([ask_by("POST", "/healthz"), ask_by("DELETE", "/healthz")], [403, 403]);
    server.configure(inbound("10.0.0.9"), json!([]));
    assert_eq!(ask("/healthz"), 403);
}

#[test]
fn a34_a_probe_that_connects_passes_no_byte_unless_it_speaks_tls() {
    let mesh = Mesh::new();
    let ip = crate::mesh::address();
    let app = App::saying(ip, "secrets");
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    let configure = |tls: bool| {
        let inbound = json!({
            "mode": "enforce", "ports": [{ "port": port, "protocol": "tcp" }],
            "probes": [{ "port": port, "tls": tls }], "nodeAddresses": ["127.0.0.1"],
        });
        server.configure(inbound, json!([]));
    };
    let connections = |of: fn(&Counts) -> u64| server.total(Side::Server, |totals| of(&totals.connections));
    configure(false);
    drop(Client::connect(server.entrance(&Entrance::Plaintext(port))));
    eventually("a probe is a success", || connections(|counts| counts.success) == 1);
    let mut client = Client::connect(server.entrance(&Entrance::Plaintext(port)));
    client.send(GET);
    assert!(client.is_closed());
    eventually("what has more to say is denied", || connections(|counts| counts.denied) == 1);
    assert!(app.received().is_empty());
    configure(true);
    assert_eq!(Client::connect(server.entrance(&Entrance::Plaintext(port))).ask(GET).status, 200);
}

#[test]
fn a15_all_ports_are_the_workloads_and_never_its_proxys() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let ip = crate::mesh::address();
    // An admin end that would answer.
    let admin = App::saying(ip, "secrets");
    let server = mesh.pod_with(ip, "shop/server", &[], &[], vec![admin.address]);
    let own =
        [admin.address.port(), server.entrance(&Entrance::HttpProxy).port(), server.entrance(&Entrance::Mesh).port()];
    for mode in ["enforce", "audit", "permissive"] {
        let mut inbound = allow(&[&client], true);
        inbound["mode"] = json!(mode);
        server.configure(inbound, json!([]));
        for port in own {
            for protocol in ["http", "tcp"] {
                let endpoint = server.endpoint(port);
                let services = json!([service("shop/web", 80, protocol, &[endpoint], json!([]))]);
                client.configure(json!({ "mode": "enforce" }), services);
                let mut connection = Client::connect(client.service("shop/web", 80));
                connection.send(GET);
                match protocol {
                    "http" => assert_eq!(connection.response().reason(), "port-not-allowed", "{mode} {port}"),
                    _ => assert!(connection.is_closed(), "{mode} {port}"),
                }
            }
        }
    }
    assert!(admin.received().is_empty());
    eventually("every attempt is counted", || {
        server.total(Side::Server, |totals| totals.requests.denied) == 9
            && server.total(Side::Server, |totals| totals.connections.denied) == 9
    });
}
