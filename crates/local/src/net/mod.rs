//! The network of the node: a bridge, one network namespace per pod, the capture of a pod's TCP, ClusterIPs and DNS.
//!
//! ```text
//!   node namespace ── heddle0 10.244.0.1/16 ──┬── veth ── pod namespace, eth0 10.244.x.y, default route by 10.244.0.1
//!                  └─ lo: all of 10.96.0.0/16 └── veth ── ...
//! ```

pub mod address;
pub mod directory;
pub mod dns;
pub mod egress;
mod link;
pub mod nft;
pub mod service;

pub use address::{Addresses, Exhausted};
pub use link::{NetworkError, NodeNetwork};

use std::net::Ipv4Addr;

/// The node's address on the pod network, and the pods' way out.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The prefix length of the pod network, 10.244.0.0/16.
pub const POD_PREFIX: u8 = 16;
/// The network of the Services' ClusterIPs, 10.96.0.0/16.
pub const SERVICE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
/// The prefix length of [`SERVICE_NETWORK`].
pub const SERVICE_PREFIX: u8 = 16;
/// The ClusterIP of the Service `default/kubernetes`.
pub const API_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The ClusterIP of the cluster's DNS.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The DNS domain of Services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// What a proxy and the kubelet set on their own sockets (SO_MARK), so that they are not captured.
pub const MARK: u32 = 0x4844;
