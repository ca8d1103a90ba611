//! Resources to a mesh and its problems; a mesh to one configuration per proxy.
//!
//! A [`ResourceSet`] holds everything known, lowered once to what the compiler asks of it. [`compile`] is a function
//! of the whole set, whatever the order in which it was filled: it always returns a [`Mesh`], and a bad resource costs
//! only itself. [`Mesh::proxy_config`] is the part of the mesh that one proxy is told.
//!
//! This crate knows no files, no network and no connections, and does not panic on any input.

mod access;
mod facts;
mod identities;
mod lower;
mod mesh;
mod missing;
mod pod;
mod problem;
mod protocol;
mod resource_set;
mod route_group;
mod services;
mod settings;
mod splits;
mod status;
mod workloads;

pub use mesh::{Compiled, Mesh, compile};
pub use problem::{Problem, ProblemReason, Severity};
pub use resource_set::ResourceSet;
pub use status::{Condition, ConditionStatus, ConditionType, ResourceStatus};
