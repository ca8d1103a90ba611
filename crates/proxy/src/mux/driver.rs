//! What moves a session's frames: one future for each connection.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Frame, HEADER_BYTES, Open};
use super::session::{Role, Session, Violation};
use super::stream::Stream;
use crate::limits;

/// Reads and writes a session's frames until the connection ends.
///
/// It runs after the tasks that it woke, and writes whatever they queued at once.
pub(crate) struct Driver<T> {
    io: T,
    session: Session,
    /// The start of a frame whose rest has not arrived.
    partial: Vec<u8>,
    accept: Box<dyn FnMut(Open, Stream)>,
    flushing: bool,
}

/// Why reading stopped before the connection had nothing more.
enum Received {
    /// The peer has closed the connection.
    End,
    /// Too much waits to be sent.
    Enough,
}

thread_local! {
    /// Where frames are read, so that an idle connection owns no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 4 * (limits::FRAME_BYTES + HEADER_BYTES)]);
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// The side that opens streams.
    pub(crate) fn client(io: T) -> (Session, Self) {
        Self::new(io, Role::Client, Box::new(|_, _| {}))
    }

    /// The side that accepts them: `accept` is called with each.
    pub(crate) fn server(io: T, accept: impl FnMut(Open, Stream) + 'static) -> (Session, Self) {
        Self::new(io, Role::Server, Box::new(accept))
    }

    fn new(io: T, role: Role, accept: Box<dyn FnMut(Open, Stream)>) -> (Session, Self) {
        let session = Session::new(role);
        (session.clone(), Self { io, session, partial: Vec::new(), accept, flushing: false })
    }

    /// Reads and applies frames until there are none.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Received>> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                // What answers frames waits in the queue: a peer that does not read it is not listened to either.
                if self.session.0.borrow().unsent() >= 2 * limits::QUEUED_BYTES {
                    return Poll::Ready(Ok(Received::Enough));
                }
                let start = self.partial.len();
                scratch[..start].copy_from_slice(&self.partial);
                let mut buffer = ReadBuf::new(&mut scratch[start..]);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
                let end = start + buffer.filled().len();
                if end == start {
                    return Poll::Ready(Ok(Received::End));
                }
                let used = self.receive(&scratch[..end])?;
                self.partial.clear();
                self.partial.extend_from_slice(&scratch[used..end]);
                if self.partial.is_empty() {
                    self.partial = Vec::new();
                }
            }
        })
    }

    /// Applies the complete frames of `bytes`; the number of bytes they took.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = |violation: Violation| io::Error::new(io::ErrorKind::InvalidData, violation);
        let mut used = 0;
        while let Some((frame, length)) = Frame::parse(&bytes[used..]).map_err(|error| invalid(error.into()))? {
            used += length;
            let opened = self.session.0.borrow_mut().receive(frame).map_err(invalid)?;
            if let Some((id, open)) = opened {
                (self.accept)(open, Stream::new(self.session.clone(), id));
            }
        }
        Ok(used)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut state = self.session.0.borrow_mut();
            if state.unsent() == 0 {
                break;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &state.queued[state.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.sent(written);
            self.flushing = true;
        }
        if self.flushing {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let received = self.poll_receive(cx)?;
            // Nobody is there to be told anything. What was not sent is known not to have been.
            if let Poll::Ready(Received::End) = received {
                return Poll::Ready(Ok(()));
            }
            let sent = self.poll_send(cx)?;
            match received {
                // The queue has been sent meanwhile, so that the peer is listened to again.
                Poll::Ready(Received::Enough) if sent.is_ready() => continue,
                _ if sent.is_pending() => return Poll::Pending,
                _ => break,
            }
        }
        let finished = self.session.0.borrow().is_finished();
        if finished { Pin::new(&mut self.io).poll_shutdown(cx) } else { Poll::Pending }
    }
}

/// Ends with the connection; an error says why, when it was not in order.
impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // What is queued from here on is sent in this very turn.
        this.session.0.borrow_mut().driver = None;
        let result = this.poll_run(cx);
        let mut state = this.session.0.borrow_mut();
        match result {
            Poll::Ready(result) => {
                state.close();
                Poll::Ready(result)
            }
            Poll::Pending => {
                state.driver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A driver that is dropped, or whose task panics, leaves no stream waiting.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.session.0.try_borrow_mut() {
            state.close();
        }
    }
}
