//! A proxy's end: it keeps the configuration and the certificate current, and sends reports.
//!
//! The three go on independently over one connection, which is made again whenever it is lost. Without the control
//! plane nothing changes: the last good configuration and the certificate stay.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use futures::StreamExt;
use futures::future::BoxFuture;
use heddle_identity::{Bundle, Credentials, KeyAndCsr, Store, control_plane_id, explain};
use heddle_policy::ProxyConfig;
use heddle_policy::telemetry::Report;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use crate::applied::{Applied, answer};
use crate::backoff::{Backoff, LONGEST};
use crate::proto::{REPORT, ReportRequest, ReportResponse, SIGN, SignRequest, SignResponse};
use crate::{ALPN, MAX_MESSAGE, MAX_RESPONSE};

/// What a proxy keeps with its control plane.
#[derive(Clone)]
pub struct Client {
    pub dial: Dial,
    /// The trust bundle in PEM that the control plane's certificate must lead to. Its roots name the trust domain,
    /// and so the identity of the control plane. Read at every connection.
    pub ca_file: PathBuf,
    /// The pod's ServiceAccount token, with the audience `heddle`. Read at every call: the kubelet replaces it.
    pub token_file: PathBuf,
    /// Gets the proxy's credentials, and new ones after two thirds of their time.
    pub store: Store,
    /// Gets every configuration that `validate` accepts.
    pub config: watch::Sender<Arc<ProxyConfig>>,
    pub validate: Validate,
    /// The newest totals. They are sent when they change, and again after a new connection.
    pub reports: watch::Receiver<Option<Arc<Report>>>,
}

/// Opens a TCP connection to the control plane, however the proxy's own connections must be made.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// Says why a configuration cannot be used, for the reader of `heddle status`. It is called before any of it takes
/// effect.
pub type Validate = Arc<dyn Fn(&ProxyConfig) -> Result<(), String> + Send + Sync>;

/// Why something did not work; all of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{} cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is no token: it holds characters that a header cannot", .0.display())]
    Token(PathBuf),
    #[error("{}", reason(.0))]
    Call(#[from] Status),
    #[error("the new certificate is unusable: {0}")]
    Svid(#[from] heddle_identity::InvalidSvid),
    #[error("the new trust bundle is unusable: {0}")]
    Bundle(#[from] heddle_identity::InvalidBundle),
    #[error("the new certificate has already expired by this machine's clock")]
    Expired,
}

/// How long a connection may take to be made, and a signature to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often an idle connection is asked whether it is still there, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The longest sleep until a certificate is due: a machine that was suspended looks at its clock again.
const NAP: Duration = Duration::from_secs(30);

/// Dials `HOST:PORT` in the ordinary way.
pub fn dial(address: impl Into<Arc<str>>) -> Dial {
    let address = address.into();
    Arc::new(move || {
        let address = address.clone();
        Box::pin(async move { TcpStream::connect(&*address).await })
    })
}

// === impl Client ===

impl Client {
    /// Runs until the control plane has heard a report that says that it is the last.
    pub async fn run(self) {
        let channel = self.channel();
        tokio::select! {
            () = self.discovery(&channel) => {}
            () = self.certificates(&channel) => {}
            () = self.reports(&channel) => {}
        }
    }

    /// A channel that connects when it is first used, and again after every loss.
    fn channel(&self) -> Channel {
        let client = self.clone();
        let connector = tower::service_fn(move |_| {
            let client = client.clone();
            async move { client.connect().await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://heddle-control")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let roots = read(&self.ca_file).await.map_err(io::Error::other)?;
        let bundle = Bundle::from_pem(&roots).map_err(|error| self.bad_ca(&error.to_string()))?;
        let trust_domain = bundle.trust_domain().ok_or_else(|| self.bad_ca("its roots name no trust domain"))?;
        let expected = control_plane_id(trust_domain).map_err(|error| self.bad_ca(&error.to_string()))?;
        let mut tls = heddle_identity::client(bundle, expected);
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let connect = async {
            let tcp = (self.dial)().await?;
            tcp.set_nodelay(true)?;
            // rustls wants a name; what is verified is the SPIFFE ID.
            let name = ServerName::try_from("heddle-control").map_err(io::Error::other)?;
            TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
        };
        timeout(PATIENCE, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn bad_ca(&self, reason: &str) -> io::Error {
        io::Error::other(format!("{}: {reason}", self.ca_file.display()))
    }

    /// A call with the token of this moment.
    async fn call<T>(&self, message: T) -> Result<Request<T>, Failed> {
        let token = read(&self.token_file).await?;
        let mut header = tonic::metadata::MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| Failed::Token(self.token_file.clone()))?;
        header.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }

    // --- configuration ---

    async fn discovery(&self, channel: &Channel) {
        let (mut applied, mut backoff) = (Applied::default(), Backoff::default());
        loop {
            let began = Instant::now();
            match self.discover(channel, &mut applied).await {
                Ok(()) => backoff.reset(),
                Err(error) => tell(&mut backoff, began, "configuration", &error),
            }
            backoff.wait().await;
        }
    }

    /// One stream, until it ends.
    async fn discover(&self, channel: &Channel, applied: &mut Applied) -> Result<(), Failed> {
        let (requests, stream) = mpsc::channel(1);
        requests.try_send(applied.subscription()).ok();
        let request = self.call(ReceiverStream::new(stream)).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE);
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        info!("connected to the control plane");
        while let Some(response) = responses.message().await? {
            let outcome = applied.apply(&response, &self.validate);
            let reply = answer(&response, outcome.as_ref().err().map(String::as_str));
            match outcome {
                Ok(config) => {
                    debug!(revision = response.system_version_info, "a configuration takes effect");
                    self.config.send_replace(config);
                }
                Err(reason) => warn!(
                    revision = response.system_version_info,
                    reason, "a configuration is refused; the last good one stays"
                ),
            }
            if requests.send(reply).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    // --- certificate ---

    async fn certificates(&self, channel: &Channel) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            match self.sign(channel).await {
                Ok(credentials) => {
                    let (rotate_at, expires_at) = (credentials.svid.rotate_at(), credentials.svid.expires_at());
                    self.store.replace(credentials);
                    info!(valid_for = ?until(expires_at), "a new certificate is in use");
                    backoff.reset();
                    while until(rotate_at) > Duration::ZERO {
                        sleep(until(rotate_at).min(NAP)).await;
                    }
                }
                Err(error) => {
                    tell(&mut backoff, began, "certificate", &error);
                    backoff.wait().await;
                }
            }
        }
    }

    async fn sign(&self, channel: &Channel) -> Result<Credentials, Failed> {
        let key = KeyAndCsr::generate()?;
        let request = self.call(SignRequest { csr: key.csr().to_vec() }).await?;
        let signing = async {
            let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let codec = ProstCodec::<SignRequest, SignResponse>::default();
            grpc.unary(request, PathAndQuery::from_static(SIGN), codec).await
        };
        let late = |_| Status::deadline_exceeded("the control plane did not answer in time");
        let signed = timeout(PATIENCE, signing).await.map_err(late)??.into_inner();
        let certificates = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
        let now = SystemTime::now();
        let svid = key.certified(certificates(signed.chain), now)?;
        let bundle = Bundle::from_der(certificates(signed.roots))?;
        if svid.expires_at() <= now {
            return Err(Failed::Expired);
        }
        Ok(Credentials { svid, bundle })
    }

    // --- reports ---

    /// Ends when the last report has arrived; never, when there is none that says it is the last.
    async fn reports(&self, channel: &Channel) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            match self.report(channel).await {
                Ok(()) if self.reports.borrow().as_ref().is_some_and(|report| report.last) => return,
                Ok(()) if self.reports.has_changed().is_err() => std::future::pending().await,
                Ok(()) => backoff.reset(),
                Err(error) => tell(&mut backoff, began, "report", &error),
            }
            backoff.wait().await;
        }
    }

    /// One stream. What changes while the line is slow leaves as the newest alone. The control plane that begins to
    /// listen is told the past too; afterwards it knows it.
    async fn report(&self, channel: &Channel) -> Result<(), Failed> {
        let mut reports = self.reports.clone();
        if reports.wait_for(Option::is_some).await.is_err() {
            return Ok(());
        }
        let mut is_first = true;
        let messages = WatchStream::new(reports).filter_map(move |report| {
            let message = report.and_then(|report| {
                let history = if std::mem::take(&mut is_first) { report.history.clone() } else { Arc::default() };
                let json = serde_json::to_vec(&Report { history, ..Report::clone(&report) });
                json.ok().map(|json| ReportRequest { json })
            });
            std::future::ready(message)
        });
        let request = self.call(messages).await?;
        let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = ProstCodec::<ReportRequest, ReportResponse>::default();
        grpc.client_streaming(request, PathAndQuery::from_static(REPORT), codec).await?;
        Ok(())
    }
}

/// The first failure after a success is news; those that follow are not.
fn tell(backoff: &mut Backoff, began: Instant, what: &str, error: &Failed) {
    if began.elapsed() > 2 * LONGEST {
        backoff.reset();
    }
    match backoff.is_fresh() {
        true => warn!(what, %error, "the control plane cannot be used; trying again"),
        false => debug!(what, %error, "the control plane still cannot be used"),
    }
}

async fn read(path: &Path) -> Result<String, Failed> {
    tokio::fs::read_to_string(path).await.map_err(|error| Failed::Read { path: path.to_owned(), error })
}

fn until(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
}

/// What a status says, or what it was caused by when the connection failed.
fn reason(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    let mut last = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return format!("the connection failed: {}", explain(error));
        }
        last = Some(error);
        cause = error.source();
    }
    match last {
        Some(error) if status.message().is_empty() => error.to_string(),
        _ => status.message().to_owned(),
    }
}
