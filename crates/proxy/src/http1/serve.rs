//! A client's connection: its requests, one after another.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Buf;
use heddle_http1::{Body, Request, find_end, storage};
use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::answer::write_answer;
use super::exchange::{Exchange, Exchanged, Failure, Sent};
use crate::io::{Conn, Transport};
use crate::limits;
use crate::record::Record;
use crate::stall::Stall;
use crate::tasks::Activity;
use crate::upstream::{Ended, Lease};

/// What becomes of requests: the difference between the two sides of a proxy.
pub(crate) trait Handler {
    /// Where an accepted request goes.
    type Plan;

    /// Whether a path goes on as it was judged, and not as it was received, where servers may read it differently.
    const SETTLES_PATHS: bool;

    /// Begins the record of a request, where one is wanted.
    fn record(&self, request: &Request<'_, '_>) -> Option<Box<Record>>;

    /// Decides a request by its head.
    fn decide(&mut self, request: &Request<'_, '_>, record: Option<&mut Record>) -> Result<Self::Plan, Refusal>;

    /// Gets a connection for it. Called again when nothing could be sent on an earlier one.
    async fn connect(&mut self, plan: &Self::Plan) -> Result<Lease, Reason>;

    /// Ready when policy no longer admits a request that it did admit (A28). `head` is what goes on of it.
    async fn revoked(&self, plan: &Self::Plan, head: &[u8]) -> Reason;

    /// A request was refused before it could be decided.
    fn malformed(&mut self, reason: Reason);
}

/// Why a request is not forwarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Answer(Reason),
    /// It asks for a tunnel to this authority (CONNECT), which the caller makes.
    Tunnel(String),
}

/// How the requests of a connection ended.
pub(crate) enum End {
    /// The connection is done with.
    Closed,
    /// A tunnel is to be made to this authority.
    Tunnel(String),
    /// Client and server speak another protocol now. The head of the request that asked for it.
    Upgraded(Box<Lease>, Vec<u8>),
}

/// What is left to do for a request whose head has been decided.
struct Accepted<P> {
    plan: P,
    record: Option<Box<Record>>,
    sent: Sent,
    /// The length of its head as it goes on.
    head_length: usize,
    body: Body,
}

/// How one request ended.
enum Next {
    Request,
    End(End),
}

/// The unread rest of a refused request that is read, so that the connection can be kept.
const DISCARDED_BYTES: u64 = 64 * 1024;
/// How long a connection that is being closed may still send.
const LINGER: Duration = Duration::from_secs(1);

/// Serves requests until the connection is to be closed or given to another protocol.
pub(crate) async fn serve<D: Transport, H: Handler>(client: &mut Conn<D>, handler: &mut H, activity: &Activity) -> End {
    let mut stall = Stall::default();
    for count in 0_u64.. {
        let next = match read_head(client, activity, count == 0).await {
            Ok(Some(length)) => serve_request(client, handler, activity, &mut stall, length).await,
            Ok(None) => Ok(Next::End(End::Closed)),
            Err(reason) => {
                handler.malformed(reason);
                answer(client, reason, true, false).await.map(|()| Next::End(End::Closed))
            }
        };
        match next {
            Ok(Next::Request) => {}
            Ok(Next::End(End::Closed)) => {
                close(client).await;
                return End::Closed;
            }
            Ok(Next::End(end)) => return end,
            Err(_) => return End::Closed,
        }
    }
    End::Closed
}

/// Waits for a complete head; its length, or `None` when the client has no more requests. Whoever opened a connection or a
/// stream before it was told of the end has its `first` request answered.
async fn read_head<D: Transport>(
    client: &mut Conn<D>,
    activity: &Activity,
    first: bool,
) -> Result<Option<usize>, Reason> {
    if client.read.is_empty() && !(first && D::IS_OPENED_TO_SPEAK) {
        if activity.is_draining() && !first {
            return Ok(None);
        }
        activity.idle();
        client.release_buffer();
        let filled = client.fill().await;
        activity.busy();
        if !filled.is_ok_and(|count| count > 0) {
            return Ok(None);
        }
    }
    let mut searched = 0;
    if let Some(length) = head_at_front(client, &mut searched)? {
        return Ok(Some(length));
    }
    let rest = async {
        loop {
            if !client.fill().await.is_ok_and(|count| count > 0) {
                return Ok(None);
            }
            if let Some(length) = head_at_front(client, &mut searched)? {
                return Ok(Some(length));
            }
        }
    };
    timeout(limits::HEAD_TIMEOUT, rest).await.unwrap_or(Err(Reason::RequestTimeout))
}

/// The length of the head at the front of what was read. An empty line before it is left out (RFC 9112, section 2.2).
fn head_at_front<D: Transport>(client: &mut Conn<D>, searched: &mut usize) -> Result<Option<usize>, Reason> {
    if *searched == 0 && client.read.starts_with(b"\r\n") {
        client.read.advance(2);
    }
    find_end(&client.read, searched).map_err(|invalid| invalid.reason())
}

async fn serve_request<D: Transport, H: Handler>(
    client: &mut Conn<D>,
    handler: &mut H,
    activity: &Activity,
    stall: &mut Stall,
    length: usize,
) -> io::Result<Next> {
    let start = Instant::now();
    let mut head = Vec::with_capacity(length + 64);
    let mut accepted = match begin(client, handler, length, &mut head) {
        Ok(accepted) => accepted,
        Err((Refusal::Tunnel(authority), _)) => return Ok(Next::End(End::Tunnel(authority))),
        Err((Refusal::Answer(reason), rest)) => return refuse(client, reason, rest).await,
    };
    let mut attempts = 0;
    loop {
        let mut lease = match handler.connect(&accepted.plan).await {
            Ok(lease) => lease,
            Err(reason) => {
                accepted.refused(reason);
                // Another proxy knows where else to go.
                let is_answered = !client.transport.refuse();
                let rest = accepted.rest();
                return if is_answered { refuse(client, reason, rest).await } else { Ok(Next::End(End::Closed)) };
            }
        };
        attempts += 1;
        stall.start();
        let account = (start, &*lease.counters);
        let mut exchange =
            Exchange::new(client, &mut lease.conn, accepted.sent, &head, accepted.body, activity, account);
        // An answer that is here goes first; as long as there is none, somebody has to look at the policy.
        let over = tokio::select! {
            biased;
            result = exchange.run(stall) => Ok(result),
            reason = handler.revoked(&accepted.plan, &head[..accepted.head_length]) => Err(reason),
        };
        let result = match over.unwrap_or_else(|reason| Err(exchange.revoke(reason))) {
            Err(Failure::Unsent) if attempts == limits::ATTEMPTS => Err(Failure::Answer(Reason::ConnectFailed)),
            result => result,
        };
        let (uploaded, downloaded) = (exchange.upload.bytes, exchange.download.bytes);
        let rest = Rest { body: exchange.rest_of_request(), ..accepted.rest() };
        drop(exchange);
        let (outcome, reason) = outcome(&result);
        let answered = reason.filter(|_| outcome.is_some());
        let status = result.map_or_else(|_| answered.map_or(0, Reason::status), |exchanged| exchanged.status);
        let (grpc_status, latency) = (None, start.elapsed());
        let ended = Ended { outcome, status, grpc_status, reason, latency, uploaded, downloaded };
        if let (Some(record), false) = (&mut accepted.record, matches!(result, Err(Failure::Unsent))) {
            record.ended(&ended, &lease.counters.edge);
        }
        return match result {
            Err(Failure::Unsent) => {
                lease.unsent();
                continue;
            }
            Ok(Exchanged { upgraded: true, .. }) => {
                lease.account(&ended);
                head.truncate(accepted.head_length);
                Ok(Next::End(End::Upgraded(Box::new(lease), head)))
            }
            Ok(exchanged) => {
                lease.finish(&ended, exchanged.upstream_reusable);
                Ok(if exchanged.client_reusable { Next::Request } else { Next::End(End::Closed) })
            }
            Err(failure) => {
                lease.finish(&ended, false);
                fail(client, failure, rest).await
            }
        };
    }
}

/// What a refused request has still to send, and how it may be answered.
struct Rest {
    body: Body,
    keep_alive: bool,
    to_head: bool,
    expects_continue: bool,
}

impl Rest {
    /// A client of HTTP/1.0 takes a connection for closed when it is not told otherwise.
    fn of(sent: &Sent, body: Body) -> Self {
        let Sent { to_head, version, keep_alive, expects_continue, .. } = *sent;
        Self { body, keep_alive: keep_alive && version == 1, to_head, expects_continue }
    }
}

impl<P> Accepted<P> {
    fn refused(&mut self, reason: Reason) {
        if let Some(record) = &mut self.record {
            record.refused(reason);
        }
    }

    fn rest(&self) -> Rest {
        Rest::of(&self.sent, self.body)
    }
}

/// Takes in a request: its head, as [`receive`] does, and behind it in `head` the part of the body that came with it.
fn begin<D: Transport, H: Handler>(
    client: &mut Conn<D>,
    handler: &mut H,
    length: usize,
    head: &mut Vec<u8>,
) -> Result<Accepted<H::Plan>, (Refusal, Rest)> {
    let mut accepted = receive(client, handler, length, head)?;
    let Ok(taken) = accepted.body.accept(&client.read) else {
        // What follows could be read in more than one way.
        handler.malformed(Reason::BadRequest);
        accepted.refused(Reason::BadRequest);
        return Err((Refusal::Answer(Reason::BadRequest), Rest { keep_alive: false, ..accepted.rest() }));
    };
    head.extend_from_slice(&client.read[..taken]);
    client.read.advance(taken);
    Ok(accepted)
}

/// Parses and decides the head at the front of what was read, writes it to `head` as it goes on, and takes it away.
fn receive<D: Transport, H: Handler>(
    client: &mut Conn<D>,
    handler: &mut H,
    length: usize,
    head: &mut Vec<u8>,
) -> Result<Accepted<H::Plan>, (Refusal, Rest)> {
    let mut storage = storage();
    let bytes = &client.read[..length];
    let parsed = Request::parse(bytes, &mut storage);
    let result = match parsed {
        Err(invalid) => {
            handler.malformed(invalid.reason());
            let rest = Rest { body: Body::EMPTY, keep_alive: false, to_head: false, expects_continue: false };
            Err((Refusal::Answer(invalid.reason()), rest))
        }
        Ok(mut request) => {
            if H::SETTLES_PATHS {
                request.settle_path();
            }
            let sent = Sent {
                to_head: request.method == "HEAD",
                version: request.version,
                keep_alive: request.keep_alive,
                upgrade: request.upgrade,
                expects_continue: request.expects_continue,
            };
            let mut record = handler.record(&request);
            match handler.decide(&request, record.as_deref_mut()) {
                Ok(plan) => {
                    match record.as_ref().and_then(|record| record.propagation()) {
                        Some(propagation) => request.forward_with(&propagation.headers(), head),
                        None => request.forward(head),
                    }
                    Ok(Accepted { plan, record, sent, head_length: head.len(), body: request.body })
                }
                Err(refusal) => {
                    match (record, &refusal) {
                        (Some(mut record), Refusal::Answer(reason)) => record.refused(*reason),
                        // What passes through the tunnel is recorded.
                        (record, _) => Record::forget(record),
                    }
                    Err((refusal, Rest::of(&sent, request.body)))
                }
            }
        }
    };
    client.read.advance(length);
    result
}

/// What is counted. A request that its client gave up says nothing of the server.
fn outcome(result: &Result<Exchanged, Failure>) -> (Option<Outcome>, Option<Reason>) {
    match result {
        Ok(Exchanged { denied: true, .. }) => (Some(Outcome::Denied), None),
        Ok(Exchanged { status: 500.., .. }) => (Some(Outcome::Failure), None),
        Ok(_) => (Some(Outcome::Success), None),
        Err(Failure::Answer(reason)) => (Some(Outcome::Failure), Some(*reason)),
        Err(Failure::Broken) => (Some(Outcome::Failure), Some(Reason::UpstreamReset)),
        Err(Failure::Revoked { reason, .. }) => (Some(Outcome::Denied), Some(*reason)),
        Err(Failure::Client) => (None, Some(Reason::GivenUp)),
        Err(Failure::Unsent) => (None, None),
    }
}

async fn fail<D: Transport>(client: &mut Conn<D>, failure: Failure, rest: Rest) -> io::Result<Next> {
    match failure {
        Failure::Answer(Reason::BadRequest) => {
            refuse(client, Reason::BadRequest, Rest { keep_alive: false, ..rest }).await
        }
        Failure::Answer(reason) | Failure::Revoked { reason, begun: false } => refuse(client, reason, rest).await,
        // What was begun cannot be taken back: the client learns by the connection's end that it is incomplete.
        Failure::Broken | Failure::Revoked { begun: true, .. } => {
            client.transport.break_off();
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Failure::Client | Failure::Unsent => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Answers in the mesh's name; the connection is kept when what is left of the request is small.
async fn refuse<D: Transport>(client: &mut Conn<D>, reason: Reason, mut rest: Rest) -> io::Result<Next> {
    let discards = match rest.body {
        Body::Length(length) => length <= DISCARDED_BYTES,
        _ => true,
    };
    let keep = rest.keep_alive && discards && (rest.body.is_done() || !rest.expects_continue);
    answer(client, reason, !keep, rest.to_head).await?;
    if keep && discard(client, &mut rest.body).await { Ok(Next::Request) } else { Ok(Next::End(End::Closed)) }
}

async fn answer<D: Transport>(client: &mut Conn<D>, reason: Reason, close: bool, to_head: bool) -> io::Result<()> {
    let mut out = Vec::with_capacity(256);
    write_answer(reason, close, to_head, &mut out);
    let writing = client.transport.write_all(&out);
    timeout(limits::STALL_TIMEOUT, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads the rest of a body, within bounds; whether its end was found.
async fn discard<D: Transport>(client: &mut Conn<D>, body: &mut Body) -> bool {
    let mut left = DISCARDED_BYTES;
    let reading = async {
        loop {
            let Ok(taken) = body.accept(&client.read) else { return false };
            client.read.advance(taken);
            left = left.saturating_sub(taken as u64);
            if body.is_done() {
                return true;
            }
            if left == 0 || !client.fill().await.is_ok_and(|count| count > 0) {
                return false;
            }
        }
    };
    timeout(limits::HEAD_TIMEOUT, reading).await.unwrap_or(false)
}

/// Closes in a way that lets the client read the last answer: a socket closed with bytes unread would reset it.
async fn close<D: Transport>(client: &mut Conn<D>) {
    let shut_down = poll_fn(|cx| Pin::new(&mut client.transport).poll_shutdown(cx)).await;
    if shut_down.is_err() || client.ended {
        return;
    }
    let mut left = DISCARDED_BYTES as usize;
    let reading = async {
        while left > 0 {
            client.read.clear();
            match client.fill().await {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
    };
    let _closes_in_any_case = timeout(LINGER, reading).await;
}
