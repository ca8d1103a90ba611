//! The pods' way out of the cluster: the node accepts their TCP, and connects to where it was to go from the machine.
//!
//! No cable joins the node's network to the machine's, so that nothing can stay behind on the machine and no right to
//! change its network is needed. Other protocols than TCP end at the node; names are resolved by the cluster's DNS.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{NODE_IP, nft};
use crate::namespace::NetNamespace;

/// Connections out of the cluster at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A listener that is handed what pods send outside of the cluster.
pub struct Egress(TcpListener);

impl Egress {
    /// Takes over the pods' way out in the node's namespace. Must be called in a Tokio runtime.
    pub fn open(netns: &NetNamespace) -> io::Result<Self> {
        let listener = netns.run(|| {
            let listener = std::net::TcpListener::bind((NODE_IP, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        nft::Egress { port: listener.local_addr()?.port() }.install(netns)?;
        Ok(Self(TcpListener::from_std(listener)?))
    }

    /// Passes connections on until the future is dropped. `connect` makes them on the machine's side.
    pub async fn run<F>(self, connect: impl Fn(SocketAddr) -> F)
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(permit) = connections.clone().acquire_owned().await {
            let Ok((pod, _)) = self.0.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(address) = destination(&pod) else { continue };
            let connecting = connect(address);
            tokio::spawn(async move {
                if let Err(error) = pass_on(pod, connecting).await {
                    tracing::debug!(%error, %address, "a connection out of the cluster ended");
                }
                drop(permit);
            });
        }
    }
}

/// Where a pod meant to connect to; absent for who came to the listener itself.
fn destination(pod: &TcpStream) -> Option<SocketAddr> {
    let address = SockRef::from(pod).original_dst_v4().ok()?.as_socket()?;
    let is_own = address.ip() == NODE_IP || address.ip() == Ipv4Addr::UNSPECIFIED;
    (!is_own && !address.ip().is_loopback()).then_some(address)
}

async fn pass_on(mut pod: TcpStream, connecting: impl Future<Output = io::Result<TcpStream>>) -> io::Result<()> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|late| Err(late.into()));
    let mut server = match connected {
        Ok(server) => server,
        Err(error) => {
            // The pod believes that it is connected; a reset is as near to a refusal as can be had now.
            SockRef::from(&pod).set_linger(Some(Duration::ZERO))?;
            return Err(error);
        }
    };
    tokio::io::copy_bidirectional(&mut pod, &mut server).await?;
    Ok(())
}
