//! A control plane with a backend of a few lines, and proxies for it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use heddle_identity::{Authority, Names, Store, control_plane_id};
use heddle_policy::telemetry::{Counts, Edge, Lost, Report, Side, Totals};
use heddle_policy::{Piece, PodName, ProxyConfig, Service, ServiceName, SpiffeId};
use heddle_xds::{Backend, Caller, Client, Proxies, Refused, Server, Signed, TYPE_URL};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "shop", name).unwrap()
}

pub(crate) fn pod(name: &str) -> PodName {
    PodName::new("shop", format!("{name}-1"))
}

pub(crate) fn web() -> PodName {
    pod("web")
}

pub(crate) fn config(services: &[(&str, &str)]) -> Arc<ProxyConfig> {
    let mut config = ProxyConfig::default();
    for (name, address) in services {
        let name = ServiceName::new("shop", *name);
        let addresses = vec![address.parse().unwrap()];
        config.insert(Piece::Service(Arc::new(Service { name, addresses, ports: Vec::new() })));
    }
    Arc::new(config)
}

pub(crate) fn edge(name: &str) -> Edge {
    Edge { side: Side::Server, pod: pod(name), peer: None, peer_pod: None, service: None, backend: None }
}

pub(crate) fn report(edge: Edge, success: u64) -> Report {
    let totals = Totals { requests: Counts { success, ..Default::default() }, ..Default::default() };
    Report {
        instance: "one".into(),
        edges: vec![(edge, totals)],
        open: Vec::new(),
        lost: Lost::default(),
        last: false,
        history: Vec::new().into(),
    }
}

/// Waits for a value. The limit only ends a test that would hang.
pub(crate) async fn until<T>(values: &mut watch::Receiver<T>, is_it: impl FnMut(&T) -> bool) {
    tokio::time::timeout(Duration::from_secs(60), values.wait_for(is_it)).await.unwrap().unwrap();
}

/// A control plane that knows the pods `web` and `db`.
pub(crate) struct Fake {
    authority: Arc<Authority>,
    pub(crate) ttl: Duration,
    configs: Mutex<BTreeMap<PodName, watch::Sender<Option<Arc<ProxyConfig>>>>>,
    reports: mpsc::UnboundedSender<(PodName, Report)>,
    refusals: watch::Sender<usize>,
}

impl Backend for Fake {
    async fn authenticate(&self, token: &str) -> Result<Caller, Refused> {
        match token {
            "token-of-web" => Ok(Caller { pod: pod("web"), service_account: "web".into() }),
            _ => {
                self.refusals.send_modify(|count| *count += 1);
                Err(Refused::Unauthenticated("there is no such token".to_owned()))
            }
        }
    }

    fn config(&self, caller: &Caller) -> watch::Receiver<Option<Arc<ProxyConfig>>> {
        self.configs.lock().unwrap().entry(caller.pod.clone()).or_default().subscribe()
    }

    fn sign(&self, caller: &Caller, csr: &[u8]) -> Result<Signed, Refused> {
        let names = Names::of_pod(id(&caller.service_account), &caller.pod, "cluster.local");
        let chain = self.authority.issue(csr, &names, self.ttl, SystemTime::now());
        let chain = chain.map_err(|error| Refused::Invalid(error.to_string()))?;
        Ok(Signed { chain, bundle: self.authority.bundle().clone() })
    }

    fn report(&self, caller: &Caller, report: Report) {
        self.reports.send((caller.pod.clone(), report)).ok();
    }
}

/// A running control plane, and where to find it.
pub(crate) struct World {
    authority: Arc<Authority>,
    backend: Arc<Fake>,
    reports: mpsc::UnboundedReceiver<(PodName, Report)>,
    address: Arc<Mutex<SocketAddr>>,
    proxies: watch::Receiver<Proxies>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    ca_file: PathBuf,
    files: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let authority = Arc::new(Authority::create("cluster.local", SystemTime::now()).unwrap());
        let files = tempfile::tempdir().unwrap();
        let ca_file = files.path().join("ca.crt");
        std::fs::write(&ca_file, authority.bundle().to_pem()).unwrap();
        let (backend, reports) = fake(&authority, |_| {});
        let address = Arc::new(Mutex::new("127.0.0.1:0".parse().unwrap()));
        let proxies = watch::channel(Proxies::new()).1;
        let mut world = Self { authority, backend, reports, address, proxies, running: None, ca_file, files };
        world.start().await;
        world
    }

    /// The server gone, and another one in its place that knows nothing of it.
    pub(crate) async fn restart(&mut self, change: impl FnOnce(&mut Fake)) {
        self.stop().await;
        (self.backend, self.reports) = fake(&self.authority, change);
        self.start().await;
    }

    async fn start(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *self.address.lock().unwrap() = listener.local_addr().unwrap();
        let names = Names { identity: control_plane_id("cluster.local").unwrap(), dns: Vec::new() };
        let store = Store::from(self.authority.credentials(&names, HOUR, SystemTime::now()).unwrap());
        let server = Server::new(self.backend.clone());
        self.proxies = server.proxies();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            server.serve(listener, &store, async { drop(stopped.await) }).await.unwrap();
        });
        self.running = Some((stop, task));
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            drop(stop);
            task.await.unwrap();
        }
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn proxies(&self) -> watch::Receiver<Proxies> {
        self.proxies.clone()
    }

    pub(crate) fn set(&self, name: &str, config: Arc<ProxyConfig>) {
        self.backend.configs.lock().unwrap().entry(pod(name)).or_default().send_replace(Some(config));
    }

    pub(crate) fn forget(&self, name: &str) {
        self.backend.configs.lock().unwrap().remove(&pod(name));
    }

    pub(crate) async fn refusals(&self, count: usize) {
        until(&mut self.backend.refusals.subscribe(), |refusals| *refusals >= count).await;
    }

    pub(crate) async fn next_report(&mut self) -> (PodName, Report) {
        tokio::time::timeout(Duration::from_secs(60), self.reports.recv()).await.unwrap().unwrap()
    }

    pub(crate) fn proxy(&self, name: &str) -> Proxy {
        self.proxy_with(name, |_| Ok(()))
    }

    pub(crate) fn proxy_with(
        &self,
        name: &str,
        validate: impl Fn(&ProxyConfig) -> Result<(), String> + Send + Sync + 'static,
    ) -> Proxy {
        let token_file = self.files.path().join(format!("token-{name}"));
        std::fs::write(&token_file, format!("token-of-{name}\n")).unwrap();
        let (config, configs) = watch::channel(Arc::default());
        let (reports, reported) = watch::channel(None);
        let (store, address) = (Store::empty(), self.address.clone());
        let client = Client {
            dial: Arc::new(move || {
                let address = *address.lock().unwrap();
                Box::pin(TcpStream::connect(address))
            }),
            ca_file: self.ca_file.clone(),
            token_file: token_file.clone(),
            store: store.clone(),
            config,
            validate: Arc::new(validate),
            reports: reported,
        };
        Proxy { config: configs, store, reports, token_file, task: tokio::spawn(client.run()) }
    }
}

fn fake(
    authority: &Arc<Authority>,
    change: impl FnOnce(&mut Fake),
) -> (Arc<Fake>, mpsc::UnboundedReceiver<(PodName, Report)>) {
    let (reports, received) = mpsc::unbounded_channel();
    let (configs, refusals) = (Mutex::default(), watch::Sender::new(0));
    let mut fake = Fake { authority: authority.clone(), ttl: HOUR, configs, reports, refusals };
    change(&mut fake);
    (Arc::new(fake), received)
}

/// The parts of a proxy that its client touches.
pub(crate) struct Proxy {
    pub(crate) config: watch::Receiver<Arc<ProxyConfig>>,
    pub(crate) store: Store,
    pub(crate) reports: watch::Sender<Option<Arc<Report>>>,
    token_file: PathBuf,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) fn write_token(&mut self, token: &str) {
        std::fs::write(&self.token_file, token).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn channel(world: &World) -> Channel {
    let expected = control_plane_id("cluster.local").unwrap();
    let mut tls = heddle_identity::client(world.authority.bundle().clone(), expected);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let (tls, address) = (TlsConnector::from(Arc::new(tls)), *world.address.lock().unwrap());
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tls.connect(ServerName::try_from("any.name").unwrap(), tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://any.name").connect_with_connector(connector).await.unwrap()
}

fn call<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

#[derive(Clone, PartialEq, prost::Message)]
struct Json {
    #[prost(bytes = "vec", tag = "1")]
    json: Vec<u8>,
}

/// Sends one report, past the client.
pub(crate) async fn send_report(world: &World, token: &str, report: &Report) -> Result<(), Status> {
    let messages = tokio_stream::iter([Json { json: serde_json::to_vec(report).unwrap() }]);
    let mut grpc = tonic::client::Grpc::new(channel(world).await);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/heddle.v1alpha1.Telemetry/Report");
    let codec = tonic_prost::ProstCodec::<Json, Json>::default();
    grpc.client_streaming(call(token, messages), path, codec).await.map(drop)
}

/// A discovery stream as any xDS client would hold it.
pub(crate) struct Raw {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    nonce: String,
    pub(crate) versions: HashMap<String, String>,
}

impl Raw {
    pub(crate) async fn connect(world: &World, token: &str) -> Result<Self, Status> {
        Self::connect_knowing(world, token, HashMap::new()).await
    }

    pub(crate) async fn connect_knowing(
        world: &World,
        token: &str,
        known: HashMap<String, String>,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(4);
        let first = DeltaDiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            initial_resource_versions: known,
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel(world).await);
        let request = call(token, ReceiverStream::new(stream));
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses, nonce: String::new(), versions: HashMap::new() })
    }

    /// The names of what the next response sets and removes.
    pub(crate) async fn next(&mut self) -> (Vec<String>, Vec<String>) {
        let response = self.responses.message().await.unwrap().unwrap();
        self.nonce = response.nonce;
        let names = response.resources.iter().map(|resource| resource.name.clone()).collect();
        let versions = response.resources.into_iter().map(|resource| (resource.name, resource.version));
        self.versions.extend(versions);
        (names, response.removed_resources)
    }

    pub(crate) async fn ack(&self) {
        let (type_url, response_nonce) = (TYPE_URL.to_owned(), self.nonce.clone());
        let ack = DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() };
        self.requests.send(ack).await.unwrap();
    }

    /// The status with which the server ends the stream.
    pub(crate) async fn end(&mut self) -> Status {
        self.responses.message().await.unwrap_err()
    }

    /// Ends the stream, and waits until the server has ended it too.
    pub(crate) async fn close(self) {
        let Self { requests, mut responses, .. } = self;
        drop(requests);
        assert!(responses.message().await.unwrap().is_none());
    }
}
