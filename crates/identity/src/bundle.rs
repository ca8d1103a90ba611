//! A trust bundle: the roots whose certificates are believed.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use heddle_policy::SpiffeId;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};

use crate::names::subject_alternative_names;
use crate::tls::provider;

/// One or more roots. Several are believed at once while a mesh goes from one to the next.
#[derive(Clone)]
pub struct Bundle {
    roots: Arc<[CertificateDer<'static>]>,
    anchors: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    trust_domain: Option<Arc<str>>,
}

/// Why a text or a list of certificates is not a trust bundle.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidBundle {
    #[error("a trust bundle has at least one certificate, as a PEM block `CERTIFICATE`; there is none")]
    Empty,
    #[error("certificate {number} of the trust bundle cannot be read: {reason}")]
    Unreadable { number: usize, reason: String },
    #[error("the roots of the trust bundle belong to two trust domains, `{0}` and `{1}`; keep one of them")]
    TrustDomains(Arc<str>, Arc<str>),
}

// === impl Bundle ===

impl Bundle {
    /// Reads the PEM blocks `CERTIFICATE` of a text; whatever is around them is ignored.
    pub fn from_pem(text: &str) -> Result<Self, InvalidBundle> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes())
            .zip(1..)
            .map(|(root, number)| root.map_err(|error| InvalidBundle::Unreadable { number, reason: error.to_string() }))
            .collect();
        Self::from_der(roots?)
    }

    pub fn from_der(roots: Vec<CertificateDer<'static>>) -> Result<Self, InvalidBundle> {
        let mut anchors = RootCertStore::empty();
        let mut trust_domain: Option<Arc<str>> = None;
        for (root, number) in roots.iter().zip(1..) {
            let unreadable = |reason: String| InvalidBundle::Unreadable { number, reason };
            anchors.add(root.clone()).map_err(|error| unreadable(error.to_string()))?;
            let found = trust_domain_of(root).map_err(unreadable)?;
            match (&trust_domain, found) {
                (Some(first), Some(found)) if *first != found => {
                    return Err(InvalidBundle::TrustDomains(first.clone(), found));
                }
                (None, found) => trust_domain = found,
                _ => {}
            }
        }
        let anchors = Arc::new(anchors);
        let clients = WebPkiClientVerifier::builder_with_provider(anchors.clone(), provider())
            .clear_root_hint_subjects()
            .build()
            .map_err(|_| InvalidBundle::Empty)?;
        Ok(Self { roots: roots.into(), anchors, clients, trust_domain })
    }

    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|root| certificate_pem(root)).collect()
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The trust domain that the roots name, as `spiffe://<trust domain>`. Roots made by other means may name none.
    pub fn trust_domain(&self) -> Option<&str> {
        self.trust_domain.as_deref()
    }

    /// Whether a chain of certificates leads to a root and may be used by a TLS client.
    pub(crate) fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.clients.verify_client_cert(leaf, intermediates, now).map(drop)
    }

    /// Whether a chain of certificates leads to a root and may be used by a TLS server.
    pub(crate) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.anchors, intermediates, now, algorithms)
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("roots", &self.roots.len())
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

fn trust_domain_of(root: &CertificateDer<'_>) -> Result<Option<Arc<str>>, String> {
    let (uris, _) = subject_alternative_names(root)?;
    let identity = uris.iter().find_map(|uri| uri.parse::<SpiffeId>().ok());
    Ok(identity.map(|identity| identity.trust_domain().into()))
}

/// A certificate as a PEM block, in lines of 64 characters (RFC 7468).
pub(crate) fn certificate_pem(certificate: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, character) in STANDARD.encode(certificate).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}
