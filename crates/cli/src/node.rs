//! `heddle node`: the process behind `heddle up`. It is not for people to start.

pub(crate) use heddle_local::node::{Args, main as run};
