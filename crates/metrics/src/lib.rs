//! `metrics.smi-spec.io`: what proxies report, over time, to what somebody asks of it.
//!
//! ```text
//! Report ──> Samples ─┐
//!                     ├─> measure(.., &Query) ─> Measured ─> TrafficMetrics | TrafficMetricsList | Table
//! objects ─> Objects ─┘
//! ```
//!
//! Everything here is a value or a function of values. [`answer`] takes the path and the parameters of a request and gives
//! a document; who listens, and who may ask, is for others to know.

mod api;
mod discovery;
mod kind;
mod losses;
mod measure;
mod objects;
mod openapi;
mod packed;
mod query;
mod refusal;
mod render;
mod samples;
mod selector;
mod table;

pub use api::{Attributes, Form, Request, answer, attributes};
pub use kind::Kind;
pub use losses::{Loss, LossCause, losses};
pub use measure::{Measured, Row, measure};
pub use objects::Objects;
pub use query::{Query, Scope};
pub use refusal::Refusal;
pub use samples::{FINE, LONGEST_WINDOW, Samples};
pub use selector::Selector;
