//! Requests as the next hop receives them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use heddle_http1::{HEAD_BYTES, HEADERS, ROOM_BYTES, ROOM_HEADERS, Request, storage};
use heddle_policy::Headers;

/// Parses a head and hands it to `look`.
fn with<R>(head: &str, look: impl FnOnce(&Request<'_, '_>) -> R) -> R {
    let mut storage = storage();
    look(&Request::parse(head.as_bytes(), &mut storage).unwrap())
}

fn leaves_room(head: &str) -> bool {
    with(head, |request| request.leaves_room())
}

fn forwarded(head: &str) -> String {
    with(head, |request| {
        let mut out = Vec::new();
        request.forward(&mut out);
        String::from_utf8(out).unwrap()
    })
}

#[test]
fn the_host_of_an_absolute_target_takes_the_place_of_the_host_header() {
    let expected = "GET /b HTTP/1.1\r\nHost: shop:80\r\nX: 1\r\n\r\n";
    for host in ["Host: shop:80", "Host:", "hOST: SHOP:80"] {
        assert_eq!(forwarded(&format!("GET http://shop:80/b HTTP/1.1\r\n{host}\r\nX: 1\r\n\r\n")), expected, "{host}");
    }
    let old = forwarded("GET http://shop?q HTTP/1.0\r\n\r\n");
    assert_eq!(old, "GET /?q HTTP/1.0\r\nHost: shop\r\n\r\n");
}

#[test]
fn what_the_mesh_adds_to_a_head_is_within_the_limits_of_the_next_hop() {
    let head = |headers: usize| format!("GET http://shop/ HTTP/1.0\r\n{}\r\n", "X: 1\r\n".repeat(headers));
    let fullest = head(HEADERS - ROOM_HEADERS);
    assert!(leaves_room(&fullest));
    let added = with(&fullest, |request| {
        let mut out = Vec::new();
        request.forward_with(&[("traceparent", Some("00".into()))], &mut out);
        String::from_utf8(out).unwrap()
    });
    assert!(with(&added, |request| request.authority == "shop"));
    assert!(!leaves_room(&head(HEADERS - ROOM_HEADERS + 1)));
    let long = |bytes: usize| format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let rest = long(0).len();
    assert!(leaves_room(&long(HEAD_BYTES - ROOM_BYTES - rest)));
    assert!(!leaves_room(&long(HEAD_BYTES - ROOM_BYTES - rest + 1)));
}

#[test]
fn s7_a_path_that_servers_read_differently_goes_on_as_it_was_judged() {
    let head = "GET /a/..//b?q HTTP/1.1\r\nHost: shop\r\nX: 1\r\n\r\n";
    let mut storage = storage();
    let mut request = Request::parse(head.as_bytes(), &mut storage).unwrap();
    request.settle_path();
    let mut out = Vec::new();
    request.forward(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "GET /b?q HTTP/1.1\r\nHost: shop\r\nX: 1\r\n\r\n");
    assert_eq!(request.judge(|judged| judged.path.to_owned()).as_deref(), Some("/b"));
}

#[test]
fn an_upgrade_goes_on_and_can_be_judged_unless_it_offers_http() {
    let head = |protocol: &str| {
        format!("GET /a HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nX: 1\r\n\r\n")
    };
    let websocket = "GET /a HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\nX: 1\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(forwarded(&head("websocket")), websocket);
    let seen = with(&head("websocket"), |request| {
        request.judge(|judged| judged.headers.value("upgrade").map(|value| value.into_owned()))
    });
    assert_eq!(seen.flatten().as_deref(), Some(&b"websocket"[..]));
    for protocol in ["h2c", "websocket, H2C", "HTTP/2.0"] {
        assert!(with(&head(protocol), |request| !request.upgrade), "{protocol}");
        assert_eq!(forwarded(&head(protocol)), "GET /a HTTP/1.1\r\nHost: shop\r\nX: 1\r\n\r\n");
    }
}
