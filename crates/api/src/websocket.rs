//! Exec and port-forward over WebSockets: each message begins with the number of its channel.

use std::pin::Pin;
use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::node::{ContainerRef, Exec, ExecOptions, Node, Resize, TerminalSize};

/// Protocols of exec and attach, the best first.
pub(crate) const EXEC_PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Protocols of port-forward: SPDY inside of a WebSocket, or channels.
pub(crate) const PORT_PROTOCOLS: &[&str] = &["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the channel named in the next byte is closed.
const CLOSE: u8 = 255;

/// Bytes read from a process at a time.
const CHUNK: usize = 32 * 1024;
/// Messages that wait for a slow client.
const QUEUE: usize = 16;
/// Largest message of a client.
const MAX_MESSAGE: usize = 1024 * 1024;

type Outgoing = mpsc::Sender<Message>;

/// Whether the client speaks SPDY inside of the WebSocket.
pub(crate) fn is_tunnel(socket: &WebSocketUpgrade) -> bool {
    socket.selected_protocol().is_some_and(|p| p.as_bytes().starts_with(b"SPDY/"))
}

/// The result of a command, as Kubernetes says it on the error stream.
pub(crate) fn exit_status(exit: &std::io::Result<i32>) -> Value {
    match exit {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": error.to_string(), "code": 500,
        }),
    }
}

/// Joins a command to a WebSocket.
pub(crate) fn exec(socket: WebSocketUpgrade, exec: Exec, options: ExecOptions) -> Response {
    socket.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| run(socket, exec, options))
}

async fn run(socket: WebSocket, exec: Exec, options: ExecOptions) {
    let (mut sink, stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<Message>(QUEUE);
    let writer = tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    let Exec { stdin, stdout, stderr, resize, exit } = exec;
    let (to_out, to_err) = (outgoing.clone(), outgoing.clone());
    let output = async move {
        let out = options.stdout.then_some(stdout).flatten();
        let err = options.stderr.then_some(stderr).flatten();
        tokio::join!(copy_out(out, STDOUT, to_out), copy_out(err, STDERR, to_err));
        exit.await
    };
    // The client's going away ends the command: dropping it here kills it.
    let exit = tokio::select! {
        exit = output => Some(exit),
        () = incoming(stream, stdin, resize, outgoing.clone()) => None,
    };
    if let Some(exit) = exit {
        // A failed send means that the client has gone, and nobody is left to tell.
        let _ = outgoing.send(channel(ERROR, exit_status(&exit).to_string().as_bytes())).await;
        // kubectl takes a close without a code for a failure.
        let done = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::default() };
        let _ = outgoing.send(Message::Close(Some(done))).await;
    }
    drop(outgoing);
    // A client that takes nothing more for so long is left to itself.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), writer).await;
}

fn channel(number: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(number);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

async fn copy_out(from: Option<Pin<Box<dyn AsyncRead + Send>>>, number: u8, to: Outgoing) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || to.send(channel(number, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// What the client sends, until it goes away.
async fn incoming(
    mut stream: SplitStream<WebSocket>,
    mut stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    resize: Option<Resize>,
    outgoing: Outgoing,
) {
    while let Some(Ok(message)) = stream.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Ping(data) => {
                if outgoing.send(Message::Pong(data)).await.is_err() {
                    return;
                }
                continue;
            }
            Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        match data.split_first() {
            Some((&STDIN, data)) => {
                let failed = match &mut stdin {
                    Some(stdin) => stdin.write_all(data).await.is_err() || stdin.flush().await.is_err(),
                    None => false,
                };
                if failed {
                    stdin = None;
                }
            }
            Some((&RESIZE, data)) => send_size(resize.as_ref(), data),
            Some((&CLOSE, [STDIN])) => stdin = None,
            _ => {}
        }
    }
}

/// Gives a terminal its new size.
pub(crate) fn send_size(resize: Option<&Resize>, data: &[u8]) {
    let Ok(size) = serde_json::from_slice::<Value>(data) else { return };
    let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
    if let (Some(resize), Some(width), Some(height)) = (resize, side("Width"), side("Height")) {
        resize(TerminalSize { width, height });
    }
}

/// Joins ports to a WebSocket: two channels each, for data and for errors.
pub(crate) fn port_forward(
    socket: WebSocketUpgrade,
    node: Arc<dyn Node>,
    target: ContainerRef,
    ports: Vec<u16>,
) -> Response {
    socket.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| forward(socket, node, target, ports))
}

async fn forward(socket: WebSocket, node: Arc<dyn Node>, target: ContainerRef, ports: Vec<u16>) {
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<Message>(QUEUE);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut writers: Vec<Option<Pin<Box<dyn AsyncWrite + Send>>>> = Vec::new();
    for (index, port) in ports.into_iter().enumerate().take(usize::from(u8::MAX / 2)) {
        let data = index as u8 * 2;
        // The loop below ends when the client has gone; until then nobody misses what could not be sent.
        for number in [data, data + 1] {
            let _ = outgoing.send(channel(number, &port.to_le_bytes())).await;
        }
        match node.port_forward(target.clone(), port).await {
            Ok(connection) => {
                let (read, write) = tokio::io::split(connection);
                tasks.spawn(copy_out(Some(Box::pin(read)), data, outgoing.clone()));
                writers.push(Some(Box::pin(write)));
            }
            Err(error) => {
                let _ = outgoing.send(channel(data + 1, error.to_string().as_bytes())).await;
                writers.push(None);
            }
        }
    }
    while let Some(Ok(message)) = stream.next().await {
        let Message::Binary(data) = message else { continue };
        let Some((&number, data)) = data.split_first() else { continue };
        if let Some(slot) = writers.get_mut(usize::from(number / 2)).filter(|_| number % 2 == 0)
            && let Some(writer) = slot
            && writer.write_all(data).await.is_err()
        {
            *slot = None;
        }
    }
}
