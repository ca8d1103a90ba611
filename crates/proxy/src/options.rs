//! What a proxy is told at its start, resolved.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use heddle_policy::ServiceName;

/// How one proxy runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address of the workload's pod: where its application listens.
    pub pod_ip: IpAddr,
    /// The port on which every proxy of the mesh accepts connections of other proxies.
    pub mesh_port: u16,
    /// `SO_MARK` of the proxy's own connections, by which rules tell them from the application's.
    pub mark: Option<u32>,
    /// Threads of the data plane.
    pub workers: usize,
    /// How long connections may take to end after the proxy was asked to.
    pub drain: Duration,
    /// Where traffic comes in.
    pub listen: Vec<Listen>,
    /// The admin end's addresses.
    pub admin: Vec<SocketAddr>,
}

#[cfg(test)]
impl Options {
    /// Of a proxy on the loopback that listens nowhere, for tests.
    pub(crate) fn example() -> Self {
        let pod_ip = std::net::Ipv4Addr::LOCALHOST.into();
        let (listen, admin) = (Vec::new(), Vec::new());
        Self { pod_ip, mesh_port: 0, mark: None, workers: 1, drain: Duration::ZERO, listen, admin }
    }
}

/// A listener of the data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    pub entrance: Entrance,
}

/// What comes in at a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entrance {
    /// Mutual TLS from other proxies.
    Mesh,
    /// Captured on its way to the workload: it did not come through another proxy.
    CapturedInbound,
    /// Plaintext for this port of the workload, without capture.
    Plaintext(u16),
    /// Captured on its way out of the workload.
    CapturedOutbound,
    /// What the application sends to the proxy as to an HTTP proxy (`http_proxy`).
    HttpProxy,
    /// What the application sends to a listener that stands for one port of a Service.
    Service(ServiceName, u16),
}

impl Entrance {
    /// Whether what comes in is the workload's own.
    pub(crate) fn is_of_workload(&self) -> bool {
        matches!(self, Self::CapturedOutbound | Self::HttpProxy | Self::Service(..))
    }
}
