//! The two ways in which pods have addresses: network namespaces on a bridge, or addresses of the loopback interface.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use super::context::Sandbox;
use crate::namespace::NetNamespace;
use crate::net::nft::Capture;
use crate::net::{Addresses, Exhausted, NODE_IP, NetworkError, NodeNetwork};

/// The UDP port that says whose a part of the loopback network is, for as long as its node runs. Nothing is sent to it.
const CLAIM_PORT: u16 = 15010;

/// Where pods get their network from.
pub enum Network {
    /// Each pod in a namespace of its own.
    Namespaces { node: NodeNetwork, addresses: Mutex<Addresses> },
    /// Pods are told apart by their addresses in 127.0.0.0/8 alone, of which each node has a part of its own.
    Loopback { node: Ipv4Addr, addresses: Mutex<Addresses>, _claim: UdpSocket },
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error("cannot make a network namespace: {0}")]
    Namespace(std::io::Error),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot install the rules that capture the pod's traffic: {0}; the kernel needs nf_tables with NAT")]
    Capture(std::io::Error),
}

impl Network {
    pub fn namespaces(node: NodeNetwork) -> Self {
        Self::Namespaces { node, addresses: Mutex::new(Addresses::of_pod_network()) }
    }

    /// Takes the first part of the loopback network, a /16 from 127.64.0.0 to 127.127.0.0, that no other node of this
    /// machine has. Its first address is the node's.
    pub fn loopback() -> io::Result<Self> {
        let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
        for part in 64..128 {
            let node = Ipv4Addr::new(127, part, 0, 1);
            match UdpSocket::bind((node, CLAIM_PORT)) {
                Ok(claim) => {
                    let addresses = Addresses::new(Ipv4Addr::new(127, part, 0, 2), Ipv4Addr::new(127, part, 255, 254));
                    return Ok(Self::Loopback { node, addresses: Mutex::new(addresses), _claim: claim });
                }
                Err(error) => taken = error,
            }
        }
        Err(taken)
    }

    /// The address of the node, as pods see it.
    pub fn node_ip(&self) -> Ipv4Addr {
        match self {
            Self::Namespaces { .. } => NODE_IP,
            Self::Loopback { node, .. } => *node,
        }
    }

    /// The namespace of the node; absent where there are none.
    pub fn node(&self) -> Option<&NetNamespace> {
        match self {
            Self::Namespaces { node, .. } => Some(node.netns()),
            Self::Loopback { .. } => None,
        }
    }

    /// Makes the network of a pod. With `captured` its TCP goes through its proxy from the first packet on.
    pub async fn sandbox(&self, host_network: bool, captured: bool) -> Result<Sandbox, SandboxError> {
        if host_network {
            return Ok(Sandbox { ip: self.node_ip(), netns: self.node().cloned(), of_node: true });
        }
        let ip = self.addresses().lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let netns = self.attach(ip, captured).await;
        if netns.is_err() {
            self.release(ip);
        }
        Ok(Sandbox { ip, netns: netns?, of_node: false })
    }

    async fn attach(&self, ip: Ipv4Addr, captured: bool) -> Result<Option<NetNamespace>, SandboxError> {
        let Self::Namespaces { node, .. } = self else { return Ok(None) };
        let netns = NetNamespace::create().map_err(SandboxError::Namespace)?;
        if captured {
            Capture::default().install(&netns).map_err(SandboxError::Capture)?;
        }
        node.attach(&netns, ip).await?;
        Ok(Some(netns))
    }

    /// Gives back the address of a pod that is gone.
    pub fn release(&self, ip: Ipv4Addr) {
        self.addresses().lock().unwrap_or_else(PoisonError::into_inner).give_back(ip);
    }

    fn addresses(&self) -> &Mutex<Addresses> {
        match self {
            Self::Namespaces { addresses, .. } | Self::Loopback { addresses, .. } => addresses,
        }
    }
}
