//! Traffic of the workload: captured, or handed over by it.
//!
//! ```text
//! accept -> original destination -> name -> route::find -> split::pick -> balance -> TLS -> peer
//! ```

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{Protocol, Reason, ServiceName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::debug;

use crate::authority::Authority;
use crate::balance::{Cluster, Load};
use crate::detect::{Detected, detect, either_speaks, has_spoken};
use crate::dial::captured_destination;
use crate::http1::{self, End, Handler, Refusal, Request};
use crate::http2;
use crate::io::{Conn, Upstream};
use crate::limits;
use crate::mux::Kind;
use crate::reach::{Unreached, connect};
use crate::record::{Initiator, Record};
use crate::relay::{outcome, relay, relay_unless_refused};
use crate::tasks::Activity;
use crate::upstream::{Carried, Lease};
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
    drop(view);
    let (wait, server) = match protocol {
        Protocol::Tcp | Protocol::Udp => return Box::pin(tcp(worker, conn, &target, None)).await,
        Protocol::Http | Protocol::Http2 => (limits::HEAD_TIMEOUT, None),
        Protocol::Detect => (limits::DETECT_TIMEOUT, Box::pin(listen(worker, &mut conn, &target)).await),
    };
    if server.as_ref().is_some_and(|lease| !lease.conn.read.is_empty()) {
        return Box::pin(tcp(worker, conn, &target, server)).await;
    }
    activity.idle();
    let detected = detect(&mut conn, wait).await;
    activity.busy();
    match (detected, protocol) {
        (Detected::Http2, _) => {
            drop(server);
            return Box::pin(http2::serve_outbound(worker, conn, destination, activity)).await;
        }
        (Detected::Other, Protocol::Detect) => return Box::pin(tcp(worker, conn, &target, server)).await,
        // What is not HTTP where HTTP is declared is answered as such.
        _ => drop(server),
    }
    let mut outbound = Outbound { worker: worker.clone(), destination: Goal::Fixed(destination), found: None };
    if let End::Upgraded(lease, _) = http1::serve(&mut conn, &mut outbound, activity).await {
        upgraded(conn, *lease).await;
    }
}

/// Waits until the client speaks, or the server: it is connected to when the client is silent. What cannot be connected
/// to is found out again, and counted, once it is known what the client wants.
async fn listen(worker: &Rc<Worker>, conn: &mut Conn<TcpStream>, target: &Target) -> Option<Lease> {
    if has_spoken(conn).await {
        return None;
    }
    let cluster = target.for_connection(worker).ok()?;
    let mut lease = connect(worker, &cluster, Kind::Tcp).await.ok()?;
    either_speaks(conn, &mut lease.conn).await;
    Some(lease)
}

/// A connection that carries another protocol since a request of it said so.
async fn upgraded(mut conn: Conn<TcpStream>, lease: Lease) {
    let mut carried = Carried::upgraded(&lease.counters);
    let _either_way_it_is_over = relay(&mut conn, lease.conn, &mut carried.copied).await;
}

/// A connection whose bytes mean nothing to the mesh. `server` is where it goes to, if that is connected to already.
async fn tcp(worker: &Rc<Worker>, mut conn: Conn<TcpStream>, target: &Target, mut server: Option<Lease>) {
    let mut record = Record::of_connection(worker, Initiator::Workload);
    let cluster = match target.for_connection(worker) {
        Ok(cluster) => cluster,
        Err(reason) => {
            refused(&mut record, reason);
            return refuse(worker, target, reason, false);
        }
    };
    for attempt in 1..=limits::ATTEMPTS {
        let lease = match server.take() {
            Some(lease) => lease,
            None => match connect(worker, &cluster, Kind::Tcp).await {
                Ok(lease) => lease,
                Err(unreached) => return refused(&mut record, unreached.count_connection()),
            },
        };
        let is_last = attempt == limits::ATTEMPTS;
        if !carry(&mut conn, lease, is_last, &mut record).await {
            return;
        }
    }
}

fn refused(record: &mut Option<Box<Record>>, reason: Reason) {
    if let Some(record) = record {
        record.refused(reason);
    }
}

/// Carries a connection to a server. True when no application has seen anything of it and another may; then nothing
/// has been counted, unless this was the last.
async fn carry(conn: &mut Conn<TcpStream>, lease: Lease, is_last: bool, record: &mut Option<Box<Record>>) -> bool {
    let Lease { conn: server, counters, load, .. } = lease;
    let mut carried = Carried::connection(&counters);
    let answered = || load.iter().for_each(Load::connected);
    let result = relay_unless_refused(conn, server, &mut carried.copied, answered).await;
    let failed = || load.iter().for_each(Load::failed);
    if let Err(broken) = &result
        && broken.is_refused()
    {
        failed();
        if !is_last {
            carried.end(None);
            return true;
        }
        counters.reason(Reason::ConnectFailed);
    }
    let (outcome, copied) = (outcome(&result), carried.copied);
    carried.end(Some(outcome));
    if let Some(record) = record {
        record.closed(outcome, copied.forth, copied.back, &counters.edge);
    }
    false
}

/// A connection to a server that is not of the mesh.
async fn pass_outside(worker: &Worker, mut conn: Conn<TcpStream>, address: io::Result<SocketAddr>) {
    let mut record = Record::of_connection(worker, Initiator::Workload);
    let counters = worker.plain_counters(Side::Client);
    let connecting = async { worker.dialer.connect(address?).await };
    let server = match connecting.await {
        Ok(stream) => Conn::new(stream),
        Err(error) => {
            debug!(%error, "cannot connect to a server outside the mesh");
            refused(&mut record, Reason::ConnectFailed);
            counters.reason(Reason::ConnectFailed);
            return counters.connection(Outcome::Failure);
        }
    };
    let mut carried = Carried::connection(&counters);
    let result = relay(&mut conn, server, &mut carried.copied).await;
    let (outcome, copied) = (outcome(&result), carried.copied);
    carried.end(Some(outcome));
    if let Some(record) = &mut record {
        record.closed(outcome, copied.forth, copied.back, &counters.edge);
    }
}

/// Counts what is refused before an endpoint is chosen.
pub(crate) fn refuse(worker: &Worker, target: &Target, reason: Reason, is_request: bool) {
    let service = match target {
        Target::Service(port) => Some(port.service().clone()),
        _ => None,
    };
    let side = Side::Client;
    let edge = Edge { side, pod: worker.pod(), peer: None, peer_pod: None, service, backend: None };
    let counters = worker.counters(edge, None);
    if is_request {
        return counters.refused(reason);
    }
    counters.reason(reason);
    counters.connection(Outcome::Failure);
}

/// Counts a request that has no destination.
fn count_malformed(worker: &Worker, reason: Reason) {
    worker.plain_counters(Side::Client).refused(reason);
}

fn bad_request(worker: &Worker) -> Refusal {
    count_malformed(worker, Reason::BadRequest);
    Refusal::Answer(Reason::BadRequest)
}

// === impl Outbound ===

impl Outbound {
    /// What the destination is by the present configuration; `None` when it is outside the mesh.
    fn find(&mut self, request: &Request<'_, '_>) -> Result<Option<&Target>, Refusal> {
        let view = self.worker.view();
        if let Goal::EachRequest(known) = &mut self.destination {
            if !request.is_absolute {
                return Err(bad_request(&self.worker));
            }
            let is_known = known.as_ref().is_some_and(|(authority, _)| authority == request.authority);
            if !is_known {
                self.found = None;
                let authority = Authority::parse(request.authority, Some(80));
                let authority = authority.ok_or_else(|| bad_request(&self.worker))?;
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

    const SETTLES_PATHS: bool = false;

    fn record(&self, request: &Request<'_, '_>) -> Option<Box<Record>> {
        Record::of_request(&self.worker, Initiator::Workload, || http1::seen(request))
    }

    fn decide(&mut self, request: &Request<'_, '_>, _: Option<&mut Record>) -> Result<Plan, Refusal> {
        let worker = self.worker.clone();
        let is_configured = worker.view().snapshot.config.settings.is_some();
        let refusal = (!is_configured).then_some(Reason::Overloaded);
        if let Some(reason) = refusal.or_else(|| (!request.leaves_room()).then_some(Reason::HeadTooLarge)) {
            self.malformed(reason);
            return Err(Refusal::Answer(reason));
        }
        if request.method == "CONNECT" {
            return Err(match self.destination {
                Goal::EachRequest(_) => Refusal::Tunnel(request.authority.to_owned()),
                Goal::Fixed(_) => bad_request(&worker),
            });
        }
        let Some(target) = self.find(request)? else {
            let outside = Authority::parse(request.authority, Some(80)).map(Plan::Outside);
            return outside.ok_or_else(|| bad_request(&worker));
        };
        let chosen = request.judge(|judged| target.for_request(&worker, judged)).unwrap_or(Err(Reason::BadRequest));
        chosen.map(Plan::Cluster).map_err(|reason| {
            refuse(&worker, target, reason, true);
            Refusal::Answer(reason)
        })
    }

    async fn connect(&mut self, plan: &Plan) -> Result<Lease, Reason> {
        let authority = match plan {
            Plan::Cluster(cluster) => {
                return connect(&self.worker, cluster, Kind::Http1).await.map_err(Unreached::count_request);
            }
            Plan::Outside(authority) => authority,
        };
        let counters = self.worker.plain_counters(Side::Client);
        let connecting = async { self.worker.dialer.connect(authority.resolve().await?).await };
        let stream = connecting.await.map_err(|error| {
            debug!(%authority, %error, "cannot connect to a server outside the mesh");
            counters.refused(Reason::ConnectFailed);
            Reason::ConnectFailed
        })?;
        Ok(Lease { conn: Conn::new(Upstream::Plain(stream)), counters, load: None, home: None })
    }

    async fn revoked(&self, _: &Plan, _: &[u8]) -> Reason {
        std::future::pending().await
    }

    fn malformed(&mut self, reason: Reason) {
        count_malformed(&self.worker, reason);
    }
}
