//! Requests that two parsers could read differently: none of them reaches the application.

use std::path::Path;

use crate::mesh::{Client, ok};
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

#[test]
fn what_could_be_smuggled_is_refused_and_the_connection_closed() {
    let pair = Pair::new(|_| ok("reached"));
    for (name, request) in fixtures("refused") {
        let mut client = pair.connect();
        client.send(&request);
        let response = client.response();
        let status = if name.starts_with("large") { 431 } else { 400 };
        assert_eq!((response.status, response.header("connection")), (status, Some("close")), "{name}");
        assert!(client.is_closed(), "{name}");
    }
    // Heads are judged before anything is sent, a bad chunk when its turn comes: no request may have been completed.
    let complete = pair.app.received().into_iter().filter(|request| !request.contains("hunked")).count();
    assert_eq!(complete, 0, "{:?}", pair.app.received());
}

#[test]
fn what_is_odd_but_unambiguous_passes() {
    let pair = Pair::new(|_| ok("reached"));
    for (name, request) in fixtures("accepted") {
        assert_eq!(pair.connect().ask(request).status, 200, "{name}");
    }
}

#[test]
fn heads_beyond_the_limits_get_431() {
    let pair = Pair::new(|_| ok("reached"));
    let long = format!("GET / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "X: 1\r\n".repeat(128));
    for request in [long, many] {
        let mut client: Client = pair.connect();
        let response = client.ask(request);
        assert_eq!((response.status, response.reason()), (431, "head-too-large"));
    }
    assert!(pair.app.received().is_empty());
}
