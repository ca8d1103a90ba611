//! Copies bytes both ways between two connections, with half-closes, until both directions have ended.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use heddle_policy::telemetry::Outcome;
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

/// Which end broke a connection off, and how.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) by: End,
    pub(crate) error: io::Error,
}

/// The ends of a relayed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

/// The connections that bytes are copied between. Also when copying is given up, neither end is left to take what it got
/// for everything.
struct Ends<'a, A: Transport, B: Transport> {
    client: &'a mut Conn<A>,
    server: Conn<B>,
    copied: &'a mut Copied,
    /// Whether each has got everything, and was told so.
    client_done: bool,
    server_done: bool,
}

/// Which side of one direction failed.
enum Fault {
    From(io::Error),
    To(io::Error),
}

/// One direction: what was read and could not be written yet.
struct Pump {
    pending: BytesMut,
    /// All that was written, as long as its receiver may refuse it.
    kept: Option<BytesMut>,
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
    client: &mut Conn<A>,
    server: Conn<B>,
    copied: &mut Copied,
) -> Result<(), Broken> {
    let mut ends = Ends::new(client, server, copied);
    let (mut forth, mut back) = (Pump::from(ends.client), Pump::from(&mut ends.server));
    poll_fn(|cx| ends.poll(cx, &mut forth, &mut back)).await
}

/// The same for a server that may still refuse the connection ([`Broken::is_refused`]): then what the client said is with
/// it again, and nothing has been copied. `answered` is called at the server's first bytes.
pub(crate) async fn relay_unless_refused<A: Transport, B: Transport>(
    client: &mut Conn<A>,
    server: Conn<B>,
    copied: &mut Copied,
    answered: impl FnOnce(),
) -> Result<(), Broken> {
    let mut ends = Ends::new(client, server, copied);
    let (mut forth, mut back) = (Pump::from(ends.client), Pump::from(&mut ends.server));
    forth.kept = Some(BytesMut::new());
    let mut answered = Some(answered);
    let result = poll_fn(|cx| {
        let result = ends.poll(cx, &mut forth, &mut back);
        if ends.copied.back > 0
            && let Some(answered) = answered.take()
        {
            forth.kept = None;
            answered();
        }
        result
    })
    .await;
    match (result, forth.kept) {
        (Err(broken), Some(mut said)) if broken.is_refused() => {
            said.unsplit(forth.pending);
            (ends.client.read, ends.client.ended) = (said, forth.ended);
            *ends.copied = Copied::default();
            Err(broken)
        }
        (Err(broken), None) if broken.is_refused() => {
            Err(Broken { error: io::ErrorKind::ConnectionReset.into(), ..broken })
        }
        (result, _) => result,
    }
}

/// What a relayed connection comes to.
pub(crate) fn outcome(result: &Result<(), Broken>) -> Outcome {
    result.as_ref().map_or_else(Broken::outcome, |()| Outcome::Success)
}

fn poll_both<A: Transport, B: Transport>(
    cx: &mut Context<'_>,
    (client, forth): (&mut Conn<A>, &mut Pump),
    (server, back): (&mut Conn<B>, &mut Pump),
    copied: &mut Copied,
) -> Poll<Result<(), Broken>> {
    let (client, server) = (&mut client.transport, &mut server.transport);
    let forth = match forth.poll_copy(cx, client, server, &mut copied.forth) {
        // The server has ended the connection in order, and takes no more: what it said before is still passed on.
        Poll::Ready(Err(Fault::To(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            forth.closed = true;
            Poll::Ready(())
        }
        polled => polled.map_err(|fault| Broken::between(End::Client, End::Server, fault))?,
    };
    let back = back.poll_copy(cx, server, client, &mut copied.back);
    let back = back.map_err(|fault| Broken::between(End::Server, End::Client, fault))?;
    if forth.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

// === impl Ends ===

impl<'a, A: Transport, B: Transport> Ends<'a, A, B> {
    fn new(client: &'a mut Conn<A>, server: Conn<B>, copied: &'a mut Copied) -> Self {
        Self { client, server, copied, client_done: false, server_done: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>, forth: &mut Pump, back: &mut Pump) -> Poll<Result<(), Broken>> {
        let result = poll_both(cx, (self.client, forth), (&mut self.server, back), self.copied);
        (self.client_done, self.server_done) = (back.closed, forth.closed);
        result
    }
}

/// Where nothing was said there is nothing to be taken for complete.
impl<A: Transport, B: Transport> Drop for Ends<'_, A, B> {
    fn drop(&mut self) {
        let has_spoken = *self.copied != Copied::default();
        if has_spoken && !self.client_done {
            self.client.transport.break_off();
        }
        if has_spoken && !self.server_done {
            self.server.transport.break_off();
        }
    }
}

// === impl Broken, Pump ===

impl Broken {
    fn between(from: End, to: End, fault: Fault) -> Self {
        match fault {
            Fault::From(error) => Self { by: from, error },
            Fault::To(error) => Self { by: to, error },
        }
    }

    /// Whether the server's proxy says that no application has seen anything of the connection.
    pub(crate) fn is_refused(&self) -> bool {
        self.by == End::Server && self.error.kind() == io::ErrorKind::ConnectionRefused
    }

    /// What the connection comes to. That its client breaks it off says nothing against the server.
    fn outcome(&self) -> Outcome {
        match (self.by, self.error.kind()) {
            (End::Server, io::ErrorKind::PermissionDenied) => Outcome::Denied,
            (End::Server, _) => Outcome::Failure,
            (End::Client, _) => Outcome::Success,
        }
    }
}

impl Pump {
    fn from<T>(conn: &mut Conn<T>) -> Self {
        Self { pending: std::mem::take(&mut conn.read), kept: None, ended: conn.ended, flushed: true, closed: false }
    }

    fn poll_copy<R: Transport, W: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        copied: &mut u64,
    ) -> Poll<Result<(), Fault>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_write_pending(cx, to, copied)).map_err(Fault::To)?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::To)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            match self.poll_pass(cx, from, to, copied)? {
                Poll::Ready(()) => {}
                Poll::Pending if self.flushed => return Poll::Pending,
                Poll::Pending => {
                    self.flushed = true;
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::To)?;
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
    ) -> Poll<Result<(), Fault>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Fault::From)?;
            let mut rest = buffer.filled();
            self.ended = rest.is_empty();
            let mut result = Ok(());
            while !rest.is_empty() && result.is_ok() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(written)) => {
                        result = self.count(&rest[..written], copied);
                        rest = &rest[written..];
                    }
                    Poll::Ready(Err(error)) => result = Err(error),
                    Poll::Pending => break,
                }
            }
            self.pending.extend_from_slice(rest);
            Poll::Ready(result.map_err(Fault::To))
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
            let written = self.pending.split_to(written);
            self.count(&written, copied)?;
        }
        if self.pending.capacity() > 0 {
            self.pending = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, written: &[u8], copied: &mut u64) -> io::Result<()> {
        if written.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *copied += written.len() as u64;
        self.flushed = false;
        match &mut self.kept {
            Some(kept) if kept.len() + written.len() <= limits::REPLAY_BYTES => kept.extend_from_slice(written),
            _ => self.kept = None,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_copy_that_is_given_up_breaks_both_connections_off_if_anything_was_said() {
        for said in [&b"said"[..], b""] {
            let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
            let mut near = Conn::new(near);
            let mut copied = Copied::default();
            tokio::select! {
                result = relay(&mut near, Conn::new(far), &mut copied) => panic!("{result:?}"),
                () = async {
                    client.write_all(said).await.unwrap();
                    server.read_exact(&mut [0; 4][..said.len()]).await.unwrap();
                } => {}
            }
            drop(near);
            let ends = [client.read(&mut [0]).await, server.read(&mut [0]).await];
            let ends = ends.map(|end| end.map_err(|error| error.kind()));
            assert_eq!(ends, [if said.is_empty() { Ok(0) } else { Err(io::ErrorKind::ConnectionReset) }; 2]);
        }
    }
}
