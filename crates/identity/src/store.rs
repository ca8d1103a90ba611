//! Where a process keeps its credentials: written when they rotate, read at every handshake.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::Credentials;

/// The credentials of this process, shared by every TLS configuration made from it. Empty at first: then every
/// handshake fails.
#[derive(Clone, Debug)]
pub struct Store(watch::Sender<Option<Arc<Credentials>>>);

impl Store {
    pub fn empty() -> Self {
        Self(watch::Sender::new(None))
    }

    /// New handshakes use `credentials` from now on; connections keep what they were made with.
    pub fn replace(&self, credentials: Credentials) {
        self.0.send_replace(Some(Arc::new(credentials)));
    }

    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.0.borrow().clone()
    }

    /// Sees every replacement; to wait for the first credentials, `wait_for(Option::is_some)`.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.0.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|credentials| credentials.svid.certified().clone())
    }
}

impl From<Credentials> for Store {
    fn from(credentials: Credentials) -> Self {
        Self(watch::Sender::new(Some(Arc::new(credentials))))
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Store {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
