//! A server that says everything back: gRPC messages of any type and method, and WebSocket messages; and its clients.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;

use crate::{Conversation, Echo};

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What stands before a gRPC message: a byte that says whether it is compressed, and its length.
const PREFIX: usize = 5;

// === the server ===

pub(crate) async fn run(args: Echo) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen.listen).await?;
    let app = Router::new()
        .route("/websocket", any(websocket))
        .route("/ready", any(ready))
        .route("/grpc.health.v1.Health/Check", post(healthy))
        .route("/{service}/{method}", post(grpc))
        .with_state(args.name);
    Ok(axum::serve(listener, app).await?)
}

async fn ready(State(name): State<String>) -> Response {
    ([("identity", name)], "ready\n").into_response()
}

/// Says each message back as it comes, then that all is well. Messages keep their bytes, so every method is one that
/// answers what it was asked.
async fn grpc(State(name): State<String>, request: Request) -> Response {
    let frames = request.into_body().into_data_stream().map(|data| data.map(Frame::data));
    let headers = [("content-type", "application/grpc".to_owned()), ("identity", name)];
    (headers, Body::new(StreamBody::new(frames.chain(ok())))).into_response()
}

/// The standard health check: `status: SERVING`.
async fn healthy() -> Response {
    let serving = futures::stream::once(async { Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]))) });
    ([("content-type", "application/grpc")], Body::new(StreamBody::new(serving.chain(ok())))).into_response()
}

/// The trailers of a call that went well.
fn ok() -> impl Stream<Item = Result<Frame<Bytes>, axum::Error>> {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    futures::stream::once(async { Ok(Frame::trailers(trailers)) })
}

async fn websocket(State(name): State<String>, upgrade: WebSocketUpgrade) -> Response {
    let mut response = upgrade.on_upgrade(say_back);
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert("identity", name);
    }
    response
}

async fn say_back(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

// === the clients ===

/// Sends messages over one gRPC stream, each after the answer to the one before, and prints what came of it.
pub(crate) async fn grpc_client(args: Conversation) -> anyhow::Result<()> {
    let url: hyper::Uri = args.url.parse()?;
    let stream = connect(&url).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (messages, sent) = mpsc::channel::<Bytes>(1);
    let sent = futures::stream::unfold(sent, async |mut sent| {
        let message = sent.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(message)), sent))
    });
    let request = hyper::Request::post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(Box::pin(sent)))?;
    let (head, mut body) = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??.into_parts();
    let identity = text(&head.headers, "identity");
    let mut said_back = 0;
    let mut trailers = head.headers.clone();
    if head.status.is_success() && !head.headers.contains_key("grpc-status") {
        for number in 0..args.messages {
            messages.send(framed(&format!("message {number}"))).await?;
            let answer = tokio::time::timeout(PATIENCE, message(&mut body)).await??;
            ensure!(answer == format!("message {number}"), "the answer was {answer}");
            said_back += 1;
        }
        drop(messages);
        trailers = trailing(&mut body).await?;
    }
    let report = serde_json::json!({
        "status": head.status.as_u16(), "identity": identity, "saidBack": said_back,
        "grpcStatus": text(&trailers, "grpc-status"), "reason": text(&head.headers, "x-heddle-reason"),
    });
    println!("{report}");
    Ok(())
}

/// Sends messages over one WebSocket, each after the answer to the one before, and prints what came of it.
pub(crate) async fn websocket_client(args: Conversation) -> anyhow::Result<()> {
    let url: hyper::Uri = args.url.parse()?;
    let stream = connect(&url).await?;
    let request = args.url.replacen("http://", "ws://", 1);
    let (mut socket, response) = match tokio_tungstenite::client_async(request, stream).await {
        Ok(connected) => connected,
        Err(tungstenite::Error::Http(refused)) => {
            let (status, headers) = (refused.status().as_u16(), refused.headers());
            println!("{}", serde_json::json!({ "status": status, "reason": text(headers, "x-heddle-reason") }));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    for number in 0..args.messages {
        socket.send(format!("message {number}").into()).await?;
        let answer = tokio::time::timeout(PATIENCE, socket.next()).await?.context("the server closed")??;
        ensure!(answer.to_text()? == format!("message {number}"), "the answer was {answer}");
    }
    socket.close(None).await?;
    let identity = text(response.headers(), "identity");
    println!("{}", serde_json::json!({ "status": 101, "identity": identity, "saidBack": args.messages }));
    Ok(())
}

async fn connect(url: &hyper::Uri) -> anyhow::Result<TcpStream> {
    let host = url.host().context("the URL names no host")?;
    let address = (host, url.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {host}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A text as a gRPC message.
fn framed(text: &str) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    message.put_slice(text.as_bytes());
    message.freeze()
}

/// The next gRPC message of a body, which must be a text.
async fn message(body: &mut Incoming) -> anyhow::Result<String> {
    let mut received = BytesMut::new();
    while received.len() < PREFIX || received.len() < PREFIX + length(&received) {
        let frame = body.frame().await.context("the stream ended before the answer")??;
        let Ok(data) = frame.into_data() else { bail!("trailers came before the answer") };
        received.put(data);
    }
    received.advance(PREFIX);
    Ok(String::from_utf8(received.to_vec())?)
}

fn length(message: &[u8]) -> usize {
    message[1..PREFIX].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// What stands after the last message.
async fn trailing(body: &mut Incoming) -> anyhow::Result<HeaderMap> {
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await? {
        if let Ok(trailers) = frame?.into_trailers() {
            return Ok(trailers);
        }
    }
    bail!("the stream ended without trailers")
}
