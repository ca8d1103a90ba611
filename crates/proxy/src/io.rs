//! Connections as exchanges see them: a transport, and the bytes read from it that are not yet used.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::{limits, mux};

/// A two-way stream of bytes, and a way to wait for bytes without a buffer to hand.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether it is opened to say something at once: whoever does not is too slow, and not idle.
    const IS_OPENED_TO_SPEAK: bool = false;

    /// Ready when a read would not wait: there are bytes, an end, or an error.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the other end waits for no answer any more. That of a socket has gone when it sends no more: one that is
    /// closed and one that is half closed look alike. Nothing is told of a socket from which there is something to read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Closes a connection that policy denies.
    fn deny(self);

    /// Has the connection end with an error when it is dropped, so that its other end does not take what was cut off for
    /// complete. What it has not taken by then is lost.
    fn break_off(&self);

    /// Tells a client that can make use of it that the application has seen nothing of the connection, which is over
    /// with it; whether it was told.
    fn refuse(&mut self) -> bool {
        false
    }
}

/// A transport, and what was read ahead.
pub(crate) struct Conn<T> {
    pub(crate) transport: T,
    /// Read and not yet used. Owns no memory while it is empty.
    pub(crate) read: BytesMut,
    /// The peer has sent all it will.
    pub(crate) ended: bool,
    /// The size of the next buffer: it doubles when a read fills one.
    size: usize,
}

/// What a proxy connects to.
pub(crate) enum Upstream {
    /// A stream to another proxy.
    Mesh(mux::Stream),
    /// The application, or a server without a proxy.
    Plain(TcpStream),
}

// === impl Transport ===

impl Transport for TcpStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        match ready!(self.poll_peek(cx, &mut ReadBuf::new(&mut byte))) {
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    fn deny(self) {
        self.break_off();
    }

    fn break_off(&self) {
        // Without it the connection ends in order: that is no reason to keep it open.
        let _fails_for_no_open_socket = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Transport for mux::Stream {
    const IS_OPENED_TO_SPEAK: bool = true;

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        mux::Stream::poll_readable(self, cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_reset(cx)
    }

    fn deny(self) {
        self.reset(mux::ResetCode::Denied);
    }

    /// One that is dropped before its end is reset.
    fn break_off(&self) {}

    fn refuse(&mut self) -> bool {
        mux::Stream::refuse(self)
    }
}

impl Transport for Upstream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Mesh(stream) => stream.poll_readable(cx),
            Self::Plain(stream) => stream.poll_readable(cx),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Mesh(stream) => stream.poll_gone(cx),
            Self::Plain(stream) => stream.poll_gone(cx),
        }
    }

    fn deny(self) {
        match self {
            Self::Mesh(stream) => stream.deny(),
            Self::Plain(stream) => stream.deny(),
        }
    }

    fn break_off(&self) {
        match self {
            Self::Mesh(stream) => stream.break_off(),
            Self::Plain(stream) => stream.break_off(),
        }
    }
}

// === impl Conn ===

impl<T: Transport> Conn<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self::with_read(transport, BytesMut::new())
    }

    pub(crate) fn with_read(transport: T, read: BytesMut) -> Self {
        Self { transport, read, ended: false, size: limits::BUFFER_BYTES }
    }

    /// Reads more; 0 at the end. The buffer is made when there is something to read, and grows when reads fill it.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.read.capacity() == 0 {
            ready!(self.transport.poll_readable(cx))?;
        }
        if self.read.capacity() - self.read.len() < self.size / 4 {
            self.read.reserve(self.size);
        }
        let room = self.read.capacity() - self.read.len();
        let count = ready!(poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.read))?;
        if count == room {
            self.size = (2 * self.size).min(limits::BUFFER_BYTES_MAX);
        }
        self.ended = count == 0;
        Poll::Ready(Ok(count))
    }

    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Gives the buffer back when nothing is in it.
    pub(crate) fn release_buffer(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
            self.size = limits::BUFFER_BYTES;
        }
    }
}

// === impl Upstream ===

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Mesh(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Mesh(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
