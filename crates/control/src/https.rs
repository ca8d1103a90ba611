//! The HTTPS server of the webhooks and the read API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
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
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tracing::{debug, warn};

/// The certificate that a client proved to hold, one of [`FrontProxy`](crate::front_proxy::FrontProxy)'s authority.
#[derive(Clone)]
pub(crate) struct ClientCertificate(pub(crate) Option<CertificateDer<'static>>);

/// The API server keeps few connections; this many are enough for several of them. Those that prove to be the API
/// server's have places of their own, which nobody else can take.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection without requests keeps its place.
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection that is to end may take for it.
const LINGER: Duration = Duration::from_secs(5);

/// What a connection does at the moment.
#[derive(Clone)]
struct Activity(Arc<Mutex<Requests>>);

struct Requests {
    open: usize,
    last: Instant,
}

/// A request, for as long as it is answered.
struct Open(Activity);

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
    let (anyone, proven) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely too many files are open; the pause lets some be closed.
                warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handshake = TlsAcceptor::from(config.borrow().clone()).accept(stream);
        let (anyone, proven, router) = (anyone.clone(), proven.clone(), router.clone());
        tokio::spawn(async move {
            if let Err(error) = admit(handshake, &anyone, &proven, router).await {
                debug!(%error, "a connection ended");
            }
        });
    }
}

/// Serves a connection when there is a place for it, once it has proved what it can.
async fn admit(
    handshake: Accept<TcpStream>,
    anyone: &Semaphore,
    proven: &Semaphore,
    router: Router,
) -> anyhow::Result<()> {
    let place = anyone.try_acquire();
    let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|certificate| certificate.clone().into_owned());
    let _place = match certificate {
        Some(_) => {
            drop(place);
            proven.try_acquire()
        }
        None => place,
    }
    .context("there are too many connections")?;
    serve_connection(stream, router.layer(Extension(ClientCertificate(certificate)))).await
}

async fn serve_connection(stream: TlsStream<TcpStream>, router: Router) -> anyhow::Result<()> {
    let activity = Activity(Arc::new(Mutex::new(Requests { open: 0, last: Instant::now() })));
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = TowerToHyperService::new(router.layer(middleware::from_fn_with_state(activity.clone(), note)));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    // What was agreed on in the handshake: to find it out would wait for the client to speak.
    let builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = activity.ceases() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(LINGER, serving).await?
        }
    };
    served.map_err(|error| anyhow::anyhow!(error))
}

async fn note(State(activity): State<Activity>, request: Request, next: Next) -> Response {
    let _open = activity.begin();
    next.run(request).await
}

// === impl Activity ===

impl Activity {
    fn begin(&self) -> Open {
        self.requests().open += 1;
        Open(self.clone())
    }

    /// Done when there has been no request for [`IDLE`].
    async fn ceases(&self) {
        loop {
            let left = match *self.requests() {
                Requests { open: 0, last } => IDLE.saturating_sub(last.elapsed()),
                _ => IDLE,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.open -= 1;
        requests.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use heddle_identity::Authority;
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsConnector;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_asks_for_nothing_gives_its_place_back() {
        let authority = Authority::create("cluster.local", SystemTime::now()).unwrap();
        let store = Store::empty();
        crate::authority::certify(&authority, &store, Duration::from_secs(3600)).unwrap();
        let (_configure, config) = watch::channel(Arc::new(server_config(&store, None).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, config, Router::new()));

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.bundle().to_pem().as_bytes()).unwrap()).unwrap();
        for protocol in ["h2", "http/1.1"] {
            let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.into()];
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("heddle-control.heddle-system.svc").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            // The clock jumps to the next timer from here on.
            tokio::time::pause();
            let began = Instant::now();
            // What HTTP/2 says of itself may come before the end.
            while stream.read_u8().await.is_ok() {}
            assert!(began.elapsed() < 2 * (IDLE + LINGER), "{protocol}");
            tokio::time::resume();
        }
    }
}
