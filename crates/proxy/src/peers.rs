//! The proxies of other pods: for each, a few multiplexed connections that are made when needed and replaced with age.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use heddle_policy::{Reason, SpiffeId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::debug;

use crate::connecting::{Attempt, Connecting};
use crate::dial::Dialer;
use crate::limits;
use crate::mux::{self, Driver, Open, OpenError, Session};
use crate::tasks::Panics;
use crate::tls::{Connector, Lifetime};
use crate::worker::Shared;

/// The proxy of one pod, as one worker knows it.
pub(crate) struct Peer {
    connector: Connector,
    /// Those that streams can be opened on, and those that only finish theirs.
    sessions: RefCell<Vec<Live>>,
    connecting: Connecting<Session>,
    panics: Panics,
}

struct Live {
    session: Session,
    lifetime: Lifetime,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, identity: SpiffeId, shared: &Shared, dialer: Dialer) -> Rc<Self> {
        let connector = Connector::new(address, identity, &shared.store, dialer, mux::ALPN);
        let (sessions, connecting) = (RefCell::default(), Connecting::default());
        Rc::new(Self { connector, sessions, connecting, panics: shared.meter.panics.clone() })
    }

    /// Opens a stream, on a connection made for it if there is none. Nothing has been sent when it fails.
    pub(crate) async fn open(self: &Rc<Self>, open: Open) -> Result<mux::Stream, Reason> {
        // More may wait for one new connection than it has room for: the others go on to the next.
        for _ in 0..limits::SESSIONS {
            if let Some(stream) = self.open_on_present(open) {
                return Ok(stream);
            }
            if self.sessions.borrow().len() >= limits::SESSIONS {
                break;
            }
            match self.connect().await?.open(open) {
                Ok(stream) => return Ok(stream),
                Err(OpenError::Full) => {}
                Err(OpenError::Closed) => return Err(Reason::ConnectFailed),
            }
        }
        Err(Reason::Overloaded)
    }

    fn open_on_present(self: &Rc<Self>, open: Open) -> Option<mux::Stream> {
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        let fresh = |live: &&Live| !live.lifetime.is_over(now);
        if let Some(stream) = sessions.iter().filter(fresh).find_map(|live| live.session.open(open).ok()) {
            return Some(stream);
        }
        // A stale connection serves until its successor is made, as long as its certificate does.
        let stale = sessions.iter().position(|live| live.session.is_open() && live.lifetime.is_valid())?;
        let stream = sessions[stale].session.open(open).ok()?;
        sessions.retain(|live| live.session.is_open());
        drop(sessions);
        drop(self.connect());
        Some(stream)
    }

    /// Makes a connection, or waits for the one that is being made.
    fn connect(self: &Rc<Self>) -> Attempt<Session> {
        let peer = self.clone();
        self.connecting.join(&self.panics, || async move {
            let (stream, lifetime) = peer.connector.connect().await?;
            Ok(peer.start(stream, lifetime))
        })
    }

    /// Drives a new connection, and retires those that it replaces.
    fn start<T>(self: &Rc<Self>, stream: T, lifetime: Lifetime) -> Session
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let now = Instant::now();
        let (session, driver) = Driver::client(stream);
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|live| {
            let stale = live.lifetime.is_over(now);
            if stale {
                live.session.go_away();
            }
            !stale && live.session.is_open()
        });
        sessions.push(Live { session: session.clone(), lifetime });
        drop(sessions);
        let (driven, peer, panics) = (session.clone(), Rc::downgrade(self), self.panics.clone());
        tokio::task::spawn_local(async move {
            if let Some(Err(error)) = panics.catch(drive(driver, &driven)).await {
                debug!(%error, "a connection to a peer broke");
            }
            if let Some(peer) = peer.upgrade() {
                peer.sessions.borrow_mut().retain(|live| live.session.is_open());
            }
        });
        session
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.sessions.get_mut().iter().for_each(|live| live.session.go_away());
    }
}

/// Runs a connection until it ends, or until it has had no stream for long enough.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(driver: Driver<T>, session: &Session) -> io::Result<()> {
    let idle = async {
        let mut last = Instant::now();
        let mut opened = session.opened();
        loop {
            tokio::time::sleep_until(last + limits::SESSION_IDLE).await;
            if session.streams() == 0 && session.opened() == opened {
                session.go_away();
                return std::future::pending::<()>().await;
            }
            (last, opened) = (Instant::now(), session.opened());
        }
    };
    tokio::select! {
        result = driver => result,
        () = idle => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use futures::future::join_all;
    use heddle_identity::{Authority, Names, Store};
    use heddle_policy::PodName;
    use tokio::net::TcpListener;
    use tokio::task::{LocalSet, spawn_local};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::mux::Kind;
    use crate::options::Options;

    /// A proxy, and another that accepts whatever it opens.
    async fn peer() -> Rc<Peer> {
        let (pod, authority) = (PodName::new("shop", "web"), Authority::create("mesh", SystemTime::now()).unwrap());
        let identity = SpiffeId::of_service_account("mesh", "shop", "web").unwrap();
        let (store, names) = (Store::empty(), Names::of_pod(identity.clone(), &pod, "mesh"));
        store.replace(authority.credentials(&names, Duration::from_secs(3600), SystemTime::now()).unwrap());
        let mut tls = heddle_identity::mutual_server(&store);
        tls.alpn_protocols = vec![mux::ALPN.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            loop {
                let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut streams = Vec::new();
                spawn_local(Driver::server(stream, move |_, stream| streams.push(stream)).1);
            }
        });
        Peer::new(address, identity, &Shared::new(Options::example(), Vec::new(), store), Dialer::default())
    }

    #[tokio::test]
    async fn a_burst_of_more_streams_than_a_connection_holds_gets_as_many_connections_as_it_needs() {
        let test = async {
            let (peer, open) = (peer().await, Open { port: 80, kind: Kind::Http1 });
            let streams = join_all((0..2 * limits::STREAMS + 1).map(|_| peer.open(open))).await;
            assert_eq!(streams.iter().filter_map(|stream| stream.as_ref().err()).next(), None);
            assert_eq!(peer.sessions.borrow().len(), 3);
        };
        LocalSet::new().run_until(test).await;
    }
}
