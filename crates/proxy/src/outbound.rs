//! Traffic of the workload: captured, or handed over by it.
//!
//! ```text
//! accept -> original destination -> name -> route::find -> split::pick -> balance -> TLS -> peer
//! ```

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{Protocol, Reason, ServiceName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::debug;

use crate::authority::Authority;
use crate::balance::{Cluster, Load, Member};
use crate::detect::{Detected, detect};
use crate::dial::captured_destination;
use crate::http1::{self, End, Handler, Refusal, Request};
use crate::http2;
use crate::io::{Conn, Upstream};
use crate::limits;
use crate::meter::Counters;
use crate::mux::{Kind, Open};
use crate::relay::{Copied, relay};
use crate::tasks::Activity;
use crate::upstream::Lease;
use crate::view::{Destination, Target, View};
use crate::worker::Worker;

/// Requests of one client connection.
struct Outbound {
    worker: Rc<Worker>,
    destination: Goal,
    /// What the destination was last found to be.
    found: Option<(Rc<View>, Target)>,
}

/// Who names the destination of requests.
enum Goal {
    /// The connection, once for all.
    Fixed(Destination),
    /// Each request, as clients of an HTTP proxy do. The one named last.
    EachRequest(Option<(String, Destination)>),
}

/// Where a request goes.
pub(crate) enum Plan {
    Cluster(Rc<Cluster>),
    /// A server outside the mesh, reached in plaintext.
    Outside(Authority),
}

/// A way to a member of a cluster.
pub(crate) struct Reached<W> {
    pub(crate) way: W,
    pub(crate) counters: Arc<Counters>,
    pub(crate) load: Load,
}

/// A connection that was captured on its way out of the workload.
pub(crate) async fn captured(worker: &Rc<Worker>, stream: TcpStream, activity: &Activity) {
    let Some(destination) = captured_destination(&stream) else {
        return debug!("a connection to the port of captured traffic was not captured");
    };
    connection(worker, Conn::new(stream), Destination::Address(destination), activity).await;
}

/// A connection to a listener that stands for one port of a Service.
pub(crate) async fn service(
    worker: &Rc<Worker>,
    stream: TcpStream,
    service: ServiceName,
    port: u16,
    activity: &Activity,
) {
    connection(worker, Conn::new(stream), Destination::Service(service, port), activity).await;
}

/// A connection of a client that uses the proxy as an HTTP proxy: requests with absolute targets, and CONNECT.
pub(crate) async fn http_proxy(worker: &Rc<Worker>, mut conn: Conn<TcpStream>, activity: &Activity) {
    let mut outbound = Outbound { worker: worker.clone(), destination: Goal::EachRequest(None), found: None };
    match http1::serve(&mut conn, &mut outbound, activity).await {
        End::Closed => {}
        End::Upgraded(lease, _) => upgraded(conn, *lease).await,
        End::Tunnel(authority) => {
            let Some(authority) = Authority::parse(&authority, None) else {
                return outbound.malformed(Reason::BadRequest);
            };
            if conn.transport.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").await.is_err() {
                return;
            }
            match authority.destination(&worker.view().snapshot) {
                Some(destination) => connection(worker, conn, destination, activity).await,
                None => pass_outside(worker, conn, authority.resolve().await).await,
            }
        }
    }
}

/// One connection to one destination, by what it speaks.
async fn connection(worker: &Rc<Worker>, mut conn: Conn<TcpStream>, destination: Destination, activity: &Activity) {
    let view = worker.view();
    let target = view.find(worker, &destination);
    let is_configured = view.snapshot.config.settings.is_some();
    if let (true, Target::Unknown, Destination::Address(address)) = (is_configured, &target, &destination) {
        return pass_outside(worker, conn, Ok(*address)).await;
    }
    let protocol = target.protocol(&view.snapshot);
    let wait = match protocol {
        Protocol::Tcp | Protocol::Udp => return tcp(worker, conn, &target).await,
        Protocol::Http | Protocol::Http2 => limits::HEAD_TIMEOUT,
        Protocol::Detect => limits::DETECT_TIMEOUT,
    };
    drop(view);
    activity.idle();
    let detected = detect(&mut conn, wait).await;
    activity.busy();
    match (detected, protocol) {
        (Detected::Http2, _) => return http2::serve_outbound(worker, conn, destination, activity).await,
        (Detected::Other, Protocol::Detect) => return tcp(worker, conn, &target).await,
        // What is not HTTP where HTTP is declared is answered as such.
        _ => {}
    }
    let mut outbound = Outbound { worker: worker.clone(), destination: Goal::Fixed(destination), found: None };
    if let End::Upgraded(lease, _) = http1::serve(&mut conn, &mut outbound, activity).await {
        upgraded(conn, *lease).await;
    }
}

/// A connection that carries another protocol since a request of it said so.
async fn upgraded(conn: Conn<TcpStream>, lease: Lease) {
    let mut copied = Copied::default();
    let _either_way_it_is_over = relay(conn, lease.conn, &mut copied).await;
    lease.counters.bytes(copied.forth, copied.back);
}

/// A connection whose bytes mean nothing to the mesh.
async fn tcp(worker: &Rc<Worker>, conn: Conn<TcpStream>, target: &Target) {
    let cluster = match target.for_connection(worker) {
        Ok(cluster) => cluster,
        Err(reason) => return refuse(worker, target, reason, false),
    };
    let Ok(lease) = connect(worker, &cluster, Kind::Tcp).await else { return };
    let mut copied = Copied::default();
    let result = relay(conn, lease.conn, &mut copied).await;
    lease.counters.bytes(copied.forth, copied.back);
    lease.counters.connection(match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Outcome::Denied,
        Err(_) if copied.back == 0 => Outcome::Failure,
        _ => Outcome::Success,
    });
}

/// A connection to a server that is not of the mesh.
async fn pass_outside(worker: &Worker, conn: Conn<TcpStream>, address: io::Result<SocketAddr>) {
    let counters = worker.plain_counters(Side::Client);
    let connecting = async { worker.dialer.connect(address?).await };
    let server = match connecting.await {
        Ok(stream) => Conn::new(stream),
        Err(error) => {
            debug!(%error, "cannot connect to a server outside the mesh");
            counters.reason(Reason::ConnectFailed);
            return counters.connection(Outcome::Failure);
        }
    };
    let mut copied = Copied::default();
    let _either_way_it_is_over = relay(conn, server, &mut copied).await;
    counters.bytes(copied.forth, copied.back);
    counters.connection(Outcome::Success);
}

/// Connects to a member of the cluster.
async fn connect(worker: &Rc<Worker>, cluster: &Rc<Cluster>, kind: Kind) -> Result<Lease, Reason> {
    let open = async |member: &Member| {
        let (conn, is_pooled) = open(worker, member, kind).await?;
        Ok((conn, is_pooled.then(|| (worker.pool.clone(), member.endpoint.address))))
    };
    let Reached { way: (conn, home), counters, load } = reach(worker, cluster, kind != Kind::Tcp, open).await?;
    Ok(Lease { conn, counters, load: Some(load), home })
}

/// Finds a way to a member of the cluster by `open`: to others when it fails, as nothing has been sent.
pub(crate) async fn reach<W>(
    worker: &Worker,
    cluster: &Cluster,
    is_request: bool,
    open: impl AsyncFn(&Member) -> Result<W, Reason>,
) -> Result<Reached<W>, Reason> {
    let mut tried = Vec::new();
    let mut failed = None;
    while tried.len() < limits::ATTEMPTS.min(cluster.members.len()) {
        let Some(member) = cluster.pick(&worker.random, &tried) else { break };
        let load = Load::new(&member.health);
        let counters = || member.counters.get_or_init(|| worker.counters(edge(worker, cluster, member))).clone();
        match open(member).await {
            Ok(way) => return Ok(Reached { way, counters: counters(), load }),
            Err(reason) => {
                load.failed();
                tried.push(member.endpoint.address);
                failed = Some((reason, counters()));
            }
        }
    }
    let Some((reason, counters)) = failed else { return Err(Reason::NoEndpoint) };
    counters.reason(reason);
    if is_request {
        counters.request(Outcome::Failure)
    } else {
        counters.connection(Outcome::Failure)
    }
    Err(reason)
}

/// Opens a stream to a member's proxy, or a connection to a member that has none; whether it is from the pool of
/// connections for HTTP/1.
async fn open(worker: &Worker, member: &Member, kind: Kind) -> Result<(Conn<Upstream>, bool), Reason> {
    let address = member.endpoint.address;
    if let Some(peer) = &member.peer {
        let stream = peer.open(Open { port: address.port(), kind }).await?;
        return Ok((Conn::new(Upstream::Mesh(stream)), false));
    }
    let is_pooled = kind == Kind::Http1;
    if let (true, Some(stream)) = (is_pooled, worker.pool.take(address).filter(|_| is_pooled)) {
        return Ok((Conn::new(Upstream::Plain(stream)), true));
    }
    let stream = worker.dialer.connect(address).await.map_err(|error| {
        debug!(%address, %error, "cannot connect to an endpoint");
        Reason::ConnectFailed
    })?;
    Ok((Conn::new(Upstream::Plain(stream)), is_pooled))
}

fn edge(worker: &Worker, cluster: &Cluster, member: &Member) -> Edge {
    Edge {
        side: Side::Client,
        pod: worker.pod(),
        peer: member.endpoint.identity.clone(),
        peer_pod: Some(member.endpoint.pod.clone()),
        service: cluster.service.clone(),
        backend: cluster.backend.clone(),
    }
}

/// Counts what is refused before an endpoint is chosen.
pub(crate) fn refuse(worker: &Worker, target: &Target, reason: Reason, is_request: bool) {
    let service = match target {
        Target::Service(port) => Some(port.service().clone()),
        _ => None,
    };
    let side = Side::Client;
    let counters =
        worker.counters(Edge { side, pod: worker.pod(), peer: None, peer_pod: None, service, backend: None });
    counters.reason(reason);
    if is_request { counters.request(Outcome::Failure) } else { counters.connection(Outcome::Failure) }
}

// === impl Outbound ===

impl Outbound {
    /// What the destination is by the present configuration; `None` when it is outside the mesh.
    fn find(&mut self, request: &Request<'_, '_>) -> Result<Option<&Target>, Refusal> {
        let view = self.worker.view();
        let bad_request = Refusal::Answer(Reason::BadRequest);
        if let Goal::EachRequest(known) = &mut self.destination {
            if !request.is_absolute {
                return Err(bad_request);
            }
            let is_known = known.as_ref().is_some_and(|(authority, _)| authority == request.authority);
            if !is_known {
                self.found = None;
                let authority = Authority::parse(request.authority, Some(80)).ok_or(bad_request)?;
                *known = authority.destination(&view.snapshot).map(|found| (request.authority.to_owned(), found));
            }
        }
        let destination = match &self.destination {
            Goal::Fixed(destination) | Goal::EachRequest(Some((_, destination))) => destination,
            Goal::EachRequest(None) => return Ok(None),
        };
        let is_current = self.found.as_ref().is_some_and(|(known, _)| Rc::ptr_eq(known, &view));
        if !is_current {
            let target = view.find(&self.worker, destination);
            self.found = Some((view, target));
        }
        let is_each = matches!(self.destination, Goal::EachRequest(_));
        Ok(self
            .found
            .as_ref()
            .map(|(_, target)| target)
            .filter(|target| !is_each || !matches!(target, Target::Unknown)))
    }
}

impl Handler for Outbound {
    type Plan = Plan;

    fn decide(&mut self, request: &Request<'_, '_>) -> Result<Plan, Refusal> {
        let is_proxy = matches!(self.destination, Goal::EachRequest(_));
        if request.method == "CONNECT" {
            return Err(match is_proxy {
                true => Refusal::Tunnel(request.authority.to_owned()),
                false => Refusal::Answer(Reason::BadRequest),
            });
        }
        let worker = self.worker.clone();
        if worker.view().snapshot.config.settings.is_none() {
            self.malformed(Reason::Overloaded);
            return Err(Refusal::Answer(Reason::Overloaded));
        }
        let Some(target) = self.find(request)? else {
            let outside = Authority::parse(request.authority, Some(80)).map(Plan::Outside);
            return outside.ok_or(Refusal::Answer(Reason::BadRequest));
        };
        let chosen = request.judge(|judged| target.for_request(&worker, judged)).unwrap_or(Err(Reason::BadRequest));
        chosen.map(Plan::Cluster).map_err(|reason| {
            refuse(&worker, target, reason, true);
            Refusal::Answer(reason)
        })
    }

    async fn connect(&mut self, plan: &Plan) -> Result<Lease, Reason> {
        let authority = match plan {
            Plan::Cluster(cluster) => return connect(&self.worker, cluster, Kind::Http1).await,
            Plan::Outside(authority) => authority,
        };
        let counters = self.worker.plain_counters(Side::Client);
        let connecting = async { self.worker.dialer.connect(authority.resolve().await?).await };
        let stream = connecting.await.map_err(|error| {
            debug!(%authority, %error, "cannot connect to a server outside the mesh");
            counters.reason(Reason::ConnectFailed);
            counters.request(Outcome::Failure);
            Reason::ConnectFailed
        })?;
        Ok(Lease { conn: Conn::new(Upstream::Plain(stream)), counters, load: None, home: None })
    }

    fn malformed(&mut self, reason: Reason) {
        let counters = self.worker.plain_counters(Side::Client);
        counters.request(Outcome::Failure);
        counters.reason(reason);
    }
}
