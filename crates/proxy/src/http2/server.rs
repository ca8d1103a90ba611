//! A server of HTTP/2 as one worker knows it: a few connections that requests share.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use heddle_policy::Reason;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::settings;
use crate::dial::Dialer;
use crate::limits;
use crate::tls::{Connector, Lifetime};

/// The connections to one server.
pub(crate) struct Server {
    way: Way,
    /// Those that requests can be sent on. One that is taken out ends with its last request.
    sessions: RefCell<Vec<Rc<Session>>>,
    /// A connection being made, shared by all who wait for it.
    connecting: RefCell<Option<Connecting>>,
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

type Connecting = Shared<LocalBoxFuture<'static, Result<(), Reason>>>;

/// A connection.
struct Session {
    send: SendRequest<Bytes>,
    /// Absent for one without TLS.
    lifetime: Option<Lifetime>,
    /// Requests under way, and those begun so far.
    open: Cell<usize>,
    begun: Cell<u64>,
    /// Whether it takes no more requests, as far as is known.
    closed: Cell<bool>,
}

/// A place for one request. It is free again when this is dropped.
pub(super) struct Slot {
    session: Rc<Session>,
    server: Rc<Server>,
}

/// A request that waits for a place.
struct Waiting<'a>(&'a Cell<usize>);

impl Server {
    pub(super) fn new(way: Way) -> Rc<Self> {
        Rc::new(Self {
            way,
            sessions: RefCell::default(),
            connecting: RefCell::default(),
            freed: Notify::new(),
            waiting: Cell::new(0),
        })
    }

    /// Gets a place for a request, on a connection made for it if need be. As many requests as there is room for wait
    /// in turn when every connection is full.
    pub(super) async fn acquire(self: &Rc<Self>) -> Result<Slot, Reason> {
        match self.free_slot() {
            Some(slot) => Ok(slot),
            None => timeout(limits::HTTP2_WAIT, self.wait()).await.unwrap_or(Err(Reason::Overloaded)),
        }
    }

    async fn wait(self: &Rc<Self>) -> Result<Slot, Reason> {
        let _waiting = Waiting::new(&self.waiting)?;
        let mut connected = 0;
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.free_slot() {
                return Ok(slot);
            }
            if self.sessions.borrow().len() >= limits::SESSIONS {
                freed.await;
            } else if connected < limits::ATTEMPTS {
                connected += 1;
                self.connect().await?;
            } else {
                return Err(Reason::ConnectFailed);
            }
        }
    }

    fn free_slot(self: &Rc<Self>) -> Option<Slot> {
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| !session.closed.get());
        if let Some(fresh) = sessions.iter().find(|session| session.has_room() && !session.is_stale(now)) {
            return Some(Slot::new(fresh, self));
        }
        // A stale connection serves until its successor is made, as long as its certificate does.
        let stale = sessions.iter().find(|session| session.has_room() && session.is_valid())?;
        let slot = Slot::new(stale, self);
        drop(sessions);
        drop(self.connect());
        Some(slot)
    }

    /// Makes a connection, or waits for the one that is being made.
    fn connect(self: &Rc<Self>) -> Connecting {
        let mut connecting = self.connecting.borrow_mut();
        if let Some(present) = &*connecting {
            return present.clone();
        }
        let server = self.clone();
        let future = async move {
            let result = server.open().await;
            server.connecting.borrow_mut().take();
            server.freed.notify_waiters();
            result
        };
        let future = future.boxed_local().shared();
        *connecting = Some(future.clone());
        // Whoever asked may go away: the connection is made all the same.
        tokio::task::spawn_local(future.clone().map(drop));
        future
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
        if lifetime.is_some() {
            // What the other proxy will say.
            settings.initial_max_send_streams(limits::STREAMS);
        }
        let (send, connection) = settings.handshake(io).await.map_err(|_| Reason::ConnectFailed)?;
        let (open, begun, closed) = (Cell::new(0), Cell::new(0), Cell::new(false));
        let session = Rc::new(Session { send, lifetime, open, begun, closed });
        tokio::task::spawn_local(drive(connection, Rc::downgrade(&session), Rc::downgrade(self)));
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| !session.is_stale(now));
        sessions.push(session);
        Ok(())
    }

    fn forget(&self, session: &Weak<Session>) {
        self.sessions.borrow_mut().retain(|other| !std::ptr::eq(Rc::as_ptr(other), session.as_ptr()));
        self.freed.notify_waiters();
    }
}

/// Runs a connection until it ends. One that has had no request for long enough is taken out of use, and ends as
/// nobody can send on it any more.
async fn drive<T>(connection: Connection<T, Bytes>, session: Weak<Session>, server: Weak<Server>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let forget = || server.upgrade().iter().for_each(|server| server.forget(&session));
    let idle = async {
        let mut begun = None;
        while let Some(present) = session.upgrade() {
            if begun == Some(present.begun.get()) && present.open.get() == 0 {
                forget();
                break;
            }
            begun = Some(present.begun.get());
            drop(present);
            sleep(limits::SESSION_IDLE).await;
        }
        std::future::pending().await
    };
    let result = tokio::select! {
        result = connection => result,
        () = idle => Ok(()),
    };
    if let Err(error) = result {
        debug!(%error, "a connection to a server of HTTP/2 broke");
    }
    session.upgrade().iter().for_each(|session| session.closed.set(true));
    forget();
}

// === impl Session, Slot, Waiting ===

impl Session {
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
        Self { session: session.clone(), server: server.clone() }
    }

    /// Sends the head of a request; nothing has been sent when it fails.
    pub(super) fn send(
        &self,
        request: Request<()>,
        is_all: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // A connection whose end was announced says so here.
        self.session.send.clone().send_request(request, is_all).inspect_err(|_| self.session.closed.set(true))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
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
