//! The proxies of other pods: for each, a few multiplexed connections that are made when needed and replaced with age.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use heddle_identity::{Credentials, Store};
use heddle_policy::{Reason, SpiffeId};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info};

use crate::dial::Dialer;
use crate::mux::{self, Driver, Open, OpenError, Session};
use crate::{limits, random::Random};

/// The proxy of one pod, as one worker knows it.
pub(crate) struct Peer {
    address: SocketAddr,
    identity: SpiffeId,
    connector: TlsConnector,
    store: Store,
    dialer: Dialer,
    /// Those that streams can be opened on, and those that only finish theirs.
    sessions: RefCell<Vec<Live>>,
    /// A connection being made, shared by all who wait for it.
    connecting: RefCell<Option<Connecting>>,
}

type Connecting = Shared<LocalBoxFuture<'static, Result<Session, Reason>>>;

struct Live {
    session: Session,
    /// What it was made with: others than the present ones make it stale.
    credentials: Option<Arc<Credentials>>,
    stale_at: Instant,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, identity: SpiffeId, store: &Store, dialer: Dialer) -> Rc<Self> {
        let mut config = heddle_identity::mutual_client(store, identity.clone());
        config.alpn_protocols = vec![mux::ALPN.to_vec()];
        Rc::new(Self {
            address,
            identity,
            connector: TlsConnector::from(Arc::new(config)),
            store: store.clone(),
            dialer,
            sessions: RefCell::default(),
            connecting: RefCell::default(),
        })
    }

    /// Opens a stream, on a connection made for it if there is none. Nothing has been sent when it fails.
    pub(crate) async fn open(self: &Rc<Self>, open: Open) -> Result<mux::Stream, Reason> {
        if let Some(stream) = self.open_on_present(open) {
            return Ok(stream);
        }
        if self.sessions.borrow().len() >= limits::SESSIONS {
            return Err(Reason::Overloaded);
        }
        let session = self.connect().await?;
        session.open(open).map_err(|error| match error {
            OpenError::Full => Reason::Overloaded,
            OpenError::Closed => Reason::ConnectFailed,
        })
    }

    fn open_on_present(self: &Rc<Self>, open: Open) -> Option<mux::Stream> {
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        let fresh = |live: &&Live| !self.is_stale(live, now);
        if let Some(stream) = sessions.iter().filter(fresh).find_map(|live| live.session.open(open).ok()) {
            return Some(stream);
        }
        // A stale connection serves until its successor is made, as long as its certificate does.
        let stale = sessions.iter().position(|live| live.session.is_open() && self.is_valid(live))?;
        let stream = sessions[stale].session.open(open).ok()?;
        sessions.retain(|live| live.session.is_open());
        drop(sessions);
        tokio::task::spawn_local(self.connect().map(drop));
        Some(stream)
    }

    fn is_stale(&self, live: &Live, now: Instant) -> bool {
        let present = self.store.current();
        let same = match (&live.credentials, &present) {
            (Some(made_with), Some(present)) => Arc::ptr_eq(made_with, present),
            _ => false,
        };
        !same || live.stale_at <= now
    }

    fn is_valid(&self, live: &Live) -> bool {
        live.credentials.as_ref().is_some_and(|credentials| {
            credentials.svid.expires_at() > SystemTime::now() + limits::HANDSHAKE_TIMEOUT / 10
        })
    }

    /// Makes a connection, or waits for the one that is being made.
    fn connect(self: &Rc<Self>) -> Connecting {
        let mut connecting = self.connecting.borrow_mut();
        if let Some(present) = &*connecting {
            return present.clone();
        }
        let peer = self.clone();
        let future = async move {
            let credentials = peer.store.current();
            let result = peer.handshake().await;
            peer.connecting.borrow_mut().take();
            result.map(|stream| peer.start(stream, credentials))
        };
        let future = future.boxed_local().shared();
        *connecting = Some(future.clone());
        // Whoever asked may go away: the connection is made all the same.
        tokio::task::spawn_local(future.clone().map(drop));
        future
    }

    async fn handshake(&self) -> Result<TlsStream<TcpStream>, Reason> {
        let stream = self.dialer.connect(self.address).await.map_err(|error| {
            debug!(peer = %self.identity, address = %self.address, %error, "cannot connect to a peer");
            Reason::ConnectFailed
        })?;
        // The name is not sent and not looked at: a peer is known by its SPIFFE ID.
        let name = ServerName::from(IpAddr::from([0, 0, 0, 0]));
        let handshake = timeout(limits::HANDSHAKE_TIMEOUT, self.connector.connect(name, stream)).await;
        let result = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = result.map_err(|error| {
            info!(peer = %self.identity, address = %self.address, error = heddle_identity::explain(&error), "no TLS with a peer");
            if is_untrusted(&error) { Reason::PeerIdentity } else { Reason::ConnectFailed }
        })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == mux::ALPN => Ok(stream),
            _ => Err(Reason::ConnectFailed),
        }
    }

    /// How old a connection becomes. Not all of them are replaced at the same time.
    fn age(&self) -> Duration {
        limits::SESSION_AGE.mul_f64(1.0 - 0.25 * (Random::new().next() as f64 / u64::MAX as f64))
    }

    /// Drives a new connection, and retires those that it replaces.
    fn start(self: &Rc<Self>, stream: TlsStream<TcpStream>, credentials: Option<Arc<Credentials>>) -> Session {
        let now = Instant::now();
        let stale_at = now + self.age().min(certificate_lifetime(&stream));
        let (session, driver) = Driver::client(stream);
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|live| {
            let stale = self.is_stale(live, now);
            if stale {
                live.session.go_away();
            }
            !stale && live.session.is_open()
        });
        sessions.push(Live { session: session.clone(), credentials, stale_at });
        drop(sessions);
        let (driven, peer) = (session.clone(), Rc::downgrade(self));
        tokio::task::spawn_local(async move {
            if let Err(error) = drive(driver, &driven).await {
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
async fn drive(driver: Driver<TlsStream<TcpStream>>, session: &Session) -> io::Result<()> {
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

/// For how long what the peer's certificate proved holds.
fn certificate_lifetime(stream: &TlsStream<TcpStream>) -> Duration {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let expires_at = heddle_identity::expiry_of(chain).unwrap_or(SystemTime::UNIX_EPOCH);
    expires_at.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Whether a handshake failed because of the peer's certificate.
fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}
