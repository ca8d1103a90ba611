//! The Service Mesh Interface: every kind and version, conversion between them, validation, CRDs.
//!
//! For whoever writes a mesh, or a tool that works with every mesh. The types are those of the newest versions (access,
//! specs and split `v1alpha4`) and implement [`kube::Resource`]; what is older is converted. The crate knows no client,
//! no proxy and no clock.
//!
//! - [`parse`] reads an object of any kind and version, checks it, and gives a [`Resource`] or everything that is wrong
//!   with it, each with its field.
//! - [`convert`] turns an object into another version, without ever granting more: what a version cannot carry is kept
//!   in an [`annotation`], or the conversion is refused.
//! - [`crds`] are the CustomResourceDefinitions, with rules that hold where no webhook runs.
//! - [`manifest::parse`] reads files so that every field knows its line and column.
//! - [`metrics`] has the types of TrafficMetrics.
//!
//! # A canary
//!
//! ```
//! use heddle_smi::{Backend, Kind, TrafficSplit, TrafficSplitSpec, convert, parse};
//!
//! let backend = |service: &str, weight| Backend { service: service.to_owned(), weight };
//! let split = TrafficSplit::new("website", TrafficSplitSpec {
//!     service: "website".to_owned(),
//!     backends: vec![backend("website-v1", 90), backend("website-v2", 10)],
//!     matches: vec![],
//! });
//!
//! let object = serde_json::to_value(&split)?;
//! assert_eq!(object["apiVersion"], "split.smi-spec.io/v1alpha4");
//! for version in Kind::TrafficSplit.versions() {
//!     let older = convert(object.clone(), &Kind::TrafficSplit.api_version(*version))?;
//!     println!("{older:#}");
//!     assert!(parse(&older).is_ok());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With [`kube`] it is a resource like any other, whatever version others write it in:
//!
//! ```
//! use heddle_smi::TrafficSplit;
//! use kube::api::{Api, Patch, PatchParams};
//!
//! async fn shift(client: kube::Client, split: TrafficSplit) -> kube::Result<TrafficSplit> {
//!     let splits: Api<TrafficSplit> = Api::default_namespaced(client);
//!     splits.patch("website", &PatchParams::apply("rollout"), &Patch::Apply(&split)).await
//! }
//! ```
//!
//! # What a target grants
//!
//! Who reads TrafficTargets must heed [`TrafficTarget::port`]: v1alpha1 and v1alpha2 limit a target to one port of the
//! destination, which newer versions have no field for. A mesh that looks at `spec` alone grants more than was written.
//!
//! ```
//! use heddle_smi::{Resource, parse};
//!
//! let target = parse(&serde_json::json!({
//!     "apiVersion": "access.smi-spec.io/v1alpha2",
//!     "kind": "TrafficTarget",
//!     "metadata": {"name": "metrics"},
//!     "spec": {
//!         "destination": {"kind": "ServiceAccount", "name": "shop", "port": 9102},
//!         "rules": [{"kind": "TCPRoute", "name": "any"}],
//!         "sources": [{"kind": "ServiceAccount", "name": "prometheus"}],
//!     },
//! })).unwrap();
//! let Resource::TrafficTarget(target) = target.resource else { panic!("another kind") };
//! assert_eq!(target.port().unwrap(), Some(9102));
//! ```
//!
//! # Which Kubernetes
//!
//! [`k8s_openapi`] is built for exactly one version of Kubernetes, and the program that is built chooses it. The default
//! feature `v1_33` chooses one, so that this crate builds alone. To choose another, turn it off:
//!
//! ```toml
//! heddle-smi = { version = "..", default-features = false }
//! k8s-openapi = { version = "0.29", features = ["v1_35"] }
//! ```
//!
//! # What is wrong with a manifest
//!
//! ```
//! use heddle_smi::{manifest, parse};
//!
//! let manifest = manifest::parse("
//! apiVersion: split.smi-spec.io/v1alpha2
//! kind: TrafficSplit
//! metadata: {name: website}
//! spec:
//!   service: website
//!   backends:
//!   - {service: website-v1, weight: -1}
//! ");
//! let document = &manifest.documents[0];
//! let errors = parse(&document.value).unwrap_err();
//! assert_eq!(errors[0].message, "must be at least 0, is -1");
//! assert_eq!(document.place(&errors[0].field).line, 8);
//! ```

mod access;
pub mod annotation;
mod convert;
mod crd;
mod headers;
mod invalid;
mod kind;
pub mod manifest;
mod mesh;
pub mod metrics;
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
pub use mesh::{
    ACCESS_LOG_ANNOTATION, MESH_CONFIG_NAME, MODE_LABEL, MeshConfig, MeshConfigSpec, Mode, OtlpProtocol, SamplingRatio,
    TracingSpec,
};
pub use path::closest;
pub use resource::{Parsed, Resource, fix, parse};
pub use specs::{
    HttpMatch, HttpRouteGroup, HttpRouteGroupSpec, PortMatch, TcpRoute, TcpRouteSpec, UdpRoute, UdpRouteSpec,
};
pub use split::{Backend, MatchReference, TrafficSplit, TrafficSplitSpec};
pub use status::Status;

/// The largest weight of a backend.
pub const MAX_WEIGHT: u64 = 1_000_000_000_000;
