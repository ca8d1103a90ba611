//! One request and its response, moving at the same time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use heddle_http1::{Body, Persistence, Response, find_end, storage};
use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tracing::debug;

use crate::io::{Conn, Transport, Upstream};
use crate::meter::Counters;
use crate::stall::Stall;
use crate::tasks::Activity;
use crate::upstream::Ended;

/// What an exchange needs to know of its request once the head has been forwarded.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) to_head: bool,
    /// The minor version the client speaks.
    pub(super) version: u8,
    /// Whether the client's connection may go on after the response.
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
}

/// An exchange that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Exchanged {
    pub(super) status: u16,
    /// Another proxy of the mesh denied the request.
    pub(super) denied: bool,
    /// Whether each connection may carry another exchange.
    pub(super) client_reusable: bool,
    pub(super) upstream_reusable: bool,
    /// Both sides speak another protocol from here on.
    pub(super) upgraded: bool,
}

/// Why an exchange did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The server has seen nothing of the request, all of which is still here: another may be tried.
    Unsent,
    /// The client went away, or broke off its response.
    Client,
    /// To be answered, when no byte of a response has been sent.
    Answer(Reason),
    /// The response broke off after it had begun.
    Broken,
    /// Policy no longer admits the request. To be answered, unless a response has begun.
    Revoked { reason: Reason, begun: bool },
}

/// An exchange under way.
pub(super) struct Exchange<'a, D: Transport> {
    pub(super) client: &'a mut Conn<D>,
    pub(super) upstream: &'a mut Conn<Upstream>,
    pub(super) sent: Sent,
    /// The head to send, and behind it the part of the body that came with it.
    pub(super) head: &'a [u8],
    activity: &'a Activity,
    started: Instant,
    counters: &'a Counters,
    is_over: bool,
    pub(super) upload: Direction,
    pub(super) download: Direction,
    response: Option<Begun>,
    /// A head of the response, and the part of the body that came with it, until they are written.
    out: Vec<u8>,
    searched: usize,
}

/// One direction of an exchange.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) body: Body,
    /// Bytes at the front of what was read that are of the body.
    accepted: usize,
    /// Bytes of the head written.
    head_written: usize,
    /// All bytes written.
    pub(super) bytes: u64,
    pub(super) state: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    Moving,
    Done,
    /// The receiver takes no more.
    Refused,
}

/// What is known of a response once its head has been seen.
#[derive(Clone, Copy)]
struct Begun {
    status: u16,
    denied: bool,
    keep_alive: bool,
    persists: bool,
}

enum CopyError {
    From,
    To,
    Invalid,
}

impl<'a, D: Transport> Exchange<'a, D> {
    pub(super) fn new(
        client: &'a mut Conn<D>,
        upstream: &'a mut Conn<Upstream>,
        sent: Sent,
        head: &'a [u8],
        body: Body,
        activity: &'a Activity,
        (started, counters): (Instant, &'a Counters),
    ) -> Self {
        Self {
            client,
            upstream,
            sent,
            head,
            activity,
            started,
            counters,
            is_over: false,
            upload: Direction::new(body),
            download: Direction::new(Body::EMPTY),
            response: None,
            out: Vec::new(),
            searched: 0,
        }
    }

    /// Runs to the end, which the caller counts. The counts of both directions stay readable after it.
    pub(super) async fn run(&mut self, stall: &mut Stall) -> Result<Exchanged, Failure> {
        let result = poll_fn(|cx| {
            let result = self.poll(cx);
            let moved = self.upload.bytes + self.download.bytes;
            if result.is_pending() && stall.poll(cx, moved).is_ready() {
                return Poll::Ready(Err(self.stalled()));
            }
            result
        })
        .await;
        self.is_over = true;
        result
    }

    /// Ends what [`run`](Self::run) has not, for `reason`.
    pub(super) fn revoke(&mut self, reason: Reason) -> Failure {
        self.is_over = true;
        Failure::Revoked { reason, begun: self.response.is_some() }
    }

    /// What the request has still to send, when the exchange is over. What was read of it and not sent is let go.
    pub(super) fn rest_of_request(&mut self) -> Body {
        self.client.read.advance(std::mem::take(&mut self.upload.accepted));
        self.upload.body
    }

    fn stalled(&self) -> Failure {
        match self.response {
            Some(_) => Failure::Broken,
            None => Failure::Answer(Reason::UpstreamTimeout),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchanged, Failure>> {
        if self.upload.state == Progress::Moving {
            self.advance_upload(cx)?;
        }
        match self.poll_download(cx) {
            Poll::Ready(downloaded) => downloaded?,
            Poll::Pending => return self.poll_client_gone(cx),
        }
        let Some(begun) = self.response else { return Poll::Ready(Err(Failure::Broken)) };
        let uploaded = self.upload.state == Progress::Done;
        Poll::Ready(Ok(Exchanged {
            status: begun.status,
            denied: begun.denied,
            client_reusable: begun.persists && uploaded,
            upstream_reusable: begun.keep_alive && uploaded && self.upstream.read.is_empty(),
            upgraded: begun.status == 101,
        }))
    }

    /// A client that goes away before its response is complete gives its request up, and the connection to the server is
    /// closed with it. If it is there after all, what it has of the response must not pass for a whole one.
    fn poll_client_gone<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Failure>> {
        ready!(self.client.transport.poll_gone(cx));
        if self.response.is_some() {
            self.client.transport.break_off();
        }
        Poll::Ready(Err(Failure::Client))
    }

    /// Moves the request on as far as it goes.
    fn advance_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let state = match self.poll_upload(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => Progress::Done,
            Poll::Ready(Err(CopyError::To)) if self.upload.bytes == 0 => return Err(Failure::Unsent),
            // The server may have answered before it closed: what it said is still read.
            Poll::Ready(Err(CopyError::To)) => Progress::Refused,
            Poll::Ready(Err(CopyError::Invalid)) if self.response.is_none() => {
                return Err(Failure::Answer(Reason::BadRequest));
            }
            Poll::Ready(Err(CopyError::From | CopyError::Invalid)) => return Err(Failure::Client),
        };
        self.upload.state = state;
        if state == Progress::Done
            && !self.sent.upgrade
            && let Upstream::Mesh(stream) = &mut self.upstream.transport
        {
            let _ends_at_once = Pin::new(stream).poll_shutdown(cx);
        }
        Ok(())
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyError>> {
        let to = &mut self.upstream.transport;
        ready!(self.upload.poll_head(cx, to, self.head)).map_err(|_| CopyError::To)?;
        self.upload.poll_body(cx, self.client, to)
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.response.is_none() {
            ready!(self.poll_response_head(cx))?;
        }
        ready!(self.poll_write_head(cx))?;
        match ready!(self.download.poll_body(cx, self.upstream, &mut self.client.transport)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(CopyError::To) => Poll::Ready(Err(Failure::Client)),
            Err(CopyError::From | CopyError::Invalid) => Poll::Ready(Err(Failure::Broken)),
        }
    }

    /// Reads one head of the response, and queues it for the client.
    fn poll_response_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let reset = Failure::Answer(Reason::UpstreamReset);
        loop {
            // An interim response waits for none that follows it, and none is read before it has gone on.
            ready!(self.poll_write_head(cx))?;
            let found = find_end(&self.upstream.read, &mut self.searched).map_err(|_| reset)?;
            let Some(end) = found else {
                match ready!(self.upstream.poll_fill(cx)) {
                    Ok(1..) => continue,
                    Ok(0) => return Poll::Ready(Err(reset)),
                    Err(error) => return Poll::Ready(Err(self.no_answer(&error))),
                }
            };
            return Poll::Ready(self.begin_response(end).ok_or(reset));
        }
    }

    /// Of a stream that was refused no application has seen anything: the request may be sent elsewhere, if all of it
    /// that was sent is still here.
    fn no_answer(&self, error: &io::Error) -> Failure {
        let is_here = self.upload.bytes <= self.head.len() as u64 && self.upload.accepted == 0;
        match error.kind() {
            io::ErrorKind::ConnectionRefused if is_here => Failure::Unsent,
            io::ErrorKind::ConnectionRefused => Failure::Answer(Reason::ConnectFailed),
            _ => Failure::Answer(Reason::UpstreamReset),
        }
    }

    /// Parses the head of `length` bytes and queues it, with the part of the body that came with it.
    fn begin_response(&mut self, length: usize) -> Option<()> {
        let mut storage = storage();
        let parsed = Response::parse(&self.upstream.read[..length], &mut storage, self.sent.to_head);
        let response = parsed.inspect_err(|error| debug!(%error, "a server's answer is malformed")).ok()?;
        let is_upgrade = response.status == 101;
        if is_upgrade && !self.sent.upgrade {
            return None;
        }
        let persists = self.sent.keep_alive && !self.activity.is_draining() && response.body != Body::UntilEnd;
        if response.is_interim() {
            response.forward(Persistence::Implied, &mut self.out);
        } else {
            let persistence = match (persists, self.sent.version) {
                _ if is_upgrade => Persistence::Upgrade,
                (true, 0) => Persistence::KeepAlive,
                (false, _) => Persistence::Close,
                (true, _) => Persistence::Implied,
            };
            response.forward(persistence, &mut self.out);
            let (status, denied, keep_alive) = (response.status, response.is_denial(), response.keep_alive);
            self.download.body = response.body;
            self.response = Some(Begun { status, denied, keep_alive, persists });
        }
        self.upstream.read.advance(length);
        self.searched = 0;
        if self.response.is_some() && !is_upgrade {
            let taken = self.download.body.accept(&self.upstream.read).ok()?;
            self.out.extend_from_slice(&self.upstream.read[..taken]);
            self.upstream.read.advance(taken);
        }
        Some(())
    }

    fn poll_write_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let written = ready!(self.download.poll_head(cx, &mut self.client.transport, &self.out));
        self.out.clear();
        self.download.head_written = 0;
        Poll::Ready(written.map_err(|_| Failure::Client))
    }
}

/// An exchange whose task is ended, as at the end of a drain, is a failure of this side. A response that had begun must not
/// pass for a whole one.
impl<D: Transport> Drop for Exchange<'_, D> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if self.response.is_some() {
            self.client.transport.break_off();
        }
        let ended = Ended {
            outcome: Some(Outcome::Failure),
            status: self.response.map_or(0, |begun| begun.status),
            grpc_status: None,
            reason: None,
            latency: self.started.elapsed(),
            uploaded: self.upload.bytes,
            downloaded: self.download.bytes,
        };
        ended.count(self.counters);
    }
}

impl Direction {
    fn new(body: Body) -> Self {
        Self { body, accepted: 0, head_written: 0, bytes: 0, state: Progress::Moving }
    }

    fn poll_head<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        head: &[u8],
    ) -> Poll<io::Result<()>> {
        while self.head_written < head.len() {
            let written = ready!(write_some(cx, to, &head[self.head_written..]))?;
            self.head_written += written;
            self.bytes += written as u64;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_body<R: Transport, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn<R>,
        to: &mut W,
    ) -> Poll<Result<(), CopyError>> {
        loop {
            while self.accepted > 0 {
                let written = ready!(write_some(cx, to, &from.read[..self.accepted])).map_err(|_| CopyError::To)?;
                from.read.advance(written);
                self.accepted -= written;
                self.bytes += written as u64;
            }
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if from.read.is_empty() {
                match ready!(from.poll_fill(cx)) {
                    Ok(1..) => {}
                    Ok(0) if self.body.may_end() => return Poll::Ready(Ok(())),
                    Ok(0) | Err(_) => return Poll::Ready(Err(CopyError::From)),
                }
            }
            self.accepted = self.body.accept(&from.read).map_err(|_| CopyError::Invalid)?;
        }
    }
}

fn write_some<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}
