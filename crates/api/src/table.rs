//! Tables: what `kubectl get` prints.

use serde_json::{Value, json};

use super::negotiate::metadata_only;
use super::object::{self, text};
use super::resource::Resource;

/// Objects as a `meta.k8s.io` Table. `include` is `includeObject`: None, Metadata (the default) or Object.
pub(crate) fn table(resource: &Resource, objects: &[Value], metadata: Value, version: &str, include: &str) -> Value {
    let columns = super::columns::columns(resource);
    let definitions: Vec<Value> = columns.iter().map(|column| column.definition()).collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| column.cell(object)).collect();
            json!({"cells": cells, "object": shown(object, version, include)})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn shown(object: &Value, version: &str, include: &str) -> Value {
    match include {
        "None" => Value::Null,
        "Object" => object.clone(),
        _ => metadata_only(object, version),
    }
}

/// Time since a timestamp as kubectl writes it: `5s`, `3m20s`, `2h`, `4d`.
pub(crate) fn age(timestamp: &str) -> String {
    let Ok(since) = timestamp.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    duration(jiff::Timestamp::now().duration_since(since).as_secs())
}

/// Seconds in the two greatest units that matter.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |great: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{great}{unit}"),
        small => format!("{great}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => pair(days / 365, "y", days % 365, "d"),
    }
}

/// The age of an object.
pub(crate) fn object_age(object: &Value) -> String {
    let created = text(object, "/metadata/creationTimestamp");
    if created.is_empty() { "<unknown>".to_owned() } else { age(created) }
}

/// Labels and their like as `a=b,c=d`, or `<none>`.
pub(crate) fn pairs(map: &Value) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    or_none(pairs.join(","))
}

pub(crate) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

pub(crate) fn name(object: &Value) -> Value {
    json!(object::name(object))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        let said = [5, 119, 200, 599, 3599, 7200, 12_000, 90_000, 200_000, 900_000].map(duration);
        assert_eq!(said, ["5s", "119s", "3m20s", "9m59s", "59m", "120m", "3h20m", "25h", "2d7h", "10d"]);
    }
}
