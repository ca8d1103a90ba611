//! Moves a body from one stream to another, no faster than its receiver takes it.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

/// One direction of an exchange. What was received and cannot be sent on yet waits here; its sender gets room for
/// more only when it has been sent on, so that a stream never holds more than its window.
#[derive(Default)]
pub(super) struct Copy {
    held: Bytes,
    /// Received behind `held` while that waits. Many small frames become one here.
    behind: BytesMut,
    /// Nothing more is to be received but trailers.
    ended: bool,
    /// The end has been sent on, or handed over as trailers.
    finished: bool,
    /// Bytes sent on.
    pub(super) moved: u64,
}

/// How a body ended.
pub(super) enum End {
    Plain,
    /// These have not been sent yet.
    Trailers(HeaderMap),
}

pub(super) enum CopyError {
    From(h2::Error),
    /// The receiver is gone, or takes no more.
    To,
}

impl Copy {
    /// Whether nothing has been sent on, so that all of the body can still be sent elsewhere.
    pub(super) fn is_untouched(&self) -> bool {
        self.moved == 0 && !self.finished
    }

    /// Whether something waits for the receiver to take it.
    pub(super) fn waits(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether there is nothing to send, now or later.
    pub(super) fn is_empty(&self, from: &RecvStream) -> bool {
        self.held.is_empty() && self.behind.is_empty() && from.is_end_stream()
    }

    /// Copies to the end. The end itself has been sent, unless it is trailers.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RecvStream,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Result<End, CopyError>> {
        loop {
            if self.held.is_empty() {
                self.held = self.behind.split().freeze();
            }
            if self.held.is_empty() && !self.ended {
                match ready!(from.poll_data(cx)) {
                    Some(Ok(chunk)) => self.held = chunk,
                    Some(Err(error)) => return Poll::Ready(Err(CopyError::From(error))),
                    None => self.ended = true,
                }
            }
            if self.held.is_empty() {
                match self.ended || from.is_end_stream() {
                    true => return self.poll_end(cx, from, to),
                    false => continue,
                }
            }
            match self.poll_send(cx, from, to) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(End::Plain)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.gather(cx, from)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Sends as much of what is held as there is room for; whether that was the body's end.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RecvStream,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Result<bool, CopyError>> {
        to.reserve_capacity(self.held.len());
        let room = match to.capacity() {
            0 => match ready!(to.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Poll::Ready(Err(CopyError::To)),
            },
            room => room,
        };
        let piece = self.held.split_to(room.min(self.held.len()));
        let (count, empty) = (piece.len(), self.held.is_empty() && self.behind.is_empty());
        let is_last = empty && from.is_end_stream();
        to.send_data(piece, is_last).map_err(|_| CopyError::To)?;
        // It fails only for more than was received.
        let _accounted = from.flow_control().release_capacity(count);
        self.moved += count as u64;
        self.finished = is_last;
        Poll::Ready(Ok(is_last))
    }

    /// Takes what arrives meanwhile out of its frames, which cost more than the bytes in them.
    fn gather(&mut self, cx: &mut Context<'_>, from: &mut RecvStream) -> Result<(), CopyError> {
        while !self.ended {
            match from.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.behind.extend_from_slice(&chunk),
                Poll::Ready(Some(Err(error))) => return Err(CopyError::From(error)),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RecvStream,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Result<End, CopyError>> {
        let trailers = ready!(from.poll_trailers(cx));
        self.finished = true;
        match trailers {
            Ok(Some(trailers)) => Poll::Ready(Ok(End::Trailers(trailers))),
            Ok(None) => {
                to.send_data(Bytes::new(), true).map_err(|_| CopyError::To)?;
                Poll::Ready(Ok(End::Plain))
            }
            Err(error) => Poll::Ready(Err(CopyError::From(error))),
        }
    }
}
