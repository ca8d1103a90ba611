//! The exporter, and collectors as they should not be. Time is only what the clock of the test says.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heddle_identity::Store;
use heddle_policy::{OtlpProtocol, PodName, ProxyConfig, Settings, SpiffeId, Tracing};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{ExportError, Exporter};
use crate::limits;
use crate::options::Options;
use crate::record::Entry;
use crate::snapshot::Snapshot;
use crate::worker::Shared;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What a proxy shares that sends its spans to `endpoint`.
fn shared(endpoint: &str, protocol: OtlpProtocol, ca_certificates: Option<&str>) -> Arc<Shared> {
    let shared = Shared::new(Options::example(), Vec::new(), Store::empty());
    let tracing = Tracing {
        endpoint: endpoint.into(),
        protocol,
        ca_certificates: ca_certificates.map(Arc::from),
        samples_per_million: 1_000_000,
    };
    let settings = Settings {
        pod: PodName::new("shop", "web-1"),
        workload: None,
        identity: SpiffeId::of_service_account("cluster.local", "shop", "web").unwrap(),
        cluster_domain: "cluster.local".into(),
        access_log: Default::default(),
        tracing: Some(tracing),
    };
    let config = ProxyConfig { settings: Some(Arc::new(settings)), ..ProxyConfig::default() };
    shared.config.store(Arc::new(Snapshot::new(Arc::new(config), 1)));
    shared
}

fn exported(shared: &Shared) -> u64 {
    shared.meter.spans_exported.load(Ordering::Relaxed)
}

/// Reads one request whole, of a connection in TLS or not.
async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
            let start = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            if bytes.len() >= start + length.parse::<usize>().unwrap() {
                return text;
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a whole request");
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(words).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_collector_does_not_take_is_dropped_counted_and_logged_once_until_it_is_back() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // Where there is but one, tracing asks the subscriber of the thread that logs first, which may be another test's.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);
    // Nobody listens at this port, and nobody else will.
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.bind(SocketAddr::from((LOOPBACK, 0))).unwrap();
    let address = reserved.local_addr().unwrap();
    let shared = shared(&format!("http://{address}"), OtlpProtocol::Http, None);
    let mut exporter = Exporter::new(&shared).unwrap();
    let too_many = limits::SPANS + 100;
    (0..too_many).for_each(|_| shared.spans.put(Entry::example()));
    assert_eq!(shared.spans.dropped(), 100, "as many wait as there is room for");
    let test = async {
        while shared.spans.dropped() < too_many as u64 {
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(log.count("spans do not reach the collector"), 1);
        assert_eq!(log.count("spans were dropped"), 1);
        let listener = reserved.listen(16).unwrap();
        let collector = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream).await;
                stream.write_all(OK).await.unwrap();
            }
        };
        let back = async {
            while exported(&shared) == 0 {
                shared.spans.put(Entry::example());
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = collector => {}
            () = back => {}
        }
        assert_eq!(log.count("spans reach the collector again"), 1);
        assert_eq!(log.count("spans do not reach the collector"), 1);
    };
    tokio::select! {
        () = exporter.run() => {}
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_does_not_answer_is_left_and_the_end_does_not_wait_for_it() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let shared = shared(&format!("http://{}", listener.local_addr().unwrap()), OtlpProtocol::Http, None);
    let mut exporter = Exporter::new(&shared).unwrap();
    shared.spans.put(Entry::example());
    let dropped = async {
        while shared.spans.dropped() == 0 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = exporter.run() => {}
        () = dropped => {}
    }
    shared.spans.put(Entry::example());
    let begun = tokio::time::Instant::now();
    exporter.finish().await;
    assert!(begun.elapsed() <= Duration::from_secs(2));
    assert_eq!(exported(&shared), 0);
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_not_sent_again() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let shared = shared(&format!("http://{}", listener.local_addr().unwrap()), OtlpProtocol::Http, None);
    let mut exporter = Exporter::new(&shared).unwrap();
    let collector = async {
        for answer in [&b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"[..], OK] {
            shared.spans.put(Entry::example());
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(read_request(&mut stream).await.starts_with("post /v1/traces http/1.1"));
            stream.write_all(answer).await.unwrap();
        }
        while exported(&shared) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = exporter.run() => {}
        () = collector => {}
    }
    assert_eq!((exported(&shared), shared.spans.dropped()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_ends_its_connection_is_an_answer() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let shared = shared(&format!("http://{}", listener.local_addr().unwrap()), OtlpProtocol::Http, None);
    let collector = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        }
    };
    let mut exporter = Exporter::new(&shared).unwrap();
    let sending = async {
        for _ in 0..50 {
            exporter.batch.push(Entry::example());
            assert!(exporter.send().await);
        }
    };
    tokio::select! {
        () = collector => {}
        () = sending => {}
    }
    assert_eq!(exported(&shared), 50);
}

/// An authority in PEM, and a server in TLS that it certifies for this name.
fn certified(name: &str) -> (String, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (authority.pem(), TlsAcceptor::from(Arc::new(config)))
}

async fn send_by_tls(protocol: OtlpProtocol, name: &str) -> (Result<(), ExportError>, String) {
    let (authority, acceptor) = certified(name);
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = shared(&format!("https://localhost:{port}"), protocol, Some(&authority));
    let settings = shared.config.load().config.settings.clone().unwrap();
    let mut exporter = Exporter::new(&shared).unwrap();
    exporter.batch.push(Entry::example());
    let collector = async {
        let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { return String::new() };
        let request = read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        request
    };
    tokio::join!(exporter.export(&settings), collector)
}

#[tokio::test]
async fn https_is_tls_to_a_collector_that_proves_its_name() {
    let (result, request) = send_by_tls(OtlpProtocol::Http, "localhost").await;
    result.unwrap();
    assert!(request.contains("host: localhost:"), "{request}");
    for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
        let (result, request) = send_by_tls(protocol, "elsewhere.example.org").await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(request, "");
    }
}

#[test]
fn without_authorities_that_can_be_read_there_is_no_tls() {
    let error =
        |certificates| crate::trace::tls::Tls::new("collector", "h2", Some(certificates)).err().unwrap().to_string();
    assert!(error("").contains("caCertificates"));
    assert!(error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("caCertificates"));
}
