//! Any SMI resource, read from JSON of any version.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{HttpRouteGroup, IdentityBinding, Invalid, MeshConfig, TcpRoute, TrafficSplit, TrafficTarget, UdpRoute};

/// A resource of any kind, in its newest version.
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    TrafficTarget(TrafficTarget),
    IdentityBinding(IdentityBinding),
    HttpRouteGroup(HttpRouteGroup),
    TcpRoute(TcpRoute),
    UdpRoute(UdpRoute),
    TrafficSplit(TrafficSplit),
    MeshConfig(MeshConfig),
}

/// A valid resource, and what is doubtful in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    pub resource: Resource,
    /// Mistakes that cost a part of the resource its effect and are no reason to refuse it, such as a source of an
    /// unknown kind (A26).
    pub warnings: Vec<Invalid>,
}

// === impl Resource ===

impl Resource {
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::TrafficTarget(resource) => &resource.metadata,
            Self::IdentityBinding(resource) => &resource.metadata,
            Self::HttpRouteGroup(resource) => &resource.metadata,
            Self::TcpRoute(resource) => &resource.metadata,
            Self::UdpRoute(resource) => &resource.metadata,
            Self::TrafficSplit(resource) => &resource.metadata,
            Self::MeshConfig(resource) => &resource.metadata,
        }
    }
}
