//! A worker's view of a snapshot: the clusters of its Services, made when first used.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use heddle_policy::{Backend, Endpoint, Headers, Pick, Protocol, Reason, Request, ServiceName, ServicePort, Split};

use crate::balance::{Cluster, Member};
use crate::limits;
use crate::random::Random;
use crate::snapshot::{PortId, Snapshot};
use crate::worker::Worker;

/// A snapshot and the worker's clusters for it.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    ports: RefCell<HashMap<PortId, Rc<PortView>>>,
    pods: RefCell<HashMap<SocketAddr, Rc<Cluster>>>,
}

/// A port of a Service, with its clusters.
pub(crate) struct PortView {
    snapshot: Arc<Snapshot>,
    id: PortId,
    own: OnceCell<Rc<Cluster>>,
    /// For each backend of each split.
    backends: Vec<Vec<OnceCell<Rc<Cluster>>>>,
}

/// Where a connection is going, whatever the configuration is at the time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// An address: a ClusterIP, a pod's, or another's.
    Address(SocketAddr),
    /// A Service, by name and port.
    Service(ServiceName, u16),
}

/// What a destination is by a snapshot.
#[derive(Clone)]
pub(crate) enum Target {
    Service(Rc<PortView>),
    /// A pod that is dialled directly: no split applies (T25).
    Pod(Rc<Cluster>),
    Unknown,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, ports: RefCell::default(), pods: RefCell::default() }
    }

    pub(crate) fn find(&self, worker: &Worker, destination: &Destination) -> Target {
        let id = match destination {
            Destination::Address(address) => self.snapshot.at_address(*address),
            Destination::Service(service, port) => self.snapshot.of_service(service, *port),
        };
        match (id, destination) {
            (Some(id), _) => Target::Service(self.port(id)),
            (None, Destination::Address(address)) => self.pod(worker, *address).map_or(Target::Unknown, Target::Pod),
            (None, Destination::Service(..)) => Target::Unknown,
        }
    }

    fn port(&self, id: PortId) -> Rc<PortView> {
        let mut ports = self.ports.borrow_mut();
        ports.entry(id).or_insert_with(|| Rc::new(PortView::new(self.snapshot.clone(), id))).clone()
    }

    fn pod(&self, worker: &Worker, address: SocketAddr) -> Option<Rc<Cluster>> {
        if let Some(known) = self.pods.borrow().get(&address) {
            return Some(known.clone());
        }
        let endpoint = self.snapshot.pod_at(address)?;
        let cluster = Rc::new(Cluster { service: None, backend: None, members: vec![member(worker, &endpoint)] });
        let mut pods = self.pods.borrow_mut();
        // A client that dials every port must not fill the memory.
        if pods.len() >= limits::EDGES {
            pods.clear();
        }
        pods.insert(address, cluster.clone());
        Some(cluster)
    }
}

impl Target {
    /// What connections to it carry, as far as it is declared.
    pub(crate) fn protocol(&self, snapshot: &Snapshot) -> Protocol {
        match self {
            Self::Service(port) => port.port().protocol,
            Self::Pod(cluster) => {
                cluster.members.first().map_or(Protocol::Detect, |pod| snapshot.protocol_at(pod.endpoint.address))
            }
            Self::Unknown => Protocol::Detect,
        }
    }

    /// The endpoints that an HTTP request goes to.
    pub(crate) fn for_request<H: Headers + ?Sized>(
        &self,
        worker: &Worker,
        request: &Request<'_, H>,
    ) -> Result<Rc<Cluster>, Reason> {
        match self {
            Self::Service(port) => port.choose(worker, port.port().split_for_request(request)),
            Self::Pod(cluster) => Ok(cluster.clone()),
            Self::Unknown => Err(Reason::NoEndpoint),
        }
    }

    /// The endpoints that a TCP connection goes to.
    pub(crate) fn for_connection(&self, worker: &Worker) -> Result<Rc<Cluster>, Reason> {
        match self {
            Self::Service(port) => port.choose(worker, port.port().split_for_connection()),
            Self::Pod(cluster) => Ok(cluster.clone()),
            Self::Unknown => Err(Reason::NoEndpoint),
        }
    }
}

impl PortView {
    fn new(snapshot: Arc<Snapshot>, id: PortId) -> Self {
        let splits = &snapshot.port(id).splits;
        let backends = splits.iter().map(|split| split.backends.iter().map(|_| OnceCell::new()).collect()).collect();
        Self { snapshot, id, own: OnceCell::new(), backends }
    }

    pub(crate) fn service(&self) -> &ServiceName {
        &self.snapshot.service(self.id).name
    }

    fn port(&self) -> &ServicePort {
        self.snapshot.port(self.id)
    }

    fn choose(&self, worker: &Worker, split: Option<&Split>) -> Result<Rc<Cluster>, Reason> {
        let cluster = match split {
            Some(split) => self.pick(worker, &worker.random, split)?,
            None => self.own.get_or_init(|| Rc::new(self.cluster(worker, None, self.port()))).clone(),
        };
        if cluster.members.is_empty() { Err(Reason::NoEndpoint) } else { Ok(cluster) }
    }

    fn pick(&self, worker: &Worker, random: &Random, split: &Split) -> Result<Rc<Cluster>, Reason> {
        let at = self.port().splits.iter().position(|other| std::ptr::eq(other, split)).ok_or(Reason::NoEndpoint)?;
        let backend_at = |backend: &Backend| split.backends.iter().position(|other| std::ptr::eq(other, backend));
        let port_of = |backend: &Backend| self.snapshot.backend(self.id, at, backend_at(backend)?);
        let ready = |backend: &Backend| port_of(backend).is_some_and(|id| !self.snapshot.port(id).endpoints.is_empty());
        match split.pick(random.next(), ready) {
            Pick::Backend(backend) => {
                let (Some(id), Some(index)) = (port_of(backend), backend_at(backend)) else {
                    return Err(Reason::NoEndpoint);
                };
                let make = || Rc::new(self.cluster(worker, Some(backend.service.clone()), self.snapshot.port(id)));
                Ok(self.backends[at][index].get_or_init(make).clone())
            }
            Pick::AllZero => Err(Reason::SplitAllZero),
            Pick::NoneReady => Err(Reason::NoEndpoint),
        }
    }

    fn cluster(&self, worker: &Worker, backend: Option<ServiceName>, port: &ServicePort) -> Cluster {
        let members = port.endpoints.iter().map(|endpoint| member(worker, endpoint)).collect();
        Cluster { service: Some(self.service().clone()), backend, members }
    }
}

fn member(worker: &Worker, endpoint: &Endpoint) -> Member {
    Member {
        endpoint: endpoint.clone(),
        health: worker.health(endpoint),
        peer: worker.peer(endpoint),
        http2: OnceCell::new(),
        counters: OnceCell::new(),
    }
}
