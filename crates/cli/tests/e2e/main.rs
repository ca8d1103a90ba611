//! The program as its users run it: `heddle up` with real processes and namespaces, one mesh at a time.
//!
//! Where there are no network namespaces the tests that need them say so and end; with `HEDDLE_REQUIRE_NETNS` they fail.

mod capture;
mod faults;
mod mesh;
mod splits;
