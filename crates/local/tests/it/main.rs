//! The crate from outside: one module per area.

mod api;
mod kubelet;
