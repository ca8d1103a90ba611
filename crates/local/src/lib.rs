//! One machine: an embedded Kubernetes API and a runner of pods as processes.

pub mod api;
pub mod controllers;
