//! A running proxy: its listeners and threads.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use heddle_identity::Store;
use heddle_policy::ProxyConfig;
use heddle_policy::telemetry::{Edge, Totals};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::dial;
use crate::options::{Entrance, Listen, Options};
use crate::snapshot::Snapshot;
use crate::trace::Exporter;
use crate::worker::{Shared, Worker};

/// A proxy that accepts traffic, on threads of its own.
pub struct Proxy {
    pub(crate) shared: Arc<Shared>,
    drain: watch::Sender<bool>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A listening socket of one worker.
type Bound = (std::net::TcpListener, Entrance);

impl Proxy {
    /// Listens and starts the workers. Traffic is refused until there is a configuration, and other proxies are until
    /// `store` has credentials.
    pub fn start(options: Options, store: Store) -> Result<Self, StartError> {
        let (listening, bound) = bind(&options)?;
        let shared = Shared::new(options, listening, store);
        let (drain, draining) = watch::channel(false);
        let mut workers = Vec::new();
        for (number, bound) in bound.into_iter().enumerate() {
            let (shared, draining) = (shared.clone(), draining.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            let run = move || {
                if let Err(error) = run_worker(shared, bound, draining) {
                    error!(%error, "a worker cannot run");
                }
            };
            workers.push(thread.spawn(run).map_err(StartError::Thread)?);
        }
        Ok(Self { shared, drain, workers: Mutex::new(workers) })
    }

    /// Where each listener is, ports chosen by the system included.
    pub fn listening(&self) -> &[Listen] {
        &self.shared.listening
    }

    /// Takes a new configuration: it decides every request from here on.
    pub fn configure(&self, config: Arc<ProxyConfig>) {
        let revision = self.shared.config.load().revision + 1;
        self.shared.config.store(Arc::new(Snapshot::new(config, revision)));
        self.shared.changes.send_replace(revision);
        info!(revision, "a configuration takes effect");
    }

    /// Every edge with its totals.
    pub fn totals(&self) -> Vec<(Edge, Totals)> {
        self.shared.meter.totals()
    }

    /// Every edge that has open connections without HTTP, and how many.
    pub fn open_connections(&self) -> Vec<(Edge, u64)> {
        self.shared.meter.open()
    }

    /// The lines of the access log, for the first who asks; without their ends.
    pub fn access_log(&self) -> Option<mpsc::Receiver<String>> {
        self.shared.access_log.reader()
    }

    /// What sends the spans, for the first who asks.
    pub fn exporter(&self) -> Option<Exporter> {
        Exporter::new(&self.shared)
    }

    /// Accepts no more, lets what is under way end, and closes the rest at the deadline. It blocks until then.
    pub fn drain(&self) {
        self.drain.send_replace(true);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // A panic outside of a connection's task: it has been printed, and there is nothing left to save.
            if worker.join().is_err() {
                error!("a worker has panicked");
            }
        }
    }
}

/// Binds every listener once for each worker: the kernel spreads connections over them.
fn bind(options: &Options) -> Result<(Vec<Listen>, Vec<Vec<Bound>>), StartError> {
    let mut listening = Vec::new();
    let mut bound: Vec<Vec<Bound>> = (0..options.workers).map(|_| Vec::new()).collect();
    for listen in &options.listen {
        let mut address = listen.address;
        for worker in &mut bound {
            let failed = |error| StartError::Listen { address, error };
            let listener = dial::listen(address).map_err(failed)?;
            address = listener.local_addr().map_err(failed)?;
            worker.push((listener, listen.entrance.clone()));
        }
        listening.push(Listen { address, entrance: listen.entrance.clone() });
    }
    Ok((listening, bound))
}

fn run_worker(shared: Arc<Shared>, bound: Vec<Bound>, draining: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let worker = Worker::new(shared);
        tokio::task::spawn_local(worker.clone().release_idle_edges());
        let mut accepting = Vec::new();
        for (listener, entrance) in bound {
            let listener = dial::register(listener)?;
            accepting.push(worker.listen(listener, entrance));
        }
        until_drained(&worker, draining, accepting).await;
        Ok(())
    })
}

async fn until_drained(
    worker: &Rc<Worker>,
    mut draining: watch::Receiver<bool>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
) {
    // An error means that the proxy was dropped: then nobody waits, and the worker ends too.
    let _told_or_dropped = draining.wait_for(|draining| *draining).await;
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    if timeout(worker.shared.options.drain, worker.tasks.drain()).await.is_err() {
        warn!(connections = worker.tasks.count(), "connections are still open at the deadline; they are closed");
    }
}
