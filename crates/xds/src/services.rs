//! The three gRPC services: discovery, certificate signing, reports.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::Stream;
use futures::future::BoxFuture;
use heddle_policy::telemetry::Report;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use tracing::{info, warn};

use crate::delta::{Delta, Heard, Next};
use crate::proto::{AUTHORITY, REPORT, ReportRequest, ReportResponse, SIGN, SignRequest, SignResponse, TELEMETRY};
use crate::server::{Backend, Caller, Connected, Nack, Proxies, Shared, wait_for_stop};
use crate::{MAX_MESSAGE, Snapshot};

pub(crate) struct Discovery<B>(pub(crate) Arc<Shared<B>>);
pub(crate) struct AuthorityService<B>(pub(crate) Arc<Shared<B>>);
pub(crate) struct TelemetryService<B>(pub(crate) Arc<Shared<B>>);

/// How long a stream lives on the token it began with. Then it ends without an error; the proxy comes back with its
/// newest token, and misses nothing.
const STREAM_LIFETIME: Duration = Duration::from_secs(30 * 60);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// === impl Discovery ===

#[tonic::async_trait]
impl<B: Backend> AggregatedDiscoveryService for Discovery<B> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only DeltaAggregatedResources is served"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.0.caller(request.metadata()).await?;
        // One response is on its way at most; the second place is for the status that ends the stream.
        let (responses, stream) = mpsc::channel(2);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = responses.closed() => Ok(()),
                () = wait_for_stop(shared.stopping.clone()) => Err(shared.stopping()),
                () = tokio::time::sleep(STREAM_LIFETIME) => Ok(()),
                ended = converse(&shared, &caller, request.into_inner(), &responses) => ended,
            };
            if let Err(status) = ended {
                responses.try_send(Err(status)).ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One stream, from its first request to its end.
async fn converse<B: Backend>(
    shared: &Shared<B>,
    caller: &Caller,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let mut delta = Delta::subscribe(&first)?;
    let mut configs = shared.backend.config(caller);
    configs.mark_changed();
    let entry = Entry::new(&shared.proxies, caller);
    loop {
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => entry.heard(delta.hear(&request)?),
                None => return Ok(()),
            },
            changed = configs.changed() => {
                changed.map_err(|_| Status::unavailable("this pod is no longer in the mesh"))?;
                let config = configs.borrow_and_update().clone();
                config.iter().for_each(|config| delta.aim(shared.encoder.encode(config)));
            }
        }
        match delta.next() {
            Next::Send(snapshot, response) => {
                entry.update(|proxy| proxy.sent = Some(snapshot));
                let full = |_| Status::resource_exhausted("responses were acknowledged before they were read");
                responses.try_send(Ok(response)).map_err(full)?;
            }
            Next::UpToDate(snapshot) => entry.up_to_date(snapshot),
            // What it said of it still holds.
            Next::Refused(snapshot) => entry.update(|proxy| proxy.sent = Some(snapshot)),
            Next::Wait => {}
        }
    }
}

/// A stream's entry among the connected proxies, until it is dropped.
struct Entry<'a> {
    proxies: &'a watch::Sender<Proxies>,
    caller: &'a Caller,
    stream: u64,
}

impl<'a> Entry<'a> {
    fn new(proxies: &'a watch::Sender<Proxies>, caller: &'a Caller) -> Self {
        static STREAMS: AtomicU64 = AtomicU64::new(0);
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        proxies.send_modify(|proxies| drop(proxies.insert(caller.pod.clone(), Connected::new(stream))));
        info!(pod = %caller.pod, "a proxy is connected");
        Self { proxies, caller, stream }
    }

    /// A newer stream of the same pod has the entry to itself.
    fn update(&self, change: impl FnOnce(&mut Connected)) {
        self.proxies.send_if_modified(|proxies| {
            let own = proxies.get_mut(&self.caller.pod).filter(|proxy| proxy.is_of(self.stream));
            own.map(change).is_some()
        });
    }

    fn heard(&self, heard: Heard) {
        match heard {
            Heard::Ack(snapshot) => self.update(|proxy| proxy.acked = Some(snapshot)),
            Heard::Nack(Snapshot { revision, .. }, message) => {
                warn!(pod = %self.caller.pod, %revision, message, "a proxy refused its configuration");
                self.update(|proxy| proxy.last_nack = Some(Nack { revision, message, at: SystemTime::now() }));
            }
            Heard::Nothing => {}
        }
    }

    fn up_to_date(&self, snapshot: Snapshot) {
        self.update(|proxy| {
            proxy.sent = Some(snapshot.clone());
            proxy.acked = Some(snapshot);
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let pod = &self.caller.pod;
        self.proxies.send_if_modified(|proxies| match proxies.get(pod) {
            Some(proxy) if proxy.is_of(self.stream) => proxies.remove(pod).is_some(),
            _ => false,
        });
        info!(%pod, "a proxy is disconnected");
    }
}

// === impl AuthorityService ===

impl<B: Backend> AuthorityService<B> {
    async fn sign(shared: Arc<Shared<B>>, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = shared.caller(request.metadata()).await?;
        let signed = shared.backend.sign(&caller, &request.get_ref().csr)?;
        let chain = signed.chain.iter().map(|certificate| certificate.to_vec()).collect();
        let roots = signed.bundle.roots().iter().map(|root| root.to_vec()).collect();
        Ok(Response::new(SignResponse { chain, roots }))
    }
}

// === impl TelemetryService ===

impl<B: Backend> TelemetryService<B> {
    async fn report(
        shared: Arc<Shared<B>>,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<ReportResponse>, Status> {
        let caller = shared.caller(request.metadata()).await?;
        let mut reports = request.into_inner();
        let take = async {
            while let Some(request) = reports.message().await? {
                shared.backend.report(&caller, report_of(&caller, &request)?);
            }
            Ok(Response::new(ReportResponse {}))
        };
        tokio::select! {
            () = wait_for_stop(shared.stopping.clone()) => Err(shared.stopping()),
            () = tokio::time::sleep(STREAM_LIFETIME) => Ok(Response::new(ReportResponse {})),
            taken = take => taken,
        }
    }
}

fn report_of(caller: &Caller, request: &ReportRequest) -> Result<Report, Status> {
    let report: Report = serde_json::from_slice(&request.json)
        .map_err(|error| Status::invalid_argument(format!("the report cannot be read: {error}")))?;
    let edges = report.edges.iter().map(|(edge, _)| edge).chain(report.open.iter().map(|(edge, _)| edge));
    match edges.into_iter().find(|edge| edge.pod != caller.pod) {
        Some(edge) => {
            let message = format!("the report counts for pod `{}`, and its sender is `{}`", edge.pod, caller.pod);
            Err(Status::permission_denied(message))
        }
        None => Ok(report),
    }
}

// === the plumbing that a code generator would write ===

macro_rules! grpc_service {
    ($service:ident, $name:ident, $path:ident, $kind:ident, $handler:ident) => {
        impl<B> Clone for $service<B> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        impl<B> NamedService for $service<B> {
            const NAME: &'static str = $name;
        }

        impl<B: Backend> Service<http::Request<Body>> for $service<B> {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let shared = self.0.clone();
                Box::pin(async move {
                    if request.uri().path() != $path {
                        return Ok(Status::unimplemented("there is no such method").into_http());
                    }
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_MESSAGE);
                    let handler = service_fn(move |request| Self::$handler(shared.clone(), request));
                    Ok(grpc.$kind(handler, request).await)
                })
            }
        }
    };
}

grpc_service!(AuthorityService, AUTHORITY, SIGN, unary, sign);
grpc_service!(TelemetryService, TELEMETRY, REPORT, client_streaming, report);
