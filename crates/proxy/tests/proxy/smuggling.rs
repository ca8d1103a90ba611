//! Requests that two parsers could read differently: none of them reaches the application.

use std::path::Path;

use heddle_policy::telemetry::Side;
use heddle_proxy::Entrance;
use serde_json::json;

use crate::mesh::{App, Client, Mesh, eventually, ok};
use crate::traffic::Pair;

/// Each fixture is a request, written with `\r`, `\n` and the like spelled out and its line breaks without meaning.
fn fixtures(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/http1").join(folder);
    let mut fixtures: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            (path.file_name().unwrap().to_string_lossy().into_owned(), unescape(&text))
        })
        .collect();
    fixtures.sort();
    fixtures
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars().filter(|character| *character != '\n');
    while let Some(character) = rest.next() {
        let escaped = match character {
            '\\' => rest.next().unwrap(),
            other => {
                bytes.extend_from_slice(other.to_string().as_bytes());
                continue;
            }
        };
        bytes.push(match escaped {
            'r' => b'\r',
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            other => u8::try_from(other).unwrap(),
        });
    }
    bytes
}

/// Requests that are refused, by name: those whose name begins with `large` for their size.
pub(crate) fn refused() -> Vec<(String, Vec<u8>)> {
    let large = |name: &str, fields: String| {
        (format!("large {name}"), format!("GET / HTTP/1.1\r\nHost: web\r\n{fields}\r\n").into_bytes())
    };
    let mut all = fixtures("refused");
    all.push(large("field", format!("X: {}\r\n", "a".repeat(64 * 1024))));
    all.push(large("number of fields", "X: 1\r\n".repeat(128)));
    all
}

/// Heads are judged before anything is sent, a bad chunk when its turn comes: no request may have been completed.
pub(crate) fn assert_nothing_arrived(app: &App) {
    let complete = app.received().into_iter().filter(|request| !request.contains("hunked")).count();
    assert_eq!(complete, 0, "{:?}", app.received());
}

/// Sends each to a proxy at `connect`, which must refuse it and close. How many were malformed, and how many too large.
fn attempt(connect: impl Fn() -> Client) -> (u64, u64) {
    let (mut malformed, mut large) = (0, 0);
    for (name, request) in refused() {
        let mut client = connect();
        client.send(&request);
        let response = client.response();
        let (status, count) = if name.starts_with("large") { (431, &mut large) } else { (400, &mut malformed) };
        *count += 1;
        assert_eq!((response.status, response.header("connection")), (status, Some("close")), "{name}");
        assert!(client.is_closed(), "{name}");
    }
    (malformed, large)
}

#[test]
fn what_could_be_smuggled_is_refused_counted_and_the_connection_closed() {
    let pair = Pair::new(|_| ok("reached"));
    let expected = attempt(|| pair.connect());
    assert_nothing_arrived(&pair.app);
    let reason = |code| pair.client.reason(Side::Client, code);
    eventually("every attempt is counted", || (reason("bad-request"), reason("head-too-large")) == expected);
}

#[test]
fn what_could_be_smuggled_in_plaintext_is_refused_and_counted_too() {
    let mesh = Mesh::new();
    let ip = crate::mesh::address();
    let app = App::saying(ip, "reached");
    let port = app.address.port();
    let server = mesh.pod_at(ip, "shop/server", &[], &[port]);
    server.configure(json!({ "mode": "permissive", "ports": [{ "port": port, "protocol": "http" }] }), json!([]));
    let expected = attempt(|| Client::connect(server.entrance(&Entrance::Plaintext(port))));
    assert_nothing_arrived(&app);
    let reason = |code| server.reason(Side::Server, code);
    eventually("every attempt is counted", || (reason("bad-request"), reason("head-too-large")) == expected);
}

#[test]
fn what_is_odd_but_unambiguous_passes() {
    let pair = Pair::new(|_| ok("reached"));
    for (name, request) in fixtures("accepted") {
        assert_eq!(pair.connect().ask(request).status, 200, "{name}");
    }
}
