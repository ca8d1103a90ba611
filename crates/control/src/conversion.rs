//! Conversion between the versions of the SMI kinds, for the API server.

use serde_json::{Value, json};

/// Answers a ConversionReview: all objects in the version asked for, or the reason for each that has none.
pub(crate) fn convert(review: &Value) -> Value {
    let request = &review["request"];
    let version = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut converted, mut failures) = (Vec::with_capacity(objects.len()), Vec::new());
    for object in objects {
        match heddle_smi::convert(object.clone(), version) {
            Ok(object) => converted.push(object),
            Err(error) => failures.push(format!("{}: {error}", name(object))),
        }
    }
    // The API server takes all objects or none.
    let response = match failures.is_empty() {
        true => json!({ "uid": request["uid"], "result": { "status": "Success" }, "convertedObjects": converted }),
        false => json!({
            "uid": request["uid"],
            "result": { "status": "Failure", "message": failures.join("; ") },
            "convertedObjects": [],
        }),
    };
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response })
}

/// Such as `TrafficSplit shop/web`.
fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, meta) = (text(&object["kind"]), &object["metadata"]);
    format!("{kind} {}/{}", text(&meta["namespace"]), text(&meta["name"]))
}
