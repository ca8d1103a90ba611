//! The way to a collector: OTLP over gRPC, or over HTTP, in TLS or in plaintext.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use heddle_policy::{OtlpProtocol, Tracing};
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::tls::{Tls, TlsError};
use crate::authority::Authority;
use crate::dial::Dialer;
use crate::random::Random;
use crate::view::Destination;
use crate::worker::Shared;

/// A way that is kept as long as the settings stay the same.
pub(super) enum Transport {
    /// Boxed, as it is much the larger.
    Grpc(Box<TraceServiceClient<Channel>>),
    Http(Http),
}

pub(super) struct Http {
    collector: Collector,
    endpoint: Uri,
}

/// Where connections go.
#[derive(Clone)]
struct Collector {
    shared: Arc<Shared>,
    authority: Authority,
    /// Absent for plaintext.
    tls: Option<Tls>,
}

/// Why spans did not get to the collector.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("the endpoint `{0}` is neither http://HOST:PORT nor https://HOST:PORT")]
    Endpoint(Arc<str>),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("it cannot be connected to: {0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("{}", explain(.0))]
    Grpc(#[from] tonic::Status),
    #[error("it did not answer in time")]
    Timeout,
}

/// For an export, its connection included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where collectors take spans over HTTP.
const HTTP_PATH: &str = "/v1/traces";

impl Transport {
    pub(super) fn new(shared: &Arc<Shared>, tracing: &Tracing) -> Result<Self, ExportError> {
        let invalid = || ExportError::Endpoint(tracing.endpoint.clone());
        let endpoint: Uri = tracing.endpoint.parse().map_err(|_| invalid())?;
        let (default_port, alpn) = match tracing.protocol {
            OtlpProtocol::Grpc => (4317, "h2"),
            OtlpProtocol::Http => (4318, "http/1.1"),
        };
        let authority = endpoint.authority().ok_or_else(invalid)?;
        let tls = match endpoint.scheme_str() {
            Some("http") => None,
            Some("https") => Some(Tls::new(authority.host(), alpn, tracing.ca_certificates.as_deref())?),
            _ => return Err(invalid()),
        };
        let authority = Authority::parse(authority.as_str(), Some(default_port)).ok_or_else(invalid)?;
        let collector = Collector { shared: shared.clone(), authority, tls };
        Ok(match tracing.protocol {
            OtlpProtocol::Grpc => Self::Grpc(Box::new(TraceServiceClient::new(channel(endpoint, collector)?))),
            OtlpProtocol::Http => Self::Http(Http { collector, endpoint }),
        })
    }

    pub(super) async fn send(&mut self, request: ExportTraceServiceRequest) -> Result<(), ExportError> {
        let sending = async {
            match self {
                Self::Grpc(client) => client.export(request).await.map(drop).map_err(ExportError::from),
                Self::Http(http) => http.send(request.encode_to_vec()).await,
            }
        };
        tokio::time::timeout(TIMEOUT, sending).await.unwrap_or(Err(ExportError::Timeout))
    }
}

/// A connection of gRPC, made when it is needed. Tonic is told of plaintext, as the connector does what TLS there is.
fn channel(endpoint: Uri, collector: Collector) -> Result<Channel, ExportError> {
    let connector = tower::service_fn(move |_| {
        let collector = collector.clone();
        async move { collector.connect().await.map(TokioIo::new) }
    });
    let mut parts = endpoint.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    let plain = Uri::from_parts(parts).map_err(|_| ExportError::Endpoint(endpoint.to_string().into()))?;
    Ok(Endpoint::from(plain).origin(endpoint).timeout(TIMEOUT).connect_with_connector_lazy(connector))
}

impl Http {
    /// On a connection of its own: exports are seldom, and a kept connection would have to be watched.
    async fn send(&self, body: Vec<u8>) -> Result<(), ExportError> {
        let stream = self.collector.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let path = match self.endpoint.path() {
            "" | "/" => HTTP_PATH,
            path => path,
        };
        let request = Request::post(path)
            .header(HOST, self.collector.authority.to_string())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| ExportError::Endpoint(self.endpoint.to_string().into()))?;
        let exchange = async move {
            let status = sender.send_request(request).await?.status();
            if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
        };
        // The exchange hears of what is wrong with the connection, which ends with it, if not before.
        tokio::join!(exchange, connection).0
    }
}

impl Collector {
    async fn connect(&self) -> io::Result<Either<TcpStream, TlsStream<TcpStream>>> {
        let stream = Dialer { mark: self.shared.options.mark }.connect(self.find().await?).await?;
        match &self.tls {
            Some(tls) => tls.connect(stream).await.map(Either::Right),
            None => Ok(Either::Left(stream)),
        }
    }

    /// An endpoint of the Service that it is, or what the system's resolver says.
    async fn find(&self) -> io::Result<std::net::SocketAddr> {
        let endpoint = {
            let snapshot = self.shared.config.load();
            let port = match self.authority.destination(&snapshot) {
                Some(Destination::Service(service, port)) => snapshot.of_service(&service, port),
                Some(Destination::Address(address)) => snapshot.at_address(address),
                None => None,
            };
            let endpoints = port.map(|port| snapshot.port(port).endpoints.clone());
            endpoints.map(|endpoints| endpoints.get(Random::new().below(endpoints.len())).map(|found| found.address))
        };
        match endpoint {
            Some(endpoint) => endpoint.ok_or_else(|| io::Error::other("the Service has no ready endpoint")),
            None => self.authority.resolve().await,
        }
    }
}

impl ExportError {
    /// Whether the same spans would fail again, by what OTLP says of its answers.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Status(status) => !matches!(status.as_u16(), 429 | 502..=504),
            // What has a source did not come from the collector.
            Self::Grpc(status) if std::error::Error::source(status).is_some() => false,
            Self::Grpc(status) => !matches!(
                status.code(),
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            _ => false,
        }
    }
}

/// A status with what caused it: of a failed connection the message itself says nothing.
fn explain(status: &tonic::Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_collector_will_never_take_is_not_sent_again() {
        let http = |status: u16| ExportError::Status(StatusCode::from_u16(status).unwrap()).is_final();
        assert_eq!([400, 401, 404, 500].map(http), [true; 4]);
        assert_eq!([429, 502, 503, 504].map(http), [false; 4]);
        let grpc = |code: Code| ExportError::Grpc(tonic::Status::new(code, "")).is_final();
        assert_eq!([Code::InvalidArgument, Code::Unimplemented, Code::PermissionDenied].map(grpc), [true; 3]);
        assert_eq!([Code::Unavailable, Code::ResourceExhausted].map(grpc), [false; 2]);
        assert!(!ExportError::Timeout.is_final());
    }
}
