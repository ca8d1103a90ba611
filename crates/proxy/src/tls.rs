//! TLS connections to the proxies of other pods, and how long they are good for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{Credentials, Store};
use heddle_policy::{Reason, SpiffeId};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info};

use crate::dial::{Dialer, expect_reading};
use crate::{limits, random::Random};

/// Makes connections to the proxy of one pod.
pub(crate) struct Connector {
    address: SocketAddr,
    identity: SpiffeId,
    /// What both sides must speak.
    alpn: &'static [u8],
    tls: TlsConnector,
    store: Store,
    dialer: Dialer,
}

/// How long a connection is used for new streams.
pub(crate) struct Lifetime {
    store: Store,
    /// What it was made with: others than the present ones make it stale.
    credentials: Option<Arc<Credentials>>,
    stale_at: Instant,
}

impl Connector {
    pub(crate) fn new(
        address: SocketAddr,
        identity: SpiffeId,
        store: &Store,
        dialer: Dialer,
        alpn: &'static [u8],
    ) -> Self {
        let mut config = heddle_identity::mutual_client(store, identity.clone());
        config.alpn_protocols = vec![alpn.to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Self { address, identity, alpn, tls, store: store.clone(), dialer }
    }

    pub(crate) async fn connect(&self) -> Result<(TlsStream<TcpStream>, Lifetime), Reason> {
        let credentials = self.store.current();
        let stream = self.dialer.connect(self.address).await.map_err(|error| {
            debug!(peer = %self.identity, address = %self.address, %error, "cannot connect to a peer");
            Reason::ConnectFailed
        })?;
        // The name is not sent and not looked at: a peer is known by its SPIFFE ID.
        let name = ServerName::from(IpAddr::from([0, 0, 0, 0]));
        let handshake = timeout(limits::HANDSHAKE_TIMEOUT, self.tls.connect(name, stream)).await;
        let result = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = result.map_err(|error| {
            info!(peer = %self.identity, address = %self.address, error = heddle_identity::explain(&error), "no TLS with a peer");
            if is_untrusted(&error) { Reason::PeerIdentity } else { Reason::ConnectFailed }
        })?;
        expect_reading(stream.get_ref().0).map_err(|_| Reason::ConnectFailed)?;
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == self.alpn => {}
            _ => return Err(Reason::ConnectFailed),
        }
        // Not all connections are replaced at the same time.
        let age = limits::SESSION_AGE.mul_f64(1.0 - 0.25 * (Random::new().next() as f64 / u64::MAX as f64));
        let stale_at = Instant::now() + age.min(certificate_lifetime(&stream));
        Ok((stream, Lifetime { store: self.store.clone(), credentials, stale_at }))
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

impl Lifetime {
    /// Whether the connection should be replaced: by age, or because there are other credentials.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_current = match (&self.credentials, &self.store.current()) {
            (Some(made_with), Some(present)) => Arc::ptr_eq(made_with, present),
            _ => false,
        };
        !is_current || self.stale_at <= now
    }

    /// Whether the certificate it was made with is still good, for long enough to begin something.
    pub(crate) fn is_valid(&self) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| {
            credentials.svid.expires_at() > SystemTime::now() + limits::HANDSHAKE_TIMEOUT / 10
        })
    }
}
