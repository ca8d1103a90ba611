//! The HTTPS server of the webhooks and the read API.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use heddle_identity::Store;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// The certificate that a client proved to hold, one of [`FrontProxy`](crate::front_proxy::FrontProxy)'s authority.
#[derive(Clone)]
pub(crate) struct ClientCertificate(pub(crate) Option<CertificateDer<'static>>);

/// The API server keeps few connections; this many are enough for several of them.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(10);

/// A configuration whose server proves itself from `store`. Clients may prove themselves by `client_roots`; one that
/// has no certificate is let in, and the handlers tell them apart.
pub(crate) fn server_config(store: &Store, client_roots: Option<RootCertStore>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(default_provider());
    let verifier = match client_roots {
        None => Arc::new(NoClientAuth),
        Some(roots) => WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(store.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves `router`, for ever. New connections are made with the newest configuration.
pub(crate) async fn serve(listener: TcpListener, config: watch::Receiver<Arc<ServerConfig>>, router: Router) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely too many files are open; the pause lets some be closed.
                warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router) = (TlsAcceptor::from(config.borrow().clone()), router.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_connection(acceptor, stream, router).await {
                debug!(%error, "a connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve_connection(acceptor: TlsAcceptor, stream: TcpStream, router: Router) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = ClientCertificate(certificate.map(|certificate| certificate.clone().into_owned()));
    let service = TowerToHyperService::new(router.layer(Extension(certificate)));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let served = builder.serve_connection(TokioIo::new(stream), service).await;
    served.map_err(|error| anyhow::anyhow!(error))
}
