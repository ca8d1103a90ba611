//! One request and its answer, moving at the same time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::answer::{Form, answer, break_off};
use super::copy::{Copy, CopyError, End};
use super::outcome;
use super::serve::Lease;
use crate::stall::Stall;

/// Interim answers (1xx) to one request that are passed on. They are not flow-controlled: those of a client that does not
/// read are kept in memory, so that more are left out.
const INTERIMS: usize = 16;

/// The client's side of a request. It outlasts attempts that sent nothing.
pub(super) struct Client {
    pub(super) started: Instant,
    pub(super) form: Form,
    pub(super) body: RecvStream,
    pub(super) upload: Copy,
    pub(super) respond: SendResponse<Bytes>,
}

/// Why an exchange did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The server has not looked at the request, all of which is still here: it can be sent again.
    Unsent,
    /// The client reset the stream, or its connection broke.
    Client(h2::Reason),
    /// The server reset the stream, which is passed on.
    Reset(h2::Reason),
    /// The server's connection broke, or it did not keep to the protocol, or to the time.
    Broken(Reason),
    /// Policy no longer admits the request (A28).
    Revoked(Reason),
}

/// What a client has heard of an answer.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answered {
    pub(super) status: Option<StatusCode>,
    /// What a call of gRPC ended with.
    pub(super) grpc_status: Option<u16>,
    /// Bytes of its body.
    pub(super) downloaded: u64,
}

/// An exchange under way.
pub(super) struct Exchange<'a> {
    client: &'a mut Client,
    lease: &'a Lease,
    upstream: SendStream<Bytes>,
    uploading: bool,
    /// Interim answers so far.
    interims: usize,
    answer: Answer,
}

enum Answer {
    Awaited(ResponseFuture),
    Begun(Download),
}

/// An answer whose head has been sent on.
struct Download {
    status: StatusCode,
    from: RecvStream,
    to: SendStream<Bytes>,
    copy: Copy,
    /// Absent while it is up to the trailers.
    outcome: Option<Outcome>,
    /// What a call of gRPC ended with.
    grpc_status: Option<u16>,
    complete: bool,
}

impl<'a> Exchange<'a> {
    /// Of a request whose head has been sent, and all of it where it has no body.
    pub(super) fn new(
        client: &'a mut Client,
        lease: &'a Lease,
        response: ResponseFuture,
        upstream: SendStream<Bytes>,
    ) -> Self {
        let uploading = !client.upload.is_empty(&client.body);
        Self { client, lease, upstream, uploading, interims: 0, answer: Answer::Awaited(response) }
    }

    /// Runs to the end. What a server of gRPC leaves open for long is for its client's deadline to end: a stream may
    /// be silent for as long as it likes. Any other exchange must move.
    pub(super) async fn run(&mut self) -> Result<Outcome, Failure> {
        let mut stall = Stall::default();
        stall.start();
        poll_fn(|cx| {
            let result = self.poll(cx);
            let may_stall = self.client.form == Form::Grpc;
            if result.is_pending() && !may_stall && stall.poll(cx, self.moved()).is_ready() {
                return Poll::Ready(Err(Failure::Broken(Reason::UpstreamTimeout)));
            }
            result
        })
        .await
    }

    /// How far the answer has come.
    pub(super) fn answered(&self) -> Answered {
        match &self.answer {
            Answer::Awaited(_) => Answered::default(),
            Answer::Begun(Download { status, grpc_status, copy, .. }) => {
                Answered { status: Some(*status), grpc_status: *grpc_status, downloaded: copy.moved }
            }
        }
    }

    /// Tells either side what it cannot know of a failure.
    pub(super) fn fail(mut self, failure: Failure) {
        let (code, reason) = match failure {
            Failure::Unsent => return,
            Failure::Client(h2::Reason::NO_ERROR) => return self.upstream.send_reset(h2::Reason::CANCEL),
            Failure::Client(code) => return self.upstream.send_reset(code),
            Failure::Reset(code) => (Some(code), Reason::UpstreamReset),
            Failure::Broken(reason) | Failure::Revoked(reason) => (None, reason),
        };
        self.upstream.send_reset(h2::Reason::CANCEL);
        let Client { form, respond, .. } = self.client;
        match (&mut self.answer, code) {
            (_, Some(code)) => respond.send_reset(code),
            (Answer::Awaited(_), None) => answer(reason, *form, respond),
            (Answer::Begun(download), None) => break_off(reason, *form, &mut download.to),
        }
    }

    fn moved(&self) -> u64 {
        let has_begun = matches!(self.answer, Answer::Begun(_));
        self.client.upload.moved + self.answered().downloaded + u64::from(has_begun)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, Failure>> {
        if self.uploading {
            let before = self.client.upload.moved;
            self.uploading = self.poll_upload(cx)?.is_pending();
            let Client { upload, .. } = &*self.client;
            self.lease.slot.uploads(upload.moved > before, upload.waits());
        }
        if let Answer::Awaited(_) = self.answer {
            ready!(self.poll_head(cx))?;
        }
        self.poll_body(cx)
    }

    /// Moves the request on. A server that takes no more of it may still answer.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Client { body, upload, .. } = &mut *self.client;
        match ready!(upload.poll(cx, body, &mut self.upstream)) {
            Ok(End::Plain) | Err(CopyError::To) => {}
            Ok(End::Trailers(trailers)) => {
                let _server_takes_no_more = self.upstream.send_trailers(trailers);
            }
            Err(CopyError::From(error)) => {
                return Poll::Ready(Err(Failure::Client(error.reason().unwrap_or(h2::Reason::CANCEL))));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let respond = &mut self.client.respond;
        if let Poll::Ready(reset) = respond.poll_reset(cx) {
            return Poll::Ready(Err(Failure::Client(reset.unwrap_or(h2::Reason::CANCEL))));
        }
        let Answer::Awaited(response) = &mut self.answer else { return Poll::Ready(Ok(())) };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            self.interims += 1;
            if self.interims <= INTERIMS {
                let _client_is_gone = respond.send_informational(interim);
            }
        }
        Poll::Ready(match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => self.begin(response),
            Err(error) => Err(self.upstream_failure(&error)),
        })
    }

    /// Sends the head of the answer on.
    fn begin(&mut self, response: Response<RecvStream>) -> Result<(), Failure> {
        if let Some(load) = &self.lease.load {
            load.answered(self.client.started.elapsed());
        }
        let (head, from) = response.into_parts();
        let complete = from.is_end_stream();
        let is_call = self.client.form == Form::Grpc && head.status == StatusCode::OK;
        let outcome = match is_call {
            true => complete.then(|| outcome::of_grpc(&head.headers)),
            false => Some(outcome::of_http(head.status, &head.headers)),
        };
        let grpc_status = (is_call && complete).then(|| outcome::grpc_status(&head.headers));
        let status = head.status;
        let sent = self.client.respond.send_response(Response::from_parts(head, ()), complete);
        let to = sent.map_err(|error| Failure::Client(error.reason().unwrap_or(h2::Reason::CANCEL)))?;
        let copy = Copy::default();
        self.answer = Answer::Begun(Download { status, from, to, copy, outcome, grpc_status, complete });
        Ok(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, Failure>> {
        let Answer::Begun(download) = &mut self.answer else { return Poll::Pending };
        let Download { from, to, copy, outcome: known, grpc_status, complete, .. } = download;
        if *complete {
            return Poll::Ready(Ok(known.unwrap_or(Outcome::Success)));
        }
        if let Poll::Ready(reset) = to.poll_reset(cx) {
            return Poll::Ready(Err(Failure::Client(reset.unwrap_or(h2::Reason::CANCEL))));
        }
        let end = match ready!(copy.poll(cx, from, to)) {
            Ok(End::Plain) => HeaderMap::new(),
            Ok(End::Trailers(trailers)) => {
                let outcome;
                (outcome, *grpc_status) = at_end(*known, &trailers);
                let sent = to.send_trailers(trailers);
                return Poll::Ready(sent.map(|()| outcome).map_err(|_| Failure::Client(h2::Reason::CANCEL)));
            }
            Err(CopyError::To) => return Poll::Ready(Err(Failure::Client(h2::Reason::CANCEL))),
            Err(CopyError::From(error)) => return Poll::Ready(Err(self.upstream_failure(&error))),
        };
        let outcome;
        (outcome, *grpc_status) = at_end(*known, &end);
        Poll::Ready(Ok(outcome))
    }

    /// What an error of the server's stream means. One that was refused, singly or because its connection is ending,
    /// has not been looked at (RFC 9113, section 8.7).
    fn upstream_failure(&self, error: &h2::Error) -> Failure {
        let slot = &self.lease.slot;
        let refused = error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        let is_whole = self.client.upload.is_untouched() && matches!(self.answer, Answer::Awaited(_));
        match error.reason() {
            _ if is_whole && (refused || slot.is_unsent()) => Failure::Unsent,
            _ if refused => Failure::Reset(h2::Reason::REFUSED_STREAM),
            Some(code) if error.is_reset() && error.is_remote() && code != h2::Reason::NO_ERROR => Failure::Reset(code),
            _ => Failure::Broken(Reason::UpstreamReset),
        }
    }
}

/// What an answer comes to at its end, and the status of a call of gRPC. What is known by its head holds.
fn at_end(known: Option<Outcome>, end: &HeaderMap) -> (Outcome, Option<u16>) {
    match known {
        Some(outcome) => (outcome, None),
        None => (outcome::of_grpc(end), Some(outcome::grpc_status(end))),
    }
}
