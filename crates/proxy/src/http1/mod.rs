//! HTTP/1.0 and 1.1, served and exchanged: messages are read and forwarded as `heddle-http1` says.

mod answer;
mod exchange;
mod serve;

pub(crate) use answer::sentence;
pub(crate) use heddle_http1::{Request, is_authority};
pub(crate) use serve::{End, Handler, Refusal, serve};

use heddle_policy::Headers;

use crate::record::Seen;

/// A request as records see it.
pub(crate) fn seen<'a>(request: &'a Request<'_, '_>) -> Seen<'a> {
    Seen {
        protocol: if request.version == 1 { "HTTP/1.1" } else { "HTTP/1.0" },
        method: request.method,
        target: request.target,
        authority: request.authority,
        traceparent: request.fields.value("traceparent"),
        tracestate: request.fields.value("tracestate"),
    }
}

/// Parses a complete head and looks at it; `None` when it is not well-formed.
pub(crate) fn parse_head<R>(head: &[u8], look: impl FnOnce(&Request<'_, '_>) -> R) -> Option<R> {
    let mut storage = heddle_http1::storage();
    Request::parse(head, &mut storage).ok().map(|request| look(&request))
}

#[cfg(test)]
mod tests;
