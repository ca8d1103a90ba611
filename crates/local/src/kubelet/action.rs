//! What a probe or a lifecycle hook does: an HTTP request, a TCP connection, a gRPC health check, a command, a pause.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustix::process::Pid;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use super::env::Environment;
use super::process::{self, Process, Site, Streams};
use crate::namespace::NetNamespace;
use crate::net::MARK;

/// As much of an answer, or of a command's output, as is read.
const MAX_ANSWER: usize = 10 << 10;

/// An action, ready to be run.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Action {
    Http {
        tls: bool,
        host: Option<String>,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        host: Option<String>,
        port: u16,
    },
    /// The service is empty for the server as a whole.
    Grpc {
        port: u16,
        service: String,
    },
    Exec(Vec<String>),
    Sleep(Duration),
    /// It cannot be run, for this reason.
    Impossible(String),
}

/// The container that an action is about.
#[derive(Clone, Debug)]
pub struct Target {
    pub ip: Ipv4Addr,
    /// Where connections are made from; without one, from the machine's network.
    pub netns: Option<NetNamespace>,
    /// A process of the container, next to which commands run; without one they run on the machine.
    pub beside: Option<Pid>,
    pub env: Environment,
    pub working_dir: Option<PathBuf>,
}

// === impl Action ===

impl Action {
    pub(super) fn of_probe(probe: &core::Probe, container: &core::Container) -> Self {
        if let Some(grpc) = &probe.grpc {
            let service = grpc.service.clone().unwrap_or_default();
            return match u16::try_from(grpc.port) {
                Ok(port) => Self::Grpc { port, service },
                Err(_) => Self::Impossible(format!("{} is not a port", grpc.port)),
            };
        }
        Self::of(probe.http_get.as_ref(), probe.tcp_socket.as_ref(), probe.exec.as_ref(), None, container)
    }

    pub(super) fn of_hook(hook: &core::LifecycleHandler, container: &core::Container) -> Self {
        let (http, tcp) = (hook.http_get.as_ref(), hook.tcp_socket.as_ref());
        Self::of(http, tcp, hook.exec.as_ref(), hook.sleep.as_ref(), container)
    }

    fn of(
        http: Option<&core::HTTPGetAction>,
        tcp: Option<&core::TCPSocketAction>,
        exec: Option<&core::ExecAction>,
        sleep: Option<&core::SleepAction>,
        container: &core::Container,
    ) -> Self {
        if let Some(exec) = exec {
            return Self::Exec(exec.command.clone().unwrap_or_default());
        }
        if let Some(sleep) = sleep {
            return Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)));
        }
        let Some(declared) = http.map(|http| &http.port).or(tcp.map(|tcp| &tcp.port)) else {
            return Self::Impossible("it says nothing to do".to_owned());
        };
        let Some(port) = port_number(declared, container) else {
            return Self::Impossible(format!("the container has no port {declared:?}"));
        };
        match (http, tcp) {
            (Some(http), _) => Self::Http {
                tls: http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
                host: http.host.clone(),
                port,
                path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
                headers: http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
            },
            (None, tcp) => Self::Tcp { host: tcp.and_then(|tcp| tcp.host.clone()), port },
        }
    }

    /// Runs the action for at most `timeout`. The error is a sentence for an event.
    pub(super) async fn run(&self, target: &Target, timeout: Duration) -> Result<(), String> {
        let outcome = tokio::time::timeout(timeout, self.attempt(target)).await;
        outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())))
    }

    async fn attempt(&self, target: &Target) -> Result<(), String> {
        match self {
            Self::Http { tls, host, port, path, headers } => {
                let stream = connect(target, host.as_deref(), *port).await?;
                let host = host.clone().unwrap_or_else(|| target.ip.to_string());
                let request = http_request(&format!("{host}:{port}"), path, headers)?;
                match tls {
                    true => http_get(encrypt(stream, &host).await?, request).await,
                    false => http_get(stream, request).await,
                }
            }
            Self::Tcp { host, port } => connect(target, host.as_deref(), *port).await.map(drop),
            Self::Grpc { port, service } => grpc_check(connect(target, None, *port).await?, *port, service).await,
            Self::Exec(command) => execute(target, command).await,
            Self::Sleep(pause) => {
                tokio::time::sleep(*pause).await;
                Ok(())
            }
            Self::Impossible(why) => Err(why.clone()),
        }
    }
}

fn port_number(port: &IntOrString, container: &core::Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = |port: &&core::ContainerPort| port.name.as_ref() == Some(name);
            match container.ports.iter().flatten().find(named) {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// Connects from the pod's network by a socket that is not captured.
async fn connect(target: &Target, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let ip: Ipv4Addr = match host {
        None => target.ip,
        Some(host) => host.parse().map_err(|_| format!("the host `{host}` is not an IPv4 address"))?,
    };
    let address = SocketAddr::from((ip, port));
    let socket = pod_socket(target.netns.as_ref()).map_err(|error| format!("cannot make a socket: {error}"))?;
    socket.connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))
}

/// A TCP socket of a pod's network that bears the mark; of the machine's network without a namespace.
pub(super) fn pod_socket(netns: Option<&NetNamespace>) -> io::Result<TcpSocket> {
    let make = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if netns.is_some() {
            socket.set_mark(MARK)?;
        }
        Ok(socket)
    };
    let socket = match netns {
        Some(netns) => netns.run(make)?,
        None => make()?,
    };
    Ok(TcpSocket::from_std_stream(socket.into()))
}

// === HTTP ===

fn http_request(
    authority: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<http::Request<Full<Bytes>>, String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = http::Request::get(path).header(http::header::USER_AGENT, "kube-probe/heddle");
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request = request.header(http::header::HOST, authority);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Full::default()).map_err(|error| format!("the request is not valid: {error}"))
}

async fn http_get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("the request failed: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(failed);
    let outcome = match answer {
        Err(error) => Err(error),
        Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => Ok(()),
        Ok(answer) => {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map(|body| body.to_bytes());
            let body = body.unwrap_or_default();
            Err(format!("HTTP {}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim()))
        }
    };
    driver.abort();
    outcome
}

async fn encrypt(
    stream: TcpStream,
    host: &str,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is not a name for TLS"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| format!("TLS failed: {error}"))
}

/// Kubernetes does not verify who answers a probe over HTTPS: it asks whether the container answers, and nothing secret
/// is sent.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

// === gRPC ===

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

async fn grpc_check(stream: TcpStream, port: u16, service: &str) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("the gRPC call failed: {error}");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost:{port}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Full::new(frame(&HealthCheckRequest { service: service.to_owned() })))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    let status = |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    let in_head = status(answer.headers());
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    let code = body.trailers().and_then(status).or(in_head).unwrap_or_else(|| "0".to_owned());
    driver.abort();
    if code != "0" {
        return Err(format!("the gRPC health check ended with status {code}"));
    }
    match unframe(body.to_bytes()) {
        Some(HealthCheckResponse { status: SERVING }) => Ok(()),
        Some(HealthCheckResponse { status }) => Err(format!("the service is not SERVING, but in state {status}")),
        None => Err("the answer is not a health check's".to_owned()),
    }
}

/// A message with the five bytes that go before it in gRPC: not compressed, and its length.
fn frame(message: &impl prost::Message) -> Bytes {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &body].concat().into()
}

fn unframe<M: prost::Message + Default>(mut bytes: Bytes) -> Option<M> {
    let plain = bytes.has_remaining() && bytes.get_u8() == 0;
    let length = (bytes.remaining() >= 4).then(|| bytes.get_u32() as usize)?;
    (plain && bytes.remaining() >= length).then(|| M::decode(bytes.split_to(length)).ok())?
}

// === commands ===

async fn execute(target: &Target, command: &[String]) -> Result<(), String> {
    let process = Process { argv: command.to_vec(), env: target.env.clone(), working_dir: target.working_dir.clone() };
    let site = target.beside.map_or(Site::Machine(None), Site::Beside);
    let mut started = process::start(&process, &site, Streams::Piped).map_err(|error| error.to_string())?;
    let guard = KillOnDrop(&started.group);
    let output = read_output(&mut started.child).await.map_err(|error| error.to_string())?;
    drop(guard);
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = [output.stdout, output.stderr].concat();
            Err(format!(
                "`{}` ended with {}: {}",
                command.join(" "),
                output.status,
                String::from_utf8_lossy(&said).trim()
            ))
        }
    }
}

/// Kills a command that is given up on.
struct KillOnDrop<'a>(&'a process::Group);

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

async fn read_output(child: &mut tokio::process::Child) -> io::Result<Output> {
    async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(from) = from {
            from.take(MAX_ANSWER as u64).read_to_end(&mut text).await.ok();
        }
        text
    }
    let (stdout, stderr) = tokio::join!(read(child.stdout.take()), read(child.stderr.take()));
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_named_port_is_that_of_the_container() {
        let container: core::Container =
            serde_json::from_value(json!({"name": "a", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        let probe = |value| Action::of_probe(&serde_json::from_value(value).unwrap(), &container);
        assert_eq!(probe(json!({"tcpSocket": {"port": "web"}})), Action::Tcp { host: None, port: 8080 });
        assert!(matches!(probe(json!({"tcpSocket": {"port": "no"}})), Action::Impossible(_)));
        assert!(matches!(probe(json!({"httpGet": {"port": 0}})), Action::Impossible(_)));
    }

    #[test]
    fn grpc_messages_are_framed() {
        let framed = frame(&HealthCheckResponse { status: SERVING });
        assert_eq!(framed[..], [0, 0, 0, 0, 2, 8, 1]);
        assert_eq!(unframe(framed), Some(HealthCheckResponse { status: SERVING }));
        assert_eq!(unframe::<HealthCheckResponse>(Bytes::from_static(&[0, 0, 0, 0, 9, 8])), None);
        assert_eq!(unframe::<HealthCheckResponse>(Bytes::new()), None);
    }
}
