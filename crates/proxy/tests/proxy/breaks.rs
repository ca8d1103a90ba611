//! Connections that end before everything was said: nobody takes what came for complete.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use serde_json::json;
use socket2::SockRef;

use crate::mesh::{Client, Mesh, Pod, allow, eventually, serve, service};

/// A client and a server whose application sends `part`, and is then in the hands of the test.
struct Cut {
    _mesh: Mesh,
    client: Pod,
    server: Pod,
    app: Receiver<Client>,
}

impl Cut {
    fn new() -> Self {
        Self::speaking("tcp", "part", |_| {})
    }

    /// An application whose answer to a request is half there.
    fn http() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart")
    }

    fn answering(part: &'static str) -> Self {
        Self::speaking("http", part, |app| assert_eq!(app.read_exactly(GET.len()), GET))
    }

    fn speaking(protocol: &str, part: &'static str, before: fn(&mut Client)) -> Self {
        let mut mesh = Mesh::new();
        mesh.drain = Duration::from_millis(50);
        let (client, server) = (mesh.pod("shop/client", &[("shop/db", 5432)], &[]), mesh.pod("shop/db", &[], &[]));
        let (given, app): (Sender<Client>, _) = channel();
        let given = Arc::new(Mutex::new(given));
        let port = serve(server.ip, move |stream| {
            let mut app = Client(stream);
            app.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            before(&mut app);
            app.send(part);
            given.lock().unwrap().send(app).unwrap();
        });
        let endpoint = server.endpoint(port.port());
        let services = json!([service("shop/db", 5432, protocol, &[endpoint], json!([]))]);
        client.configure(json!({ "mode": "enforce" }), services);
        server.configure(allow(&[&client], protocol == "tcp"), json!([]));
        Self { _mesh: mesh, client, server, app }
    }

    /// A connection on which both ends have said something.
    fn connect(&self) -> (Client, Client) {
        let mut client = Client::connect(self.client.service("shop/db", 5432));
        assert_eq!(client.read_exactly(4), "part");
        client.send("said");
        let mut app = self.app.recv().unwrap();
        assert_eq!(app.read_exactly(4), "said");
        (client, app)
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: db\r\n\r\n";

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_tcp_connection_that_one_end_breaks_off_is_broken_off_at_the_other() {
    let cut = Cut::new();
    let (mut client, app) = cut.connect();
    reset(app.0);
    assert!(client.is_broken_off());
    let (client, mut app) = cut.connect();
    reset(client.0);
    assert!(app.is_broken_off());
}

#[test]
fn a_tcp_connection_that_ends_in_order_ends_in_order_at_the_other_end() {
    let cut = Cut::new();
    let (client, mut app) = cut.connect();
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(std::io::Read::read(&mut app.0, &mut [0]).unwrap(), 0);
    app.send("whole");
    drop(app);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut { client.0 }, &mut text).unwrap();
    assert_eq!(text, "whole");
}

#[test]
fn a28_a_tcp_connection_whose_access_is_revoked_is_broken_off_at_both_ends() {
    let cut = Cut::new();
    let (mut client, mut app) = cut.connect();
    cut.server.configure(json!({ "mode": "enforce" }), json!([]));
    assert!(client.is_broken_off() && app.is_broken_off());
}

#[test]
fn a28_a_response_whose_access_is_revoked_is_broken_off_at_both_ends() {
    let cut = Cut::http();
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET);
    assert!(client.read_until("part").ends_with("part"));
    let mut app = cut.app.recv().unwrap();
    cut.server.configure(json!({ "mode": "enforce" }), json!([]));
    assert!(client.is_broken_off() && app.is_closed());
    eventually("the denial is counted", || cut.server.total(Side::Server, |totals| totals.requests.denied) == 1);
    assert_eq!(cut.server.total(Side::Server, |totals| totals.requests.failure), 0);
}

#[test]
fn a28_a_request_whose_access_is_revoked_before_it_is_answered_is_denied() {
    let cut = Cut::answering("");
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET);
    let mut app = cut.app.recv().unwrap();
    cut.server.configure(json!({ "mode": "enforce" }), json!([]));
    let response = client.response();
    assert_eq!((response.status, response.reason()), (403, "no-target"));
    assert!(app.is_closed());
    eventually("the denial is counted", || cut.client.total(Side::Client, |totals| totals.requests.denied) == 1);
}

#[test]
fn a28_a_request_that_a_newer_policy_still_admits_goes_on() {
    let cut = Cut::answering("");
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET);
    let mut app = cut.app.recv().unwrap();
    cut.server.configure(allow(&[&cut.client], false), json!([]));
    cut.server.configure(allow(&[&cut.client], true), json!([]));
    app.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().status, 204);
}

#[test]
fn a_tcp_connection_that_is_open_at_the_end_of_a_drain_is_broken_off_at_both_ends() {
    for of_client in [true, false] {
        let cut = Cut::new();
        let (mut client, mut app) = cut.connect();
        if of_client { &cut.client } else { &cut.server }.proxy().drain();
        assert!(client.is_broken_off() && app.is_broken_off());
    }
}

#[test]
fn a_response_that_breaks_off_is_broken_off_at_the_client() {
    let cut = Cut::http();
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET);
    assert!(client.read_until("part").ends_with("part"));
    reset(cut.app.recv().unwrap().0);
    assert!(client.is_broken_off());
}

#[test]
fn a_request_that_its_client_gives_up_is_given_up_towards_the_application() {
    for (part, shown) in [("", ""), ("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart", "part")] {
        let cut = Cut::answering(part);
        let mut client = Client::connect(cut.client.service("shop/db", 5432));
        client.send(GET);
        let mut app = cut.app.recv().unwrap();
        assert!(client.read_until(shown).ends_with(shown));
        drop(client);
        assert!(app.is_closed());
        for (pod, side) in [(&cut.client, Side::Client), (&cut.server, Side::Server)] {
            eventually("it is counted", || pod.reason(side, "given-up") == 1);
            assert_eq!(pod.total(side, |totals| totals.requests.failure), 0);
        }
    }
}

#[test]
fn a_response_that_a_half_closed_client_gives_up_does_not_look_whole() {
    let cut = Cut::answering("HTTP/1.1 200 OK\r\n\r\npart");
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET);
    assert!(client.read_until("part").ends_with("part"));
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_broken_off());
}

#[test]
fn an_upload_that_its_client_gives_up_is_given_up_while_the_application_takes_nothing() {
    let head = "POST / HTTP/1.1\r\nHost: db\r\nContent-Length: 100000000\r\n\r\n";
    let cut = Cut::speaking("http", "", |app| assert_eq!(app.read_exactly(16), "POST / HTTP/1.1\r"));
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(head);
    client.0.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    while client.0.write(&[0; 64 * 1024]).is_ok() {}
    reset(client.0);
    let mut app = cut.app.recv().unwrap();
    // It takes what has been sent, and then learns that no more comes.
    std::io::copy(&mut app.0, &mut std::io::sink()).unwrap();
}

#[test]
fn a_request_that_follows_before_its_time_gives_nothing_up() {
    let cut = Cut::answering("");
    let mut client = Client::connect(cut.client.service("shop/db", 5432));
    client.send(GET.repeat(2));
    let mut app = cut.app.recv().unwrap();
    app.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(app.read_exactly(GET.len()), GET);
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 204"));
}

#[test]
fn a_response_that_is_open_at_the_end_of_a_drain_is_broken_off_and_counted_by_the_proxy_that_ends_it() {
    for (side, of_client) in [(Side::Client, true), (Side::Server, false)] {
        let cut = Cut::http();
        let mut client = Client::connect(cut.client.service("shop/db", 5432));
        client.send(GET);
        assert!(client.read_until("part").ends_with("part"));
        let pod = if of_client { &cut.client } else { &cut.server };
        pod.proxy().drain();
        assert!(client.is_broken_off());
        assert_eq!(pod.total(side, |totals| totals.requests.failure), 1);
        assert!(pod.total(side, |totals| totals.bytes_sent.min(totals.bytes_received)) > 0);
    }
}

#[test]
fn a_plaintext_connection_that_is_denied_is_broken_off() {
    let mesh = Mesh::new();
    let server = mesh.pod("shop/db", &[], &[5432]);
    server.configure(json!({ "mode": "enforce", "ports": [{ "port": 5432, "protocol": "tcp" }] }), json!([]));
    assert!(Client::connect(server.entrance(&Entrance::Plaintext(5432))).is_broken_off());
}
