//! The API on a socket: TLS that asks for a client certificate, and HTTP/1.1 and HTTP/2 on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::authn::ClientCertificate;
use super::pki::{Pki, PkiError, roots};

/// Names by which pods know the API.
const NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
/// Connections served at a time.
const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// TLS for the server, with a new certificate that covers these addresses too.
pub(crate) fn tls(pki: &Pki, addresses: &[IpAddr]) -> Result<Arc<ServerConfig>, PkiError> {
    let mut all: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 96, 0, 1])];
    all.extend(addresses.iter().filter(|ip| !ip.is_unspecified()));
    all.dedup();
    let leaf = pki.server_leaf(NAMES, &all)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |_| PkiError::Key { path: "the server's certificate".to_owned() };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&pki.cluster), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|_| PkiError::Key { path: "ca.crt".to_owned() })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der.clone(), pki.cluster.der.clone()], leaf.key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections until the listener fails for good. Dropping the future ends the accepting, not the connections.
pub(crate) async fn run(router: axum::Router, tls: Arc<ServerConfig>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (router, acceptor) = (router.clone(), acceptor.clone());
                tokio::spawn(async move {
                    connection(router, acceptor, stream, peer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(router: axum::Router, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|c| ClientCertificate(c.clone().into_owned()));
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (router, certificate) = (router.clone(), certificate.clone());
        async move {
            let mut request = request.map(Body::new);
            if let Some(certificate) = certificate {
                request.extensions_mut().insert(certificate);
            }
            router.oneshot(request).await
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEADERS);
    if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "the connection ended");
    }
}
