//! What counts as what, on either side: success, failure, denied, or nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use heddle_policy::telemetry::{Counts, Side, Totals};
use heddle_proxy::limits;
use http::{HeaderValue, Response};
use serde_json::json;
use tokio::sync::mpsc;

use crate::http2::peer::{self, Answer, Call, ask, get, grpc, grpc_head, trailers};
use crate::mesh::{Client, Mesh, Pod, allow, eventually, serve, service};

const NOTHING: Counts = Counts { success: 0, failure: 0, denied: 0 };
const SUCCESS: Counts = Counts { success: 1, ..NOTHING };
const FAILURE: Counts = Counts { failure: 1, ..NOTHING };
const DENIED: Counts = Counts { denied: 1, ..NOTHING };
/// The server's side counts every attempt that reaches it.
const EACH_ATTEMPT: Counts = Counts { failure: limits::ATTEMPTS as u64, ..NOTHING };

/// A case, and what the client's side and the server's count of it.
type Case = (&'static str, Counts, Counts);

/// The pods of a client, and of servers that it may call, may not call, and that do not listen.
struct Pods {
    _mesh: Mesh,
    client: Pod,
    server: Pod,
    closed: Pod,
}

impl Pods {
    fn new(protocol: &str, app: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let mesh = Mesh::new();
        let ports = ["shop/open", "shop/dead", "shop/closed"].map(|service| (service, 80));
        let client = mesh.pod("shop/client", &ports, &[]);
        let (server, closed) = (mesh.pod("shop/server", &[], &[]), mesh.pod("shop/closed", &[], &[]));
        let port = serve(server.ip, app).port();
        let services = json!([
            service("shop/open", 80, protocol, &[server.endpoint(port)], json!([])),
            service("shop/dead", 80, protocol, &[server.endpoint(1)], json!([])),
            service("shop/closed", 80, protocol, &[closed.endpoint(port)], json!([])),
        ]);
        client.configure(json!({ "mode": "enforce" }), services);
        server.configure(allow(&[&client], true), json!([]));
        closed.configure(json!({ "mode": "enforce" }), json!([]));
        Self { _mesh: mesh, client, server, closed }
    }

    fn connect(&self, service: &str) -> Client {
        Client::connect(self.client.service(service, 80))
    }

    fn counts(&self, of: fn(&Totals) -> Counts) -> [Counts; 2] {
        [sum(&[&self.client], Side::Client, of), sum(&[&self.server, &self.closed], Side::Server, of)]
    }
}

fn sum(pods: &[&Pod], side: Side, of: fn(&Totals) -> Counts) -> Counts {
    let total = |field: fn(&Counts) -> u64| pods.iter().map(|pod| pod.total(side, |totals| field(&of(totals)))).sum();
    Counts {
        success: total(|counts| counts.success),
        failure: total(|counts| counts.failure),
        denied: total(|counts| counts.denied),
    }
}

fn plus(one: Counts, other: Counts) -> Counts {
    Counts {
        success: one.success + other.success,
        failure: one.failure + other.failure,
        denied: one.denied + other.denied,
    }
}

/// Waits until exactly `expected` has been counted since `before`. What is counted too much, too late for this case, the
/// next one finds.
fn expect(case: &str, before: [Counts; 2], expected: [Counts; 2], now: impl Fn() -> [Counts; 2]) {
    let wanted = [plus(before[0], expected[0]), plus(before[1], expected[1])];
    eventually(&format!("{case}: client {:?}, server {:?}", expected[0], expected[1]), || now() == wanted);
}

/// The connection ends by a reset, whatever was said on it.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads up to the end of a head; its target.
fn target(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).ok()?.split(' ').nth(1)?.to_owned())
}

/// An application of HTTP/1 that does what the target says.
fn http_app(mut stream: TcpStream) {
    while let Some(target) = target(&mut stream) {
        match &target[1..] {
            "silent" => return,
            "reset" => return reset(&stream),
            "broken" => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbro").unwrap(),
            "broken-by-reset" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbro").unwrap();
                return reset(&stream);
            }
            "endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
                while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
                return;
            }
            status => {
                write!(stream, "HTTP/1.1 {status} As Asked\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    }
}

#[test]
fn requests() {
    let pods = Pods::new("http", http_app);
    let requests = |totals: &Totals| totals.requests;
    let cases: [Case; 12] = [
        ("/200", SUCCESS, SUCCESS),
        ("/404", SUCCESS, SUCCESS),
        // Of the application: the mesh has denied nothing.
        ("/403", SUCCESS, SUCCESS),
        ("/500", FAILURE, FAILURE),
        ("/503", FAILURE, FAILURE),
        ("/silent", FAILURE, FAILURE),
        ("/reset", FAILURE, FAILURE),
        ("/broken", FAILURE, FAILURE),
        ("/broken-by-reset", FAILURE, FAILURE),
        ("a client that goes away", NOTHING, NOTHING),
        ("an application that does not listen", FAILURE, EACH_ATTEMPT),
        ("denied", DENIED, DENIED),
    ];
    for (case, client, server) in cases {
        let before = pods.counts(requests);
        let (service, target) = match case {
            "denied" => ("shop/closed", "/"),
            "an application that does not listen" => ("shop/dead", "/"),
            "a client that goes away" => ("shop/open", "/endless"),
            target => ("shop/open", target),
        };
        let mut connection = pods.connect(service);
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"));
        match target {
            "/endless" => drop(connection.read_exactly(64)),
            _ => drop(connection.0.read_to_end(&mut Vec::new())),
        }
        drop(connection);
        expect(case, before, [client, server], || pods.counts(requests));
    }
}

/// An application of no protocol, which does what the first byte says.
fn tcp_app(mut stream: TcpStream) {
    let mut first = [0];
    if stream.read_exact(&mut first).is_err() {
        return;
    }
    match first[0] {
        b'e' => drop(stream.write_all(b"e").and_then(|()| stream.read(&mut [0]))),
        b'c' => stream.write_all(b"c").unwrap(),
        b'r' => reset(&stream),
        b'a' => {
            stream.write_all(b"a").unwrap();
            // The client has read it: a reset takes back what is still under way.
            stream.read_exact(&mut first).unwrap();
            reset(&stream);
        }
        other => panic!("{other} is not a case"),
    }
}

#[test]
fn connections() {
    let pods = Pods::new("tcp", tcp_app);
    let connections = |totals: &Totals| totals.connections;
    let cases: [Case; 7] = [
        ("closed by the client", SUCCESS, SUCCESS),
        ("closed by the server", SUCCESS, SUCCESS),
        ("reset by the server before it said anything", FAILURE, FAILURE),
        ("reset by the server after it said something", FAILURE, FAILURE),
        ("reset by the client", SUCCESS, SUCCESS),
        ("an application that does not listen", FAILURE, EACH_ATTEMPT),
        ("denied", DENIED, DENIED),
    ];
    for (case, client, server) in cases {
        let before = pods.counts(connections);
        let (service, said) = match case {
            "denied" => ("shop/closed", "e"),
            "an application that does not listen" => ("shop/dead", "e"),
            "closed by the server" => ("shop/open", "c"),
            "reset by the server before it said anything" => ("shop/open", "r"),
            "reset by the server after it said something" => ("shop/open", "a"),
            _ => ("shop/open", "e"),
        };
        let mut connection = pods.connect(service);
        connection.send(said);
        match case {
            "closed by the client" => drop(connection.read_exactly(1)),
            "reset by the client" => {
                connection.read_exactly(1);
                reset(&connection.0);
            }
            "reset by the server after it said something" => {
                connection.read_exactly(1);
                connection.send("!");
                drop(connection.0.read_to_end(&mut Vec::new()));
            }
            _ => drop(connection.0.read_to_end(&mut Vec::new())),
        }
        drop(connection);
        expect(case, before, [client, server], || pods.counts(connections));
    }
}

#[test]
fn a_connection_whose_access_is_revoked_is_denied() {
    let pods = Pods::new("tcp", tcp_app);
    let mut connection = pods.connect("shop/open");
    connection.send("e");
    connection.read_exactly(1);
    pods.server.configure(json!({ "mode": "enforce" }), json!([]));
    assert!(connection.is_closed());
    expect("revoked", [NOTHING; 2], [DENIED; 2], || pods.counts(|totals| totals.connections));
}

/// An application of gRPC that does what the path says. It tells of a call that waits: that it is there, and that the
/// client has given it up.
async fn grpc_app(mut call: Call, waiting: mpsc::UnboundedSender<&'static str>) {
    let path = call.request.uri().path()[1..].to_owned();
    let (kind, code) = path.split_once('/').unwrap_or((&path, "0"));
    let code: u16 = code.parse().unwrap();
    match kind {
        "trailers" => {
            let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
            stream.send_data(Bytes::from_static(b"m"), false).unwrap();
            stream.send_trailers(trailers(code)).unwrap();
        }
        "trailers-only" => {
            let mut head = grpc_head();
            head.headers_mut().extend(trailers(code));
            call.respond.send_response(head, true).unwrap();
        }
        "no-status" => {
            let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
            stream.send_data(Bytes::from_static(b"m"), true).unwrap();
        }
        "http" => drop(call.respond.send_response(Response::builder().status(code).body(()).unwrap(), true).unwrap()),
        "reset" => call.respond.send_reset(h2::Reason::INTERNAL_ERROR),
        "broken" => {
            let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
            stream.send_data(Bytes::from_static(b"m"), false).unwrap();
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        "waits" => {
            waiting.send("arrived").unwrap();
            drop(std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await);
            waiting.send("given up").unwrap();
        }
        other => panic!("{other} is not a case"),
    }
}

#[tokio::test]
async fn calls() {
    let (waiting, mut waited) = mpsc::unbounded_channel();
    let pair = peer::Pair::new(move |call| grpc_app(call, waiting.clone())).await;
    let counts = || {
        let requests = |totals: &Totals| totals.requests;
        [sum(&[&pair.client], Side::Client, requests), sum(&[&pair.server], Side::Server, requests)]
    };
    let cases: [Case; 11] = [
        ("/trailers/0", SUCCESS, SUCCESS),
        // NOT_FOUND: an answer like any other.
        ("/trailers/5", SUCCESS, SUCCESS),
        ("/trailers/14", FAILURE, FAILURE),
        ("/trailers-only/5", SUCCESS, SUCCESS),
        ("/trailers-only/13", FAILURE, FAILURE),
        ("/no-status", FAILURE, FAILURE),
        ("/http/503", FAILURE, FAILURE),
        ("/reset", FAILURE, FAILURE),
        ("/broken", FAILURE, FAILURE),
        ("/waits", NOTHING, NOTHING),
        ("denied", DENIED, DENIED),
    ];
    let connection = pair.connect().await;
    for (case, client, server) in cases {
        let before = counts();
        match case {
            "/waits" => {
                let (response, mut stream) = connection.clone().send_request(grpc(case), false).unwrap();
                assert_eq!(waited.recv().await, Some("arrived"));
                stream.send_reset(h2::Reason::CANCEL);
                assert!(response.await.is_err());
                assert_eq!(waited.recv().await, Some("given up"));
            }
            "denied" => {
                pair.server.configure(json!({ "mode": "enforce" }), json!([]));
                let answer = ask(&connection, grpc("/trailers/0"), "m").await;
                assert_eq!(answer.headers.get("grpc-status"), Some(&HeaderValue::from(7)));
            }
            path => {
                let (response, mut stream) = connection.clone().send_request(grpc(path), false).unwrap();
                stream.send_data(Bytes::from_static(b"m"), true).unwrap();
                if let Ok(response) = response.await {
                    drop(Answer::of(response).await);
                }
            }
        }
        expect(case, before, [client, server], counts);
    }
    let before = counts();
    assert_eq!(ask(&connection, get("/plain"), "").await.status, 403);
    expect("denied, without gRPC", before, [DENIED, DENIED], counts);
}
