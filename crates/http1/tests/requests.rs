//! Requests as the next hop receives them.

use heddle_http1::{HEAD_BYTES, HEADERS, ROOM_BYTES, ROOM_HEADERS, Request, storage};

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
