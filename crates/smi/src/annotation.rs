//! The annotations in which conversion keeps what a version cannot carry.
//!
//! Whatever they hold, they only narrow what the object around them grants or selects: without them it would be
//! more. One that cannot be read, or that no longer fits the object, makes the conversion or the parse fail.

use crate::{Invalid, InvalidReason};

/// On a TrafficTarget of v1alpha3 and v1alpha4: `destination.port` of v1alpha1 and v1alpha2 (A14), in decimal digits.
pub const DESTINATION_PORT: &str = "conversion.heddle.dev/destination-port";

/// On a TrafficSplit of v1alpha1 and v1alpha2, and on a TCPRoute of v1alpha1 to v1alpha3: `spec.matches` of v1alpha4,
/// as JSON.
pub const MATCHES: &str = "conversion.heddle.dev/matches";

/// On an HTTPRouteGroup of v1alpha1: an object of the headers by the name of their match, as JSON.
pub const HEADERS: &str = "conversion.heddle.dev/headers";

/// On a TrafficSplit of v1alpha2 to v1alpha4: the thousandths that one unit of weight was in v1alpha1. It has no
/// effect but that v1alpha1 shows the quantities as they were written.
pub const WEIGHT_UNIT: &str = "conversion.heddle.dev/weight-unit";

/// The field path of an annotation.
pub(crate) fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// Reads [`DESTINATION_PORT`].
pub(crate) fn port(text: &str) -> Result<u16, Invalid> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or_else(|| {
        Invalid::new(field(DESTINATION_PORT), InvalidReason::Value, format!("`{text}` is not a port"))
            .hint("the annotation limits the target to one port, 1 to 65535; without it every port is granted")
    })
}
