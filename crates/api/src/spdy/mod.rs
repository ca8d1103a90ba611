//! Exec and port-forward over SPDY/3.1, which kubectl before 1.31 speaks, and later ones inside of a WebSocket.

mod frame;
mod session;
mod tunnel;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::session::{Session, Stream};
use super::error::{Answer, Failure};
use super::node::{ContainerRef, Exec, ExecOptions, Node};
use super::websocket::{exit_status, send_size};

/// How long a client may take to open the streams it needs.
const OPENING: Duration = Duration::from_secs(30);
/// Connections to ports that one client may have open at a time.
const MAX_FORWARDS: usize = 256;
const CHUNK: usize = 32 * 1024;
const VERSION: &str = "x-stream-protocol-version";

/// The answer that makes the connection SPDY, with the first of our protocols that the client offers.
fn switch(headers: &HeaderMap, known: &[&'static str]) -> Answer<Response> {
    let offered: Vec<&str> = headers
        .get_all(VERSION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    let Some(chosen) = known.iter().find(|k| offered.contains(k)) else {
        let message = format!("unable to upgrade: {known:?} are the protocols known, the client offers {offered:?}");
        return Err(Failure::new(StatusCode::FORBIDDEN, "Forbidden", message));
    };
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    answer.insert(VERSION, HeaderValue::from_static(chosen));
    Ok(response)
}

/// Joins a command to the connection.
pub(crate) fn exec(
    upgrade: hyper::upgrade::OnUpgrade,
    headers: &HeaderMap,
    exec: Exec,
    options: ExecOptions,
) -> Answer<Response> {
    let response = switch(headers, &["v4.channel.k8s.io"])?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => run_exec(Session::start(TokioIo::new(connection)), exec, options).await,
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
    Ok(response)
}

async fn run_exec(mut session: Session, exec: Exec, options: ExecOptions) {
    let Ok(Some(mut streams)) = tokio::time::timeout(OPENING, open_streams(&mut session, &options)).await else {
        return;
    };
    let Exec { stdin, stdout, stderr, resize, exit } = exec;
    let Some(error) = streams.remove("error") else { return };
    let mut inputs = JoinSet::new();
    if let (Some(stream), Some(stdin)) = (streams.remove("stdin"), stdin) {
        inputs.spawn(copy_in(stream, stdin));
    }
    if let Some(mut stream) = streams.remove("resize") {
        inputs.spawn(async move {
            while let Some(data) = stream.receive().await {
                send_size(resize.as_ref(), &data);
            }
        });
    }
    let output = async {
        tokio::join!(copy_out(stdout, streams.remove("stdout")), copy_out(stderr, streams.remove("stderr")));
        exit.await
    };
    // Dropping the command when the client goes away ends it.
    let exit = tokio::select! {
        exit = output => exit,
        () = session.closed() => return,
    };
    let status = match &exit {
        Ok(0) => String::new(),
        exit => exit_status(exit).to_string(),
    };
    error.send(status.as_bytes()).await;
    error.finish().await;
    session.finish().await;
}

/// The streams by type, when all that the options call for are open.
async fn open_streams(session: &mut Session, options: &ExecOptions) -> Option<HashMap<String, Stream>> {
    let wanted = [true, options.stdin, options.stdout, options.stderr && !options.tty, options.tty];
    let wanted = wanted.into_iter().filter(|w| *w).count();
    let mut streams = HashMap::new();
    while streams.len() < wanted {
        let stream = session.accept().await?;
        streams.insert(stream.header("streamtype").to_owned(), stream);
    }
    Some(streams)
}

async fn copy_in(mut from: Stream, mut to: Pin<Box<dyn AsyncWrite + Send>>) {
    while let Some(data) = from.receive().await {
        if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // The reader may have gone already; then there is nobody to tell.
    let _ = to.shutdown().await;
}

async fn copy_out(from: Option<Pin<Box<dyn AsyncRead + Send>>>, to: Option<Stream>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || !to.send(&buffer[..read]).await {
            break;
        }
    }
    to.finish().await;
}

/// Forwards ports over the connection.
pub(crate) fn port_forward(
    upgrade: hyper::upgrade::OnUpgrade,
    headers: &HeaderMap,
    node: Arc<dyn Node>,
    target: ContainerRef,
) -> Answer<Response> {
    let response = switch(headers, &["portforward.k8s.io"])?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => forward(Session::start(TokioIo::new(connection)), node, target).await,
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
    Ok(response)
}

/// Forwards ports over SPDY inside of a WebSocket.
pub(crate) fn tunneled_port_forward(socket: WebSocketUpgrade, node: Arc<dyn Node>, target: ContainerRef) -> Response {
    socket.on_upgrade(move |socket| async move {
        forward(Session::start(tunnel::bytes(socket)), node, target).await;
    })
}

/// A connection is an error stream and a data stream of one request id.
async fn forward(mut session: Session, node: Arc<dyn Node>, target: ContainerRef) {
    let (mut waiting, mut running) = (HashMap::<String, Stream>::new(), JoinSet::new());
    while let Some(stream) = session.accept().await {
        while running.try_join_next().is_some() {}
        if waiting.len() + running.len() >= MAX_FORWARDS {
            stream.reset().await;
            continue;
        }
        let id = stream.header("requestid").to_owned();
        let Some(other) = waiting.remove(&id) else {
            waiting.insert(id, stream);
            continue;
        };
        let (data, error) = if stream.header("streamtype") == "data" { (stream, other) } else { (other, stream) };
        running.spawn(one_connection(node.clone(), target.clone(), data, error));
    }
}

async fn one_connection(node: Arc<dyn Node>, target: ContainerRef, mut data: Stream, error: Stream) {
    let port = data.header("port").parse::<u16>();
    let connected = match port {
        Ok(port) => node.port_forward(target, port).await.map_err(|e| e.to_string()),
        Err(_) => Err("the header `port` is not a port number".to_owned()),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(why) => {
            error.send(why.as_bytes()).await;
            error.finish().await;
            return data.finish().await;
        }
    };
    let (mut read, mut write) = tokio::io::split(connection);
    let sender = data.sender();
    let out = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || !sender.send(&buffer[..count]).await {
                break;
            }
        }
        sender.finish().await;
    };
    let into = async {
        while let Some(bytes) = data.receive().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The pod may have closed first.
        let _ = write.shutdown().await;
    };
    // When the pod has said all, the client waits for the end of the error stream before it closes its own side.
    tokio::pin!(out);
    tokio::select! {
        () = &mut out => {}
        () = into => out.await,
    }
    error.finish().await;
}

/// What waits for a slow reader, in frames.
const QUEUE: usize = 16;

fn queue<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(QUEUE)
}
