//! Answers that the mesh itself gives.

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use heddle_policy::Reason;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::REASON;
use super::outcome::{GRPC_MESSAGE, GRPC_STATUS, grpc_code, is_grpc};
use crate::http1::sentence;

/// The form of an answer, by what the client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Http,
    /// To a HEAD request: without its sentence.
    HttpHead,
    /// Trailers only: the status is 200, that of gRPC says what happened.
    Grpc,
}

impl Form {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match request.headers().get(CONTENT_TYPE) {
            Some(content_type) if is_grpc(content_type) => Self::Grpc,
            _ if request.method() == Method::HEAD => Self::HttpHead,
            _ => Self::Http,
        }
    }
}

/// Answers a request in its server's stead. A client that is gone hears nothing of it.
pub(super) fn answer(reason: Reason, form: Form, respond: &mut SendResponse<Bytes>) {
    let mut response = Response::new(());
    if form == Form::Grpc {
        *response.headers_mut() = grpc_end(reason);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let _client_is_gone = respond.send_response(response, true);
        return;
    }
    let sentence = sentence(reason);
    *response.status_mut() = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason.code()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(sentence.len()));
    if let (Form::Http, Ok(mut body)) = (form, respond.send_response(response, form == Form::HttpHead)) {
        let _client_is_gone = body.send_data(Bytes::from_static(sentence.as_bytes()), true);
    }
}

/// Ends an answer that has begun and cannot be completed: by a status of gRPC, or else by a reset, which tells the
/// client that it is incomplete.
pub(super) fn break_off(reason: Reason, form: Form, body: &mut SendStream<Bytes>) {
    if form != Form::Grpc || body.send_trailers(grpc_end(reason)).is_err() {
        body.send_reset(h2::Reason::INTERNAL_ERROR);
    }
}

fn grpc_end(reason: Reason) -> HeaderMap {
    HeaderMap::from_iter([
        (GRPC_STATUS, HeaderValue::from(grpc_code(reason))),
        // Its sentences hold nothing that gRPC wants escaped.
        (GRPC_MESSAGE, HeaderValue::from_static(sentence(reason))),
        (REASON, HeaderValue::from_static(reason.code())),
    ])
}
