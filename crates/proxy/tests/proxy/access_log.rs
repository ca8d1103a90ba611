//! The access log of whole proxies.

use heddle_proxy::Entrance;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::mesh::{App, Client, Mesh, allow, ok, service};
use crate::traffic::Pair;

const GET: &str = "GET /books?token=secret HTTP/1.1\r\nHost: web.shop:80\r\nAuthorization: Bearer secret\r\n\r\n";

fn next(lines: &mut Receiver<String>) -> Value {
    serde_json::from_str(&lines.blocking_recv().unwrap()).unwrap()
}

#[test]
fn each_side_tells_of_a_request_what_it_knows() {
    let pair = Pair::new(|_| ok("books"));
    pair.set(&json!({ "accessLog": "all" }));
    let mut server = pair.server.proxy().access_log().unwrap();
    let mut client = pair.client.proxy().access_log().unwrap();
    assert_eq!(pair.connect().ask(GET).status, 200);
    let (server, client) = (next(&mut server), next(&mut client));
    for line in [&server, &client] {
        assert_eq!(line["method"], "GET");
        assert_eq!(line["path"], "/books", "without the query");
        assert_eq!(line["authority"], "web.shop:80");
        assert_eq!((&line["status"], &line["outcome"]), (&json!(200), &json!("success")));
        assert_eq!(
            (&line["source"]["pod"], &line["destination"]["pod"]),
            (&json!("shop/client"), &json!("shop/server"))
        );
        assert!(!line.to_string().contains("secret"), "{line}");
    }
    assert_eq!((&server["side"], &server["decision"]), (&json!("server"), &json!("allowed")));
    assert_eq!(server["rule"]["kind"], "TrafficTarget");
    assert_eq!(server["source"]["identity"], pair.client.identity.as_str());
    assert_eq!((&client["side"], &client["service"]), (&json!("client"), &json!("shop/web")));
}

#[test]
fn denied_alone_can_be_told_with_the_nearest_rule() {
    let pair = Pair::new(|_| ok("books"));
    let origin = json!({ "kind": "TrafficTarget", "namespace": "shop", "name": "buyers", "field": "spec.rules[0]" });
    let policy = json!({ "mode": "enforce", "authorizations": [{
        "origin": origin,
        "sources": [{ "identity": pair.client.identity.as_str(), "origin": origin }],
        "http": [{ "origin": origin, "path": "/books" }],
    }]});
    pair.server.configure_with(json!({ "accessLog": "denied" }), policy, json!([]));
    let mut lines = pair.server.proxy().access_log().unwrap();
    let mut client = pair.connect();
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(client.ask("GET /admin HTTP/1.1\r\nHost: web\r\n\r\n").status, 403);
    let line = next(&mut lines);
    assert_eq!((&line["path"], &line["decision"], &line["status"]), (&json!("/admin"), &json!("denied"), &json!(403)));
    assert_eq!((&line["rule"]["name"], &line["rule"]["field"]), (&json!("buyers"), &json!("spec.rules[0]")));
    assert_eq!(line["reason"], "route-not-allowed");
}

#[test]
fn it_is_switched_while_connections_are_open() {
    let pair = Pair::new(|_| ok("books"));
    let mut lines = pair.server.proxy().access_log().unwrap();
    let mut client = pair.connect();
    let mut ask = |path: &str| client.ask(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).status;
    ask("/before");
    pair.set(&json!({ "accessLog": "all" }));
    ask("/during");
    pair.set(&json!({}));
    ask("/after");
    pair.set(&json!({ "accessLog": "all" }));
    ask("/again");
    assert_eq!(next(&mut lines)["path"], "/during");
    assert_eq!(next(&mut lines)["path"], "/again");
}

#[test]
fn tcp_connections_are_told_when_they_end() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/db", 5432)], &[]), mesh.pod("shop/db-0", &[], &[]));
    let app = App::start(server.ip, |_| ok("never"));
    let endpoint = server.endpoint(app.address.port());
    let settings = json!({ "accessLog": "all" });
    let services = json!([service("shop/db", 5432, "tcp", &[endpoint], json!([]))]);
    client.configure_with(settings.clone(), json!({ "mode": "enforce" }), services);
    server.configure_with(settings, json!({ "mode": "enforce" }), json!([]));
    let mut lines = server.proxy().access_log().unwrap();
    let mut denied = Client::connect(client.service("shop/db", 5432));
    assert!(denied.is_closed());
    let line = next(&mut lines);
    assert_eq!((&line["protocol"], &line["decision"]), (&json!("TCP"), &json!("denied")));
    assert_eq!(line["reason"], "no-target");
    server.configure_with(json!({ "accessLog": "all" }), allow(&[&client], true), json!([]));
    let mut allowed = Client::connect(client.service("shop/db", 5432));
    allowed.send("GET / HTTP/1.1\r\nHost: db\r\n\r\n");
    let answer = ok("never");
    allowed.read_exactly(answer.len());
    drop(allowed);
    let line = next(&mut lines);
    assert_eq!((&line["decision"], &line["downloadedBytes"]), (&json!("allowed"), &json!(answer.len())));
    assert_eq!(line["method"], Value::Null);
}

#[test]
fn for_a_connection_the_choice_at_its_end_counts() {
    let (mesh, ip) = (Mesh::new(), crate::mesh::address());
    let (client, server) = (mesh.pod("shop/client", &[("shop/db", 5432)], &[]), mesh.pod_at(ip, "shop/db-0", &[], &[]));
    let app = App::start(ip, |_| ok("rows"));
    let services = json!([service("shop/db", 5432, "tcp", &[server.endpoint(app.address.port())], json!([]))]);
    client.configure(json!({ "mode": "enforce" }), services);
    server.configure(allow(&[&client], true), json!([]));
    let mut lines = server.proxy().access_log().unwrap();
    let mut connection = Client::connect(client.service("shop/db", 5432));
    connection.send(GET);
    connection.read_exactly(ok("rows").len());
    server.configure_with(json!({ "accessLog": "all" }), allow(&[&client], true), json!([]));
    drop(connection);
    assert_eq!(next(&mut lines)["downloadedBytes"], ok("rows").len());
}

#[test]
fn a_connection_that_is_not_the_http_that_is_allowed_is_told_with_the_rule() {
    let (mesh, ip) = (Mesh::new(), crate::mesh::address());
    let (client, server) = (mesh.pod("shop/client", &[("shop/db", 5432)], &[]), mesh.pod_at(ip, "shop/db-0", &[], &[]));
    let services = json!([service("shop/db", 5432, "tcp", &[server.endpoint(5432)], json!([]))]);
    client.configure(json!({ "mode": "enforce" }), services);
    server.configure_with(json!({ "accessLog": "denied" }), allow(&[&client], false), json!([]));
    let mut lines = server.proxy().access_log().unwrap();
    let mut connection = Client::connect(client.service("shop/db", 5432));
    connection.send("\x01\x02\x03 not http");
    assert!(connection.is_closed());
    let line = next(&mut lines);
    assert_eq!((&line["decision"], &line["reason"]), (&json!("denied"), &json!("not-http")), "{line}");
    assert_eq!((&line["protocol"], &line["rule"]["name"]), (&json!("TCP"), &json!("all")), "{line}");
}

#[test]
fn connections_that_leave_the_mesh_are_told_by_the_client() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[], &[]);
    client.configure_with(json!({ "accessLog": "all" }), json!({ "mode": "enforce" }), json!([]));
    let mut lines = client.proxy().access_log().unwrap();
    let app = App::start(crate::mesh::address(), |_| ok("outside"));
    let mut connection = Client::connect(client.entrance(&Entrance::HttpProxy));
    connection.send(format!("CONNECT {} HTTP/1.1\r\nHost: {0}\r\n\r\n", app.address));
    assert_eq!(connection.response_to(true).status, 200);
    connection.ask(GET);
    drop(connection);
    // That a tunnel was asked for is no line of its own.
    let line = next(&mut lines);
    assert_eq!((&line["protocol"], &line["outcome"]), (&json!("TCP"), &json!("success")), "{line}");
    assert_eq!(line["downloadedBytes"], ok("outside").len());
}
