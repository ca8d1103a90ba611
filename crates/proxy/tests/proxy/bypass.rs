//! A client that bypasses its own proxy: it has a valid certificate, and speaks to the server's proxy itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use heddle_policy::telemetry::Side;
use heddle_proxy::{Entrance, limits};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;

use crate::mesh::{Pod, Response, allow, eventually, ok};
use crate::traffic::Pair;

/// A connection to a proxy, and the streams opened on it.
pub(crate) struct Bypass {
    pub(crate) tls: StreamOwned<ClientConnection, TcpStream>,
    opened: u32,
}

/// A frame as received: its type, its stream, and its payload.
type Frame = (u8, u32, Vec<u8>);

/// Types of frames, and what streams are for.
const OPEN: u8 = 1;
const DATA: u8 = 2;
const RESET: u8 = 4;
const TCP: u8 = 0;
const HTTP1: u8 = 1;
/// Why a stream is reset.
const DENIED: u8 = 2;

impl Bypass {
    pub(crate) fn connect(client: &Pod, server: &Pod, alpn: &[u8]) -> Self {
        let mut config = heddle_identity::mutual_client(&client.store, server.identity.clone());
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = crate::mesh::Client::connect(server.entrance(&Entrance::Mesh)).0;
        Self { tls: StreamOwned::new(tls, socket), opened: 0 }
    }

    fn frame(&mut self, kind: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let [l1, l2] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let [s1, s2, s3, s4] = stream.to_be_bytes();
        self.tls.write_all(&[&[kind, 0, l1, l2, s1, s2, s3, s4], payload].concat())
    }

    /// Opens a stream to a port of the workload.
    fn open(&mut self, kind: u8, port: u16) -> u32 {
        self.opened += 1;
        let [p1, p2] = port.to_be_bytes();
        self.frame(OPEN, self.opened, &[kind, p1, p2]).unwrap();
        self.opened
    }

    /// The next frame; `None` when the connection has ended.
    fn read(&mut self) -> Option<Frame> {
        let mut header = [0; 8];
        self.tls.read_exact(&mut header).ok()?;
        let [kind, _, l1, l2, s1, s2, s3, s4] = header;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([l1, l2]))];
        self.tls.read_exact(&mut payload).ok()?;
        Some((kind, u32::from_be_bytes([s1, s2, s3, s4]), payload))
    }

    /// Sends `bytes` on a stream of its own, and reads what is answered with Content-Length.
    fn ask(&mut self, kind: u8, port: u16, bytes: &[u8]) -> Response {
        let stream = self.open(kind, port);
        for piece in bytes.chunks(16 * 1024 - 8) {
            self.frame(DATA, stream, piece).unwrap();
        }
        let mut text = Vec::new();
        while !Response::is_complete(&text) {
            match self.read().expect("an answer") {
                (DATA, from, payload) if from == stream => text.extend_from_slice(&payload),
                (RESET, from, _) if from == stream => panic!("reset after {:?}", String::from_utf8_lossy(&text)),
                _ => {}
            }
        }
        Response::parse(&String::from_utf8(text).unwrap())
    }
}

fn bypass(pair: &Pair) -> Bypass {
    Bypass::connect(&pair.client, &pair.server, b"heddle/1")
}

#[test]
fn a10_policy_holds_for_a_client_that_bypasses_its_own_proxy() {
    let pair = Pair::new(|_| ok("in"));
    let port = pair.app.address.port();
    let get = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    assert_eq!(bypass(&pair).ask(HTTP1, port, get).body, "in");
    let other = pair.mesh.pod("shop/other", &[], &[]);
    let mut bypass = Bypass::connect(&other, &pair.server, b"heddle/1");
    assert_eq!(bypass.ask(HTTP1, port, get).reason(), "source-not-allowed");
    let stream = bypass.open(TCP, port);
    let reset = std::iter::from_fn(|| bypass.read()).find(|(_, from, _)| *from == stream);
    assert_eq!(reset, Some((RESET, stream, vec![DENIED])));
    assert_eq!(pair.app.received().len(), 1);
}

#[test]
fn what_could_be_smuggled_is_refused_on_a_stream_of_another_proxy() {
    let pair = Pair::new(|_| ok("reached"));
    let port = pair.app.address.port();
    let mut bypass = bypass(&pair);
    let mut expected = (0, 0);
    for (name, request) in crate::smuggling::refused() {
        let response = bypass.ask(HTTP1, port, &request);
        let status = if name.starts_with("large") { 431 } else { 400 };
        assert_eq!((response.status, response.header("connection")), (status, Some("close")), "{name}");
        expected = if status == 400 { (expected.0 + 1, expected.1) } else { (expected.0, expected.1 + 1) };
    }
    crate::smuggling::assert_nothing_arrived(&pair.app);
    eventually("every attempt is counted", || {
        (pair.server.reason(Side::Server, "bad-request"), pair.server.reason(Side::Server, "head-too-large"))
            == expected
    });
}

#[test]
fn streams_that_are_abandoned_by_the_thousand_end_their_connection_and_are_counted() {
    let pair = Pair::new(|_| ok("in"));
    let port = pair.app.address.port();
    let mut flooder = bypass(&pair);
    let mut sent = 0;
    loop {
        let stream = flooder.opened + 1;
        flooder.opened = stream;
        let [p1, p2] = port.to_be_bytes();
        let flooding = flooder.frame(OPEN, stream, &[HTTP1, p1, p2]).and_then(|()| flooder.frame(RESET, stream, &[0]));
        if flooding.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 1_000 * limits::ABANDONED_STREAMS, "the flood is not stopped");
    }
    eventually("the flood is counted", || pair.server.reason(Side::Server, "overloaded") == 1);
    assert_eq!(pair.connect().ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").body, "in");
    assert_eq!(pair.app.received().len(), 1);
}

#[test]
fn a_stream_on_which_nothing_is_said_is_no_idle_connection() {
    let pair = Pair::new(|_| ok("in"));
    let response = bypass(&pair).ask(HTTP1, pair.app.address.port(), b"");
    assert_eq!((response.status, response.reason()), (408, "request-timeout"));
}

#[test]
fn upgrades_that_are_offered_by_the_thousand_and_declined_end_no_connection_between_proxies() {
    let pair = Pair::new(|_| ok("no"));
    let mut client = pair.connect();
    for _ in 0..=2 * limits::ABANDONED_STREAMS {
        let offer = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(client.ask(offer).body, "no");
    }
    assert_eq!(pair.server.reason(Side::Server, "overloaded"), 0);
}

#[test]
fn what_breaks_the_rules_between_proxies_ends_its_connection_and_is_counted() {
    let pair = Pair::new(|_| ok("in"));
    let violations: [&[u8]; 4] = [
        // A type that there is not, data for a stream that was never opened, a frame beyond the limit, a short one.
        &[9, 0, 0, 0, 0, 0, 0, 1],
        &[2, 0, 0, 1, 0, 0, 0, 9, b'x'],
        &[2, 0, 0xff, 0xff, 0, 0, 0, 1],
        &[1, 0, 0, 1, 0, 0, 0, 1, 0],
    ];
    for violation in violations {
        let mut bypass = bypass(&pair);
        bypass.tls.write_all(violation).unwrap();
        while bypass.read().is_some() {}
    }
    eventually("each is counted", || pair.server.reason(Side::Server, "bad-request") == violations.len() as u64);
    let inbound = allow(&[&pair.client], false);
    pair.server.configure(inbound, json!([]));
    assert_eq!(pair.connect().ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").body, "in");
}
