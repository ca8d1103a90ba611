//! The verification of a peer in a TLS handshake: its chain, then its one SPIFFE ID.

use std::sync::Arc;

use heddle_policy::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use crate::tls::provider;
use crate::{Bundle, Store, Untrusted, peer_of};

/// Believes the certificates of a trust bundle that name a workload.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    trust: Trust,
    /// The only peer that will do. Absent: any workload of the trust domain.
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Where the roots come from.
#[derive(Debug)]
pub(crate) enum Trust {
    /// The store's, at each handshake; peers must be in the trust domain of the store's own identity.
    Store(Store),
    Bundle(Bundle),
}

impl PeerVerifier {
    pub(crate) fn new(trust: Trust, expected: Option<SpiffeId>) -> Arc<Self> {
        Arc::new(Self { trust, expected, algorithms: provider().signature_verification_algorithms })
    }

    /// Verifies the chain by `chain`, and then who it names.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: impl FnOnce(&Bundle) -> Result<(), rustls::Error>,
    ) -> Result<(), rustls::Error> {
        match &self.trust {
            Trust::Bundle(bundle) => {
                chain(bundle)?;
                self.verify_names(leaf, bundle.trust_domain()).map_err(refuse)
            }
            Trust::Store(store) => {
                let own = store.current().ok_or_else(|| refuse(Untrusted::NoCredentials))?;
                chain(&own.bundle)?;
                self.verify_names(leaf, Some(own.svid.trust_domain())).map_err(refuse)
            }
        }
    }

    fn verify_names(&self, leaf: &CertificateDer<'_>, trust_domain: Option<&str>) -> Result<(), Untrusted> {
        let peer = peer_of(std::slice::from_ref(leaf))?;
        let found = peer.identity.ok_or(Untrusted::UriNames(0))?;
        match (trust_domain, &self.expected) {
            (Some(trust_domain), _) if found.trust_domain() != trust_domain => {
                Err(Untrusted::TrustDomain { found, trust_domain: trust_domain.to_owned() })
            }
            (_, Some(expected)) if found != *expected => Err(Untrusted::Identity { found, expected: expected.clone() }),
            _ => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

fn refuse(reason: Untrusted) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken in the mesh".to_owned())
}

impl ServerCertVerifier for PeerVerifier {
    /// The name that was dialled and stapled OCSP are of no account.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, |bundle| bundle.verify_server(leaf, intermediates, now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a workload has one certificate to offer, whoever asks.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, |bundle| bundle.verify_client(leaf, intermediates, now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
