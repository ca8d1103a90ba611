//! A SPDY session: the streams that a client opens over one connection.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::frame::{self, Frame, Reader};
use super::queue;

/// Streams open at a time.
const MAX_STREAMS: usize = 1024;

/// One connection. Dropping it closes it.
pub(super) struct Session {
    opened: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Bytes>,
    reader: JoinHandle<()>,
    writer: Option<JoinHandle<()>>,
}

/// A stream that the client opened.
pub(super) struct Stream {
    headers: Vec<(String, String)>,
    incoming: mpsc::Receiver<Bytes>,
    out: Sender,
}

/// The sending half of a stream.
#[derive(Clone)]
pub(super) struct Sender {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

impl Session {
    pub(super) fn start(connection: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(Box::pin(connection));
        let (frames, outgoing) = queue();
        let (open, opened) = queue();
        let reader = tokio::spawn(read_frames(read, open, frames.clone()));
        Session { opened, frames, reader, writer: Some(tokio::spawn(write_frames(write, outgoing))) }
    }

    /// The next stream, or none when the client has gone.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Waits until the client has gone; streams it still opens are dropped.
    pub(super) async fn closed(&mut self) {
        while self.opened.recv().await.is_some() {}
    }

    /// Says goodbye, after everything that was sent before.
    pub(super) async fn finish(mut self) {
        // A client that has gone needs no goodbye.
        let _ = self.frames.send(frame::go_away(0)).await;
        let (nothing, _) = queue();
        drop(std::mem::replace(&mut self.frames, nothing));
        self.reader.abort();
        if let Some(writer) = self.writer.take() {
            // A client that takes nothing more for so long is left to itself.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), writer).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

impl Stream {
    /// A header of the stream, or "".
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The next data, or none at the end.
    pub(super) async fn receive(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    pub(super) fn sender(&self) -> Sender {
        self.out.clone()
    }

    /// Whether the connection took it.
    pub(super) async fn send(&self, data: &[u8]) -> bool {
        self.out.send(data).await
    }

    pub(super) async fn finish(&self) {
        self.out.finish().await;
    }

    pub(super) async fn reset(&self) {
        // A connection that is closed has no streams to refuse.
        let _ = self.out.frames.send(frame::reset(self.out.id)).await;
    }
}

impl Sender {
    pub(super) async fn send(&self, data: &[u8]) -> bool {
        data.is_empty() || self.frames.send(frame::data(self.id, data, false)).await.is_ok()
    }

    pub(super) async fn finish(&self) {
        // A connection that is closed needs no end of its streams.
        let _ = self.frames.send(frame::data(self.id, &[], true)).await;
    }
}

async fn write_frames(
    mut to: WriteHalf<std::pin::Pin<Box<impl AsyncRead + AsyncWrite + Send>>>,
    mut frames: mpsc::Receiver<Bytes>,
) {
    while let Some(frame) = frames.recv().await {
        if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // The client may have closed first.
    let _ = to.shutdown().await;
}

/// Reads until the client goes, giving each stream what is sent on it. A stream that is not read holds up the others.
async fn read_frames(mut from: impl AsyncRead + Unpin, open: mpsc::Sender<Stream>, frames: mpsc::Sender<Bytes>) {
    let mut reader = Reader::new();
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut first = true;
    loop {
        let going_on = match reader.read(&mut from).await {
            Ok(Frame::Open { stream, headers, fin }) => {
                streams.retain(|_, s| !s.is_closed());
                if streams.len() >= MAX_STREAMS {
                    return;
                }
                let (data, incoming) = queue();
                if !fin {
                    streams.insert(stream, data);
                }
                let accepted = frames.send(frame::reply(stream, std::mem::take(&mut first))).await.is_ok();
                let out = Sender { id: stream, frames: frames.clone() };
                accepted && open.send(Stream { headers, incoming, out }).await.is_ok()
            }
            Ok(Frame::Data { stream, data, fin }) => {
                if let Some(to) = streams.get(&stream)
                    && (data.is_empty() || to.send(data).await.is_err() || fin)
                    && fin
                {
                    streams.remove(&stream);
                }
                true
            }
            Ok(Frame::Reset { stream }) => {
                streams.remove(&stream);
                true
            }
            Ok(Frame::Ping { id }) => frames.send(frame::pong(id)).await.is_ok(),
            Ok(Frame::Other) => true,
            Ok(Frame::GoAway) | Err(_) => false,
        };
        if !going_on {
            return;
        }
    }
}
