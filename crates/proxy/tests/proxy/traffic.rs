//! Requests through two proxies: what arrives, and what comes back.

use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use serde_json::{Value, json};

use crate::mesh::{App, Client, Mesh, Pod, allow, eventually, ok, service};

/// A client's pod and a server's, with an application that may be called by the client as `shop/web`.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) app: App,
}

impl Pair {
    pub(crate) fn new(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let mesh = Mesh::new();
        let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
        let server = mesh.pod("shop/server", &[], &[]);
        let app = App::start(server.ip, reply);
        let endpoint = server.endpoint(app.address.port());
        client
            .configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
        server.configure(allow(&[&client], false), json!([]));
        Self { mesh, client, server, app }
    }

    /// Gives both proxies more settings.
    pub(crate) fn set(&self, settings: &Value) {
        let endpoint = self.server.endpoint(self.app.address.port());
        let services = json!([service("shop/web", 80, "http", &[endpoint], json!([]))]);
        self.client.configure_with(settings.clone(), json!({ "mode": "enforce" }), services);
        self.server.configure_with(settings.clone(), allow(&[&self.client], false), json!([]));
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.client.service("shop/web", 80))
    }
}

#[test]
fn a_request_and_its_response_pass_byte_for_byte() {
    let pair = Pair::new(|_| {
        b"HTTP/1.1 201 Made It\r\nsErVeR: odd\r\nContent-Length: 2\r\nX-A:  1\r\nx-a: 2\r\n\r\nhi".to_vec()
    });
    let mut client = pair.connect();
    let request = "POST /path/.%7Ea?q=/../%2F HTTP/1.1\r\nhOST: web.shop:80\r\nX-b:   spaced \t\r\nx-B: \r\n\
                   Content-Length: 5\r\n\r\nhello";
    let response = client.ask(request);
    assert_eq!(pair.app.received(), [request]);
    assert_eq!(response.head, "HTTP/1.1 201 Made It\r\nsErVeR: odd\r\nContent-Length: 2\r\nX-A:  1\r\nx-a: 2");
    assert_eq!(response.body, "hi");
}

#[test]
fn s7_a_path_that_servers_read_differently_goes_on_as_it_was_judged() {
    let pair = Pair::new(|request| ok(request.split(' ').nth(1).unwrap()));
    let mut client = pair.connect();
    for (sent, received) in [("//public/admin?a=//b", "/public/admin?a=//b"), ("/admin/%2e./public/x", "/public/x")] {
        assert_eq!(client.ask(format!("GET {sent} HTTP/1.1\r\nHost: web\r\n\r\n")).body, received);
    }
}

#[test]
fn one_connection_carries_many_requests_and_pipelined_ones_in_order() {
    let pair = Pair::new(|request| ok(request.split(' ').nth(1).unwrap()));
    let mut client = pair.connect();
    for path in ["/a", "/b"] {
        assert_eq!(client.ask(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).body, path);
    }
    client.send("GET /1 HTTP/1.1\r\nHost: w\r\n\r\nPOST /2 HTTP/1.1\r\nHost: w\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: w\r\n\r\n");
    let expected = ["/1", "/2", "/3"].map(|path| String::from_utf8(ok(path)).unwrap()).concat();
    assert_eq!(client.read_exactly(expected.len()), expected);
    eventually("both sides count the requests", || {
        pair.client.total(Side::Client, |totals| totals.requests.success) == 5
            && pair.server.total(Side::Server, |totals| totals.requests.success) == 5
    });
}

#[test]
fn chunked_bodies_pass_with_their_extensions_and_trailers() {
    let chunked = "5;ext=1\r\nhello\r\n0\r\n\r\n";
    let pair = Pair::new(|_| b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec());
    let mut client = pair.connect();
    let head = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = client.ask(format!("{head}{chunked}"));
    assert_eq!(pair.app.received(), [format!("{head}{chunked}")]);
    assert_eq!(response.body, "3\r\nabc\r\n0\r\n\r\n");
}

#[test]
fn megabytes_pass_in_both_directions() {
    let pair = Pair::new(|request| ok(request.split_once("\r\n\r\n").unwrap().1));
    let body = "0123456789abcdef".repeat(3 * 64 * 1024);
    let mut client = pair.connect();
    let mut sender = Client(client.0.try_clone().unwrap());
    let request = format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let sending = std::thread::spawn(move || sender.send(request));
    assert!(client.response().body == body, "the body comes back as it was sent");
    sending.join().unwrap();
}

#[test]
fn head_204_and_304_have_no_body() {
    let pair = Pair::new(|request| match request.split(' ').nth(1).unwrap() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec(),
    });
    let mut client = pair.connect();
    for (method, path, status) in [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304)] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: web\r\n\r\n"));
        assert_eq!(client.response_to(true).status, status);
    }
    assert_eq!(pair.app.received().len(), 3);
}

#[test]
fn a_body_that_waits_for_100_continue_is_sent_after_it() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = crate::mesh::serve(server.ip, |stream| {
        let mut app = Client(stream);
        let head = "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(app.read_exactly(head.len()), head);
        app.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = app.read_exactly(2);
        app.send(ok(&body));
    });
    let endpoint = server.endpoint(app.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], false), json!([]));
    let mut client = Client::connect(client.service("shop/web", 80));
    client.send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.response_to(true).status, 100);
    assert_eq!(client.ask("ok").body, "ok");
}

#[test]
fn http_1_0_is_answered_and_closed_unless_it_asks_to_be_kept() {
    let pair = Pair::new(|_| ok("old"));
    let mut client = pair.connect();
    let response = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((response.header("connection"), &*response.body), (Some("keep-alive"), "old"));
    let response = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.is_closed());
    assert_eq!(pair.app.received(), ["GET / HTTP/1.0\r\n\r\n"; 2]);
}

#[test]
fn headers_of_the_connection_stay_on_it() {
    let pair =
        Pair::new(|_| b"HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n".to_vec());
    let mut client = pair.connect();
    let response = client.ask(
        "GET / HTTP/1.1\r\nHost: web\r\nconnection: keep-alive, x-one\r\nX-One: 1\r\nKeep-Alive: 5\r\nX-Two: 2\r\n\r\n",
    );
    assert_eq!(pair.app.received(), ["GET / HTTP/1.1\r\nHost: web\r\nX-Two: 2\r\n\r\n"]);
    assert_eq!(response.head, "HTTP/1.1 200 OK\r\nContent-Length: 0");
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").status, 200);
}

#[test]
fn a_response_that_ends_with_its_connection_closes_the_clients() {
    let pair = Pair::new(|_| b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye".to_vec());
    assert_eq!(pair.connect().ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").body, "bye");
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = crate::mesh::serve(server.ip, |stream| Client(stream).send("HTTP/1.0 200 OK\r\n\r\nuntil the end"));
    let endpoint = server.endpoint(app.port());
    client.configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    server.configure(allow(&[&client], false), json!([]));
    let mut client = Client::connect(client.service("shop/web", 80));
    let response = client.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!((&*response.body, response.header("connection")), ("until the end", Some("close")));
}

#[test]
fn an_upgrade_turns_the_connection_into_bytes() {
    let mesh = Mesh::new();
    let (client_pod, server) = (mesh.pod("shop/client", &[("shop/web", 80)], &[]), mesh.pod("shop/server", &[], &[]));
    let app = crate::mesh::serve(server.ip, |stream| {
        let mut app = Client(stream);
        let head = "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nHost: web\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(app.read_exactly(head.len()), head);
        app.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x01first");
        let said = app.read_exactly(5);
        app.send(said.to_uppercase());
    });
    let endpoint = server.endpoint(app.port());
    client_pod
        .configure(json!({ "mode": "enforce" }), json!([service("shop/web", 80, "http", &[endpoint], json!([]))]));
    server.configure(allow(&[&client_pod], false), json!([]));
    let mut client = Client::connect(client_pod.service("shop/web", 80));
    client.send("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nHost: web\r\nConnection: keep-alive, Upgrade\r\n\r\n");
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(client.read_exactly(head.len()), head);
    assert_eq!(client.read_exactly(6), "\x01first");
    let open = || [client_pod.open(), server.open()];
    assert_eq!(open(), [1; 2], "both sides know of the connection");
    client.send("hello");
    assert_eq!(client.read_exactly(5), "HELLO");
    assert!(client.is_closed());
    drop(client);
    eventually("it is open no more", || open() == [0; 2]);
    let succeeded = |pod: &Pod, side| {
        (pod.total(side, |totals| totals.requests.success), pod.total(side, |totals| totals.connections.total()))
    };
    assert_eq!(succeeded(&client_pod, Side::Client), (1, 0), "it was a request, and is not counted again");
    assert_eq!(succeeded(&server, Side::Server), (1, 0));
}

#[test]
fn ipv6_addresses_of_pods_endpoints_and_clients_work() {
    let mesh = Mesh::new();
    let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
    let ip = std::net::Ipv6Addr::LOCALHOST.into();
    let app = App::saying(ip, "six");
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    let mut inbound = allow(&[&client], false);
    inbound["probes"] = json!([{ "port": port, "path": "/healthz" }]);
    inbound["nodeAddresses"] = json!([ip]);
    inbound["ports"] = json!([{ "port": port, "protocol": "http" }]);
    server.configure(inbound, json!([]));
    let services = json!([service("shop/web", 80, "http", &[server.endpoint(port)], json!([]))]);
    client.configure(json!({ "mode": "enforce" }), services);
    let get = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    assert_eq!(Client::connect(client.service("shop/web", 80)).ask(get).body, "six");
    let mut proxy = Client::connect(client.entrance(&Entrance::HttpProxy));
    let pod = format!("[::1]:{port}");
    assert_eq!(proxy.ask(format!("GET http://{pod}/ HTTP/1.1\r\nHost: {pod}\r\n\r\n")).body, "six");
    proxy.send(format!("CONNECT {pod} HTTP/1.1\r\nHost: {pod}\r\n\r\n"));
    assert_eq!(proxy.response_to(true).status, 200);
    assert_eq!(proxy.ask(get).body, "six");
    let plaintext = server.entrance(&Entrance::Plaintext(port));
    assert_eq!(Client::connect(plaintext).ask(get.replace(" / ", " /healthz ")).body, "six");
    assert_eq!(Client::connect(plaintext).ask(get).reason(), "no-identity");
    eventually("the requests through the mesh are counted", || {
        server.total(Side::Server, |totals| totals.requests.success) == 4
    });
}
