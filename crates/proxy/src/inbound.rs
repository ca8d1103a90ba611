//! Traffic for the workload: from other proxies, or captured in plaintext.
//!
//! ```text
//! accept -> TLS, peer -> access::check -> http | tcp -> application
//! ```

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{Peer, Protocol, Reason};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::access::{self, Admission, Passage};
use crate::detect::{Detected, detect, either_speaks, has_spoken};
use crate::dial::{captured_destination, expect_reading};
use crate::http1::{self, End, Handler, Refusal, Request};
use crate::http2;
use crate::io::{Conn, Transport, Upstream};
use crate::limits;
use crate::meter::Counters;
use crate::mux::{self, Driver, Kind, Open, ResetCode, Stream, Violation};
use crate::record::{Initiator, Record};
use crate::relay::{self, Copied, outcome, relay};
use crate::tasks::Activity;
use crate::upstream::{Carried, Lease};
use crate::worker::Worker;

/// Who is at the other end of a connection, proved or not.
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// Where a plaintext connection comes from; `None` for one of another proxy.
    pub(crate) plaintext_from: Option<IpAddr>,
    pub(crate) counters: Arc<Counters>,
}

/// A connection of a client that has proved who it is.
struct Proven {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When what it proved ends.
    expires_at: SystemTime,
    is_http2: bool,
}

/// What arrives at one port of the workload from one client.
#[derive(Clone)]
pub(crate) struct Inbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Rc<Client>,
    pub(crate) port: u16,
}

/// A connection of another proxy, and the streams in it.
pub(crate) async fn mesh(worker: &Rc<Worker>, stream: TcpStream, from: SocketAddr, activity: &Rc<Activity>) {
    let Proven { stream, peer, expires_at, is_http2 } = match prove(worker, stream).await {
        Ok(proven) => proven,
        Err(error) => {
            debug!(%from, error, "a client did not prove to be a proxy of the mesh");
            worker.shared.meter.unproven.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    let client = Client::new(worker, peer, None);
    let counters = client.counters.clone();
    if is_http2 {
        return http2::mesh(worker, stream, client, expires_at, activity).await;
    }
    let accepting = worker.clone();
    let (session, driver) = Driver::server(stream, move |open, stream| {
        // What a certificate proved ends with it. Proxies replace their connections before.
        if SystemTime::now() >= expires_at {
            return stream.reset(ResetCode::Refused);
        }
        if accepting.tasks.count() >= limits::TASKS {
            accepting.shared.meter.refused.fetch_add(1, Ordering::Relaxed);
            return stream.reset(ResetCode::Refused);
        }
        let inbound = Inbound { worker: accepting.clone(), client: client.clone(), port: open.port };
        accepting.tasks.spawn(|activity| inbound.stream(stream, open, activity));
    });
    activity.drives(&session);
    if let Err(error) = driver.await {
        debug!(%from, %error, "a connection of another proxy broke");
        if let Some(violation) = Violation::of(&error) {
            counters.connection(Outcome::Failure);
            counters.reason(violation.reason());
        }
    }
}

/// Shakes hands with a client, and learns who it is; else why that is not known.
async fn prove(worker: &Worker, stream: TcpStream) -> Result<Proven, String> {
    let accepting = timeout(limits::HANDSHAKE_TIMEOUT, worker.acceptor.accept(stream)).await;
    let stream = accepting
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(|error| heddle_identity::explain(&error))?;
    let (socket, session) = stream.get_ref();
    expect_reading(socket).map_err(|error| error.to_string())?;
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = heddle_identity::peer_of(chain).map_err(|error| error.to_string())?;
    let expires_at = heddle_identity::expiry_of(chain).map_err(|error| error.to_string())?;
    let is_http2 = match session.alpn_protocol() {
        Some(mux::ALPN) => false,
        Some(http2::ALPN) => true,
        _ => return Err("it speaks another protocol than proxies do".to_owned()),
    };
    Ok(Proven { stream, peer, expires_at, is_http2 })
}

/// A connection that was captured on its way to the workload.
pub(crate) async fn captured(worker: &Rc<Worker>, stream: TcpStream, from: SocketAddr, activity: &Activity) {
    match captured_destination(&stream) {
        Some(destination) => plaintext(worker, stream, from, destination.port(), activity).await,
        None => debug!(%from, "a connection to the port of captured traffic was not captured"),
    }
}

/// A plaintext connection to a port of the workload.
pub(crate) async fn plaintext(
    worker: &Rc<Worker>,
    stream: TcpStream,
    from: SocketAddr,
    port: u16,
    activity: &Activity,
) {
    let client = Client::new(worker, Peer::default(), Some(from.ip().to_canonical()));
    let inbound = Inbound { worker: worker.clone(), client, port };
    let protocol = worker.view().snapshot.config.inbound.protocol(port);
    inbound.connection(Conn::new(stream), protocol, activity).await;
}

impl Client {
    fn new(worker: &Worker, peer: Peer, plaintext_from: Option<IpAddr>) -> Rc<Self> {
        let edge = Edge {
            side: Side::Server,
            pod: worker.pod(),
            peer: peer.identity.clone(),
            peer_pod: peer.pod.clone(),
            service: None,
            backend: None,
        };
        Rc::new(Self { counters: worker.counters(edge, None), peer, plaintext_from })
    }
}

impl Inbound {
    /// A stream of another proxy. What it says of the stream's kind is a hint: the bytes decide.
    async fn stream(self, stream: Stream, open: Open, activity: Rc<Activity>) {
        let conn = Conn::new(stream);
        match open.kind {
            // Boxed, so that the task of a request, which is moved as it begins, is small.
            Kind::Tcp => Box::pin(self.tcp(conn, None, &activity)).await,
            Kind::Http1 => self.http1(conn, &activity).await,
        }
    }

    async fn connection<T: Transport>(self, mut conn: Conn<T>, protocol: Protocol, activity: &Activity) {
        let (wait, application) = match protocol {
            Protocol::Tcp | Protocol::Udp => return Box::pin(self.tcp(conn, None, activity)).await,
            Protocol::Http | Protocol::Http2 => (limits::HEAD_TIMEOUT, None),
            Protocol::Detect => (limits::DETECT_TIMEOUT, Box::pin(self.listen(&mut conn)).await),
        };
        if application.as_ref().is_some_and(|application| !application.read.is_empty()) {
            return Box::pin(self.tcp(conn, application, activity)).await;
        }
        match (detect(&mut conn, wait).await, protocol) {
            (Detected::Http2, _) => Box::pin(http2::serve_inbound(self, conn, activity)).await,
            (Detected::Other, Protocol::Detect) => Box::pin(self.tcp(conn, application, activity)).await,
            // What is not HTTP where HTTP is declared is answered as such.
            _ => self.http1(conn, activity).await,
        }
    }

    /// Waits until the client speaks, or the application: it is connected to when the client is silent, if raw TCP is
    /// admitted at all.
    async fn listen<T: Transport>(&self, conn: &mut Conn<T>) -> Option<Conn<Upstream>> {
        if has_spoken(conn).await || !access::would_admit_connection(self) {
            return None;
        }
        let mut application = Conn::new(Upstream::Plain(self.dial().await.ok()?));
        either_speaks(conn, &mut application).await;
        Some(application)
    }

    async fn http1<T: Transport>(mut self, mut conn: Conn<T>, activity: &Activity) {
        match http1::serve(&mut conn, &mut self, activity).await {
            End::Closed => {}
            End::Tunnel(_) => self.malformed(Reason::BadRequest),
            End::Upgraded(lease, head) => {
                let mut carried = Carried::upgraded(&lease.counters);
                let check = |inbound: &heddle_policy::Inbound| access::still_allows_head(inbound, &self, &head);
                let moving = relay(&mut conn, lease.conn, &mut carried.copied);
                let _either_way_it_is_over = access::until_revoked(&self.worker, moving, check).await;
            }
        }
    }

    /// A connection that is judged as a whole. Where only requests can be allowed, it must turn out to be HTTP.
    async fn tcp<T: Transport>(self, mut conn: Conn<T>, application: Option<Conn<Upstream>>, activity: &Activity) {
        let mut record = Record::of_connection(&self.worker, self.initiator());
        match access::check_connection(&self, record.as_deref_mut()) {
            Passage::Open => self.pass(conn, application, record).await,
            Passage::Probe(reason) => self.answer_probe(conn, reason, record).await,
            Passage::Denied(Reason::NotHttp) if self.client.plaintext_from.is_none() => {
                match detect(&mut conn, limits::HEAD_TIMEOUT).await {
                    Detected::Http1 => {
                        Record::forget(record);
                        self.http1(conn, activity).await
                    }
                    Detected::Http2 => {
                        Record::forget(record);
                        http2::serve_inbound(self, conn, activity).await
                    }
                    Detected::Other => self.deny(conn, Reason::NotHttp, record),
                }
            }
            Passage::Denied(reason) => self.deny(conn, reason, record),
        }
    }

    /// Tells a probe that only connects whether the application can be connected to. Nothing passes: who has more to say
    /// is no probe (A34).
    async fn answer_probe<T: Transport>(self, mut conn: Conn<T>, reason: Reason, mut record: Option<Box<Record>>) {
        let counters = &self.client.counters;
        let _application = match self.dial().await {
            Ok(application) => application,
            Err(reason) => {
                if let Some(record) = &mut record {
                    record.refused(reason);
                }
                conn.transport.refuse();
                counters.reason(reason);
                return counters.connection(Outcome::Failure);
            }
        };
        match timeout(limits::HEAD_TIMEOUT, conn.fill()).await {
            Ok(Ok(1..)) => self.deny(conn, reason, record),
            _ => {
                counters.connection(Outcome::Success);
                if let Some(record) = &mut record {
                    record.closed(Outcome::Success, 0, 0, &counters.edge);
                }
            }
        }
    }

    fn deny<T: Transport>(&self, conn: Conn<T>, reason: Reason, mut record: Option<Box<Record>>) {
        if reason == Reason::NotHttp {
            access::deny_not_http(self, record.as_deref_mut());
        }
        if let Some(record) = &mut record {
            record.refused(reason);
        }
        self.client.counters.connection(Outcome::Denied);
        self.client.counters.reason(reason);
        conn.transport.deny();
    }

    /// Copies bytes between the client and the application, for as long as policy allows it (A28).
    async fn pass<T: Transport>(
        self,
        mut conn: Conn<T>,
        application: Option<Conn<Upstream>>,
        mut record: Option<Box<Record>>,
    ) {
        let counters = &self.client.counters;
        let application = match application {
            Some(application) => Ok(application),
            None => self.dial().await.map(|stream| Conn::new(Upstream::Plain(stream))),
        };
        let application = match application {
            Ok(application) => application,
            Err(reason) => {
                conn.transport.refuse();
                counters.connection(Outcome::Failure);
                if let Some(record) = &mut record {
                    record.refused(reason);
                }
                return counters.reason(reason);
            }
        };
        let mut carried = Carried::connection(counters);
        let moving = relay(&mut conn, application, &mut carried.copied);
        let check = |inbound: &heddle_policy::Inbound| access::still_allows_connection(inbound, &self);
        let over = access::until_revoked(&self.worker, moving, check).await;
        let copied = carried.copied;
        let outcome = match over {
            // The client's proxy had connected in case the application speaks first, and it was the client who did.
            Some(Err(broken)) if broken.by == relay::End::Client && copied == Copied::default() => {
                carried.end(None);
                return Record::forget(record);
            }
            Some(result) => outcome(&result),
            None => {
                conn.transport.deny();
                Outcome::Denied
            }
        };
        carried.end(Some(outcome));
        if let Some(record) = &mut record {
            record.closed(outcome, copied.forth, copied.back, &counters.edge);
        }
    }

    pub(crate) fn initiator(&self) -> Initiator<'_> {
        Initiator::Client { peer: &self.client.peer, address: self.client.plaintext_from, port: self.port }
    }

    pub(crate) fn application(&self) -> SocketAddr {
        SocketAddr::new(self.worker.shared.options.pod_ip, self.port)
    }

    /// Whether the port is the proxy's, and not the application's.
    pub(crate) fn is_proxy_itself(&self) -> bool {
        self.worker.shared.is_own(self.application())
    }

    /// Connects to the application.
    async fn dial(&self) -> Result<TcpStream, Reason> {
        let address = self.application();
        self.worker.dialer.connect(address).await.map_err(|error| {
            debug!(%address, %error, "cannot connect to the application");
            Reason::ConnectFailed
        })
    }
}

impl Handler for Inbound {
    /// The revision of the configuration that admitted the request.
    type Plan = u64;

    const SETTLES_PATHS: bool = true;

    fn record(&self, request: &Request<'_, '_>) -> Option<Box<Record>> {
        Record::of_request(&self.worker, self.initiator(), || http1::seen(request))
    }

    fn decide(&mut self, request: &Request<'_, '_>, record: Option<&mut Record>) -> Result<u64, Refusal> {
        let revision = self.worker.view().snapshot.revision;
        let admission = if request.method == "CONNECT" { None } else { access::check_request(self, request, record) };
        match admission.unwrap_or(Admission::Denied(Reason::BadRequest)) {
            Admission::Admitted => Ok(revision),
            Admission::Denied(reason) => {
                self.client.counters.refused(reason);
                Err(Refusal::Answer(reason))
            }
        }
    }

    async fn connect(&mut self, _: &u64) -> Result<Lease, Reason> {
        let address = self.application();
        let stream = match self.worker.pool.take(address) {
            Some(stream) => stream,
            None => self.dial().await.inspect_err(|reason| self.client.counters.refused(*reason))?,
        };
        Ok(Lease {
            conn: Conn::new(Upstream::Plain(stream)),
            counters: self.client.counters.clone(),
            load: None,
            home: Some((self.worker.pool.clone(), address)),
        })
    }

    async fn revoked(&self, revision: &u64, head: &[u8]) -> Reason {
        access::until_objection(&self.worker, *revision, |now| access::objection_to_head(now, self, head)).await
    }

    fn malformed(&mut self, reason: Reason) {
        self.client.counters.refused(reason);
    }
}
