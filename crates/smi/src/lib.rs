//! The Service Mesh Interface: every kind and version, conversion between them, validation, CRDs.

mod access;
pub mod annotation;
mod headers;
mod invalid;
mod mesh;
mod resource;
mod specs;
mod split;
mod status;

pub use access::{
    IdentityBinding, IdentityBindingSpec, PodLabelSelector, RouteKind, Rule, Schemes, Subject, SubjectKind,
    TrafficTarget, TrafficTargetSpec,
};
pub use headers::{Headers, InvalidHeaders};
pub use invalid::{Invalid, InvalidReason};
pub use mesh::{MESH_CONFIG_NAME, MODE_LABEL, MeshConfig, MeshConfigSpec, Mode};
pub use resource::{Parsed, Resource};
pub use specs::{
    HttpMatch, HttpRouteGroup, HttpRouteGroupSpec, PortMatch, TcpRoute, TcpRouteSpec, UdpRoute, UdpRouteSpec,
};
pub use split::{Backend, MatchReference, TrafficSplit, TrafficSplitSpec};
pub use status::Status;

/// The largest weight of a backend.
pub const MAX_WEIGHT: u64 = 1_000_000_000_000;
