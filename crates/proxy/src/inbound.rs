//! Traffic for the workload: from other proxies, or captured in plaintext.
//!
//! ```text
//! accept -> TLS, peer -> access::check -> http | tcp -> application
//! ```

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use heddle_policy::telemetry::{Edge, Outcome, Side};
use heddle_policy::{Peer, Protocol, Reason};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::access::{self, Admission};
use crate::detect::{Detected, detect};
use crate::dial::captured_destination;
use crate::http1::{self, End, Handler, Refusal, Request};
use crate::http2;
use crate::io::{Conn, Transport, Upstream};
use crate::limits;
use crate::meter::Counters;
use crate::mux::{self, Driver, Kind, Open, ResetCode, Stream};
use crate::relay::{Copied, relay};
use crate::tasks::Activity;
use crate::upstream::Lease;
use crate::worker::Worker;

/// Who is at the other end of a connection, proved or not.
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// Where a plaintext connection comes from; `None` for one of another proxy.
    pub(crate) plaintext_from: Option<IpAddr>,
    pub(crate) counters: Arc<Counters>,
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
    let accepting = timeout(limits::HANDSHAKE_TIMEOUT, worker.acceptor.accept(stream)).await;
    let stream = match accepting {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%from, error = heddle_identity::explain(&error), "no TLS with a client"),
        Err(_) => return debug!(%from, "a TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let (peer, expires_at) = match (heddle_identity::peer_of(chain), heddle_identity::expiry_of(chain)) {
        (Ok(peer), Ok(expires_at)) => (peer, expires_at),
        (Err(error), _) => return debug!(%from, %error, "a client's certificate proves no identity"),
        (_, Err(error)) => return debug!(%from, %error, "a client's certificate cannot be read"),
    };
    let is_http2 = session.alpn_protocol() == Some(http2::ALPN);
    if !is_http2 && session.alpn_protocol() != Some(mux::ALPN) {
        return debug!(%from, "a client with a certificate speaks another protocol than a proxy's");
    }
    let client = Client::new(worker, peer, None);
    if is_http2 {
        return http2::mesh(worker, stream, client, expires_at, activity).await;
    }
    let accepting = worker.clone();
    let (session, driver) = Driver::server(stream, move |open, stream| {
        // What a certificate proved ends with it. Proxies replace their connections before.
        if SystemTime::now() >= expires_at {
            return stream.reset(ResetCode::Refused);
        }
        let inbound = Inbound { worker: accepting.clone(), client: client.clone(), port: open.port };
        let shared = accepting.shared.clone();
        accepting.tasks.spawn(shared, |activity| inbound.stream(stream, open, activity));
    });
    activity.drives(&session);
    if let Err(error) = driver.await {
        debug!(%from, %error, "a connection of another proxy broke");
    }
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
        Rc::new(Self { counters: worker.counters(edge), peer, plaintext_from })
    }
}

impl Inbound {
    /// A stream of another proxy. What it says of the stream's kind is a hint: the bytes decide.
    async fn stream(self, stream: Stream, open: Open, activity: Rc<Activity>) {
        let conn = Conn::new(stream);
        match open.kind {
            Kind::Tcp => self.tcp(conn, &activity).await,
            Kind::Http1 => self.http1(conn, &activity).await,
            Kind::Http2 => self.connection(conn, Protocol::Http2, &activity).await,
        }
    }

    async fn connection<T: Transport>(self, mut conn: Conn<T>, protocol: Protocol, activity: &Activity) {
        let wait = match protocol {
            Protocol::Tcp | Protocol::Udp => return self.tcp(conn, activity).await,
            Protocol::Http | Protocol::Http2 => limits::HEAD_TIMEOUT,
            Protocol::Detect => limits::DETECT_TIMEOUT,
        };
        match (detect(&mut conn, wait).await, protocol) {
            (Detected::Http2, _) => http2::serve_inbound(self, conn, activity).await,
            (Detected::Other, Protocol::Detect) => self.tcp(conn, activity).await,
            // What is not HTTP where HTTP is declared is answered as such.
            _ => self.http1(conn, activity).await,
        }
    }

    async fn http1<T: Transport>(mut self, mut conn: Conn<T>, activity: &Activity) {
        match http1::serve(&mut conn, &mut self, activity).await {
            End::Closed => {}
            End::Tunnel(_) => self.malformed(Reason::BadRequest),
            End::Upgraded(lease, head) => {
                let mut copied = Copied::default();
                let check = |inbound: &heddle_policy::Inbound| access::still_allows_head(inbound, &self, &head);
                let moving = relay(conn, lease.conn, &mut copied);
                let _either_way_it_is_over = access::until_revoked(&self.worker, moving, check).await;
                self.client.counters.bytes(copied.forth, copied.back);
            }
        }
    }

    /// A connection that is judged as a whole. Where only requests can be allowed, it must turn out to be HTTP.
    async fn tcp<T: Transport>(self, mut conn: Conn<T>, activity: &Activity) {
        match access::check_connection(&self) {
            Admission::Admitted => self.pass(conn).await,
            Admission::Denied(Reason::NotHttp) if self.client.plaintext_from.is_none() => {
                match detect(&mut conn, limits::HEAD_TIMEOUT).await {
                    Detected::Http1 => self.http1(conn, activity).await,
                    Detected::Http2 => http2::serve_inbound(self, conn, activity).await,
                    Detected::Other => self.deny(conn, Reason::NotHttp),
                }
            }
            Admission::Denied(reason) => self.deny(conn, reason),
        }
    }

    fn deny<T: Transport>(&self, conn: Conn<T>, reason: Reason) {
        if reason == Reason::NotHttp {
            access::log_not_http(self);
        }
        self.client.counters.connection(Outcome::Denied);
        self.client.counters.reason(reason);
        conn.transport.deny();
    }

    /// Copies bytes between the client and the application, for as long as policy allows it (A28).
    async fn pass<T: Transport>(self, conn: Conn<T>) {
        let counters = &self.client.counters;
        let application = match self.dial().await {
            Ok(stream) => Conn::new(Upstream::Plain(stream)),
            Err(reason) => {
                counters.connection(Outcome::Failure);
                return counters.reason(reason);
            }
        };
        let mut copied = Copied::default();
        let moving = relay(conn, application, &mut copied);
        let check = |inbound: &heddle_policy::Inbound| access::still_allows_connection(inbound, &self);
        let over = access::until_revoked(&self.worker, moving, check).await;
        counters.bytes(copied.forth, copied.back);
        counters.connection(if over.is_none() { Outcome::Denied } else { Outcome::Success });
    }

    pub(crate) fn application(&self) -> SocketAddr {
        SocketAddr::new(self.worker.shared.options.pod_ip, self.port)
    }

    /// Connects to the application. The proxy's own listeners are none: through them a client would speak in the
    /// workload's name.
    async fn dial(&self) -> Result<TcpStream, Reason> {
        let address = self.application();
        if self.worker.shared.is_own(address) {
            debug!(%address, "a client asks for the proxy itself");
            return Err(Reason::ConnectFailed);
        }
        self.worker.dialer.connect(address).await.map_err(|error| {
            debug!(%address, %error, "cannot connect to the application");
            Reason::ConnectFailed
        })
    }
}

impl Handler for Inbound {
    type Plan = ();

    fn decide(&mut self, request: &Request<'_, '_>) -> Result<(), Refusal> {
        let admission = if request.method == "CONNECT" { None } else { access::check_request(self, request) };
        match admission.unwrap_or(Admission::Denied(Reason::BadRequest)) {
            Admission::Admitted => Ok(()),
            Admission::Denied(reason) => {
                let denied = reason.status() == 403;
                self.client.counters.request(if denied { Outcome::Denied } else { Outcome::Failure });
                self.client.counters.reason(reason);
                Err(Refusal::Answer(reason))
            }
        }
    }

    async fn connect(&mut self, (): &()) -> Result<Lease, Reason> {
        let address = self.application();
        let stream = match self.worker.pool.take(address) {
            Some(stream) => stream,
            None => self.dial().await.inspect_err(|reason| {
                self.client.counters.request(Outcome::Failure);
                self.client.counters.reason(*reason);
            })?,
        };
        Ok(Lease {
            conn: Conn::new(Upstream::Plain(stream)),
            counters: self.client.counters.clone(),
            load: None,
            home: Some((self.worker.pool.clone(), address)),
        })
    }

    fn malformed(&mut self, reason: Reason) {
        self.client.counters.request(Outcome::Failure);
        self.client.counters.reason(reason);
    }
}
