//! A client and an application that speak HTTP/2, and the pods between them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::mesh::{Mesh, Pod, allow, service};

/// An application. It runs on the test's own runtime.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// A request, as the application has it.
pub(crate) struct Call {
    pub(crate) request: Request<()>,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
}

/// A client's pod and a server's, with an application that may be called by the client as `shop/web`.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) app: App,
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl App {
    /// Answers each request on `ip` by `handle`.
    pub(crate) async fn start<F, R>(ip: IpAddr, handle: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::with(ip, Builder::new(), usize::MAX, handle).await
    }

    /// With settings of its own. A connection says goodbye after so many requests.
    pub(crate) async fn with<F, R>(ip: IpAddr, settings: Builder, requests: usize, handle: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, settings.clone(), requests, handle.clone()));
            }
        });
        Self { address, connections }
    }

    /// Answers every request with `body`.
    pub(crate) async fn saying(ip: IpAddr, body: &'static str) -> Self {
        Self::start(ip, move |mut call| async move {
            let mut stream = call.respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
        })
        .await
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve<F, R>(stream: TcpStream, settings: Builder, requests: usize, handle: F)
where
    F: Fn(Call) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = settings.handshake(stream).await else { return };
    let mut count = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        tokio::spawn(handle(Call { request: Request::from_parts(parts, ()), body, respond }));
        count += 1;
        if count == requests {
            connection.graceful_shutdown();
        }
    }
}

impl Pair {
    pub(crate) async fn new<F, R>(handle: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), usize::MAX, handle).await
    }

    pub(crate) async fn with<F, R>(settings: Builder, requests: usize, handle: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let mesh = Mesh::new();
        let client = mesh.pod("shop/client", &[("shop/web", 80)], &[]);
        let server = mesh.pod("shop/server", &[], &[]);
        let app = App::with(server.ip, settings, requests, handle).await;
        let endpoint = server.endpoint(app.address.port());
        let services = json!([service("shop/web", 80, "http2", &[endpoint], json!([]))]);
        client.configure(json!({ "mode": "enforce" }), services);
        server.configure(allow(&[&client], false), json!([]));
        Self { mesh, client, server, app }
    }

    /// Gives both proxies more settings.
    pub(crate) fn set(&self, settings: &Value) {
        let endpoint = self.server.endpoint(self.app.address.port());
        let services = json!([service("shop/web", 80, "http2", &[endpoint], json!([]))]);
        self.client.configure_with(settings.clone(), json!({ "mode": "enforce" }), services);
        self.server.configure_with(settings.clone(), allow(&[&self.client], false), json!([]));
    }

    pub(crate) async fn connect(&self) -> SendRequest<Bytes> {
        connect(self.client.service("shop/web", 80)).await
    }
}

pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://web.shop{path}")).body(()).unwrap()
}

/// A call of gRPC.
pub(crate) fn grpc(path: &str) -> Request<()> {
    let request = Request::post(format!("http://web.shop{path}")).header("content-type", "application/grpc+proto");
    request.header("te", "trailers").header("grpc-timeout", "20S").body(()).unwrap()
}

/// Sends a request without a body, or all of `body`.
pub(crate) async fn ask(send: &SendRequest<Bytes>, request: Request<()>, body: &'static str) -> Answer {
    let mut send = send.clone().ready().await.unwrap();
    let (response, mut stream) = send.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
    Answer::of(response.await.unwrap()).await.unwrap()
}

/// The end of a call of gRPC.
pub(crate) fn trailers(code: u16) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.into())])
}

/// The head of an answer of gRPC.
pub(crate) fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap()
}

/// Sends all of `bytes` as the receiver takes them.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap()?;
        stream.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}

/// Takes the next bytes of a body; `None` at its end.
pub(crate) async fn receive(body: &mut RecvStream) -> Option<Bytes> {
    let bytes = body.data().await?.unwrap();
    body.flow_control().release_capacity(bytes.len()).unwrap();
    Some(bytes)
}

impl Answer {
    pub(crate) async fn of(response: Response<RecvStream>) -> Result<Self, h2::Error> {
        let (head, mut stream) = response.into_parts();
        let mut body = Vec::new();
        while let Some(bytes) = stream.data().await {
            let bytes = bytes?;
            stream.flow_control().release_capacity(bytes.len())?;
            body.extend_from_slice(&bytes);
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, body: body.into(), trailers })
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("none", |value| value.to_str().unwrap())
    }

    pub(crate) fn reason(&self) -> &str {
        self.header("x-heddle-reason")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
