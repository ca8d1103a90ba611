//! What a peer of HTTP/2 may send to exhaust a proxy, frame by frame: refused, bounded and counted on each side.

use std::io::{Read, Write};

use heddle_policy::telemetry::Side;
use heddle_proxy::{Entrance, limits};
use http::Response;
use serde_json::json;

use super::peer::{Call, Pair, get};
use crate::bypass::Bypass;
use crate::mesh::{App, Client, Mesh, Pod, allow, eventually, service};

/// Types and flags of frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET http://web/`, and the port that a proxy would name, in HPACK.
const REQUEST: &[u8] = b"\x82\x84\x86\x41\x03web\x00\x0dx-heddle-port\x0280";

/// A connection of raw frames.
struct Raw(Box<dyn Socket>);

trait Socket: Read + Write {}
impl<T: Read + Write> Socket for T {}

impl Raw {
    fn new(socket: impl Socket + 'static) -> Self {
        let mut raw = Self(Box::new(socket));
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(SETTINGS, 0, 0, b"").unwrap();
        raw
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let [_, l1, l2, l3] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let [s1, s2, s3, s4] = stream.to_be_bytes();
        self.0.write_all(&[&[l1, l2, l3, kind, flags, s1, s2, s3, s4], payload].concat())
    }

    /// Reads to the end of the connection.
    fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        while matches!(self.0.read(&mut buffer), Ok(1..)) {}
    }
}

/// A pair of pods, and the ways to their proxies.
struct Sides {
    _mesh: Mesh,
    client: Pod,
    server: Pod,
    app: App,
}

const SIDES: [&str; 3] = ["outbound", "inbound", "plaintext"];

impl Sides {
    fn new() -> Self {
        let mesh = Mesh::new();
        let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
        let ip = crate::mesh::address();
        let app = App::saying(ip, "reached");
        let port = app.address.port();
        let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
        let services = json!([service("shop/web", 80, "http2", &[server.endpoint(port)], json!([]))]);
        client.configure(json!({ "mode": "enforce" }), services);
        let mut inbound = allow(&[&client], false);
        inbound["mode"] = json!("permissive");
        server.configure(inbound, json!([]));
        Self { _mesh: mesh, client, server, app }
    }

    fn connect(&self, side: &str) -> Raw {
        match side {
            "outbound" => Raw::new(Client::connect(self.client.service("shop/web", 80)).0),
            "inbound" => Raw::new(Bypass::connect(&self.client, &self.server, b"h2").tls),
            _ => Raw::new(Client::connect(self.server.entrance(&Entrance::Plaintext(self.app.address.port()))).0),
        }
    }

    fn count(&self, side: &str, code: &str) -> u64 {
        match side {
            "outbound" => self.client.reason(Side::Client, code),
            _ => self.server.reason(Side::Server, code),
        }
    }

    /// Floods each side by `flood` until its connection ends, which must be counted.
    fn flood(&self, code: &str, flood: impl Fn(&mut Raw) -> std::io::Result<()>) {
        for side in SIDES {
            let before = self.count(side, code);
            let mut raw = self.connect(side);
            let mut sent = 0;
            while flood(&mut raw).is_ok() {
                sent += 1;
                assert!(sent < 1_000_000, "the flood is not stopped: {side}");
            }
            eventually("the flood is counted", || self.count(side, code) > before);
        }
    }
}

#[test]
fn a_head_that_never_ends_ends_its_connection() {
    let sides = Sides::new();
    sides.flood("overloaded", |raw| {
        if raw.send(HEADERS, END_STREAM, 1, REQUEST).is_err() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        loop {
            raw.send(CONTINUATION, 0, 1, &b"\x00\x01x\x011".repeat(100))?;
        }
    });
    assert!(sides.app.received().is_empty());
}

#[test]
fn a_head_of_too_many_fields_gets_431_and_is_counted() {
    let sides = Sides::new();
    let many = b"\x00\x01x\x011".repeat(limits::HEADERS + 1);
    let long: Vec<u8> = (0..10).flat_map(|_| [&b"\x00\x01x\x7f\xc1\x3d"[..], &[b'a'; 8_000]].concat()).collect();
    for side in SIDES {
        let mut raw = sides.connect(side);
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &[REQUEST, &many].concat()).unwrap();
        eventually("it is counted", || sides.count(side, "head-too-large") % 2 == 1);
        // 80,000 bytes, in a frame of HEADERS and five of CONTINUATION.
        let block = [REQUEST, &long].concat();
        let pieces: Vec<&[u8]> = block.chunks(16 * 1024).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let (kind, begins) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
            let ends = if at + 1 == pieces.len() { END_HEADERS } else { 0 };
            raw.send(kind, begins | ends, 3, piece).unwrap();
        }
        eventually("it is counted", || sides.count(side, "head-too-large").is_multiple_of(2));
    }
    assert!(sides.app.received().is_empty());
}

#[test]
fn a_head_beyond_what_is_read_at_all_gets_431_and_is_counted() {
    let sides = Sides::new();
    // A field of 3,000 bytes enters the table of HPACK, and is named by one byte 100 times: 300 KB.
    let field = [&b"\x40\x01x\x7f\xb9\x16"[..], &[b'a'; 3_000]].concat();
    let head = [REQUEST, &field, &[0xbe; 100]].concat();
    for side in SIDES {
        let before = sides.count(side, "head-too-large");
        let mut raw = sides.connect(side);
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &head).unwrap();
        eventually("it is counted", || sides.count(side, "head-too-large") == before + 1);
    }
    assert!(sides.app.received().is_empty());
}

#[test]
fn a_small_head_that_unpacks_to_a_huge_one_ends_its_connection() {
    let sides = Sides::new();
    // A field of 3,000 bytes enters the table of HPACK, and is named by one byte 10,000 times.
    let field = [&b"\x40\x01x\x7f\xb9\x16"[..], &[b'a'; 3_000]].concat();
    let bomb = [REQUEST, &field, &[0xbe; 10_000]].concat();
    sides.flood("overloaded", |raw| {
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)?;
        raw.drain();
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    assert!(sides.app.received().is_empty());
}

#[test]
fn streams_that_are_reset_as_soon_as_they_are_opened_end_their_connection() {
    let sides = Sides::new();
    let next = std::cell::Cell::new(1);
    sides.flood("overloaded", |raw| {
        let stream = next.replace(next.get() + 2);
        raw.send(HEADERS, END_HEADERS, stream, REQUEST)?;
        raw.send(RST_STREAM, 0, stream, &[0, 0, 0, 8])
    });
}

#[test]
fn pings_and_settings_by_the_thousand_are_answered_one_by_one_and_hold_up_nobody() {
    let sides = Sides::new();
    let mut flooder = sides.connect("plaintext");
    for _ in 0..5_000 {
        // Each waits for the answer to the one before, as nothing is queued for a client that does not read.
        flooder.send(PING, 0, 0, b"12345678").unwrap();
        flooder.send(SETTINGS, 0, 0, b"").unwrap();
        let mut answers = [0; 17 + 9];
        flooder.0.read_exact(&mut answers).unwrap();
    }
    let mut honest = Client::connect(sides.server.entrance(&Entrance::Plaintext(sides.app.address.port())));
    assert_eq!(honest.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").body, "reached");
}

#[tokio::test]
async fn interim_answers_by_the_thousand_are_not_kept_for_a_client() {
    let pair = Pair::new(|mut call: Call| async move {
        let early = || Response::builder().status(103).body(()).unwrap();
        (0..1_000).for_each(|_| call.respond.send_informational(early()).unwrap());
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let mut client = pair.connect().await;
    let (mut response, _) = client.send_request(get("/"), true).unwrap();
    let mut interims = 0;
    while std::future::poll_fn(|cx| response.poll_informational(cx)).await.is_some() {
        interims += 1;
    }
    assert_eq!((interims, response.await.unwrap().status().as_u16()), (16, 200), "the answer itself passes");
}
