//! Between the version in which an object is stored and the version in which a client sees it.

use serde_json::{Value, json};

use super::autoscaling;
use super::error::Answer;
use super::object::{map_at, text};
use super::resource::Resource;
use super::server::Server;

/// Stored objects as the client of `resource` sees them.
pub(crate) async fn from_storage(server: &Server, resource: &Resource, mut values: Vec<Value>) -> Answer<Vec<Value>> {
    match resource.custom() {
        Some(custom) => super::convert::convert(server, resource, custom, values, &resource.api_version()).await,
        None if resource.is("events.k8s.io", "events") => {
            values.iter_mut().for_each(event_from_core);
            Ok(values)
        }
        None if autoscaling::is_v1(resource) => {
            values.iter_mut().for_each(autoscaling::to_v1);
            Ok(values)
        }
        None => Ok(values),
    }
}

/// A client's object as it is stored.
pub(crate) async fn to_storage(server: &Server, resource: &Resource, mut value: Value) -> Answer<Value> {
    match resource.custom() {
        Some(custom) => {
            let stored = super::resource::api_version(&resource.group, &custom.storage_version);
            Ok(super::convert::convert(server, resource, custom, vec![value], &stored).await?.remove(0))
        }
        None => {
            if resource.is("events.k8s.io", "events") {
                event_to_core(&mut value);
            }
            if autoscaling::is_v1(resource) {
                autoscaling::to_v2(&mut value);
            }
            Ok(value)
        }
    }
}

/// Fields of events by their names in the core group and in events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn event_from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(core, new)| (core, new));
}

fn event_to_core(event: &mut Value) {
    rename(event, "v1", |(core, new)| (new, core));
    let controller = text(event, "/reportingComponent").to_owned();
    if !controller.is_empty() && text(event, "/source/component").is_empty() && event.get("source").is_some() {
        map_at(event, "source").insert("component".to_owned(), json!(controller));
    }
}

fn rename(
    event: &mut Value,
    api_version: &str,
    order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = event.as_object_mut() else { return };
    for (from, to) in EVENT_FIELDS.iter().copied().map(order) {
        if let Some(value) = map.shift_remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
    map.insert("apiVersion".to_owned(), json!(api_version));
}
