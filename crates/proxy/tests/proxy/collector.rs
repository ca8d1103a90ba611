//! A collector for tests: takes what proxies export by OTLP, over gRPC and over HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use axum::serve::Listener;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// It listens until it is dropped.
pub(crate) struct Collector {
    pub(crate) runtime: Runtime,
    /// Where it takes OTLP over gRPC, and over HTTP.
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    received: mpsc::Receiver<ExportTraceServiceRequest>,
}

/// A span, with what is said of the workload that made it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) resource: HashMap<String, String>,
    pub(crate) attributes: HashMap<String, String>,
    pub(crate) span: Span,
}

#[derive(Clone)]
struct Service(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Service {
    /// What comes when the test is over is for nobody.
    fn take(&self, request: ExportTraceServiceRequest) {
        self.0.send(request).ok();
    }
}

impl Collector {
    pub(crate) fn start(ip: IpAddr) -> Self {
        Self::start_on(ip, |listener| listener)
    }

    /// One that takes connections as `listen` does, such as in TLS.
    pub(crate) fn start_on<L: Listener<Addr: Debug>>(ip: IpAddr, listen: impl Fn(TcpListener) -> L) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, received) = mpsc::channel();
        let service = Service(sender);
        let over_grpc = tonic::service::Routes::new(TraceServiceServer::new(service.clone())).into_axum_router();
        let take = async move |body: Bytes| service.take(ExportTraceServiceRequest::decode(body).unwrap());
        let over_http = Router::new().route("/v1/traces", post(take));
        let [grpc, http] = [over_grpc, over_http].map(|routes| {
            let listener = runtime.block_on(TcpListener::bind((ip, 0))).unwrap();
            let address = listener.local_addr().unwrap();
            let listener = listen(listener);
            runtime.spawn(async { axum::serve(listener, routes).await });
            address
        });
        Self { runtime, grpc, http, received }
    }

    /// Waits for so many spans, in the order in which they began.
    pub(crate) fn spans(&self, count: usize) -> Vec<Told> {
        let mut spans = Vec::new();
        while spans.len() < count {
            spans.extend(told(self.received.recv().unwrap()));
        }
        spans.sort_by_key(|told| told.span.start_time_unix_nano);
        spans
    }

    /// What has come since it was asked last.
    pub(crate) fn newest(&self) -> Vec<Told> {
        self.received.try_iter().flat_map(told).collect()
    }
}

fn told(request: ExportTraceServiceRequest) -> Vec<Told> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            all.push(Told { resource: resource.clone(), attributes: texts(&span.attributes), span });
        }
    }
    all
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

impl Told {
    pub(crate) fn service(&self) -> &str {
        &self.resource["service.name"]
    }

    pub(crate) fn is_client(&self) -> bool {
        self.span.kind == SpanKind::Client as i32
    }

    pub(crate) fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Empty for a span that begins its trace.
    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// One of the attributes, which must be there.
    pub(crate) fn says(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).unwrap_or_else(|| panic!("no {attribute} in {self:?}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
