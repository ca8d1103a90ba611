//! Whole proxies in this process, with raw sockets on both sides of them.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod access_log;
mod breaks;
mod bypass;
#[allow(dead_code, reason = "other tests use the rest")]
mod collector;
mod http2;
mod lifecycle;
mod mesh;
mod outbound;
mod outcomes;
mod smuggling;
mod tcp;
mod tracing;
mod traffic;
