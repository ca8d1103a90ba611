//! Traces through whole proxies, to a collector that speaks OTLP.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_proxy::limits;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::collector::{Collector, Told};
use crate::mesh::{Pod, address, ok, serve};
use crate::traffic::Pair;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Sends a pod's spans for as long as the collector is there.
pub(crate) fn export(pod: &Pod, collector: &Collector) {
    let mut exporter = pod.proxy().exporter().unwrap();
    collector.runtime.spawn(async move { exporter.run().await });
}

/// The spans of one request through two proxies: the client's and the server's.
pub(crate) fn pair_of(collector: &Collector) -> [Told; 2] {
    let spans: [Told; 2] = collector.spans(2).try_into().unwrap();
    assert!(spans[0].is_client() && !spans[1].is_client(), "{spans:?}");
    assert_eq!(spans[0].trace_id(), spans[1].trace_id());
    assert_eq!(spans[1].parent(), spans[0].id(), "the server's span is the child of the client's");
    spans
}

/// Settings by which spans go to `collector`.
pub(crate) fn tracing(collector: SocketAddr, protocol: &str, samples_per_million: u32) -> serde_json::Value {
    json!({ "workload": "Deployment/shop", "tracing": {
        "endpoint": format!("http://{collector}"), "protocol": protocol, "samplesPerMillion": samples_per_million,
    }})
}

fn get(headers: &str) -> String {
    format!("GET /books?q=1 HTTP/1.1\r\nHost: web.shop:80\r\n{headers}\r\n")
}

/// The value of a header that the application received with its last request.
fn received(pair: &Pair, name: &str) -> Vec<String> {
    let request = pair.app.received().pop().unwrap();
    let values = request.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| *key == name);
    values.map(|(_, value)| value.to_owned()).collect()
}

fn a_trace_is_continued_by_both_proxies(protocol: &str) {
    let collector = Collector::start(address());
    let pair = Pair::new(|_| ok("books"));
    pair.set(&tracing(if protocol == "grpc" { collector.grpc } else { collector.http }, protocol, 0));
    export(&pair.client, &collector);
    export(&pair.server, &collector);
    let request = get(&format!("traceparent: {PARENT}\r\ntracestate: vendor=1\r\nX-After: kept\r\n"));
    assert_eq!(pair.connect().ask(request).status, 200);
    let [client, server] = pair_of(&collector);
    assert_eq!(client.trace_id(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(client.parent(), "b7ad6b7169203331");
    assert_eq!((&*client.span.trace_state, &*server.span.name, client.service()), ("vendor=1", "GET", "shop"));
    assert!(client.span.end_time_unix_nano >= client.span.start_time_unix_nano);
    let newest = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", server.id());
    assert_eq!(received(&pair, "traceparent"), [newest]);
    assert_eq!(received(&pair, "tracestate"), ["vendor=1"]);
    assert_eq!(received(&pair, "X-After"), ["kept"]);
    for told in [&client, &server] {
        assert_eq!((told.says("http.request.method"), told.says("http.response.status_code")), ("GET", "200"));
        assert_eq!((told.says("server.address"), told.says("server.port")), ("web.shop", "80"));
    }
    assert_eq!((client.says("url.full"), server.says("url.path")), ("http://web.shop:80/books", "/books"));
    assert_eq!((server.says("heddle.decision"), server.says("heddle.peer.pod")), ("allowed", "shop/client"));
    assert!(server.says("heddle.rule").starts_with("TrafficTarget shop/all"), "{server:?}");
}

#[test]
fn a_trace_is_continued_by_both_proxies_and_told_over_grpc() {
    a_trace_is_continued_by_both_proxies("grpc");
}

#[test]
fn a_trace_is_continued_by_both_proxies_and_told_over_http() {
    a_trace_is_continued_by_both_proxies("http");
}

/// Takes connections in TLS.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, from) = self.listener.accept().await.unwrap();
        (self.acceptor.accept(stream).await.unwrap(), from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[test]
fn spans_are_told_over_grpc_and_over_http_in_tls() {
    let ip = address();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![ip.to_string()]).unwrap().self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
    let mut config = config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    // Clients of gRPC and of HTTP/1 ask for the one or the other.
    config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let collector = Collector::start_on(ip, |listener| TlsListener { listener, acceptor: acceptor.clone() });
    for (address, protocol) in [(collector.grpc, "grpc"), (collector.http, "http")] {
        let pair = Pair::new(|_| ok("books"));
        let mut settings = tracing(address, protocol, 1_000_000);
        settings["tracing"]["endpoint"] = json!(format!("https://{address}"));
        settings["tracing"]["caCertificates"] = json!(certificate.pem());
        pair.set(&settings);
        export(&pair.client, &collector);
        export(&pair.server, &collector);
        assert_eq!(pair.connect().ask(get("")).status, 200);
        pair_of(&collector);
    }
}

#[test]
fn a_denied_request_is_told_with_the_decision_and_its_reason() {
    let collector = Collector::start(address());
    let pair = Pair::new(|_| ok("never"));
    let settings = tracing(collector.grpc, "grpc", 1_000_000);
    pair.set(&settings);
    pair.server.configure_with(settings, json!({ "mode": "enforce" }), json!([]));
    export(&pair.client, &collector);
    export(&pair.server, &collector);
    assert_eq!(pair.connect().ask(get("")).status, 403);
    let [client, server] = pair_of(&collector);
    assert_eq!((server.says("heddle.decision"), server.says("heddle.reason")), ("denied", "no-target"));
    assert!(server.span.status.is_none(), "a server has not failed where it refuses: {server:?}");
    assert_eq!((&*client.parent(), client.says("error.type")), ("", "403"));
    assert!(client.span.status.is_some(), "{client:?}");
}

#[test]
fn it_is_switched_while_a_connection_is_open() {
    let collector = Collector::start(address());
    let pair = Pair::new(|_| ok("books"));
    export(&pair.server, &collector);
    let (on, none) = (tracing(collector.http, "http", 1_000_000), tracing(collector.http, "http", 0));
    let mut client = pair.connect();
    for (path, settings) in [("/off", json!({})), ("/on", on.clone()), ("/none", none), ("/again", on)] {
        // Only the server's proxy is told, so that the trace begins there.
        let policy = crate::mesh::allow(&[&pair.client], false);
        pair.server.configure_with(settings, policy, json!([]));
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n"));
    }
    let paths: Vec<String> = collector.spans(2).iter().map(|told| told.says("url.path").to_owned()).collect();
    assert_eq!(paths, ["/on", "/again"]);
}

#[test]
fn a_collector_that_does_not_answer_holds_up_no_request() {
    let pair = Pair::new(|_| ok("books"));
    let silent = serve(address(), |mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {});
    pair.set(&tracing(silent, "grpc", 1_000_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut exporter = pair.client.proxy().exporter().unwrap();
    let exporting = runtime.spawn(async move { exporter.run().await });
    let mut client = pair.connect();
    // More than there is room for.
    for _ in 0..limits::SPANS + 1_000 {
        assert_eq!(client.ask(get("")).status, 200);
    }
    assert!(!exporting.is_finished());
}

#[test]
fn what_is_not_sampled_makes_no_span_and_the_decision_goes_on() {
    let pair = Pair::new(|_| ok("books"));
    pair.set(&tracing(([127, 0, 0, 1], 1).into(), "grpc", 0));
    let mut client = pair.connect();
    client.ask(get(""));
    let begun = received(&pair, "traceparent").pop().unwrap();
    assert!(begun.starts_with("00-") && begun.ends_with("-00"), "{begun}");
    let unsampled = PARENT.replace("-01", "-00");
    client.ask(get(&format!("traceparent: {unsampled}\r\n")));
    assert_eq!(received(&pair, "traceparent"), [unsampled], "as it came");
}

#[test]
fn without_tracing_the_headers_pass_as_they_are() {
    let pair = Pair::new(|_| ok("books"));
    let request = get("traceparent: nonsense\r\nTRACESTATE: a=1\r\n");
    pair.connect().ask(&request);
    assert_eq!(pair.app.received(), [request]);
}
