//! The crate from outside: one module per area.

mod api;
mod api_calls;
mod api_custom;
mod api_requests;
mod store;
