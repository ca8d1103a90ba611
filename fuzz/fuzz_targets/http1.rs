//! A request's head and body, in pieces: nothing panics, and what is forwarded reads the same again.

#![no_main]

use heddle_http1::{Request, find_end, storage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| read(input.1, usize::from(input.0).max(1)));

/// Reads `bytes` as a head and the body after it, in pieces of `step` bytes.
fn read(bytes: &[u8], step: usize) {
    let mut searched = 0;
    let Ok(Some(end)) = find_end(bytes, &mut searched) else { return };
    let mut headers = storage();
    let Ok(request) = Request::parse(&bytes[..end], &mut headers) else { return };
    // A tunnel is made or refused, and what leaves no room is refused: neither is forwarded.
    if request.method == "CONNECT" || !request.leaves_room() {
        return;
    }
    let mut forwarded = Vec::new();
    request.forward(&mut forwarded);
    let mut headers = storage();
    let again = Request::parse(&forwarded, &mut headers).expect("what is forwarded can be read");
    let line = |request: &Request<'_, '_>| (request.method.to_owned(), request.authority.to_owned(), request.version);
    assert_eq!((line(&again), again.body), (line(&request), request.body), "what is forwarded reads the same");
    assert!(again.target.ends_with(request.target), "{} goes on as {}", request.target, again.target);
    let mut body = request.body;
    for piece in bytes[end..].chunks(step) {
        match body.accept(piece) {
            Ok(taken) if taken == piece.len() => {}
            Ok(_) => return,
            Err(_) => return assert!(body.accept(piece).is_err(), "what was refused is refused again"),
        }
    }
}
