//! Entries as spans of OTLP, named by OpenTelemetry's semantic conventions for HTTP.

use std::time::{Duration, SystemTime};

use heddle_policy::Settings;
use heddle_policy::telemetry::{Outcome, Side};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::record::{Entry, RequestLine};

/// The methods that may name a span; others stand as `HTTP`, so that clients do not invent names.
const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// All that one export says: the spans of one workload.
pub(super) fn request(settings: &Settings, entries: &[Entry]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "heddle".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = entries.iter().filter_map(span).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource = Some(resource(settings));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

fn resource(settings: &Settings) -> Resource {
    let (kind, name) = settings.workload.as_deref().and_then(|owner| owner.split_once('/')).unwrap_or_default();
    let pod = &settings.pod;
    let service = if name.is_empty() { &*pod.name } else { name };
    let mut attributes = vec![
        text("service.name", service),
        text("service.namespace", &pod.namespace),
        text("service.instance.id", &pod.name),
        text("k8s.namespace.name", &pod.namespace),
        text("k8s.pod.name", &pod.name),
    ];
    if !name.is_empty() {
        attributes.push(text(&format!("k8s.{}.name", kind.to_ascii_lowercase()), name));
    }
    Resource { attributes, ..Resource::default() }
}

fn span(entry: &Entry) -> Option<Span> {
    let (place, request) = (entry.span.as_ref()?, entry.request.as_ref()?);
    let start = nanos(entry.started);
    Some(Span {
        trace_id: place.trace_id.to_be_bytes().to_vec(),
        span_id: place.span_id.to_be_bytes().to_vec(),
        parent_span_id: place.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        trace_state: place.state.clone(),
        name: known_method(&request.method).unwrap_or("HTTP").to_owned(),
        kind: match entry.side {
            Side::Client => SpanKind::Client,
            Side::Server => SpanKind::Server,
        } as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(nanos(SystemTime::UNIX_EPOCH + entry.duration)),
        attributes: attributes(entry, request),
        status: is_error(entry).then(|| Status { code: StatusCode::Error as i32, ..Status::default() }),
        ..Span::default()
    })
}

fn attributes(entry: &Entry, request: &RequestLine) -> Vec<KeyValue> {
    let (host, port) = host_and_port(&request.authority);
    let mut attributes = vec![
        text("url.scheme", "http"),
        text("url.path", &request.path),
        text("server.address", host),
        number("server.port", port.unwrap_or(80).into()),
        text("network.protocol.version", entry.protocol.trim_start_matches("HTTP/")),
    ];
    match known_method(&request.method) {
        Some(method) => attributes.push(text("http.request.method", method)),
        None => attributes
            .extend([text("http.request.method", "_OTHER"), text("http.request.method_original", &request.method)]),
    }
    if entry.side == Side::Client {
        attributes.push(text("url.full", &format!("http://{}{}", request.authority, request.path)));
    }
    attributes.extend(entry.status.map(|status| number("http.response.status_code", status.into())));
    if let Some(status) = entry.grpc_status {
        attributes.extend([text("rpc.system", "grpc"), number("rpc.grpc.status_code", status.into())]);
    }
    attributes.extend(is_error(entry).then(|| text("error.type", &error_type(entry))));
    attributes.extend(of_policy(entry));
    attributes.extend(entry.service.as_ref().map(|service| text("heddle.service", service)));
    attributes.extend(entry.backend.as_ref().map(|backend| text("heddle.backend", backend)));
    attributes.extend(entry.peer.identity.as_ref().map(|identity| text("heddle.peer.identity", identity.as_str())));
    attributes.extend(entry.peer.pod.as_ref().map(|pod| text("heddle.peer.pod", &pod.to_string())));
    attributes
}

/// What was decided, in the words of the access log.
fn of_policy(entry: &Entry) -> impl Iterator<Item = KeyValue> {
    let ruling = entry.ruling.as_ref();
    let decision = ruling.map(|ruling| text("heddle.decision", ruling.decision.word()));
    let rule = ruling.and_then(|ruling| ruling.rule.as_ref()).map(|rule| text("heddle.rule", &rule.to_string()));
    let reason = entry.reason().map(|reason| text("heddle.reason", reason.code()));
    [decision, rule, reason].into_iter().flatten()
}

fn known_method(method: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == method)
}

/// Why the mesh answered itself, or the status that is an error, of HTTP or of gRPC.
fn error_type(entry: &Entry) -> String {
    let reason = entry.reason.map(|reason| reason.code().to_owned());
    let status = entry.status.filter(|status| *status >= 400).or(entry.grpc_status);
    reason.or(status.map(|status| status.to_string())).unwrap_or_else(|| "_OTHER".to_owned())
}

/// What stands behind the last colon of `[::1]` is no port.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let split = authority.rsplit_once(':').and_then(|(host, port)| Some((host, Some(port.parse().ok()?))));
    split.unwrap_or((authority, None))
}

/// A client holds 4xx against itself, a server only 5xx, as the conventions say; and neither knows what it was when
/// there is no status.
fn is_error(entry: &Entry) -> bool {
    let (least, denied) = match entry.side {
        Side::Client => (400, entry.outcome == Some(Outcome::Denied)),
        Side::Server => (500, false),
    };
    denied || entry.outcome == Some(Outcome::Failure) || entry.status.is_none_or(|status| status >= least)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
