//! Connections that reach the server: bounded in number, and past their TLS handshake in bounded time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Connections at a time: one for each proxy of a large mesh, and room for those that come back before they are
/// missed.
const MAX_CONNECTIONS: usize = 32 * 1024;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection, and its place among those that are allowed.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections until the stream is dropped. One that fails is logged, and ends alone.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) -> ReceiverStream<Result<Connection, io::Error>> {
    let (accepted, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let acceptor = TlsAcceptor::from(tls);
        while let Ok(place) = places.clone().acquire_owned().await {
            let tcp = tokio::select! {
                () = accepted.closed() => return,
                tcp = listener.accept() => tcp,
            };
            match tcp {
                Ok((tcp, _)) => drop(tokio::spawn(handshake(acceptor.clone(), tcp, place, accepted.clone()))),
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    // Such as too many open files: it will not be better at once.
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    place: OwnedSemaphorePermit,
    accepted: mpsc::Sender<Result<Connection, io::Error>>,
) {
    tcp.set_nodelay(true).ok();
    let peer = tcp.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        // An error here says that the server is gone.
        Ok(Ok(tls)) => drop(accepted.send(Ok(Connection { tls, _place: place })).await),
        Ok(Err(error)) => debug!(peer, reason = heddle_identity::explain(&error), "a TLS handshake failed"),
        Err(_) => debug!(peer, "a TLS handshake took too long"),
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
