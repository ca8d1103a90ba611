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
    if request.method == "CONNECT" {
        return; // A tunnel is made or refused, never forwarded.
    }
    let mut forwarded = Vec::new();
    request.forward(&mut forwarded);
    let mut headers = storage();
    let again = Request::parse(&forwarded, &mut headers);
    assert!(again.is_ok_and(|again| again.body == request.body), "what is forwarded reads the same");
    let mut body = request.body;
    for piece in bytes[end..].chunks(step) {
        match body.accept(piece) {
            Ok(taken) if taken == piece.len() => {}
            _ => return,
        }
    }
}
