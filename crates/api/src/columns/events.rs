//! The columns of events, in either group's form.

use serde_json::{Value, json};

use super::super::object::{integer, text};
use super::super::table::{age, name};
use super::{Column, column, wide};

pub(super) fn columns() -> Vec<Column> {
    vec![
        column("Last Seen", |o| {
            first_age(o, &["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"])
        }),
        column("Type", |o| json!(text(o, "/type"))),
        column("Reason", |o| json!(text(o, "/reason"))),
        column("Object", |o| json!(format!("{}/{}", text(about(o), "/kind").to_lowercase(), text(about(o), "/name")))),
        wide("Subobject", |o| json!(text(about(o), "/fieldPath"))),
        wide("Source", |o| {
            let sources = ["/source/component", "/reportingComponent", "/reportingController"];
            json!(sources.iter().map(|p| text(o, p)).find(|t| !t.is_empty()).unwrap_or_default())
        }),
        column("Message", |o| {
            let message = if o.get("note").is_some() { text(o, "/note") } else { text(o, "/message") };
            json!(message.trim())
        }),
        wide("First Seen", |o| first_age(o, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"])),
        wide("Count", |o| {
            let counts = ["/series/count", "/count", "/deprecatedCount"];
            json!(counts.iter().find_map(|p| integer(o, p)).unwrap_or(1))
        }),
        wide("Name", name),
    ]
}

fn about(event: &Value) -> &Value {
    if event.get("regarding").is_some() { &event["regarding"] } else { &event["involvedObject"] }
}

/// Time since the first of these times that is set.
fn first_age(event: &Value, places: &[&str]) -> Value {
    let seen = places.iter().map(|place| text(event, place)).find(|time| !time.is_empty());
    json!(age(seen.unwrap_or_default()))
}
