//! Idle plain HTTP/1 connections: to the application, and to servers without a proxy.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::tasks::Panics;

/// The idle connections of one worker, by the address they lead to.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    sweeping: Cell<bool>,
    panics: Panics,
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(panics: Panics) -> Rc<Self> {
        Rc::new(Self { panics, ..Self::default() })
    }

    /// The connection used last that is still open, if any.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        std::iter::from_fn(|| connections.pop()).map(|idle| idle.stream).find(is_quiet)
    }

    /// Keeps a connection for another request, unless there are enough of them.
    pub(crate) fn put(self: &Rc<Self>, address: SocketAddr, stream: TcpStream) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(address).or_default();
        if connections.len() < limits::POOL_CONNECTIONS {
            connections.push(Idle { stream, since: Instant::now() });
        }
        drop(idle);
        self.sweep();
    }

    /// Closes what has been idle for too long, as long as anything is.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = self.clone();
        self.panics.spawn(async move {
            while !pool.idle.borrow().is_empty() {
                sleep(limits::POOL_IDLE / 2).await;
                let now = Instant::now();
                pool.idle.borrow_mut().retain(|_, connections| {
                    connections.retain(|idle| idle.since + limits::POOL_IDLE > now);
                    !connections.is_empty()
                });
            }
            pool.sweeping.set(false);
        });
    }
}

/// Whether a server has neither closed an idle connection nor sent anything on it. What the event loop has seen so
/// far tells it, without a system call in the usual case.
fn is_quiet(stream: &TcpStream) -> bool {
    match stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => true,
        Poll::Ready(_) => {
            matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        }
    }
}
