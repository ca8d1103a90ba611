//! Where requests go: splits, endpoints that fail, and clients that use the proxy as an HTTP proxy.

use std::io::Read;

use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use serde_json::{Value, json};

use crate::mesh::{App, Client, Mesh, Pod, allow, eventually, service};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

fn backend(service: &str, weight: u64) -> Value {
    json!({ "origin": origin(), "service": service, "weight": weight })
}

fn origin() -> Value {
    json!({ "kind": "TrafficSplit", "namespace": "shop", "name": "canary" })
}

/// A client, and the Services `shop/v1` and `shop/v2` with one pod each that says which it is.
struct Canary {
    mesh: Mesh,
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
        Self { mesh, client, pods, ports }
    }

    /// Splits `shop/web`, whose own endpoints are both pods.
    fn split(&self, splits: Value) {
        self.split_of(&self.client, splits);
    }

    /// Splits it for one client.
    fn split_of(&self, client: &Pod, splits: Value) {
        let [v1, v2] = [0, 1].map(|at: usize| self.pods[at].endpoint(self.ports[at]));
        let none = json!([]);
        let services = json!([
            service("shop/web", 80, "http", &[v1.clone(), v2.clone()], splits),
            service("shop/v1", 80, "http", &[v1], none.clone()),
            service("shop/v2", 80, "http", &[v2], none.clone()),
            service("shop/empty", 80, "http", &[], none),
        ]);
        client.configure(json!({ "mode": "enforce" }), services);
    }

    /// How many of `count` requests each version answered.
    fn count(&self, request: &str, count: usize) -> [usize; 2] {
        Self::count_of(&self.client, request, count)
    }

    fn count_of(client: &Pod, request: &str, count: usize) -> [usize; 2] {
        let mut client = Client::connect(client.service("shop/web", 80));
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
fn t31_a_tcp_connection_is_given_a_backend_once() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let pods = ["shop/v1", "shop/v2"].map(|name| mesh.pod(name, &[], &[]));
    let split = json!([{ "origin": origin(), "backends": [backend("shop/v1", 1), backend("shop/v2", 1)] }]);
    let mut services = vec![service("shop/web", 80, "tcp", &[], split)];
    for pod in &pods {
        let name = pod.name.name.to_string();
        // It says its name for every byte.
        let app = crate::mesh::serve(pod.ip, move |stream| {
            let mut app = Client(stream);
            while app.0.read_exact(&mut [0]).is_ok() {
                app.send(&name);
            }
        });
        services.push(service(&pod.name.to_string(), 80, "tcp", &[pod.endpoint(app.port())], json!([])));
        pod.configure(allow(&[&client], true), json!([]));
    }
    client.configure(json!({ "mode": "enforce" }), json!(services));
    let backends: Vec<String> = (0..40)
        .map(|_| {
            let mut connection = Client::connect(client.service("shop/web", 80));
            let [first, second, third] = [(); 3].map(|()| {
                connection.send("x");
                connection.read_exactly(2)
            });
            assert_eq!((&first, &second), (&second, &third));
            first
        })
        .collect();
    // A fair coin falls on one side alone once in 500,000 million runs.
    assert!(["v1", "v2"].iter().all(|name| backends.iter().any(|backend| backend == name)), "{backends:?}");
}

#[test]
fn t3_each_client_splits_for_itself() {
    let canary = Canary::new();
    let other = canary.mesh.pod("shop/other", &[("shop/web", 80)], &[]);
    canary.pods.iter().for_each(|pod| pod.configure(allow(&[&canary.client, &other], false), json!([])));
    canary.split(json!([{ "origin": origin(), "backends": [backend("shop/v1", 1), backend("shop/v2", 0)] }]));
    canary
        .split_of(&other, json!([{ "origin": origin(), "backends": [backend("shop/v1", 0), backend("shop/v2", 1)] }]));
    assert_eq!((canary.count(GET, 20), Canary::count_of(&other, GET, 20)), ([20, 0], [0, 20]));
}

#[test]
fn t29_a_backend_is_asked_for_the_roots_name_and_takes_its_own_too() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80), ("shop/v1", 80)], &[]);
    let server = mesh.pod("shop/v1", &[], &[]);
    let app = App::saying(server.ip, "v1");
    server.configure(allow(&[&client], false), json!([]));
    let splits = json!([{ "origin": origin(), "backends": [backend("shop/v1", 1)] }]);
    let own = service("shop/v1", 80, "http", &[server.endpoint(app.address.port())], json!([]));
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[], splits), own]));
    for name in ["web", "v1"] {
        let mut connection = Client::connect(client.service(&format!("shop/{name}"), 80));
        let response = connection.ask(format!("GET / HTTP/1.1\r\nHost: {name}.shop\r\n\r\n"));
        assert_eq!((response.status, response.body.as_str()), (200, "v1"), "{name}");
    }
    let hosts = ["web", "v1"].map(|name| format!("Host: {name}.shop"));
    for (request, host) in app.received().iter().zip(&hosts) {
        assert!(request.contains(host), "{request}");
    }
    assert_eq!(app.received().len(), 2);
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

#[test]
fn nothing_is_tunnelled_before_there_is_a_configuration() {
    let mesh = Mesh::new();
    let (client, app) = (mesh.pod("shop/client", &[], &[]), App::saying(crate::mesh::address(), "past the mesh"));
    let mut connection = Client::connect(client.entrance(&Entrance::HttpProxy));
    let response = connection.ask(format!("CONNECT {} HTTP/1.1\r\nHost: {0}\r\n\r\n", app.address));
    assert_eq!((response.status, response.reason()), (503, "overloaded"));
}

/// A client of `shop/web`, which two pods serve: one whose application does not listen, and one that works.
fn half_dead(protocol: &str, working: impl FnOnce(std::net::IpAddr) -> u16) -> (Mesh, Pod, [Pod; 2]) {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let pods = ["shop/v1", "shop/v2"].map(|name| mesh.pod(name, &[], &[]));
    pods.iter().for_each(|pod| pod.configure(allow(&[&client], true), json!([])));
    let endpoints = [pods[0].endpoint(1), pods[1].endpoint(working(pods[1].ip))];
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, protocol, &endpoints, json!([]))]));
    (mesh, client, pods)
}

#[test]
fn a_request_that_no_application_has_seen_goes_to_another_endpoint() {
    let (_mesh, client, pods) = half_dead("http", |ip| {
        App::start(ip, |request| crate::mesh::ok(request.split_once("\r\n\r\n").unwrap().1)).address.port()
    });
    // Each connection may be another worker's, which finds out for itself.
    for _ in 0..20 {
        let mut connection = Client::connect(client.service("shop/web", 80));
        assert_eq!(connection.ask("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody").body, "body");
    }
    eventually("the client counts what became of the requests", || {
        client.total(Side::Client, |totals| totals.requests.success) == 20
    });
    assert_eq!(client.total(Side::Client, |totals| totals.requests.failure), 0);
    let refused = pods[0].total(Side::Server, |totals| totals.requests.failure);
    assert!((1..20).contains(&refused), "the endpoint is left out once it has failed, not tried {refused} times");
}

#[test]
fn a_connection_that_no_application_has_seen_goes_to_another_endpoint() {
    for protocol in ["tcp", "detect"] {
        let (_mesh, client, _pods) = half_dead(protocol, |ip| {
            let echo = |stream| {
                let mut app = Client(stream);
                let said = app.read_exactly(5);
                app.send(said.to_uppercase());
            };
            crate::mesh::serve(ip, echo).port()
        });
        for _ in 0..20 {
            let mut connection = Client::connect(client.service("shop/web", 80));
            connection.send("hello");
            assert_eq!(connection.read_exactly(5), "HELLO", "{protocol}");
        }
        eventually("the client counts what became of the connections", || {
            client.total(Side::Client, |totals| totals.connections.success) == 20
        });
        assert_eq!(client.total(Side::Client, |totals| totals.connections.failure), 0, "{protocol}");
    }
}

#[test]
fn an_application_that_does_not_listen_costs_a_502_when_there_is_no_other() {
    let (mesh, client, pods) = half_dead("http", |_| 1);
    for _ in 0..3 {
        let response = Client::connect(client.service("shop/web", 80)).ask(GET);
        assert_eq!((response.status, response.reason()), (502, "connect-failed"));
    }
    eventually("each request is counted once by its client", || {
        client.total(Side::Client, |totals| totals.requests.failure) == 3
    });
    drop((mesh, pods));
}
