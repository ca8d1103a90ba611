//! HTTP/2 and gRPC through two proxies: a raw client on one side, raw servers on the other.

mod access;
mod calls;
mod faults;
mod flow;
mod peer;
mod routing;
