//! TCP sockets of the proxy's own: connections out of it, and listeners.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::limits;

/// Makes connections that the capture of traffic leaves alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dialer {
    /// The `SO_MARK` of its sockets, by which rules tell the proxy's connections from the application's.
    pub(crate) mark: Option<u32>,
}

/// The backlog of listeners; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

impl Dialer {
    /// Connects within the limit.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        let connecting = tokio::time::timeout(limits::CONNECT_TIMEOUT, socket.connect(address));
        let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        prepare(&stream)?;
        Ok(stream)
    }
}

/// Sets what every connection of the proxy has: no delay of small writes, and notice of a dead peer by the kernel.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(limits::KEEPALIVE_IDLE).with_interval(limits::KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// Has the kernel give a connection between proxies up when what was sent is not taken. Proxies read each other at all
/// times; for others this would end those that are only slow to read, as it also limits how long a window stays shut.
pub(crate) fn expect_reading(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(limits::UNACKNOWLEDGED_TIMEOUT))
}

/// Listens, sharing the port with the other workers' listeners.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Brings a listener into the runtime of this thread.
pub(crate) fn register(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Where a redirected connection was going before it was redirected to this listener; `None` for one that was not
/// redirected, which must not be taken for one to the proxy's own port.
pub(crate) fn captured_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = canonical(stream.local_addr().ok()?);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = canonical(original.ok()?.as_socket()?);
    (original != local).then_some(original)
}

/// An IPv4 address that a socket for both families has mapped into IPv6, as itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_connection_between_proxies_ends_when_it_is_not_read_for_long() {
        let listener = register(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let stream = Dialer::default().connect(listener.local_addr().unwrap()).await.unwrap();
        let limit = || SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(limit(), None);
        expect_reading(&stream).unwrap();
        assert_eq!(limit(), Some(limits::UNACKNOWLEDGED_TIMEOUT));
    }
}
