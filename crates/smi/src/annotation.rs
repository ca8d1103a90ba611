//! The annotations in which conversion keeps what a version cannot carry.
//!
//! Whatever they hold, they only narrow what the object around them grants or selects: without them it would be
//! more. One that cannot be read makes the conversion to a newer version or the parse fail. So does one that no longer
//! fits, because a client of an older version changed what it belongs to: headers of a match that is not there any
//! more, a port other than `destination.port`. A client that removes one says what its version says without it: a
//! TCPRoute of v1alpha2 opens every port.

use serde_json::{Map, Value};

use crate::convert::object_mut;
use crate::{Invalid, InvalidReason};

/// On a TrafficTarget of v1alpha3 and v1alpha4: `destination.port` of v1alpha1 and v1alpha2 (A14), in decimal digits.
pub const DESTINATION_PORT: &str = "conversion.heddle.dev/destination-port";

/// On a TrafficSplit of v1alpha1 and v1alpha2, and on a TCPRoute of v1alpha1 to v1alpha3: `spec.matches` of v1alpha4,
/// as JSON.
pub const MATCHES: &str = "conversion.heddle.dev/matches";

/// On an HTTPRouteGroup of v1alpha1: an object of the headers by the name of their match, as JSON, for the matches that
/// come back without the field.
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

/// The text of an annotation.
pub(crate) fn get(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Invalid> {
    match object.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(|all| all.get(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Invalid::new(field(name), InvalidReason::Type, "must be a string")),
    }
}

/// The text of an annotation, which goes away. An object of annotations that is empty then goes too.
pub(crate) fn take(object: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Invalid> {
    let text = get(object, name)?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata
        && let Some(Value::Object(annotations)) = metadata.get_mut("annotations")
        && annotations.remove(name).is_some()
        && annotations.is_empty()
    {
        metadata.remove("annotations");
    }
    Ok(text)
}

pub(crate) fn set(object: &mut Map<String, Value>, name: &str, text: &str) -> Result<(), Invalid> {
    let metadata = object.entry("metadata").or_insert_with(|| Map::new().into());
    let metadata = object_mut(metadata, "metadata")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
    if annotations.is_null() {
        *annotations = Map::new().into();
    }
    object_mut(annotations, "metadata.annotations")?.insert(name.to_owned(), text.into());
    Ok(())
}

/// Keeps a value as JSON, or removes what was kept when there is none.
pub(crate) fn keep(object: &mut Map<String, Value>, name: &str, value: Option<Value>) -> Result<(), Invalid> {
    match value {
        Some(value) => set(object, name, &value.to_string()),
        None => take(object, name).map(drop),
    }
}
