//! Linux namespaces: a thread is moved into one, does its work there and ends.
//!
//! A socket belongs for ever to the network namespace it was made in, and a child process starts in the namespaces of
//! the thread that made it. So no process of its own is needed to act in a pod: a short-lived thread is enough.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace. It lives as long as a value of this type, a process or a socket in it does: nothing is
/// mounted, so nothing stays behind.
#[derive(Clone, Debug)]
pub struct NetNamespace(Arc<OwnedFd>);

/// Moves the calling thread into fresh namespaces.
///
/// Fails with `EPERM` without the right to make them, and with `EINVAL` for a user namespace when the process has more
/// than one thread.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "threads share their file descriptors");
    #[allow(unsafe_code, reason = "unsharing is unsafe for UnshareFlags::FILES only, which is not used")]
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Runs `work` on a thread of its own, so that the namespaces it moves into are not those of the caller. Tokio's
/// runtime, where there is one, is known to the thread.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let runtime = tokio::runtime::Handle::try_current().ok();
    let work = move || {
        let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that entered a namespace panicked")))
    })
}

// === impl NetNamespace ===

impl NetNamespace {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Ok(Self(Arc::new(File::open("/proc/thread-self/ns/net")?.into())))
    }

    /// A new namespace with nothing in it but a loopback interface, which is down.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            Self::current()
        })
    }

    /// Moves the calling thread into this namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `work` in this namespace: what it binds, connects or starts belongs there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            self.enter()?;
            work()
        })
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for NetNamespace {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
