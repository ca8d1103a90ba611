//! The stable codes of answers that the mesh itself gives, carried in the response header `x-heddle-reason`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the mesh answered a request or closed a connection itself, or why nobody has an answer. The codes are a promise: they
/// do not change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The peer has no identity: it spoke plaintext (A11).
    NoIdentity,
    /// No TrafficTarget grants anything to this destination (A1).
    NoTarget,
    /// TrafficTargets exist, and none lists the peer among its sources (A4).
    SourceNotAllowed,
    /// The peer is a source, on another port (A15).
    PortNotAllowed,
    /// The peer is a source, and no rule matches the request (A5).
    RouteNotAllowed,
    /// Only HTTP rules govern this port, and the connection is not HTTP (A18).
    NotHttp,
    /// The split's weights are all zero (T7).
    SplitAllZero,
    /// The service, or every backend of its split, has no ready endpoint.
    NoEndpoint,
    /// The endpoint could not be connected to.
    ConnectFailed,
    /// The endpoint answered with another identity than the one expected.
    PeerIdentity,
    /// The endpoint closed or reset the connection before its answer was complete.
    UpstreamReset,
    /// The endpoint did not answer in time.
    UpstreamTimeout,
    /// The application does not speak HTTP/2, which the client's request came in.
    NotHttp2,
    /// The request is not well-formed HTTP, or two parsers could read it differently.
    BadRequest,
    /// The request's head is larger than the limit.
    HeadTooLarge,
    /// The request's head did not arrive in time.
    RequestTimeout,
    /// The proxy has no configuration yet, or a bound of its own was reached.
    Overloaded,
    /// The client went away before its answer was complete.
    GivenUp,
}

impl Reason {
    /// The code, as it stands in `x-heddle-reason`, logs and metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoIdentity => "no-identity",
            Self::NoTarget => "no-target",
            Self::SourceNotAllowed => "source-not-allowed",
            Self::PortNotAllowed => "port-not-allowed",
            Self::RouteNotAllowed => "route-not-allowed",
            Self::NotHttp => "not-http",
            Self::SplitAllZero => "split-all-zero",
            Self::NoEndpoint => "no-endpoint",
            Self::ConnectFailed => "connect-failed",
            Self::PeerIdentity => "peer-identity",
            Self::UpstreamReset => "upstream-reset",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::NotHttp2 => "not-http2",
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::Overloaded => "overloaded",
            Self::GivenUp => "given-up",
        }
    }

    /// The HTTP status that goes with it (A31: a denial is 403, never a reset).
    pub const fn status(self) -> u16 {
        match self {
            Self::NoIdentity
            | Self::NoTarget
            | Self::SourceNotAllowed
            | Self::PortNotAllowed
            | Self::RouteNotAllowed
            | Self::NotHttp => 403,
            Self::SplitAllZero | Self::NoEndpoint | Self::Overloaded => 503,
            Self::ConnectFailed | Self::PeerIdentity | Self::UpstreamReset | Self::NotHttp2 => 502,
            Self::UpstreamTimeout => 504,
            Self::BadRequest => 400,
            Self::HeadTooLarge => 431,
            Self::RequestTimeout => 408,
            // Not of any standard, and never sent, as nobody is there.
            Self::GivenUp => 499,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
