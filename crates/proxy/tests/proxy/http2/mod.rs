//! HTTP/2 and gRPC through two proxies: a raw client on one side, raw servers on the other.

mod access;
mod calls;
mod faults;
mod floods;
mod flow;
pub(crate) mod peer;
mod records;
mod routing;
