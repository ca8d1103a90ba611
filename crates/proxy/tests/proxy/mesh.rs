//! A mesh for tests: an authority, pods on addresses of their own, applications and clients that speak bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use heddle_identity::{Authority, Names, Store};
use heddle_policy::telemetry::{Edge, Side, Totals};
use heddle_policy::{PodName, ProxyConfig, ServiceName, SpiffeId};
use heddle_proxy::{Entrance, Listen, Options, Proxy};
use serde_json::{Value, json};

/// What the pods of one test share.
pub(crate) struct Mesh {
    authority: Authority,
    /// Where every proxy listens for others.
    port: u16,
    /// How long proxies wait for their connections to end.
    pub(crate) drain: Duration,
}

/// A pod, named `<namespace>/<name>`, whose ServiceAccount is named as it is.
pub(crate) struct Pod {
    pub(crate) name: PodName,
    pub(crate) ip: IpAddr,
    pub(crate) identity: SpiffeId,
    pub(crate) store: Store,
    proxy: Option<Proxy>,
}

/// An HTTP server that answers each request with what `reply` makes of its bytes.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
}

/// A client's connection.
pub(crate) struct Client(pub(crate) TcpStream);

/// A response, as text.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Nothing in a test takes this long: what waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const TRUST_DOMAIN: &str = "cluster.local";

impl Mesh {
    pub(crate) fn new() -> Self {
        let authority = Authority::create(TRUST_DOMAIN, SystemTime::now()).unwrap();
        let port = TcpListener::bind((address(), 0)).unwrap().local_addr().unwrap().port();
        Self { authority, port, drain: PATIENCE }
    }

    /// A pod whose proxy stands for these ports of Services and takes plaintext for these of the workload.
    pub(crate) fn pod(&self, name: &str, services: &[(&str, u16)], plaintext: &[u16]) -> Pod {
        self.pod_at(address(), name, services, plaintext)
    }

    pub(crate) fn pod_at(&self, ip: IpAddr, name: &str, services: &[(&str, u16)], plaintext: &[u16]) -> Pod {
        self.pod_with(ip, name, services, plaintext, Vec::new())
    }

    /// A pod whose proxy has its admin end at these addresses.
    pub(crate) fn pod_with(
        &self,
        ip: IpAddr,
        name: &str,
        services: &[(&str, u16)],
        plaintext: &[u16],
        admin: Vec<SocketAddr>,
    ) -> Pod {
        let pod = PodName::try_from(name.to_owned()).unwrap();
        let identity = SpiffeId::of_service_account(TRUST_DOMAIN, &pod.namespace, &pod.name).unwrap();
        let store = Store::empty();
        let any = SocketAddr::new(ip, 0);
        let mut listen = vec![
            Listen { address: SocketAddr::new(ip, self.port), entrance: Entrance::Mesh },
            Listen { address: any, entrance: Entrance::HttpProxy },
        ];
        for (service, port) in services {
            let service = ServiceName::try_from((*service).to_owned()).unwrap();
            listen.push(Listen { address: any, entrance: Entrance::Service(service, *port) });
        }
        listen.extend(plaintext.iter().map(|port| Listen { address: any, entrance: Entrance::Plaintext(*port) }));
        let drain = self.drain;
        let options = Options { pod_ip: ip, mesh_port: self.port, mark: None, workers: 2, drain, listen, admin };
        let proxy = Some(Proxy::start(options, store.clone()).unwrap());
        let pod = Pod { name: pod, ip, identity, store, proxy };
        self.certify(&pod, Duration::from_secs(3600));
        pod
    }

    /// Gives a pod new credentials.
    pub(crate) fn certify(&self, pod: &Pod, ttl: Duration) {
        self.certify_as(pod, &pod.identity, ttl);
    }

    pub(crate) fn certify_as(&self, pod: &Pod, identity: &SpiffeId, ttl: Duration) {
        let names = Names::of_pod(identity.clone(), &pod.name, TRUST_DOMAIN);
        pod.store.replace(self.authority.credentials(&names, ttl, SystemTime::now()).unwrap());
    }
}

impl Pod {
    /// Configures the proxy with what is allowed in and which Services it knows.
    pub(crate) fn configure(&self, inbound: Value, services: Value) {
        self.configure_with(json!({}), inbound, services);
    }

    /// With settings beyond those that every proxy has.
    pub(crate) fn configure_with(&self, more: Value, inbound: Value, services: Value) {
        let mut settings = json!({
            "pod": self.name.to_string(), "identity": self.identity.as_str(), "clusterDomain": TRUST_DOMAIN,
        });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = json!({ "settings": settings, "inbound": inbound, "services": services });
        let config: ProxyConfig = serde_json::from_value(config).unwrap();
        self.proxy.as_ref().unwrap().configure(Arc::new(config));
    }

    /// Where the proxy listens for what a client of the workload would send there.
    pub(crate) fn entrance(&self, entrance: &Entrance) -> SocketAddr {
        let listening = self.proxy.as_ref().unwrap().listening();
        listening.iter().find(|listen| listen.entrance == *entrance).unwrap().address
    }

    pub(crate) fn service(&self, service: &str, port: u16) -> SocketAddr {
        self.entrance(&Entrance::Service(ServiceName::try_from(service.to_owned()).unwrap(), port))
    }

    /// The totals of a side, added up over its edges by `of`.
    pub(crate) fn total(&self, side: Side, of: impl Fn(&Totals) -> u64) -> u64 {
        self.edges(side).iter().map(|(_, totals)| of(totals)).sum()
    }

    /// How often the mesh itself answered or closed for a reason.
    /// The connections that are open and carry no HTTP.
    pub(crate) fn open(&self) -> u64 {
        self.proxy().open_connections().iter().map(|(_, open)| open).sum()
    }

    pub(crate) fn reason(&self, side: Side, code: &str) -> u64 {
        let count = |totals: &Totals| {
            totals.reasons.iter().filter(|(reason, _)| reason.code() == code).map(|(_, count)| count).sum()
        };
        self.total(side, count)
    }

    pub(crate) fn edges(&self, side: Side) -> Vec<(Edge, Totals)> {
        let totals = self.proxy.as_ref().unwrap().totals();
        totals.into_iter().filter(|(edge, _)| edge.side == side).collect()
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// Drains the proxy, on another thread.
    pub(crate) fn drain(&mut self) -> std::thread::JoinHandle<()> {
        let proxy = self.proxy.take().unwrap();
        std::thread::spawn(move || proxy.drain())
    }

    /// This pod as an endpoint.
    pub(crate) fn endpoint(&self, port: u16) -> Value {
        json!({
            "address": SocketAddr::new(self.ip, port), "pod": self.name.to_string(),
            "identity": self.identity.as_str(),
        })
    }
}

/// A Service with one port.
pub(crate) fn service(name: &str, port: u16, protocol: &str, endpoints: &[Value], splits: Value) -> Value {
    json!({ "name": name, "ports": [
        { "port": port, "protocol": protocol, "endpoints": endpoints, "splits": splits },
    ]})
}

/// An inbound policy that lets every request of these pods in, and all TCP too when `tcp` says so.
pub(crate) fn allow(sources: &[&Pod], tcp: bool) -> Value {
    let origin = json!({ "kind": "TrafficTarget", "namespace": "shop", "name": "all" });
    let sources: Vec<Value> =
        sources.iter().map(|pod| json!({ "identity": pod.identity.as_str(), "origin": origin })).collect();
    let mut authorization = json!({ "origin": origin, "sources": sources });
    match tcp {
        true => authorization["tcp"] = json!("all"),
        false => authorization["http"] = json!([{ "origin": origin }]),
    }
    json!({ "mode": "enforce", "authorizations": [authorization] })
}

/// A loopback address that nothing else uses.
pub(crate) fn address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [carry, last] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low.wrapping_add(carry), last).into()
}

/// Waits until something that is bound to happen has.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

// === impl App ===

impl App {
    /// Answers each request on `ip`, which may be kept alive.
    pub(crate) fn start(ip: IpAddr, reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (received.clone(), Arc::new(reply));
        let address = serve(ip, move |mut stream| {
            let mut rest = Vec::new();
            while let Some(request) = read_message(&mut stream, &mut rest, false) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                if stream.write_all(&reply(&request)).is_err() {
                    return;
                }
            }
        });
        Self { address, received }
    }

    /// Answers every request with 200 and `body`.
    pub(crate) fn saying(ip: IpAddr, body: &'static str) -> Self {
        Self::start(ip, move |_| ok(body))
    }

    /// The requests so far, byte for byte.
    pub(crate) fn received(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nX-App: yes\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Serves each connection on a thread of its own.
pub(crate) fn serve(ip: IpAddr, each: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

// === impl Client ===

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn response(&mut self) -> Response {
        self.response_to(false)
    }

    pub(crate) fn response_to(&mut self, head: bool) -> Response {
        let text = read_message(&mut self.0, &mut Vec::new(), head).expect("a response");
        Response::parse(&text)
    }

    /// Sends a request and reads its response.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// Whether the connection ends without another byte, in whatever way.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |count| count == 0)
    }

    /// Whether it ends without another byte, and not as if everything had been said.
    pub(crate) fn is_broken_off(&mut self) -> bool {
        self.0.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }

    /// What is read until a text has come.
    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text += &self.read_exactly(1);
        }
        text
    }

    pub(crate) fn read_exactly(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

impl Response {
    /// Whether `bytes` are a whole message.
    pub(crate) fn is_complete(bytes: &[u8]) -> bool {
        message_length(bytes, false).is_some()
    }

    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Self { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn reason(&self) -> &str {
        self.header("x-heddle-reason").unwrap_or("none")
    }
}

/// Reads one message; `None` at the end. `rest` holds what was read beyond it.
fn read_message(stream: &mut TcpStream, rest: &mut Vec<u8>, headless: bool) -> Option<String> {
    let mut bytes = std::mem::take(rest);
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(length) = message_length(&bytes, headless) {
            *rest = bytes.split_off(length);
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        match stream.read(&mut buffer).unwrap_or(0) {
            0 if bytes.is_empty() => return None,
            0 => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The length of a complete message at the front of `bytes`, by its Content-Length or its last chunk.
fn message_length(bytes: &[u8], headless: bool) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| Some(text.split_once(name)?.1.split("\r\n").next()?.trim().to_owned());
    if headless || text.starts_with("http/1.1 1") || text.starts_with("http/1.1 204") {
        return Some(head);
    }
    if field("transfer-encoding:").is_some() {
        let end = bytes[head..].windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(head + end + 5);
    }
    let body = match field("content-length:") {
        Some(length) => length.parse().ok()?,
        // A response without a length ends with its connection; a request without one has no body.
        None if text.starts_with("http/") => return None,
        None => 0,
    };
    (bytes.len() >= head + body).then_some(head + body)
}
