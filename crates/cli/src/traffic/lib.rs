//! Traffic as people read it: the commands `top`, `topology` and `split` of `heddle` and of `kubectl traffic`.
//!
//! They read `metrics.smi-spec.io` and nothing else.

mod commands;
mod figures;
mod graph;
mod kind;
mod source;
mod split;
pub mod text;
mod top;
mod topology;

pub use commands::{Command, run};
pub use figures::Figures;
pub use graph::{Graph, Link};
pub use kind::Kind;
pub use source::{Source, SourceError};
pub use split::{SplitRow, splits};
