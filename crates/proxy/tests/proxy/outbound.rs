//! Where requests go: splits, endpoints that fail, and clients that use the proxy as an HTTP proxy.

use heddle_proxy::Entrance;
use serde_json::{Value, json};

use crate::mesh::{App, Client, Mesh, Pod, allow, service};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

fn backend(service: &str, weight: u64) -> Value {
    json!({ "origin": origin(), "service": service, "weight": weight })
}

fn origin() -> Value {
    json!({ "kind": "TrafficSplit", "namespace": "shop", "name": "canary" })
}

/// A client, and the Services `shop/v1` and `shop/v2` with one pod each that says which it is.
struct Canary {
    _mesh: Mesh,
    client: Pod,
    pods: [Pod; 2],
    ports: [u16; 2],
}

impl Canary {
    fn new() -> Self {
        let mesh = Mesh::new();
        let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
        let pods = ["shop/v1", "shop/v2"].map(|name| mesh.pod(name, &[], &[]));
        let ports = [App::saying(pods[0].ip, "v1"), App::saying(pods[1].ip, "v2")].map(|app| app.address.port());
        pods.iter().for_each(|pod| pod.configure(allow(&[&client], false), json!([])));
        Self { _mesh: mesh, client, pods, ports }
    }

    /// Splits `shop/web`, whose own endpoints are both pods.
    fn split(&self, splits: Value) {
        let [v1, v2] = [0, 1].map(|at: usize| self.pods[at].endpoint(self.ports[at]));
        let none = json!([]);
        let services = json!([
            service("shop/web", 80, "http", &[v1.clone(), v2.clone()], splits),
            service("shop/v1", 80, "http", &[v1], none.clone()),
            service("shop/v2", 80, "http", &[v2], none.clone()),
            service("shop/empty", 80, "http", &[], none),
        ]);
        self.client.configure(json!({ "mode": "enforce" }), services);
    }

    /// How many of `count` requests each version answered.
    fn count(&self, request: &str, count: usize) -> [usize; 2] {
        let mut client = Client::connect(self.client.service("shop/web", 80));
        let bodies: Vec<String> = (0..count).map(|_| client.ask(request).body).collect();
        ["v1", "v2"].map(|version| bodies.iter().filter(|body| *body == version).count())
    }
}

#[test]
fn t6_t9_a_backend_of_weight_0_gets_nothing_and_one_without_endpoints_leaves_its_share() {
    let canary = Canary::new();
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v1", 0), backend("shop/v2", 1)] }]));
    assert_eq!(canary.count(GET, 50), [0, 50]);
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v1", 1), backend("shop/empty", 99)] }]));
    assert_eq!(canary.count(GET, 50), [50, 0]);
    let split = |from: &str, to: u64| json!([{ "origin": origin(), "backends": [backend(from, to)] }]);
    for (splits, reason) in [(split("shop/v1", 0), "split-all-zero"), (split("shop/empty", 1), "no-endpoint")] {
        canary.split(splits);
        let response = Client::connect(canary.client.service("shop/web", 80)).ask(GET);
        assert_eq!((response.status, response.reason()), (503, reason));
    }
}

#[test]
fn t4_t31_each_request_is_split_by_weight() {
    let canary = Canary::new();
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v1", 1), backend("shop/v2", 1)] }]));
    let [v1, v2] = canary.count(GET, 400);
    // A fair coin falls outside this once in more than a million runs.
    assert!((150..=250).contains(&v1) && v1 + v2 == 400, "{v1} and {v2}");
}

#[test]
fn t14_only_requests_that_match_follow_a_split_with_matches() {
    let canary = Canary::new();
    let matches = json!([{ "origin": origin(), "headers": [{ "name": "user-agent", "value": ".*Firefox.*" }] }]);
    let backends = [backend("shop/v2", 1)];
    canary.split(json!([{ "origin": origin(), "matches": matches, "backends": backends }]));
    let firefox = "GET / HTTP/1.1\r\nHost: web\r\nUser-Agent: Firefox/99\r\n\r\n";
    assert_eq!(canary.count(firefox, 30), [0, 30]);
    let [v1, v2] = canary.count(GET, 100);
    // How they share is the balancer's affair: it prefers the faster one.
    assert!(v1 > 0, "the rest goes to the root's own endpoints, v1 among them: {v1} and {v2}");
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_costs_no_request() {
    let canary = Canary::new();
    let mut dead = canary.pods[0].endpoint(1);
    dead["address"] = json!(format!("{}:1", crate::mesh::address()));
    let alive = canary.pods[1].endpoint(canary.ports[1]);
    let services = json!([service("shop/web", 80, "http", &[dead, alive], json!([]))]);
    canary.client.configure(json!({ "mode": "enforce" }), services);
    assert_eq!(canary.count(GET, 20), [0, 20]);
}

#[test]
fn an_endpoint_without_a_proxy_is_reached_in_plaintext() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let app = App::saying(crate::mesh::address(), "plain");
    let endpoint = json!({ "address": app.address, "pod": "legacy/old" });
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    let mut connection = Client::connect(client.service("shop/web", 80));
    for _ in 0..3 {
        assert_eq!(connection.ask(GET).body, "plain");
    }
}

#[test]
fn without_an_endpoint_that_can_be_connected_to_the_answer_is_502() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let endpoint = json!({ "address": format!("{}:1", crate::mesh::address()), "pod": "legacy/old" });
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    let mut connection = Client::connect(client.service("shop/web", 80));
    for _ in 0..2 {
        let response = connection.ask(GET);
        assert_eq!((response.status, response.reason()), (502, "connect-failed"));
    }
}

#[test]
fn t1_an_http_proxys_client_names_services_in_every_form() {
    let canary = Canary::new();
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v2", 1)] }]));
    let mut client = Client::connect(canary.client.entrance(&Entrance::HttpProxy));
    for host in ["web", "web.shop", "WEB.shop.", "web.shop.svc", "web.shop.svc.cluster.local"] {
        let response = client.ask(format!("GET http://{host}:80/x HTTP/1.1\r\nHost: {host}:80\r\n\r\n"));
        assert_eq!(response.body, "v2", "{host}");
    }
    let outside = App::saying(crate::mesh::address(), "outside");
    let address = outside.address;
    let response = client.ask(format!("GET http://{address}?q HTTP/1.1\r\nHost: {address}\r\nX: y\r\n\r\n"));
    assert_eq!(response.body, "outside");
    assert_eq!(outside.received(), [format!("GET /?q HTTP/1.1\r\nHost: {address}\r\nX: y\r\n\r\n")]);
}

#[test]
fn an_http_proxys_client_tunnels_with_connect_and_policy_still_applies() {
    let canary = Canary::new();
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v1", 1)] }]));
    let mut client = Client::connect(canary.client.entrance(&Entrance::HttpProxy));
    client.send("CONNECT web.shop:80 HTTP/1.1\r\nHost: web.shop:80\r\n\r\n");
    assert_eq!(client.response_to(true).status, 200);
    assert_eq!(client.ask(GET).body, "v1");
    canary.pods[0].configure(json!({ "mode": "enforce" }), json!([]));
    assert_eq!(client.ask(GET).reason(), "no-target");
}
