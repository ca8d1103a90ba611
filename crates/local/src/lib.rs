//! One machine as a node: the kubelet that runs pods as processes, their network, and the process that holds it all.

pub mod kubelet;
mod namespace;
pub mod net;
pub mod node;

pub use namespace::NetNamespace;
