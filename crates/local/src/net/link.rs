//! Interfaces, addresses and routes, by rtnetlink.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{NODE_IP, POD_PREFIX, SERVICE_NETWORK, SERVICE_PREFIX};
use crate::namespace::NetNamespace;

const BRIDGE: &str = "heddle0";
/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;
/// The kernel's table of addresses that are its own.
const LOCAL_TABLE: u32 = 255;

/// The node's end of the pod network.
pub struct NodeNetwork {
    netns: NetNamespace,
    links: Handle,
    bridge: u32,
    /// Numbers the node's ends of the pods' cables.
    cables: AtomicU32,
}

/// Why the kernel did not make a part of the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot {what}: {source}")]
    Link { what: String, source: rtnetlink::Error },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the interface {0} is missing though it was just made")]
    Missing(&'static str),
}

// === impl NodeNetwork ===

impl NodeNetwork {
    /// Makes the bridge, its address and the local route of all ClusterIPs in `netns`.
    ///
    /// The route makes every ClusterIP an address of the node, so that a Service port is served by listening on it.
    pub async fn create(netns: NetNamespace) -> Result<Self, NetworkError> {
        let links = connect(&netns)?;
        set_up(&links, LOOPBACK, "lo").await?;
        let bridge = LinkBridge::new(BRIDGE).up().build();
        links.link().add(bridge).execute().await.map_err(link("make the bridge heddle0"))?;
        let bridge = index_of(&links, BRIDGE).await?;
        add_address(&links, bridge, NODE_IP, POD_PREFIX).await?;
        let services = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(SERVICE_NETWORK, SERVICE_PREFIX)
            .table_id(LOCAL_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .output_interface(LOOPBACK)
            .build();
        links.route().add(services).execute().await.map_err(link("route the ClusterIPs to the node"))?;
        Ok(Self { netns, links, bridge, cables: AtomicU32::new(0) })
    }

    /// The node's own namespace: that of pods with `hostNetwork`.
    pub fn netns(&self) -> &NetNamespace {
        &self.netns
    }

    /// Joins a pod's namespace to the bridge. The kernel takes the cable away with the namespace.
    pub async fn attach(&self, pod: &NetNamespace, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let cable = format!("pod{}", self.cables.fetch_add(1, Ordering::Relaxed));
        let far_end = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(pod.as_raw_fd()).build();
        let near_end = LinkVeth::new(&cable, "eth0")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .controller(self.bridge)
            .up()
            .build();
        self.links.link().add(near_end).execute().await.map_err(link("make a pod's interface"))?;

        let inside = connect(pod)?;
        set_up(&inside, LOOPBACK, "lo").await?;
        let eth0 = index_of(&inside, "eth0").await?;
        add_address(&inside, eth0, ip, POD_PREFIX).await?;
        set_up(&inside, eth0, "eth0").await?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(NODE_IP).build();
        inside.route().add(default).execute().await.map_err(link("add a pod's default route"))
    }
}

/// A netlink socket of `netns`. Its task ends with the last handle.
fn connect(netns: &NetNamespace) -> Result<Handle, NetworkError> {
    let (connection, handle, _) = netns
        .run(rtnetlink::new_connection)
        .map_err(|source| NetworkError::Io { what: "open rtnetlink".into(), source })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn set_up(links: &Handle, index: u32, name: &str) -> Result<(), NetworkError> {
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    links
        .link()
        .change(up)
        .execute()
        .await
        .map_err(|source| NetworkError::Link { what: format!("set {name} up"), source })
}

async fn add_address(links: &Handle, index: u32, ip: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
    let what = || format!("add the address {ip}/{prefix}");
    let adding = links.address().add(index, ip.into(), prefix).execute();
    adding.await.map_err(|source| NetworkError::Link { what: what(), source })
}

async fn index_of(links: &Handle, name: &'static str) -> Result<u32, NetworkError> {
    let found = links.link().get().match_name(name).execute().try_next().await.map_err(link("look up an interface"))?;
    found.map(|message| message.header.index).ok_or(NetworkError::Missing(name))
}

fn link(what: &str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.to_owned();
    |source| NetworkError::Link { what, source }
}
