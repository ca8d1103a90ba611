//! TLS to a collector: it is no part of the mesh, so that its certificate is for its name, as on the web.

use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits;

#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Why there can be no TLS, whatever the collector does.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("its host is no name for a certificate: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("{0}")]
    Protocol(rustls::Error),
    #[error("`caCertificates` of the MeshConfig's tracing holds no certificate in PEM that can be used")]
    Certificates,
    #[error(
        "this container has no certificates of authorities; give them in `caCertificates` of the MeshConfig's tracing"
    )]
    NoRoots,
}

impl Tls {
    /// To `host`, which must prove its name by the authorities of `certificates` in PEM; without these, by the machine's.
    pub(super) fn new(host: &str, alpn: &str, certificates: Option<&str>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
        let mut config = builder
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Protocol)?
            .with_root_certificates(roots(certificates)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let handshake = self.connector.connect(self.name.clone(), stream);
        timeout(limits::HANDSHAKE_TIMEOUT, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn roots(certificates: Option<&str>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(certificates) = certificates else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) };
    };
    for certificate in CertificateDer::pem_slice_iter(certificates.as_bytes()) {
        let certificate = certificate.map_err(|_| TlsError::Certificates)?;
        roots.add(certificate).map_err(|_| TlsError::Certificates)?;
    }
    if roots.is_empty() { Err(TlsError::Certificates) } else { Ok(roots) }
}
