//! One thread of the data plane, and what its connections share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use heddle_identity::Store;
use heddle_policy::telemetry::{Edge, Side};
use heddle_policy::{Endpoint, PodName, SpiffeId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use crate::balance::Health;
use crate::dial::{self, Dialer};
use crate::http2::{self, Server, Servers};
use crate::io::Conn;
use crate::meter::{Counters, Meter, plain_edge};
use crate::options::{Entrance, Listen, Options};
use crate::peers::Peer;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::random::Random;
use crate::record::Entry;
use crate::snapshot::Snapshot;
use crate::tasks::{Activity, Tasks};
use crate::view::View;
use crate::{inbound, limits, mux, outbound};

/// What all threads of a proxy share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// Where the data plane listens.
    pub(crate) listening: Vec<Listen>,
    pub(crate) config: ArcSwap<Snapshot>,
    /// The revision of the configuration, told at every change.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) store: Store,
    pub(crate) meter: Meter,
    /// Lines of the access log, without their ends.
    pub(crate) access_log: Queue<String>,
    pub(crate) spans: Queue<Entry>,
}

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) random: Random,
    /// Connections to the application and to servers without a proxy.
    pub(crate) pool: Rc<Pool>,
    /// Connections of HTTP/2: to other proxies, and servers without a proxy.
    pub(crate) http2: Servers,
    pub(crate) tasks: Rc<Tasks>,
    /// Accepted connections that are open, for the workload and of it: neither takes the other's places.
    accepted: [Rc<Cell<usize>>; 2],
    pub(crate) dialer: Dialer,
    pub(crate) acceptor: TlsAcceptor,
    view: RefCell<Rc<View>>,
    health: RefCell<HashMap<EndpointKey, Rc<Health>>>,
    peers: RefCell<HashMap<(IpAddr, SpiffeId), Rc<Peer>>>,
    counters: RefCell<HashMap<Edge, Arc<Counters>>>,
}

/// What makes an endpoint the same after a change of the configuration.
type EndpointKey = (SocketAddr, Option<SpiffeId>);

impl Shared {
    pub(crate) fn new(options: Options, listening: Vec<Listen>, store: Store) -> Arc<Self> {
        Arc::new(Self {
            options,
            listening,
            config: ArcSwap::default(),
            changes: watch::Sender::new(0),
            store,
            meter: Meter::default(),
            access_log: Queue::new(limits::ACCESS_LOG_LINES),
            spans: Queue::new(limits::SPANS),
        })
    }

    /// Whether the proxy itself listens at this address: to traffic, or with its admin end.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        let is_at =
            |own: &SocketAddr| own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified());
        self.listening.iter().map(|listen| &listen.address).chain(&self.options.admin).any(is_at)
    }
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let mut tls = heddle_identity::mutual_server(&shared.store);
        tls.alpn_protocols = vec![mux::ALPN.to_vec(), http2::ALPN.to_vec()];
        Rc::new(Self {
            random: Random::new(),
            pool: Pool::new(shared.meter.panics.clone()),
            http2: Servers::default(),
            tasks: Tasks::new(shared.meter.panics.clone()),
            accepted: Default::default(),
            dialer: Dialer { mark: shared.options.mark },
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            view: RefCell::new(Rc::new(View::new(shared.config.load_full()))),
            health: RefCell::default(),
            peers: RefCell::default(),
            counters: RefCell::default(),
            shared,
        })
    }

    /// The present configuration.
    pub(crate) fn view(&self) -> Rc<View> {
        let current = self.shared.config.load();
        let view = self.view.borrow();
        if Arc::ptr_eq(&current, &view.snapshot) {
            return view.clone();
        }
        drop(view);
        let view = Rc::new(View::new(current.clone()));
        self.forget_all_but(&view.snapshot);
        *self.view.borrow_mut() = view.clone();
        view
    }

    /// Lets go of what was known of pods that are gone.
    fn forget_all_but(&self, snapshot: &Snapshot) {
        let known = |address: SocketAddr, identity: Option<&SpiffeId>| {
            snapshot.pod_at(address).is_some_and(|pod| pod.identity.as_ref() == identity)
        };
        self.health.borrow_mut().retain(|(address, identity), _| known(*address, identity.as_ref()));
        let peers = std::mem::take(&mut *self.peers.borrow_mut());
        let kept = peers.into_iter().filter(|((ip, identity), _)| known(SocketAddr::new(*ip, 0), Some(identity)));
        *self.peers.borrow_mut() = kept.collect();
        self.http2.retain(known);
    }

    pub(crate) fn health(&self, endpoint: &Endpoint) -> Rc<Health> {
        let key = (endpoint.address, endpoint.identity.clone());
        let mut health = self.health.borrow_mut();
        health.entry(key).or_insert_with(|| Rc::new(Health::new())).clone()
    }

    /// The proxy of an endpoint's pod, if it has one.
    pub(crate) fn peer(&self, endpoint: &Endpoint) -> Option<Rc<Peer>> {
        let identity = endpoint.identity.clone()?;
        let ip = endpoint.address.ip();
        let address = SocketAddr::new(ip, self.shared.options.mesh_port);
        let mut peers = self.peers.borrow_mut();
        let peer = peers
            .entry((ip, identity.clone()))
            .or_insert_with(|| Peer::new(address, identity, &self.shared, self.dialer));
        Some(peer.clone())
    }

    /// The server of HTTP/2 that leads to an endpoint.
    pub(crate) fn http2_server(&self, endpoint: &Endpoint) -> Rc<Server> {
        self.http2.of(endpoint, &self.shared, self.dialer)
    }

    /// The counters of an edge. Beyond the bound on edges the peer's pod is left out, and beyond another all but the side,
    /// so that the backends of splits are still told apart when there have been too many pods.
    pub(crate) fn counters(&self, edge: Edge, peer_workload: Option<&Arc<str>>) -> Arc<Counters> {
        let mut known = self.counters.borrow_mut();
        if let Some(counters) = known.get(&edge) {
            return counters.clone();
        }
        let (edge, peer_workload) = match known.len() {
            ..limits::EDGES => (edge, peer_workload.cloned()),
            _ => (Edge { peer_pod: None, ..edge }, None),
        };
        let has_room = known.len() < limits::EDGES + limits::EDGES_WITHOUT_POD || known.contains_key(&edge);
        let edge = if has_room { edge } else { plain_edge(edge.side, edge.pod) };
        known.entry(edge).or_insert_with_key(|edge| self.shared.meter.counters(edge.clone(), peer_workload)).clone()
    }

    /// Lets go of the counters of edges that are told to be idle, for ever.
    pub(crate) async fn release_idle_edges(self: Rc<Self>) {
        let mut idle = self.shared.meter.idle.subscribe();
        while idle.changed().await.is_ok() {
            self.release(&idle.borrow_and_update().clone());
        }
    }

    /// Lets go of the counters of `idle` edges that nothing holds any more but this worker and the meter: nobody can
    /// count on them then.
    fn release(&self, idle: &HashSet<Edge>) {
        // The clusters of an earlier configuration hold the counters of pods that are gone.
        self.view();
        let is_held = |counters: &Arc<Counters>| Arc::strong_count(counters) > 2;
        self.counters.borrow_mut().retain(|edge, counters| is_held(counters) || !idle.contains(edge));
    }

    /// The counters of traffic whose other end is not known.
    pub(crate) fn plain_counters(&self, side: Side) -> Arc<Counters> {
        self.counters(plain_edge(side, self.pod()), None)
    }

    /// The pod that this proxy serves; a placeholder until it is known.
    pub(crate) fn pod(&self) -> PodName {
        let view = self.view();
        let settings = view.snapshot.config.settings.as_ref();
        settings.map_or_else(|| PodName::new("unknown", "unknown"), |settings| settings.pod.clone())
    }

    /// Accepts connections for ever, in a task.
    pub(crate) fn listen(self: &Rc<Self>, listener: TcpListener, entrance: Entrance) -> JoinHandle<()> {
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            // A panic ends the connection that it was about, and not the listener.
            while worker.shared.meter.panics.catch(worker.accept(&listener, &entrance)).await.is_none() {}
        })
    }

    async fn accept(self: &Rc<Self>, listener: &TcpListener, entrance: &Entrance) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.clone().start(stream, from, entrance),
                Err(error) => {
                    // Out of descriptors, most likely: others must end before one more can begin.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn start(self: Rc<Self>, stream: TcpStream, from: SocketAddr, entrance: &Entrance) {
        let accepted = &self.accepted[usize::from(entrance.is_of_workload())];
        if accepted.get() >= limits::CONNECTIONS || dial::prepare(&stream).is_err() {
            self.shared.meter.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let entrance = entrance.clone();
        let worker = self.clone();
        let open = Counted::new(&self.shared, accepted);
        self.tasks.spawn(|activity| async move {
            worker.serve(stream, from, entrance, &activity).await;
            drop(open);
        });
    }

    /// One connection, from its acceptance to its end.
    async fn serve(self: Rc<Self>, stream: TcpStream, from: SocketAddr, entrance: Entrance, activity: &Rc<Activity>) {
        match entrance {
            // The larger futures are boxed, here and below: an idle connection of HTTP/1 must not be as large as they.
            Entrance::Mesh => Box::pin(inbound::mesh(&self, stream, from, activity)).await,
            Entrance::CapturedInbound => inbound::captured(&self, stream, from, activity).await,
            Entrance::Plaintext(port) => inbound::plaintext(&self, stream, from, port, activity).await,
            Entrance::CapturedOutbound => outbound::captured(&self, stream, activity).await,
            Entrance::HttpProxy => outbound::http_proxy(&self, Conn::new(stream), activity).await,
            Entrance::Service(service, port) => outbound::service(&self, stream, service, port, activity).await,
        }
    }
}

/// Counts an accepted connection while it is open: of the proxy, and of the worker in one direction.
struct Counted(Arc<Shared>, Rc<Cell<usize>>);

impl Counted {
    fn new(shared: &Arc<Shared>, accepted: &Rc<Cell<usize>>) -> Self {
        shared.meter.connections.fetch_add(1, Ordering::Relaxed);
        accepted.set(accepted.get() + 1);
        Self(shared.clone(), accepted.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.meter.connections.fetch_sub(1, Ordering::Relaxed);
        self.1.set(self.1.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use heddle_policy::ServiceName;
    use tokio::task::LocalSet;

    use super::*;

    fn worker() -> Rc<Worker> {
        Worker::new(Shared::new(Options::example(), Vec::new(), Store::empty()))
    }

    fn edge(peer: usize) -> Edge {
        let (service, backend) = (ServiceName::new("shop", "api"), ServiceName::new("shop", "api-v1"));
        Edge {
            peer_pod: Some(PodName::new("shop", format!("api-{peer}"))),
            service: Some(service),
            backend: Some(backend),
            ..plain_edge(Side::Client, PodName::new("shop", "web-1"))
        }
    }

    #[test]
    fn where_there_is_no_room_for_a_pod_its_backend_is_still_counted() {
        let worker = worker();
        (0..limits::EDGES).for_each(|peer| drop(worker.counters(edge(peer), None)));
        let beyond = worker.counters(edge(limits::EDGES), None);
        assert_eq!(beyond.edge, Edge { peer_pod: None, ..edge(0) });
        assert!(Arc::ptr_eq(&worker.counters(edge(limits::EDGES + 1), None), &beyond));
        assert_eq!(worker.counters(edge(0), None).edge, edge(0));
        for service in 0..limits::EDGES_WITHOUT_POD {
            let service = Some(ServiceName::new("shop", service.to_string()));
            worker.counters(Edge { service, ..edge(limits::EDGES) }, None);
        }
        let plain = worker.counters(Edge { backend: None, ..edge(limits::EDGES) }, None);
        assert_eq!(plain.edge, plain_edge(Side::Client, PodName::new("shop", "web-1")));
    }

    #[tokio::test]
    async fn connections_for_the_workload_take_no_places_of_its_own() {
        let worker = worker();
        worker.accepted[0].set(limits::CONNECTIONS);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let start = async |entrance| {
            let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let (stream, from) = listener.accept().await.expect("a connection");
            worker.clone().start(stream, from, &entrance);
            client
        };
        let clients = async {
            let clients = [start(Entrance::Plaintext(80)).await, start(Entrance::HttpProxy).await];
            assert_eq!((worker.shared.meter.refused.load(Ordering::Relaxed), worker.accepted[1].get()), (1, 1));
            drop(clients);
        };
        LocalSet::new().run_until(clients).await;
    }

    #[tokio::test]
    async fn idle_edges_give_their_places_back_unless_something_counts_on_them() {
        LocalSet::new().run_until(idle_edges_give_their_places_back()).await;
    }

    async fn idle_edges_give_their_places_back() {
        let worker = worker();
        tokio::task::spawn_local(worker.clone().release_idle_edges());
        let tell_idle = async |peers: Range<usize>| {
            tokio::task::yield_now().await;
            worker.shared.meter.idle.send_replace(Arc::new(peers.map(edge).collect()));
            tokio::task::yield_now().await;
        };
        let held = worker.counters(edge(0), None);
        let open = worker.counters(edge(1), None).open();
        for peer in [2, 3] {
            worker.counters(edge(peer), None).would_deny();
        }
        tell_idle(0..3).await;
        let settled = worker.shared.meter.settle();
        let settled: Vec<_> = settled.into_iter().map(|(edge, totals)| (edge, totals.would_deny)).collect();
        assert_eq!(settled, [(edge(2), 1)]);
        // What comes back begins with zeros.
        worker.counters(edge(2), None);
        let totals = worker.shared.meter.totals();
        assert_eq!(totals.iter().map(|(_, totals)| totals.would_deny).sum::<u64>(), 1);
        drop((held, open));
        tell_idle(0..4).await;
        assert_eq!((worker.shared.meter.settle().len(), worker.counters.borrow().len()), (4, 0));
    }
}
