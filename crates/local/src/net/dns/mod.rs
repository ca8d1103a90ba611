//! The cluster's DNS: it answers for the cluster's domain and passes other questions on to the machine's resolvers.

mod zone;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use self::zone::{Answer, Zone};
use super::directory::Directory;
use crate::namespace::NetNamespace;

/// Questions that are being answered at once; more wait in the socket.
const MAX_QUESTIONS: usize = 256;
const MAX_CONNECTIONS: usize = 64;
/// How long a resolver of the machine may take.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);
/// The longest answer over UDP for a client that does not say.
const PLAIN_UDP: u16 = 512;
/// The longest answer over UDP at all: what fits every path.
const MAX_UDP: u16 = 1232;

/// A server that answers. It ends when it is dropped.
pub struct Server {
    tasks: [tokio::task::JoinHandle<()>; 3],
}

/// What every question is answered from.
#[derive(Clone)]
struct Resolver {
    zone: watch::Receiver<Arc<Zone>>,
    /// The machine's resolvers, asked in turn.
    upstream: Arc<[SocketAddr]>,
    machine: Handle,
    questions: Arc<Semaphore>,
}

impl Server {
    /// Serves on port 53 of `address` in the node's network, over UDP and TCP. `machine` is a runtime in the machine's
    /// network, from where its resolvers are asked.
    pub fn start(
        netns: &NetNamespace,
        address: Ipv4Addr,
        domain: &str,
        mut directory: watch::Receiver<Arc<Directory>>,
        machine: Handle,
    ) -> io::Result<Self> {
        let (udp, tcp) = netns.run(|| {
            let udp = std::net::UdpSocket::bind((address, 53))?;
            let tcp = std::net::TcpListener::bind((address, 53))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })?;
        let domain = domain.to_owned();
        let (zones, zone) = watch::channel(Arc::new(Zone::new(&domain, &directory.borrow_and_update())));
        let questions = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let resolver = Resolver { zone, upstream: machine_resolvers().into(), machine, questions };
        let follow = async move {
            while directory.changed().await.is_ok() {
                let zone = Zone::new(&domain, &directory.borrow_and_update().clone());
                zones.send_replace(Arc::new(zone));
            }
        };
        let udp = serve_udp(Arc::new(UdpSocket::from_std(udp)?), resolver.clone());
        let tcp = serve_tcp(TcpListener::from_std(tcp)?, resolver);
        Ok(Self { tasks: [tokio::spawn(follow), tokio::spawn(udp), tokio::spawn(tcp)] })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The name servers of this machine's `/etc/resolv.conf`.
fn machine_resolvers() -> Vec<SocketAddr> {
    parse_resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Resolver) {
    let mut buffer = [0; 4096];
    loop {
        let Ok(permit) = resolver.questions.clone().acquire_owned().await else { return };
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer could not be delivered; the socket goes on.
                tracing::debug!(%error, "DNS over UDP");
                continue;
            }
        };
        let (question, resolver, socket) = (buffer[..length].to_vec(), resolver.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&question, true).await {
                socket.send_to(&answer, client).await.ok();
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Resolver) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            converse(stream, &resolver).await.ok();
            drop(permit);
        });
    }
}

/// Answers the questions of one connection, each with its length before it, until the client is silent.
async fn converse(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    while let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await? {
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = resolver.answer(&question, false).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
    Ok(())
}

impl Resolver {
    /// The answer to a question as received; none to what is not a question.
    async fn answer(&self, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        if request.metadata.message_type != hickory_proto::op::MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        response.edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            edns
        });
        let [query] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return response.to_vec().ok();
        };
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return response.to_vec().ok();
        }
        self.fill(&mut response, query).await;
        let longest = request.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, MAX_UDP));
        let bytes = response.to_vec().ok()?;
        if over_udp && bytes.len() > usize::from(longest) {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    async fn fill(&self, response: &mut Message, query: &Query) {
        let zone = self.zone.borrow().clone();
        let answer = zone.answer(query.name(), query.query_type());
        response.metadata.authoritative = answer != Answer::Elsewhere;
        match answer {
            Answer::Records(records) => {
                let alias = records.iter().find_map(alias_of).filter(|_| query.query_type() != RecordType::CNAME);
                if records.is_empty() {
                    response.authorities.extend(zone.authority());
                }
                response.answers.extend(records);
                if let Some(target) = alias {
                    let (_, records) = self.follow(&zone, &target, query.query_type()).await;
                    response.answers.extend(records);
                }
            }
            Answer::NoSuchName => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.authorities.extend(zone.authority());
            }
            Answer::Elsewhere => {
                let (code, records) = self.forward(query).await;
                response.metadata.response_code = code;
                response.answers.extend(records);
            }
        }
    }

    /// What an alias stands for.
    async fn follow(&self, zone: &Zone, target: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        match zone.answer(target, kind) {
            Answer::Records(records) => (ResponseCode::NoError, records),
            Answer::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
            Answer::Elsewhere => self.forward(&Query::query(target.clone(), kind)).await,
        }
    }

    /// Asks the machine's resolvers, one after the other.
    async fn forward(&self, query: &Query) -> (ResponseCode, Vec<Record>) {
        for server in self.upstream.iter() {
            let asked = self.machine.spawn(tokio::time::timeout(FORWARD_TIMEOUT, ask(*server, query.clone())));
            match asked.await {
                Ok(Ok(Ok(answer))) => return (answer.metadata.response_code, answer.answers),
                Ok(Ok(Err(error))) => tracing::debug!(%error, %server, "a resolver of the machine does not answer"),
                Ok(Err(_)) | Err(_) => tracing::debug!(%server, "a resolver of the machine is silent"),
            }
        }
        (ResponseCode::ServFail, Vec::new())
    }
}

fn alias_of(record: &Record) -> Option<Name> {
    match &record.data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    }
}

/// Asks one server over UDP. An answer with another id or question than asked for is not taken.
async fn ask(server: SocketAddr, query: Query) -> io::Result<Message> {
    let any =
        if server.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { SocketAddr::from(([0_u16; 8], 0)) };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(query);
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    question.edns = Some(edns);
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == question.metadata.id && answer.queries == question.queries => {
                return Ok(answer);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let text = "# comment\nnameserver 10.0.0.1\nsearch x\nnameserver fe80::1\nnameserver nonsense\n";
        let found: Vec<_> = parse_resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fe80::1]:53"]);
    }
}
