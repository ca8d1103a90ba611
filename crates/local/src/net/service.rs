//! ClusterIPs for what has no proxy of its own: the node listens on every TCP port of every Service, and passes each
//! connection on to an endpoint.
//!
//! Meshed pods never come here: their proxies dial endpoints themselves.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::directory::Directory;
use crate::namespace::NetNamespace;

/// Connections that are passed on at once, by one port of one Service.
const MAX_CONNECTIONS: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A port of a Service: what is listened on, and how its endpoints are found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Frontend {
    address: (Ipv4Addr, u16),
    namespace: String,
    service: String,
    /// Empty for a port without a name.
    port: String,
}

/// Keeps a listener for each port of each Service in `netns`, except those that serve themselves. Runs until the
/// directory ends; the listeners end with it.
pub async fn run(netns: NetNamespace, mut directory: watch::Receiver<Arc<Directory>>, own: Vec<Ipv4Addr>) {
    let mut listeners: BTreeMap<Frontend, Listener> = BTreeMap::new();
    loop {
        let wanted = frontends(&directory.borrow_and_update(), &own);
        listeners.retain(|frontend, _| wanted.contains(frontend));
        for frontend in wanted {
            if listeners.contains_key(&frontend) {
                continue;
            }
            match Listener::open(&netns, &frontend, &directory) {
                Ok(listener) => drop(listeners.insert(frontend, listener)),
                Err(error) => tracing::warn!(%error, ?frontend, "a Service's ClusterIP cannot be served"),
            }
        }
        if directory.changed().await.is_err() {
            return;
        }
    }
}

fn frontends(directory: &Directory, own: &[Ipv4Addr]) -> Vec<Frontend> {
    let mut found = Vec::new();
    for service in &directory.services {
        let (Some(name), Some(namespace), Some(spec)) =
            (&service.metadata.name, &service.metadata.namespace, &service.spec)
        else {
            continue;
        };
        let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip| !own.contains(ip)) else {
            continue;
        };
        let tcp = spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        for port in tcp {
            let Ok(number) = u16::try_from(port.port) else { continue };
            found.push(Frontend {
                address: (ip, number),
                namespace: namespace.clone(),
                service: name.clone(),
                port: port.name.clone().unwrap_or_default(),
            });
        }
    }
    found
}

/// A listener that ends when it is dropped.
struct Listener(JoinHandle<()>);

impl Listener {
    fn open(
        netns: &NetNamespace,
        frontend: &Frontend,
        directory: &watch::Receiver<Arc<Directory>>,
    ) -> io::Result<Self> {
        let socket = netns.run(|| {
            let socket = std::net::TcpListener::bind(frontend.address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let listener = TcpListener::from_std(socket)?;
        Ok(Self(tokio::spawn(accept(listener, netns.clone(), frontend.clone(), directory.clone()))))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(
    listener: TcpListener,
    netns: NetNamespace,
    frontend: Frontend,
    directory: watch::Receiver<Arc<Directory>>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let turn = AtomicUsize::new(0);
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let endpoints = endpoints(&directory.borrow(), &frontend);
        // Without an endpoint the connection is closed, as a packet to nowhere is answered by a reset.
        let Some(endpoint) = endpoints.get(turn.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1)).copied()
        else {
            continue;
        };
        let netns = netns.clone();
        tokio::spawn(async move {
            if let Err(error) = pass_on(client, &netns, endpoint).await {
                tracing::debug!(%error, %endpoint, "a connection through a ClusterIP ended");
            }
            drop(permit);
        });
    }
}

/// The ready endpoints of a Service's port.
fn endpoints(directory: &Directory, frontend: &Frontend) -> Vec<SocketAddr> {
    let Some(service): Option<&Service> = directory.service(&frontend.namespace, &frontend.service) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for slice in directory.slices_of(service) {
        let named = |port: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            port.name.as_deref().unwrap_or_default() == frontend.port
        };
        let port = slice.ports.iter().flatten().find(named).and_then(|port| port.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
            found.extend(addresses.filter(|_| ready).map(|ip| SocketAddr::new(ip, port)));
        }
    }
    found
}

async fn pass_on(mut client: TcpStream, netns: &NetNamespace, endpoint: SocketAddr) -> io::Result<()> {
    let socket = netns.run(TcpSocket::new_v4)?;
    let mut server = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(endpoint)).await??;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
