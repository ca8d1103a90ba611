//! Copies bytes both ways between two connections, with half-closes, until both directions have ended.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

use crate::io::{Conn, Transport};
use crate::limits;

/// Bytes copied, in each direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Copied {
    /// From the first connection to the second.
    pub(crate) forth: u64,
    pub(crate) back: u64,
}

/// One direction: what was read and could not be written yet.
struct Pump {
    pending: BytesMut,
    ended: bool,
    flushed: bool,
    closed: bool,
}

thread_local! {
    /// Where bytes are read, so that an idle connection owns no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::BUFFER_BYTES_MAX]);
}

/// Copies until both directions have ended, `copied` keeping count, also of a copy that fails or is dropped.
pub(crate) async fn relay<A: Transport, B: Transport>(
    mut a: Conn<A>,
    mut b: Conn<B>,
    copied: &mut Copied,
) -> io::Result<()> {
    let mut forth = Pump::new(std::mem::take(&mut a.read), a.ended);
    let mut back = Pump::new(std::mem::take(&mut b.read), b.ended);
    poll_fn(|cx| {
        let forth = forth.poll_copy(cx, &mut a.transport, &mut b.transport, &mut copied.forth)?;
        let back = back.poll_copy(cx, &mut b.transport, &mut a.transport, &mut copied.back)?;
        if forth.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

impl Pump {
    fn new(pending: BytesMut, ended: bool) -> Self {
        Self { pending, ended, flushed: true, closed: false }
    }

    fn poll_copy<R: Transport, W: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        copied: &mut u64,
    ) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_write_pending(cx, to, copied))?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            match self.poll_pass(cx, from, to, copied)? {
                Poll::Ready(()) => {}
                Poll::Pending if self.flushed => return Poll::Pending,
                Poll::Pending => {
                    self.flushed = true;
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once and writes as much of it as can be; the rest is kept.
    fn poll_pass<R: Transport, W: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        copied: &mut u64,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let mut rest = buffer.filled();
            self.ended = rest.is_empty();
            while !rest.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, rest)? else { break };
                self.count(written, copied)?;
                rest = &rest[written..];
            }
            self.pending.extend_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }

    fn poll_write_pending<W: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        copied: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
            self.count(written, copied)?;
            self.pending.advance(written);
        }
        if self.pending.capacity() > 0 {
            self.pending = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, written: usize, copied: &mut u64) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *copied += written as u64;
        self.flushed = false;
        Ok(())
    }
}
