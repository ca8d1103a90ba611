//! A client's connection: its requests, each a task of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::answer::{Form, answer};
use super::copy::Copy;
use super::ends::{By, Ends};
use super::exchange::{Answered, Client, Exchange, Failure};
use super::head::Head;
use super::outcome::grpc_code;
use super::server::Slot;
use super::settings;
use super::watched::Watched;
use crate::abandoned::Abandoned;
use crate::balance::Load;
use crate::limits;
use crate::meter::Counters;
use crate::record::Record;
use crate::tasks::Activity;
use crate::upstream::Ended;
use crate::worker::Worker;

/// What becomes of requests: the difference between the two sides of a proxy.
pub(super) trait Handler: 'static {
    /// Where an accepted request goes.
    type Plan;

    /// Whether a path goes on as it was judged, and not as it was received, where servers may read it differently.
    const SETTLES_PATHS: bool;

    /// Begins the record of a request, where one is wanted.
    fn record(&self, head: &Head) -> Option<Box<Record>>;

    /// Decides a request by its head. A refusal has been counted.
    fn decide(&self, head: &Head, record: Option<&mut Record>) -> Result<Self::Plan, Reason>;

    /// Gets a place on a connection for it. Called again when nothing was sent on an earlier one. A failure has been
    /// counted.
    async fn connect(&self, plan: &Self::Plan) -> Result<Lease, Reason>;

    /// Ready when policy no longer admits a request that it did admit.
    async fn revoked(&self, plan: &Self::Plan, head: &Head) -> Reason;

    /// Whether the client is another proxy, which knows where else to go with a request that is refused.
    fn is_between_proxies(&self) -> bool;

    /// Whether what the client proved of itself holds no longer. Proxies replace their connections before.
    fn has_expired(&self) -> bool;

    /// Counts a request that was refused before it could be decided. Called also from within `h2`, so that nothing may be
    /// done to a connection here.
    fn malformed(&self, reason: Reason);
}

/// A place on a connection to a server, for one request.
pub(super) struct Lease {
    pub(super) slot: Slot,
    pub(super) counters: Arc<Counters>,
    /// Absent towards the application.
    pub(super) load: Option<Load>,
    /// What the next proxy is told of the port; absent where there is none.
    pub(super) port: Option<u16>,
}

/// The requests of one connection.
#[derive(Default)]
struct Streams {
    open: Cell<u32>,
    /// How many have begun so far.
    begun: Cell<u64>,
    /// Those that the client gave up.
    abandoned: RefCell<Abandoned>,
    /// Those whose end has not been written.
    unended: RefCell<BTreeSet<u32>>,
}

/// Counts as open until it is dropped, in whatever way its task ends.
struct Open(Rc<Streams>, u32);

/// Serves requests until the connection ends.
pub(super) async fn serve<T, H>(io: T, handler: Rc<H>, worker: &Rc<Worker>, activity: &Activity)
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let streams = Rc::new(Streams::default());
    let io = Watched::new(io, Ends::new(watch(&handler, &streams)));
    let mut connection = match timeout(limits::HEAD_TIMEOUT, settings::server().handshake(io)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return broken(&*handler, &error),
        Err(_) => return handler.malformed(Reason::RequestTimeout),
    };
    let is_over = tokio::select! {
        () = accept(&mut connection, &handler, worker, &streams) => true,
        () = activity.until_draining() => false,
        () = streams.idle() => false,
    };
    if !is_over {
        // It ends with its last request. What the client sent before it heard the goodbye is served too.
        connection.graceful_shutdown();
        tokio::select! {
            () = accept(&mut connection, &handler, worker, &streams) => {}
            () = streams.idle() => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
        }
    }
    let _closes_in_any_case = timeout(limits::HEAD_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// Counts the heads that `h2` refused by itself: an end by a head, of a stream that was given to nobody.
fn watch<H: Handler>(handler: &Rc<H>, streams: &Rc<Streams>) -> impl FnMut(u32, By) + use<H> {
    let (handler, streams) = (handler.clone(), streams.clone());
    move |stream, by| {
        let is_given = streams.unended.borrow_mut().remove(&stream);
        if !is_given && by == By::Head {
            handler.malformed(Reason::HeadTooLarge);
        }
    }
}

/// Starts requests until the connection ends, or its client is found to flood it.
async fn accept<T, H>(
    connection: &mut Connection<T, Bytes>,
    handler: &Rc<H>,
    worker: &Rc<Worker>,
    streams: &Rc<Streams>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return broken(&**handler, &error),
        };
        let stream = respond.stream_id().as_u32();
        streams.give(stream);
        if streams.abandoned.borrow().is_flood() {
            handler.malformed(Reason::Overloaded);
            return connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        }
        if handler.has_expired() {
            connection.graceful_shutdown();
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let (handler, open) = (handler.clone(), Open::new(streams, stream));
        worker.tasks.spawn(|_| serve_request(handler, request, respond, open));
    }
}

/// Counts a connection that ended because its client broke the protocol, or a bound.
fn broken<H: Handler>(handler: &H, error: &h2::Error) {
    debug!(%error, "a connection of HTTP/2 broke");
    if error.is_io() || error.is_remote() {
        return;
    }
    let is_flood = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    handler.malformed(if is_flood { Reason::Overloaded } else { Reason::BadRequest });
}

async fn serve_request<H: Handler>(
    handler: Rc<H>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    open: Open,
) {
    let started = Instant::now();
    let form = Form::of(&request);
    let (parts, body) = request.into_parts();
    let head = Head::new(Request::from_parts(parts, ()), handler.is_between_proxies());
    let head = head.inspect_err(|reason| handler.malformed(*reason));
    let mut head = match head {
        Ok(head) => head,
        Err(reason) => return answer(reason, form, &mut respond),
    };
    if H::SETTLES_PATHS {
        head.settle_path();
    }
    let mut record = handler.record(&head);
    let plan = match handler.decide(&head, record.as_deref_mut()) {
        Ok(plan) => plan,
        Err(reason) => {
            refused(&mut record, reason, form);
            return answer(reason, form, &mut respond);
        }
    };
    let mut client = Client { started, form, body, upload: Copy::default(), respond };
    for attempts in 1.. {
        let is_last = attempts == limits::ATTEMPTS;
        match attempt(&*handler, &head, &plan, &mut client, &mut record, is_last).await {
            Err(Failure::Unsent) => {}
            Err(Failure::Client(_)) => return open.abandon(),
            _ => return open.complete(),
        }
    }
}

fn refused(record: &mut Option<Box<Record>>, reason: Reason, form: Form) {
    let Some(record) = record else { return };
    record.refused(reason);
    if form == Form::Grpc {
        record.grpc_status(grpc_code(reason));
    }
}

/// Sends a request to a server, and what comes of it back to the client. The last attempt is never
/// [`Failure::Unsent`].
async fn attempt<H: Handler>(
    handler: &H,
    head: &Head,
    plan: &H::Plan,
    client: &mut Client,
    record: &mut Option<Box<Record>>,
    is_last: bool,
) -> Result<Outcome, Failure> {
    let connected = tokio::select! {
        connected = handler.connect(plan) => connected,
        reset = poll_fn(|cx| client.respond.poll_reset(cx)) => {
            return Err(Failure::Client(reset.unwrap_or(h2::Reason::CANCEL)));
        }
    };
    let lease = match connected {
        Ok(lease) => lease,
        Err(reason) => {
            refused(record, reason, client.form);
            // Where else the client may go, the application speaks as little of HTTP/2 as here.
            match handler.is_between_proxies() && reason != Reason::NotHttp2 {
                true => client.respond.send_reset(h2::Reason::REFUSED_STREAM),
                false => answer(reason, client.form, &mut client.respond),
            }
            return Err(Failure::Broken(reason));
        }
    };
    let is_all = client.upload.is_empty(&client.body);
    let unsent = if is_last { Failure::Broken(Reason::ConnectFailed) } else { Failure::Unsent };
    let propagation = record.as_ref().and_then(|record| record.propagation());
    let Ok((response, upstream)) = lease.slot.send(head.forward(lease.port, propagation), is_all) else {
        if is_last {
            refused(record, Reason::ConnectFailed, client.form);
            answer(Reason::ConnectFailed, client.form, &mut client.respond);
        }
        lease.account(Err(unsent), client, Answered::default());
        return Err(unsent);
    };
    let mut exchange = Exchange::new(client, &lease, response, upstream);
    let result = tokio::select! {
        biased;
        result = exchange.run() => result,
        reason = handler.revoked(plan, head) => Err(Failure::Revoked(reason)),
    };
    let result = result.map_err(|failure| if failure == Failure::Unsent { unsent } else { failure });
    let answered = exchange.answered();
    if let Err(failure) = result {
        exchange.fail(failure);
    }
    let ended = lease.account(result, client, answered);
    if let (Some(ended), Some(record)) = (ended, record) {
        record.ended(&ended, &lease.counters.edge);
    }
    result
}

// === impl Lease ===

impl Lease {
    /// Accounts for an exchange. One that its client gave up says nothing of the server.
    fn account(&self, result: Result<Outcome, Failure>, client: &Client, answered: Answered) -> Option<Ended> {
        let (outcome, reason) = match result {
            Err(Failure::Unsent) => {
                self.load.iter().for_each(Load::failed);
                return None;
            }
            Ok(outcome) => (Some(outcome), None),
            Err(Failure::Client(_)) => (None, Some(Reason::GivenUp)),
            Err(Failure::Reset(_)) => (Some(Outcome::Failure), Some(Reason::UpstreamReset)),
            Err(Failure::Broken(reason)) => (Some(Outcome::Failure), Some(reason)),
            Err(Failure::Revoked(reason)) => (Some(Outcome::Denied), Some(reason)),
        };
        let (latency, uploaded) = (client.started.elapsed(), client.upload.moved);
        match (result, &self.load) {
            (Err(Failure::Broken(_)), Some(load)) => load.failed(),
            (Err(Failure::Client(_)), Some(load)) if answered.status.is_none() => load.gave_up(latency),
            _ => {}
        }
        let answer = reason.filter(|_| outcome.is_some());
        let status = answer.map_or(answered.status.map_or(0, |status| status.as_u16()), Reason::status);
        let grpc_status = match answer {
            Some(reason) if client.form == Form::Grpc && !matches!(result, Err(Failure::Reset(_))) => {
                Some(grpc_code(reason))
            }
            _ => answered.grpc_status,
        };
        let downloaded = answered.downloaded;
        let ended = Ended { outcome, status, grpc_status, reason, latency, uploaded, downloaded };
        ended.count(&self.counters);
        Some(ended)
    }
}

// === impl Streams ===

impl Streams {
    /// Notes a stream whose end is to be written. A client that takes care that it never is cannot fill the memory.
    fn give(&self, stream: u32) {
        let mut unended = self.unended.borrow_mut();
        unended.insert(stream);
        if unended.len() > 2 * limits::STREAMS {
            unended.pop_first();
        }
    }

    /// Ready when the connection has had no request for too long.
    async fn idle(&self) {
        loop {
            let begun = self.begun.get();
            sleep_until(Instant::now() + limits::IDLE_TIMEOUT).await;
            if self.open.get() == 0 && self.begun.get() == begun {
                return;
            }
        }
    }
}

impl Open {
    fn new(streams: &Rc<Streams>, stream: u32) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.begun.set(streams.begun.get() + 1);
        Self(streams.clone(), stream)
    }

    /// The client gave the request up: nothing more is written of it.
    fn abandon(self) {
        self.0.unended.borrow_mut().remove(&self.1);
        self.0.abandoned.borrow_mut().add();
    }

    fn complete(self) {
        self.0.abandoned.borrow_mut().make_up();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use heddle_identity::Store;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::LocalSet;

    use super::*;
    use crate::options::Options;
    use crate::worker::Shared;

    /// Answers every request that there is nowhere to go with it.
    struct Nowhere;

    impl Handler for Nowhere {
        type Plan = ();

        const SETTLES_PATHS: bool = false;

        fn record(&self, _: &Head) -> Option<Box<Record>> {
            None
        }

        fn decide(&self, _: &Head, _: Option<&mut Record>) -> Result<(), Reason> {
            Err(Reason::NoEndpoint)
        }

        async fn connect(&self, (): &()) -> Result<Lease, Reason> {
            Err(Reason::NoEndpoint)
        }

        async fn revoked(&self, (): &(), _: &Head) -> Reason {
            std::future::pending().await
        }

        fn is_between_proxies(&self) -> bool {
            false
        }

        fn has_expired(&self) -> bool {
            false
        }

        fn malformed(&self, _: Reason) {}
    }

    /// Types of frames.
    const HEADERS: u8 = 1;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;

    /// A client's end of a connection: it has said its settings.
    async fn connected() -> DuplexStream {
        let worker = Worker::new(Shared::new(Options::example(), Vec::new(), Store::empty()));
        let (mut client, io) = duplex(64 * 1024);
        let tasks = worker.tasks.clone();
        tasks.spawn(|activity| async move { serve(io, Rc::new(Nowhere), &worker, &activity).await });
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        client
    }

    /// Reads up to a frame of such a type: its stream, and what it holds.
    async fn next(kind: u8, client: &mut DuplexStream) -> (u32, Vec<u8>) {
        loop {
            let mut header = [0; 9];
            client.read_exact(&mut header).await.unwrap();
            let [l1, l2, l3, read, _, s1, s2, s3, s4] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, l1, l2, l3]) as usize];
            client.read_exact(&mut payload).await.unwrap();
            if read == kind {
                return (u32::from_be_bytes([s1, s2, s3, s4]), payload);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_crosses_the_goodbye_of_an_idle_connection_is_answered() {
        let test = async {
            let mut client = connected().await;
            next(GOAWAY, &mut client).await;
            let (_, ping) = next(PING, &mut client).await;
            client.write_all(b"\0\0\x08\x01\x05\0\0\0\x01\x82\x84\x86\x41\x03web").await.unwrap();
            assert_eq!(next(HEADERS, &mut client).await.0, 1);
            // As the client now says that it has heard the goodbye, the connection ends.
            client.write_all(&[b"\0\0\x08\x06\x01\0\0\0\0", &ping[..]].concat()).await.unwrap();
            let (_, last) = next(GOAWAY, &mut client).await;
            assert_eq!(last[..4], [0, 0, 0, 1], "it names the last request");
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_whose_client_does_not_answer_the_goodbye_ends_all_the_same() {
        let test = async {
            let mut client = connected().await;
            let ended = timeout(4 * limits::IDLE_TIMEOUT, client.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok());
        };
        LocalSet::new().run_until(test).await;
    }
}
