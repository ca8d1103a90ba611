//! Whole proxies in this process, with raw sockets on both sides of them.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod http2;
mod lifecycle;
mod mesh;
mod outbound;
mod smuggling;
mod tcp;
mod traffic;
