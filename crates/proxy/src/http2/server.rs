//! A server of HTTP/2 as one worker knows it: a few connections that requests share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use heddle_policy::Reason;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::settings;
use super::watched::Watched;
use super::witness::Witness;
use crate::connecting::{Attempt, Connecting};
use crate::dial::Dialer;
use crate::limits;
use crate::tasks::Panics;
use crate::tls::{Connector, Lifetime};

/// The connections to one server.
pub(crate) struct Server {
    way: Way,
    /// Those that requests can be sent on. One that is taken out ends with its last request.
    sessions: RefCell<Vec<Rc<Session>>>,
    connecting: Connecting<()>,
    panics: Panics,
    /// Told when a place has become free.
    freed: Notify,
    /// Requests that wait for a place.
    waiting: Cell<usize>,
}

/// How to get there.
pub(super) enum Way {
    /// With prior knowledge: to the application, or to a server without a proxy.
    Plain(SocketAddr, Dialer),
    /// To the proxy of another pod.
    Mesh(Connector),
}

/// A connection.
struct Session {
    send: SendRequest<Bytes>,
    witness: Rc<Witness>,
    /// Absent for one without TLS.
    lifetime: Option<Lifetime>,
    /// Requests under way, and those begun so far.
    open: Cell<usize>,
    begun: Cell<u64>,
    /// Uploads that wait for the server to take more, and since when none has moved.
    waiting: Cell<usize>,
    still_since: Cell<Instant>,
}

/// A place for one request. It is free again when this is dropped.
pub(super) struct Slot {
    session: Rc<Session>,
    server: Rc<Server>,
    /// What had been written on the connection when the request was handed over to it.
    sent_at: Cell<u64>,
    /// Whether its upload waits for the server to take more.
    waits: Cell<bool>,
}

/// A request that waits for a place.
struct Waiting<'a>(&'a Cell<usize>);

impl Server {
    pub(super) fn new(way: Way, panics: &Panics) -> Rc<Self> {
        Rc::new(Self {
            way,
            sessions: RefCell::default(),
            connecting: Connecting::default(),
            panics: panics.clone(),
            freed: Notify::new(),
            waiting: Cell::new(0),
        })
    }

    /// Gets a place for a request, on a connection made for it if need be. As many requests as there is room for wait
    /// in turn when every connection is full.
    pub(super) async fn acquire(self: &Rc<Self>) -> Result<Slot, Reason> {
        match self.free_slot(true) {
            Some(slot) => Ok(slot),
            None => timeout(limits::HTTP2_WAIT, self.wait()).await.unwrap_or(Err(Reason::Overloaded)),
        }
    }

    /// Waits for a place on a connection that there is, or on a new one: whichever comes first. That no other can be made
    /// is no failure as long as there is one.
    async fn wait(self: &Rc<Self>) -> Result<Slot, Reason> {
        let _waiting = Waiting::new(&self.waiting)?;
        let (mut attempts, mut failure) = (limits::ATTEMPTS, Reason::ConnectFailed);
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.free_slot(attempts > 0) {
                return Ok(slot);
            }
            if attempts == 0 && !self.sessions.borrow().iter().any(|session| session.is_valid()) {
                return Err(failure);
            }
            let may_connect = attempts > 0 && self.sessions.borrow().len() < limits::SESSIONS;
            tokio::select! {
                biased;
                // Only here, as to ask for it begins it.
                made = async { self.connect().await }, if may_connect => match made {
                    Ok(()) => attempts -= 1,
                    Err(reason) => (attempts, failure) = (0, reason),
                },
                () = freed => {}
            }
        }
    }

    /// A place on a connection that there is. One whose uploads stand still would hold up the new one too, so it is left
    /// until there can be no other.
    fn free_slot(self: &Rc<Self>, may_connect: bool) -> Option<Slot> {
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| !session.is_ending());
        let has_room = |session: &&Rc<Session>| session.has_room() && !session.is_stale(now);
        let may_connect = may_connect && sessions.len() < limits::SESSIONS;
        let moving = sessions.iter().filter(has_room).find(|session| !session.is_stuck(now));
        let fresh = moving.or_else(|| sessions.iter().filter(|_| !may_connect).find(has_room));
        if let Some(fresh) = fresh {
            return Some(Slot::new(fresh, self));
        }
        // A stale connection serves until its successor is made, as long as its certificate does.
        let stale = |session: &&Rc<Session>| session.has_room() && session.is_stale(now) && session.is_valid();
        let stale = sessions.iter().find(stale)?;
        let slot = Slot::new(stale, self);
        drop(sessions);
        drop(self.connect());
        Some(slot)
    }

    /// Makes a connection, or waits for the one that is being made.
    fn connect(self: &Rc<Self>) -> Attempt<()> {
        let server = self.clone();
        self.connecting.join(&self.panics, || async move { server.open().await })
    }

    async fn open(self: &Rc<Self>) -> Result<(), Reason> {
        match &self.way {
            Way::Plain(address, dialer) => {
                let stream = dialer.connect(*address).await.map_err(|error| {
                    debug!(%address, %error, "cannot connect to a server of HTTP/2");
                    Reason::ConnectFailed
                })?;
                self.start(stream, None).await
            }
            Way::Mesh(connector) => {
                let (stream, lifetime) = connector.connect().await?;
                self.start(stream, Some(lifetime)).await
            }
        }
    }

    /// Begins to use a connection, and retires those that it replaces.
    async fn start<T>(self: &Rc<Self>, io: T, lifetime: Option<Lifetime>) -> Result<(), Reason>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut settings = settings::client();
        // What another proxy will say is known.
        settings.initial_max_send_streams(if lifetime.is_some() { limits::STREAMS } else { 0 });
        let witness = Rc::<Witness>::default();
        let handshake = settings.handshake(Watched::new(io, witness.clone()));
        let greeted = async {
            let (send, mut connection) = handshake.await?;
            greet(&send, &mut connection).await.map(|()| (send, connection))
        };
        let (send, connection) = match timeout(limits::CONNECT_TIMEOUT, greeted).await {
            Ok(Ok(greeted)) => greeted,
            _ if witness.is_http1() => return Err(Reason::NotHttp2),
            Ok(Err(error)) => {
                debug!(%error, "a server of HTTP/2 cannot be greeted");
                return Err(Reason::ConnectFailed);
            }
            Err(_) => {
                debug!("a server of HTTP/2 does not say its settings");
                return Err(Reason::ConnectFailed);
            }
        };
        let session = Rc::new(Session::new(send, witness, lifetime));
        let (driven, server, panics) = (Rc::downgrade(&session), Rc::downgrade(self), self.panics.clone());
        tokio::task::spawn_local(async move {
            if let Some(Err(error)) = panics.catch(drive(connection, &driven, &server)).await {
                debug!(%error, "a connection to a server of HTTP/2 broke");
            }
            server.upgrade().iter().for_each(|server| server.forget(&driven));
        });
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| !session.is_stale(now));
        sessions.push(session);
        self.freed.notify_waiters();
        Ok(())
    }

    fn forget(&self, session: &Weak<Session>) {
        self.sessions.borrow_mut().retain(|other| !std::ptr::eq(Rc::as_ptr(other), session.as_ptr()));
        self.freed.notify_waiters();
    }
}

/// Runs a new connection until the server has said how many requests it takes at once: of those that come before, it
/// would refuse what is too much, and a request is not sent again for ever.
async fn greet<T>(send: &SendRequest<Bytes>, connection: &mut Connection<T, Bytes>) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        ended_or_not => ended_or_not,
    })
    .await
}

/// Runs a connection until it ends. One that has had no request for long enough is taken out of use, and ends as
/// nobody can send on it any more.
async fn drive<T>(
    connection: Connection<T, Bytes>,
    session: &Weak<Session>,
    server: &Weak<Server>,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let idle = async {
        let mut begun = None;
        while let Some(present) = session.upgrade() {
            if begun == Some(present.begun.get()) && present.open.get() == 0 {
                server.upgrade().iter().for_each(|server| server.forget(session));
                break;
            }
            begun = Some(present.begun.get());
            drop(present);
            sleep(limits::SESSION_IDLE).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        result = connection => result,
        () = idle => Ok(()),
    }
}

// === impl Session, Slot, Waiting ===

impl Session {
    fn new(send: SendRequest<Bytes>, witness: Rc<Witness>, lifetime: Option<Lifetime>) -> Self {
        let (open, begun) = (Cell::new(0), Cell::new(0));
        let (waiting, still_since) = (Cell::new(0), Cell::new(Instant::now()));
        Self { send, witness, lifetime, open, begun, waiting, still_since }
    }

    /// Whether it takes no more requests: it broke, or the server announced its end. Those under way may go on for long.
    fn is_ending(&self) -> bool {
        let ready = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.waiting.get() > 0 && self.still_since.get() + limits::HTTP2_STUCK <= now
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.send.current_max_send_streams().min(limits::STREAMS)
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.lifetime.as_ref().is_some_and(|lifetime| lifetime.is_over(now))
    }

    fn is_valid(&self) -> bool {
        self.lifetime.as_ref().is_none_or(Lifetime::is_valid)
    }
}

impl Slot {
    fn new(session: &Rc<Session>, server: &Rc<Server>) -> Self {
        session.open.set(session.open.get() + 1);
        session.begun.set(session.begun.get() + 1);
        Self { session: session.clone(), server: server.clone(), sent_at: Cell::new(0), waits: Cell::new(false) }
    }

    /// Sends the head of a request; nothing has been sent when it fails.
    pub(super) fn send(
        &self,
        request: Request<()>,
        is_all: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sent_at.set(self.session.witness.written());
        self.session.send.clone().send_request(request, is_all)
    }
}

impl Slot {
    /// Whether no byte of the request has left this process.
    pub(super) fn is_unsent(&self) -> bool {
        self.session.witness.written() == self.sent_at.get()
    }

    /// Takes note of whether the request's upload waits for the server to take more, and whether it has moved.
    pub(super) fn uploads(&self, moved: bool, waits: bool) {
        let waiting = &self.session.waiting;
        if waits && (moved || waiting.get() == 0) || moved && waiting.get() > 0 {
            let now = Instant::now();
            if self.session.is_stuck(now) {
                self.server.freed.notify_waiters();
            }
            self.session.still_since.set(now);
        }
        match (self.waits.replace(waits), waits) {
            (false, true) => waiting.set(waiting.get() + 1),
            (true, false) => waiting.set(waiting.get() - 1),
            _ => {}
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.uploads(false, false);
        self.session.open.set(self.session.open.get() - 1);
        self.server.freed.notify_one();
    }
}

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Result<Self, Reason> {
        if count.get() >= limits::HTTP2_WAITING {
            return Err(Reason::Overloaded);
        }
        count.set(count.get() + 1);
        Ok(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncWriteExt, DuplexStream, ReadBuf, duplex};
    use tokio::net::TcpListener;
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    fn nowhere() -> Way {
        Way::Plain(([127, 0, 0, 1], 1).into(), Dialer::default())
    }

    /// A server's frame of settings: it takes so many requests at once.
    fn at_once(requests: u8) -> [u8; 15] {
        [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, requests]
    }

    /// A connection whose server has said its settings, and the server's end of it.
    async fn greeted() -> (DuplexStream, DuplexStream) {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(&at_once(100)).await.unwrap();
        (near, far)
    }

    #[tokio::test]
    async fn a_connection_takes_requests_when_the_server_has_said_how_many() {
        let test = async {
            let server = Server::new(nowhere(), &Panics::default());
            let (near, mut far) = duplex(64 * 1024);
            let mut start = Box::pin(server.start(near, None));
            assert!(futures::poll!(&mut start).is_pending());
            assert!(server.free_slot(true).is_none());
            far.write_all(&at_once(1)).await.unwrap();
            start.await.unwrap();
            let slot = server.free_slot(true).unwrap();
            assert!(server.free_slot(true).is_none());
            drop(slot);
            assert!(server.free_slot(true).is_some());
        };
        LocalSet::new().run_until(test).await;
    }

    /// A connection on which nothing more can be read without a panic, once it is told so.
    struct Faulty(DuplexStream, Rc<Cell<bool>>);

    impl AsyncRead for Faulty {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            assert!(!self.1.get(), "a bug in the driving of a connection");
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Faulty {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_connection_that_it_was_about_and_is_counted() {
        let panics = Panics::default();
        let test = async {
            let server = Server::new(nowhere(), &panics);
            let ((near, _far), faulty) = (greeted().await, Rc::<Cell<bool>>::default());
            server.start(Faulty(near, faulty.clone()), None).await.unwrap();
            faulty.set(true);
            let slot = server.free_slot(true).unwrap();
            let (response, _) = slot.send(Request::get("http://web/").body(()).unwrap(), true).unwrap();
            assert!(response.await.is_err(), "its requests end");
            assert!(server.free_slot(true).is_none(), "it is used no more");
            let (near, _far) = greeted().await;
            server.start(near, None).await.unwrap();
            assert!(server.free_slot(true).is_some(), "another takes its place");
        };
        LocalSet::new().run_until(test).await;
        assert_eq!(panics.count(), 1);
    }

    #[tokio::test]
    async fn a_request_that_has_not_left_when_its_connection_ends_is_known_to_be_unsent() {
        let local = LocalSet::new();
        let test = async {
            for leaves in [false, true] {
                let (near, far) = greeted().await;
                let server = Server::new(nowhere(), &Panics::default());
                server.start(near, None).await.unwrap();
                yield_now().await;
                let slot = server.free_slot(true).unwrap();
                let (response, _) = slot.send(Request::get("http://web/").body(()).unwrap(), true).unwrap();
                if leaves {
                    yield_now().await;
                }
                drop(far);
                assert!(response.await.is_err());
                assert_eq!(slot.is_unsent(), !leaves);
            }
        };
        local.run_until(test).await;
    }

    /// A server with one connection, which takes so many requests at once, and the server's end of it.
    async fn connected(way: Way, requests: u8) -> (Rc<Server>, DuplexStream) {
        let server = Server::new(way, &Panics::default());
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(&at_once(requests)).await.unwrap();
        server.start(near, None).await.unwrap();
        (server, far)
    }

    /// Where connections are made, and nothing is ever said on them.
    async fn silent() -> (Way, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Way::Plain(listener.local_addr().unwrap(), Dialer::default()), listener)
    }

    #[tokio::test]
    async fn a_request_waits_in_turn_where_no_other_connection_can_be_made() {
        let test = async {
            let (server, far) = connected(nowhere(), 1).await;
            let slot = server.free_slot(true).unwrap();
            let mut acquiring = Box::pin(server.acquire());
            assert!(futures::poll!(&mut acquiring).is_pending());
            assert_eq!(server.connect().await, Err(Reason::ConnectFailed), "it waits for the same attempt");
            assert!(futures::poll!(&mut acquiring).is_pending());
            drop(slot);
            let slot = acquiring.await.unwrap();
            let acquiring = server.acquire();
            drop(far);
            assert_eq!(acquiring.await.err(), Some(Reason::ConnectFailed), "there is none left to wait for");
            drop(slot);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_is_taken_while_a_connection_is_being_made() {
        let test = async {
            let (way, _listener) = silent().await;
            let (server, _far) = connected(way, 1).await;
            let slot = server.free_slot(true).unwrap();
            let mut acquiring = Box::pin(server.acquire());
            assert!(futures::poll!(&mut acquiring).is_pending());
            drop(slot);
            assert!(matches!(futures::poll!(&mut acquiring), Poll::Ready(Ok(_))));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_uploads_stand_still_is_used_when_no_other_can_be_made_or_they_move_again() {
        let test = async {
            let (server, _far) = connected(nowhere(), 2).await;
            let upload = server.free_slot(true).unwrap();
            upload.uploads(false, true);
            tokio::time::advance(limits::HTTP2_STUCK).await;
            assert!(server.free_slot(true).is_none());
            assert!(server.acquire().await.is_ok(), "no other can be made");

            let (way, _listener) = silent().await;
            let (server, _far) = connected(way, 2).await;
            let upload = server.free_slot(true).unwrap();
            upload.uploads(false, true);
            tokio::time::advance(limits::HTTP2_STUCK).await;
            let mut acquiring = Box::pin(server.acquire());
            assert!(futures::poll!(&mut acquiring).is_pending());
            upload.uploads(true, true);
            assert!(matches!(futures::poll!(&mut acquiring), Poll::Ready(Ok(_))), "they move again");
        };
        LocalSet::new().run_until(test).await;
    }

    /// Goodbye: the first stream of the connection is the last.
    const GOODBYE: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

    #[tokio::test]
    async fn a_connection_whose_end_is_announced_gets_no_request_however_long_its_own_take() {
        let test = async {
            let (way, listener) = silent().await;
            let (server, mut far) = connected(way, 100).await;
            let under_way = server.free_slot(true).unwrap();
            let _response = under_way.send(Request::get("http://web/").body(()).unwrap(), true).unwrap();
            far.write_all(&GOODBYE).await.unwrap();
            while under_way.session.send.clone().ready().await.is_ok() {
                yield_now().await;
            }
            let mut acquiring = Box::pin(server.acquire());
            assert!(futures::poll!(&mut acquiring).is_pending(), "another is made");
            let (mut accepted, _) = listener.accept().await.unwrap();
            accepted.write_all(&at_once(1)).await.unwrap();
            assert!(acquiring.await.unwrap().send(Request::get("http://web/").body(()).unwrap(), true).is_ok());
        };
        LocalSet::new().run_until(test).await;
    }
}
