//! The Service Mesh Interface: every kind and version, conversion between them, validation, CRDs.

mod access;
pub mod annotation;
mod convert;
mod crd;
mod headers;
mod invalid;
mod kind;
pub mod manifest;
mod mesh;
mod path;
mod resource;
mod schema;
mod specs;
mod split;
mod status;
mod validate;

pub use access::{
    IdentityBinding, IdentityBindingSpec, PodLabelSelector, RouteKind, Rule, Schemes, Subject, SubjectKind,
    TrafficTarget, TrafficTargetSpec,
};
pub use convert::convert;
pub use crd::{crds, heddle_conversion};
pub use headers::{Headers, InvalidHeaders};
pub use invalid::{Invalid, InvalidReason};
pub use kind::{Kind, Names, Version};
pub use mesh::{MESH_CONFIG_NAME, MODE_LABEL, MeshConfig, MeshConfigSpec, Mode};
pub use resource::{Parsed, Resource, fix, parse};
pub use specs::{
    HttpMatch, HttpRouteGroup, HttpRouteGroupSpec, PortMatch, TcpRoute, TcpRouteSpec, UdpRoute, UdpRouteSpec,
};
pub use split::{Backend, MatchReference, TrafficSplit, TrafficSplitSpec};
pub use status::Status;

/// The largest weight of a backend.
pub const MAX_WEIGHT: u64 = 1_000_000_000_000;
