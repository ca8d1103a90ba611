//! The tasks of a worker: the panic of one ends what that task drives, and nothing else, and is counted.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use crate::{limits, mux};

/// How many tasks have panicked. Its clones count together.
#[derive(Clone, Default)]
pub(crate) struct Panics(Arc<AtomicU64>);

/// The accepted connections and requests under way.
#[derive(Default)]
pub(crate) struct Tasks {
    panics: Panics,
    running: RefCell<HashMap<u64, Running>>,
    next: Cell<u64>,
    draining: Rc<Draining>,
    sweeping: Cell<bool>,
    /// Told when the last task has ended.
    empty: Notify,
}

/// Whether the worker drains.
#[derive(Default)]
struct Draining {
    begun: Cell<bool>,
    told: Notify,
}

struct Running {
    abort: Option<AbortHandle>,
    activity: Rc<Activity>,
}

/// What a connection's task is doing: one that waits for its client's next request can be closed without loss.
pub(crate) struct Activity {
    /// The accepted connection of another proxy, when this task drives one.
    session: OnceCell<mux::Session>,
    idle: Cell<bool>,
    /// Sweeps survived while idle.
    sweeps: Cell<u32>,
    draining: Rc<Draining>,
}

/// Takes the task's entry away when the task ends, in whatever way.
struct Entry(Rc<Tasks>, u64);

impl Panics {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs `future` to its end, or to its panic: then there is no output.
    pub(crate) async fn catch<F: Future>(&self, future: F) -> Option<F::Output> {
        // What a panic leaves half done belongs to what was driven, and goes with it.
        let output = AssertUnwindSafe(future).catch_unwind().await.ok();
        if output.is_none() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        output
    }

    /// Starts a task of this thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        let panics = self.clone();
        tokio::task::spawn_local(async move { panics.catch(future).await.unwrap_or_default() })
    }
}

impl Tasks {
    pub(crate) fn new(panics: Panics) -> Rc<Self> {
        Rc::new(Self { panics, ..Self::default() })
    }

    /// Runs a connection.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, run: impl FnOnce(Rc<Activity>) -> F) {
        let id = self.next.get();
        self.next.set(id + 1);
        let activity = Rc::new(Activity::new(self.draining.clone()));
        let entry = Entry(self.clone(), id);
        let running = Running { abort: None, activity: activity.clone() };
        self.running.borrow_mut().insert(id, running);
        // Boxed, as the runtime moves a task as a whole, twice and more in its life.
        let (future, panics) = (Box::pin(run(activity)), self.panics.clone());
        let handle = tokio::task::spawn_local(async move {
            panics.catch(future).await;
            drop(entry);
        });
        if let Some(running) = self.running.borrow_mut().get_mut(&id) {
            running.abort = Some(handle.abort_handle());
        }
        self.sweep();
    }

    /// Closes connections that have been idle for too long, as long as there are any connections.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let tasks = self.clone();
        self.panics.spawn(async move {
            while tasks.count() > 0 {
                tokio::time::sleep(limits::SWEEP_INTERVAL).await;
                tasks.running.borrow().values().filter(|running| running.activity.is_stale()).for_each(Running::abort);
            }
            tasks.sweeping.set(false);
        });
    }

    pub(crate) fn count(&self) -> usize {
        self.running.borrow().len()
    }

    /// Ends what is idle, asks the rest to end with its current exchange, and waits for it.
    pub(crate) async fn drain(&self) {
        self.draining.begun.set(true);
        self.draining.told.notify_waiters();
        for running in self.running.borrow().values() {
            match running.activity.session.get() {
                Some(session) => session.go_away(),
                None if running.activity.idle.get() => running.abort(),
                None => {}
            }
        }
        while self.count() > 0 {
            self.empty.notified().await;
        }
    }
}

impl Running {
    fn abort(&self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }
}

impl Activity {
    fn new(draining: Rc<Draining>) -> Self {
        Self { session: OnceCell::new(), idle: Cell::new(false), sweeps: Cell::new(0), draining }
    }

    /// The task drives an accepted connection of another proxy, which is asked to end when the proxy drains.
    pub(crate) fn drives(&self, session: &mux::Session) {
        if self.is_draining() {
            session.go_away();
        }
        self.session.get_or_init(|| session.clone());
    }

    /// From here on the connection waits for its client's next request.
    pub(crate) fn idle(&self) {
        self.idle.set(true);
        self.sweeps.set(0);
    }

    pub(crate) fn busy(&self) {
        self.idle.set(false);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.begun.get()
    }

    /// Ready when the worker begins to drain.
    pub(crate) async fn until_draining(&self) {
        let told = self.draining.told.notified();
        if !self.is_draining() {
            told.await;
        }
    }

    /// Whether it has been idle for longer than the limit. To be asked once in each interval of the sweep.
    fn is_stale(&self) -> bool {
        let sweeps = self.sweeps.get() + 1;
        self.sweeps.set(sweeps);
        self.idle.get() && limits::SWEEP_INTERVAL * sweeps > limits::IDLE_TIMEOUT
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut running = self.0.running.borrow_mut();
        running.remove(&self.1);
        if running.is_empty() {
            self.0.empty.notify_one();
        }
    }
}
