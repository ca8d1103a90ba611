//! A connection whose bytes somebody is shown as they pass: `h2` does not tell all that its user has to know.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who is shown what passes.
pub(super) trait Watch: Unpin {
    /// These bytes were read; none at the end.
    fn read(&mut self, _: &[u8]) {}

    /// These bytes were written.
    fn wrote(&mut self, bytes: &[u8]);
}

/// A connection that is watched.
pub(super) struct Watched<T, W> {
    io: T,
    watch: W,
}

impl<T, W: Watch> Watched<T, W> {
    pub(super) fn new(io: T, watch: W) -> Self {
        Self { io, watch }
    }
}

impl<T: AsyncRead + Unpin, W: Watch> AsyncRead for Watched<T, W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.watch.read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin, W: Watch> AsyncWrite for Watched<T, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.watch.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, buffers))?;
        let mut left = written;
        for buffer in buffers {
            let bytes = &buffer[..left.min(buffer.len())];
            left -= bytes.len();
            self.watch.wrote(bytes);
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
