//! A WebSocket as a plain byte stream: binary messages in and out.

use axum::extract::ws::{Message, WebSocket};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bytes between the two sides at a time.
const BUFFER: usize = 64 * 1024;

/// The stream; it ends with the WebSocket, and the other way round.
pub(super) fn bytes(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let into = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(data) if write.write_all(&data).await.is_err() => return,
                    Message::Close(_) => return,
                    _ => {}
                }
            }
        };
        let out = async {
            let mut buffer = vec![0; BUFFER];
            while let Ok(count) = read.read(&mut buffer).await {
                let message = Message::Binary(bytes::Bytes::copy_from_slice(&buffer[..count]));
                if count == 0 || sink.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = into => {}
            () = out => {}
        }
    });
    ours
}
