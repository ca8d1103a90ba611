//! What a workload holds: its certificate and key, and the roots it believes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_policy::Peer;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::provider;
use crate::{Bundle, Untrusted, peer_of};

/// An X.509 SVID: a certificate chain and the key that it certifies.
#[derive(Clone)]
pub struct Svid {
    peer: Peer,
    certified: Arc<CertifiedKey>,
    expires_at: SystemTime,
    rotate_at: SystemTime,
}

/// All that a TLS handshake needs, of one moment.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub svid: Svid,
    pub bundle: Bundle,
}

/// A fresh key, and the request to certify it.
pub struct KeyAndCsr {
    key: PrivateKeyDer<'static>,
    csr: Vec<u8>,
}

/// Why a chain and a key are not an SVID.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSvid {
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the private key cannot be read: {0}")]
    Key(String),
    #[error("the private key is not the one that the certificate certifies")]
    Mismatch,
    #[error(transparent)]
    Names(#[from] Untrusted),
    #[error("a key cannot be made: {0}")]
    Make(String),
}

// === impl Svid ===

impl Svid {
    /// Takes a chain, the holder's certificate first, and its key. `now` is when it was issued: it is to be replaced
    /// after two thirds of the time that is left.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<Self, InvalidSvid> {
        let peer = peer_of(&chain)?;
        let expires_at = expiry_of(&chain)?;
        let key = provider().key_provider.load_private_key(key).map_err(|error| InvalidSvid::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| InvalidSvid::Mismatch)?;
        let left = expires_at.duration_since(now).unwrap_or(Duration::ZERO);
        Ok(Self { peer, certified: Arc::new(certified), expires_at, rotate_at: now + left * 2 / 3 })
    }

    /// Reads the PEM blocks `CERTIFICATE` of one text and the first private key of the other.
    pub fn from_pem(chain: &str, key: &str, now: SystemTime) -> Result<Self, InvalidSvid> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.map_err(|error| InvalidSvid::Certificate(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| InvalidSvid::Key(error.to_string()))?;
        Self::new(chain, key, now)
    }

    /// Who this proves to be: an identity, and the pod that the certificate names.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The holder's certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// When to ask for the next one.
    pub fn rotate_at(&self) -> SystemTime {
        self.rotate_at
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub(crate) fn trust_domain(&self) -> &str {
        self.peer.identity.as_ref().map_or("", |identity| identity.trust_domain())
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("peer", &self.peer)
            .field("expires_at", &self.expires_at)
            .field("rotate_at", &self.rotate_at)
            .finish_non_exhaustive()
    }
}

/// When the first certificate of a chain expires. It must have been verified: this only reads it.
pub fn expiry_of(chain: &[CertificateDer<'_>]) -> Result<SystemTime, InvalidSvid> {
    let leaf = chain.first().ok_or(Untrusted::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| InvalidSvid::Certificate(error.to_string()))?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

// === impl KeyAndCsr ===

impl KeyAndCsr {
    /// Makes an ECDSA P-256 key. The request names nothing: an authority decides the names.
    pub fn generate() -> Result<Self, InvalidSvid> {
        let make = |error: rcgen::Error| InvalidSvid::Make(error.to_string());
        let key = KeyPair::generate().map_err(make)?;
        let csr = CertificateParams::default().serialize_request(&key).map_err(make)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Self { key, csr: csr.der().to_vec() })
    }

    /// The certificate signing request (PKCS #10), in DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the chain that an authority issued at `now`.
    pub fn certified(self, chain: Vec<CertificateDer<'static>>, now: SystemTime) -> Result<Svid, InvalidSvid> {
        Svid::new(chain, self.key, now)
    }
}

impl fmt::Debug for KeyAndCsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndCsr").finish_non_exhaustive()
    }
}
