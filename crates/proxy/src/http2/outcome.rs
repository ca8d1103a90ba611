//! What an answer says of its server, of HTTP and of gRPC.

use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::REASON;

/// The status of a gRPC call, in its trailers.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Codes of gRPC.
const UNKNOWN: u16 = 2;
const CANCELLED: u16 = 1;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const DATA_LOSS: u16 = 15;

/// Whether a content type is one of gRPC's: `application/grpc`, with a format behind it or not.
pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// The code of gRPC for an answer of the mesh itself.
pub(super) fn grpc_code(reason: Reason) -> u16 {
    match reason {
        _ if reason.status() == 403 => PERMISSION_DENIED,
        Reason::UpstreamTimeout | Reason::RequestTimeout => DEADLINE_EXCEEDED,
        Reason::NotHttp2 => UNIMPLEMENTED,
        Reason::GivenUp => CANCELLED,
        Reason::BadRequest => INTERNAL,
        Reason::HeadTooLarge => RESOURCE_EXHAUSTED,
        _ => UNAVAILABLE,
    }
}

/// What an HTTP answer comes to.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status.as_u16() {
        403 if headers.contains_key(REASON) => Outcome::Denied,
        500.. => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// The status of a gRPC call by its end: its trailers, or its head when there is no more. A missing one is unknown.
pub(super) fn grpc_status(end: &HeaderMap) -> u16 {
    end.get(GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse().ok()).unwrap_or(UNKNOWN)
}

/// What the end of a gRPC call comes to. The codes that OpenTelemetry holds against servers are failures.
pub(super) fn of_grpc(end: &HeaderMap) -> Outcome {
    match grpc_status(end) {
        PERMISSION_DENIED if end.contains_key(REASON) => Outcome::Denied,
        UNKNOWN | DEADLINE_EXCEEDED | UNIMPLEMENTED | INTERNAL | UNAVAILABLE | DATA_LOSS => Outcome::Failure,
        _ => Outcome::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_grpc_that_blame_the_server_are_failures() {
        let failures: Vec<u16> = (0..=16)
            .filter(|code| {
                let end = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(*code))]);
                of_grpc(&end) == Outcome::Failure
            })
            .collect();
        assert_eq!(failures, [2, 4, 12, 13, 14, 15]);
        assert_eq!(of_grpc(&HeaderMap::new()), Outcome::Failure, "a call without a status");
    }

    #[test]
    fn only_an_answer_of_the_mesh_is_a_denial() {
        let mesh = HeaderMap::from_iter([(REASON, HeaderValue::from_static("no-target"))]);
        assert_eq!(of_http(StatusCode::FORBIDDEN, &mesh), Outcome::Denied);
        assert_eq!(of_http(StatusCode::FORBIDDEN, &HeaderMap::new()), Outcome::Success);
        let mut end = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(PERMISSION_DENIED))]);
        assert_eq!(of_grpc(&end), Outcome::Success);
        end.extend(mesh);
        assert_eq!(of_grpc(&end), Outcome::Denied);
    }
}
