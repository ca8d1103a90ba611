//! The state of one multiplexed connection, shared by its driver and its streams on one thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use bytes::BytesMut;
use heddle_policy::Reason;

use super::frame::{Frame, InvalidFrame, Open, ResetCode, extend};
use super::stream::Stream;
use crate::abandoned::Abandoned;
use crate::limits;

/// A handle to a multiplexed connection. The connection lives as long as its [`Driver`](super::Driver) runs.
#[derive(Clone)]
pub(crate) struct Session(pub(super) Rc<RefCell<State>>);

/// Why no stream was opened: nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpenError {
    /// As many streams are open as may be.
    Full,
    /// The connection is closed, or its end has been announced.
    Closed,
}

/// What the peer did against the protocol. The connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Frame(#[from] InvalidFrame),
    #[error("a frame for stream {0}, which was never opened")]
    UnknownStream(u32),
    #[error("stream {0} was opened out of order, by a server, or after the end was announced")]
    Open(u32),
    #[error("more data on stream {0} than it has credit for, or data after its end")]
    Data(u32),
    #[error("too many streams were abandoned")]
    Flood,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Client,
    Server,
}

pub(super) struct State {
    pub(super) role: Role,
    /// Frames to be sent; those before `written` have been.
    pub(super) queued: Vec<u8>,
    pub(super) written: usize,
    /// Bytes sent before those in `queued`.
    sent_before: u64,
    /// The last frame queued, when it is data of which nothing has been sent: its stream, and where it begins.
    last_data: Option<(u32, usize)>,
    pub(super) streams: HashMap<u32, StreamState, BuildHasherDefault<IdHasher>>,
    /// The largest id of a stream opened so far.
    last_id: u32,
    /// Whether each side has announced the end.
    pub(super) going_away: bool,
    pub(super) peer_going_away: bool,
    /// Streams that the peer reset.
    abandoned: Abandoned,
    pub(super) closed: bool,
    pub(super) driver: Option<Waker>,
    /// Writers that wait for `queued` to shrink.
    waiting: Vec<Waker>,
}

/// One stream, seen from this side.
#[derive(Default)]
pub(super) struct StreamState {
    /// Received and not yet read.
    pub(super) received: BytesMut,
    /// What the peer may still send, and what was read since it was last told of more.
    window: u32,
    taken: u32,
    pub(super) ended_by_peer: bool,
    pub(super) ended: bool,
    /// Whether this side has sent any data.
    pub(super) spoke: bool,
    pub(super) reset: Option<ResetCode>,
    /// Where the frame that opens it ends among all bytes ever sent; absent for a stream that the peer opened.
    opened_at: Option<u64>,
    /// What may still be sent.
    pub(super) credit: u32,
    /// Who waits for something to read, or for a reset.
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// Ids of streams are small numbers that no attacker gains from choosing: they are their own hash.
#[derive(Default)]
pub(super) struct IdHasher(u64);

// === impl Violation ===

impl Violation {
    /// The violation that a driver's error is about; `None` when the connection broke.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    pub(crate) fn reason(self) -> Reason {
        if self == Self::Flood { Reason::Overloaded } else { Reason::BadRequest }
    }
}

// === impl Session ===

impl Session {
    pub(super) fn new(role: Role) -> Self {
        Self(Rc::new(RefCell::new(State {
            role,
            queued: Vec::new(),
            written: 0,
            sent_before: 0,
            last_data: None,
            streams: HashMap::default(),
            last_id: 0,
            going_away: false,
            peer_going_away: false,
            abandoned: Abandoned::default(),
            closed: false,
            driver: None,
            waiting: Vec::new(),
        })))
    }

    /// Opens a stream; its frame leaves with the first data.
    pub(crate) fn open(&self, open: Open) -> Result<Stream, OpenError> {
        let mut state = self.0.borrow_mut();
        if state.closed || state.going_away || state.last_id == u32::MAX {
            return Err(OpenError::Closed);
        }
        if state.streams.len() >= limits::STREAMS {
            return Err(OpenError::Full);
        }
        state.last_id += 1;
        let stream = state.last_id;
        state.queue(Frame::Open { stream, open });
        let opened_at = Some(state.sent_before + state.queued.len() as u64);
        state.streams.insert(stream, StreamState { opened_at, ..StreamState::new() });
        drop(state);
        Ok(Stream::new(self.clone(), stream))
    }

    /// Announces the end: no new streams, and the connection closes after the last of them.
    pub(crate) fn go_away(&self) {
        self.0.borrow_mut().go_away();
    }

    pub(crate) fn streams(&self) -> usize {
        self.0.borrow().streams.len()
    }

    /// How many streams have been opened so far.
    pub(crate) fn opened(&self) -> u32 {
        self.0.borrow().last_id
    }

    /// Whether a stream can be opened, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.0.borrow();
        !state.closed && !state.going_away
    }
}

// === impl State ===

impl State {
    pub(super) fn queue(&mut self, frame: Frame<'_>) {
        self.last_data = None;
        frame.write(&mut self.queued);
        self.wake_driver();
    }

    /// Queues data of a stream as far as a frame holds it, in the last frame where that is of the same stream; the
    /// number of bytes taken.
    pub(super) fn queue_data(&mut self, stream: u32, payload: &[u8]) -> usize {
        self.wake_driver();
        if let Some((last, at)) = self.last_data
            && last == stream
        {
            let taken = extend(&mut self.queued, at, payload);
            if taken > 0 {
                return taken;
            }
        }
        let payload = &payload[..payload.len().min(limits::FRAME_BYTES)];
        self.last_data = Some((stream, self.queued.len()));
        Frame::Data { stream, payload, end: false }.write(&mut self.queued);
        payload.len()
    }

    /// Ends a stream, by a mark on its last frame if that is still here.
    pub(super) fn queue_end(&mut self, stream: u32) {
        match self.last_data {
            Some((last, at)) if last == stream => super::frame::set_end(&mut self.queued[at..]),
            _ => self.queue(Frame::Data { stream, payload: &[], end: true }),
        }
        self.wake_driver();
    }

    /// Takes note that `bytes` more of what is queued have been sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.last_data = None;
        self.written += bytes;
        // Where there is always more to send the queue is never empty, and must not grow for ever.
        if self.unsent() == 0 || self.written >= limits::QUEUED_BYTES {
            self.forget_sent();
        }
        if !self.is_full() {
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }

    fn forget_sent(&mut self) {
        self.sent_before += self.written as u64;
        self.queued.drain(..self.written);
        self.written = 0;
        if self.queued.is_empty() {
            self.queued.shrink_to(limits::BUFFER_BYTES);
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.queued.len() - self.written
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsent() >= limits::QUEUED_BYTES
    }

    pub(super) fn wait_for_room(&mut self, waker: Waker) {
        self.waiting.push(waker);
    }

    pub(super) fn go_away(&mut self) {
        if !self.going_away {
            self.going_away = true;
            self.queue(Frame::GoAway);
        }
    }

    /// Whether nothing is left to do: the end is announced, no stream is open, and all is sent. A server waits for
    /// its client to have said that no streams are on their way.
    pub(super) fn is_finished(&self) -> bool {
        let no_more = self.going_away && (self.role == Role::Client || self.peer_going_away);
        no_more && self.streams.is_empty() && self.unsent() == 0
    }

    /// Applies a frame of the peer. A stream that it opens is to be handed to whoever accepts.
    pub(super) fn receive(&mut self, frame: Frame<'_>) -> Result<Option<(u32, Open)>, Violation> {
        match frame {
            Frame::Open { stream, open } => return self.accept(stream).map(|is_new| is_new.then_some((stream, open))),
            Frame::Data { stream, payload, end } => {
                if let Some(found) = self.stream(stream)? {
                    found.receive(payload, end).ok_or(Violation::Data(stream))?;
                }
            }
            Frame::Credit { stream, bytes } => {
                if let Some(found) = self.stream(stream)? {
                    found.credit = found.credit.saturating_add(bytes);
                    wake(&mut found.writer);
                }
            }
            Frame::Reset { stream, code } => {
                if let Some(found) = self.stream(stream)? {
                    found.reset = Some(code);
                    found.wake();
                    self.abandoned.add();
                }
                if self.role == Role::Server && self.abandoned.is_flood() {
                    return Err(Violation::Flood);
                }
            }
            Frame::GoAway => {
                self.peer_going_away = true;
                self.go_away();
            }
        }
        Ok(None)
    }

    fn accept(&mut self, stream: u32) -> Result<bool, Violation> {
        if self.role == Role::Client || stream <= self.last_id || self.peer_going_away {
            return Err(Violation::Open(stream));
        }
        self.last_id = stream;
        if self.streams.len() >= limits::STREAMS {
            self.queue(Frame::Reset { stream, code: ResetCode::Refused });
            return Ok(false);
        }
        self.streams.insert(stream, StreamState::new());
        Ok(true)
    }

    /// A stream by its id; `None` when it is gone, so that frames under way to it are dropped.
    fn stream(&mut self, id: u32) -> Result<Option<&mut StreamState>, Violation> {
        match self.streams.get_mut(&id) {
            None if id > self.last_id => Err(Violation::UnknownStream(id)),
            found => Ok(found),
        }
    }

    /// Takes `bytes` from the front of what a stream received, and lets the peer send as many once they are enough
    /// to be worth a frame.
    pub(super) fn take(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        bytes::Buf::advance(&mut stream.received, bytes);
        if stream.received.is_empty() {
            stream.received = BytesMut::new();
        }
        stream.taken += bytes as u32;
        if stream.taken >= limits::STREAM_CREDIT / 2 && !stream.ended_by_peer {
            let bytes = std::mem::take(&mut stream.taken);
            stream.window += bytes;
            self.queue(Frame::Credit { stream: id, bytes });
        }
    }

    /// Forgets a stream whose handle is gone; the peer is told unless both sides had ended it.
    pub(super) fn release(&mut self, id: u32, code: ResetCode) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if stream.ended_well() {
            self.abandoned.make_up();
        } else if stream.reset.is_none() && !self.closed {
            self.queue(Frame::Reset { stream: id, code });
        }
        if self.going_away && self.streams.is_empty() {
            self.wake_driver();
        }
    }

    /// Marks the connection as closed and tells everyone who waits. A stream whose opening was never sent is as good
    /// as refused: the peer knows nothing of it.
    pub(super) fn close(&mut self) {
        self.closed = true;
        let sent = self.sent_before + self.written as u64;
        for stream in self.streams.values_mut() {
            if stream.opened_at.is_some_and(|at| at > sent) {
                stream.reset = Some(ResetCode::Refused);
            }
            stream.wake();
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }

    pub(super) fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }
}

// === impl StreamState ===

impl StreamState {
    fn new() -> Self {
        Self { window: limits::STREAM_CREDIT, credit: limits::STREAM_CREDIT, ..Self::default() }
    }

    /// `None` when the peer breaks the rules of the stream.
    fn receive(&mut self, payload: &[u8], end: bool) -> Option<()> {
        if self.ended_by_peer {
            return None;
        }
        self.window = self.window.checked_sub(payload.len() as u32)?;
        self.received.extend_from_slice(payload);
        self.ended_by_peer = end;
        wake(&mut self.reader);
        Some(())
    }

    /// Whether both sides had ended the stream, or this one had when the peer reset it instead: whoever answered it
    /// in full and waited for more has lost nothing.
    fn ended_well(&self) -> bool {
        self.ended && (self.ended_by_peer || self.spoke && self.reset.is_some())
    }

    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// What reading or writing comes to once the stream is reset.
    pub(super) fn reset_error(&self) -> Option<io::Error> {
        self.reset.map(|code| match code {
            ResetCode::Cancelled => io::ErrorKind::ConnectionReset.into(),
            ResetCode::Refused => io::ErrorKind::ConnectionRefused.into(),
            ResetCode::Denied => io::ErrorKind::PermissionDenied.into(),
        })
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    /// Hash tables look at the upper bits too, so the number is spread over all of them.
    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
