//! One machine: an embedded Kubernetes API, its controllers, and a kubelet that runs pods as processes.

pub mod api;
pub mod controllers;
pub mod kubelet;
mod namespace;
pub mod net;
pub mod node;

pub use namespace::NetNamespace;
