//! The control plane's end: who may speak, and what is known of those who do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use heddle_identity::{Bundle, Store};
use heddle_policy::telemetry::Report;
use heddle_policy::{PodName, ProxyConfig};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::encode::Encoder;
use crate::services::{AuthorityService, Discovery, TelemetryService};
use crate::{ALPN, MAX_MESSAGE, connection};

/// What the server needs of the control plane.
pub trait Backend: Send + Sync + 'static {
    /// Whose a ServiceAccount token with the audience `heddle` is. Called for every call, and for every stream when
    /// it begins.
    fn authenticate(&self, token: &str) -> impl Future<Output = Result<Caller, Refused>> + Send;

    /// The configuration of a pod's proxy: `None` as long as it has none. When the sender is dropped, the proxy is
    /// disconnected.
    fn config(&self, caller: &Caller) -> watch::Receiver<Option<Arc<ProxyConfig>>>;

    /// Certifies the key of a certificate signing request (PKCS #10 in DER) for the caller.
    fn sign(&self, caller: &Caller, csr: &[u8]) -> Result<Signed, Refused>;

    /// Takes the newest totals of a pod. Every edge in it is counted by that pod.
    fn report(&self, caller: &Caller, report: Report);
}

/// Whom a reviewed token belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    pub pod: PodName,
    /// The name of the ServiceAccount, which is in the pod's namespace.
    pub service_account: Arc<str>,
}

/// A certificate for a proxy.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The proxy's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    pub bundle: Bundle,
}

/// Why the control plane does not do what a proxy asks. The texts are sent to the proxy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The token proves nothing: wrong, expired, of another audience, or not of a pod.
    #[error("the token is refused: {0}")]
    Unauthenticated(String),
    /// The token is good, and its pod may not do this.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Invalid(String),
    /// It may work later.
    #[error("the control plane cannot answer now: {0}")]
    Unavailable(String),
}

/// The proxies that are connected.
pub type Proxies = BTreeMap<PodName, Connected>;

/// A connected proxy.
#[derive(Clone, Debug)]
pub struct Connected {
    pub since: SystemTime,
    /// What was sent to it last.
    pub sent: Option<Snapshot>,
    /// What it runs, by its own word. Programmed is who has acknowledged the newest: compare by `Arc::ptr_eq`.
    pub acked: Option<Snapshot>,
    /// What it refused last.
    pub last_nack: Option<Nack>,
    /// Tells two streams of one pod apart.
    stream: u64,
}

/// A configuration and the name of its content.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Equal for equal configurations.
    pub revision: Arc<str>,
    pub config: Arc<ProxyConfig>,
}

/// A configuration that a proxy refused: it runs the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nack {
    pub revision: Arc<str>,
    /// Why, in the proxy's words.
    pub message: String,
    pub at: SystemTime,
}

/// The server of one control plane.
pub struct Server<B> {
    backend: Arc<B>,
    proxies: watch::Sender<Proxies>,
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the server of configurations failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What all services share.
pub(crate) struct Shared<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) proxies: watch::Sender<Proxies>,
    pub(crate) encoder: Encoder,
    /// Becomes true when the server is to end.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// How long a token may take to be reviewed.
const AUTHENTICATION: Duration = Duration::from_secs(10);

/// How long connections may take to end once their streams were ended.
const DRAIN: Duration = Duration::from_secs(5);

/// The largest header list of a request, in bytes: a token has one or two thousand.
const MAX_HEADERS: u32 = 32 * 1024;

// === impl Server ===

impl<B: Backend> Server<B> {
    pub fn new(backend: Arc<B>) -> Self {
        Self { backend, proxies: watch::Sender::new(Proxies::new()) }
    }

    /// Who is connected, as it changes.
    pub fn proxies(&self) -> watch::Receiver<Proxies> {
        self.proxies.subscribe()
    }

    /// Serves until `shutdown` is done; then ends every stream. The certificate is read from `store` at every
    /// handshake; its identity is [`control_plane_id`](heddle_identity::control_plane_id).
    pub async fn serve(
        self,
        listener: TcpListener,
        store: &Store,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut tls = heddle_identity::server(store);
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let (stop, stopping) = watch::channel(false);
        let stopped = wait_for_stop(stopping.clone());
        let shared =
            Arc::new(Shared { backend: self.backend, proxies: self.proxies, encoder: Encoder::default(), stopping });
        let discovery =
            AggregatedDiscoveryServiceServer::new(Discovery(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(16)
            .add_service(discovery)
            .add_service(AuthorityService(shared.clone()))
            .add_service(TelemetryService(shared))
            .serve_with_incoming_shutdown(connection::accept(listener, tls.into()), stopped);
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            () = shutdown => {}
        }
        stop.send_replace(true);
        // Connections that do not end in time end with the process.
        tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))?;
        Ok(())
    }
}

/// Done when the server is to end, or is gone.
pub(crate) async fn wait_for_stop(mut stopping: watch::Receiver<bool>) {
    // An error says that the server is gone.
    stopping.wait_for(|stop| *stop).await.ok();
}

// === impl Shared ===

impl<B: Backend> Shared<B> {
    /// Who calls, by the token of the call.
    pub(crate) async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("the call has no `authorization: Bearer <ServiceAccount token>`"))?;
        match tokio::time::timeout(AUTHENTICATION, self.backend.authenticate(token)).await {
            Ok(caller) => Ok(caller?),
            Err(_) => Err(Status::unavailable("the review of the token took too long")),
        }
    }

    /// What ends a stream before its peer does.
    pub(crate) fn stopping(&self) -> Status {
        Status::unavailable("the control plane is ending")
    }
}

// === impl Connected ===

impl Connected {
    pub(crate) fn new(stream: u64) -> Self {
        Self { since: SystemTime::now(), sent: None, acked: None, last_nack: None, stream }
    }

    pub(crate) fn is_of(&self, stream: u64) -> bool {
        self.stream == stream
    }
}

// === impl Refused ===

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Unauthenticated(_) => Self::unauthenticated(message),
            Refused::Denied(_) => Self::permission_denied(message),
            Refused::Invalid(_) => Self::invalid_argument(message),
            Refused::Unavailable(_) => Self::unavailable(message),
        }
    }
}
