//! One end of a stream: reads, writes and half-closes like a socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::ResetCode;
use super::session::{Session, State, StreamState};
use crate::limits;

/// A stream of a [`Session`]. Dropped before both sides have ended it, it is reset.
pub(crate) struct Stream {
    session: Session,
    id: u32,
}

impl Stream {
    pub(super) fn new(session: Session, id: u32) -> Self {
        Self { session, id }
    }

    /// Ready when a read would not wait.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.session.0.borrow_mut();
        let closed = state.closed;
        match state.streams.get_mut(&self.id) {
            Some(stream) => stream.poll_readable(closed, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ready when the peer has reset the stream, or the connection is closed. Waits in the place of a reader.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.session.0.borrow_mut();
        let closed = state.closed;
        match state.streams.get_mut(&self.id) {
            Some(stream) if stream.reset.is_none() && !closed => {
                stream.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Resets the stream, saying why.
    pub(crate) fn reset(self, code: ResetCode) {
        self.session.0.borrow_mut().release(self.id, code);
    }

    /// Tells the peer that the application has seen nothing of the stream; false when it could not believe it, as
    /// something has been said already. There is nothing left to do with a stream that was refused.
    pub(crate) fn refuse(&mut self) -> bool {
        let mut state = self.session.0.borrow_mut();
        let spoke = state.streams.get(&self.id).is_some_and(|stream| stream.spoke);
        if !spoke {
            state.release(self.id, ResetCode::Refused);
        }
        !spoke
    }
}

impl StreamState {
    fn poll_readable(&mut self, closed: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.received.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.ended_by_peer {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.reset_error() {
            return Poll::Ready(Err(error));
        }
        if closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// How many bytes may be written now.
    fn poll_credit(&mut self, closed: bool, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(error) = self.reset_error() {
            return Poll::Ready(Err(error));
        }
        if closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.credit > 0 {
            return Poll::Ready(Ok(self.credit as usize));
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.session.0.borrow_mut();
        let closed = state.closed;
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        ready!(stream.poll_readable(closed, cx))?;
        let taken = stream.received.len().min(buffer.remaining());
        buffer.put_slice(&stream.received[..taken]);
        if taken > 0 {
            state.take(self.id, taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    /// Queues what credit and the connection's queue allow.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut guard = this.session.0.borrow_mut();
        let state: &mut State = &mut guard;
        let Some(stream) = state.streams.get_mut(&this.id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let credit = ready!(stream.poll_credit(state.closed, cx))?;
        if state.unsent() >= limits::QUEUED_BYTES {
            state.wait_for_room(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(credit)];
        let mut taken = 0;
        while taken < bytes.len() {
            taken += state.queue_data(this.id, &bytes[taken..]);
        }
        if let Some(stream) = state.streams.get_mut(&this.id) {
            stream.credit -= taken as u32;
            stream.spoke = true;
        }
        Poll::Ready(Ok(taken))
    }

    /// The driver flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.session.0.borrow_mut();
        if let Some(stream) = state.streams.get_mut(&self.id)
            && !stream.ended
        {
            stream.ended = true;
            if stream.reset.is_none() {
                state.queue_end(self.id);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.0.borrow_mut().release(self.id, ResetCode::Cancelled);
    }
}
