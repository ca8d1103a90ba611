//! The program as its users run it: `heddle up` with real processes and namespaces, one mesh at a time.
//!
//! Where there are no network namespaces the tests that need them say so and end; with `HEDDLE_REQUIRE_NETNS` they fail.

mod access;
mod access_log;
mod capture;
mod check;
#[path = "../../../proxy/tests/proxy/collector.rs"]
#[allow(dead_code, reason = "the tests of the proxy use the rest")]
mod collector;
mod counting;
mod faults;
mod kube;
mod kubeconfig;
mod logging;
mod mesh;
mod modes;
mod plain_host;
mod prometheus;
mod protocols;
mod readme;
mod splits;
mod terminal;
mod tracing;
mod traffic;
mod watch;
mod workloads;
