//! HTTP/1.0 and 1.1 on the bytes received.
//!
//! A head is found by its end, parsed in place, judged on views of its bytes, and goes on as it came but for the few
//! lines that belong to one connection only. Bodies are copied by their framing. What two parsers could read
//! differently is refused: that is how requests are smuggled.

mod answer;
mod body;
mod exchange;
mod head;
mod request;
mod response;
mod serve;

pub(crate) use answer::sentence;
pub(crate) use request::{Request, is_authority};
pub(crate) use serve::{End, Handler, Refusal, serve};

/// Parses a complete head and looks at it; `None` when it is not well-formed.
pub(crate) fn parse_head<R>(head: &[u8], look: impl FnOnce(&Request<'_, '_>) -> R) -> Option<R> {
    let mut storage = head::storage();
    Request::parse(head, &mut storage).ok().map(|request| look(&request))
}

/// What the `http1` fuzz target runs: parses `bytes` as a head and the body after it, in pieces of `step` bytes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8], step: usize) {
    let mut searched = 0;
    let Ok(Some(end)) = head::find_end(bytes, &mut searched) else { return };
    let mut storage = head::storage();
    let Ok(request) = Request::parse(&bytes[..end], &mut storage) else { return };
    if request.method == "CONNECT" {
        return; // A tunnel is made or refused, never forwarded.
    }
    let mut forwarded = Vec::new();
    request.forward(&mut forwarded);
    let mut again = head::storage();
    let read_again = Request::parse(&forwarded, &mut again);
    assert!(read_again.is_ok_and(|again| again.body == request.body), "what is forwarded reads the same");
    let mut body = request.body;
    for piece in bytes[end..].chunks(step.max(1)) {
        match body.accept(piece) {
            Ok(taken) if taken == piece.len() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests;
