//! Conversion of custom objects between versions: by changing `apiVersion` alone, or by the definition's webhook.

use std::time::Duration;

use serde_json::{Value, json};

use super::crd::CustomVersion;
use super::error::{Answer, Failure};
use super::object::{items, text};
use super::resource::Resource;
use super::server::Server;

/// How long a conversion webhook may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The objects in `api_version`.
pub(crate) async fn convert(
    server: &Server,
    resource: &Resource,
    custom: &CustomVersion,
    mut values: Vec<Value>,
    api_version: &str,
) -> Answer<Vec<Value>> {
    let foreign: Vec<usize> = (0..values.len()).filter(|at| text(&values[*at], "/apiVersion") != api_version).collect();
    if foreign.is_empty() {
        return Ok(values);
    }
    let Some(webhook) = &custom.conversion else {
        foreign.into_iter().for_each(|at| values[at]["apiVersion"] = json!(api_version));
        return Ok(values);
    };
    let objects: Vec<Value> = foreign.iter().map(|at| values[*at].clone()).collect();
    let converted = ask(server, webhook, &objects, api_version).await.map_err(|why| {
        Failure::internal(format!("conversion webhook for {}, Kind={} failed: {why}", resource.group, resource.kind))
    })?;
    for (at, mut new) in foreign.into_iter().zip(converted) {
        // A conversion may change labels and annotations only.
        let mut metadata = values[at]["metadata"].clone();
        for field in ["labels", "annotations"] {
            match (metadata.as_object_mut(), new["metadata"].get(field)) {
                (Some(map), Some(value)) => map.insert(field.to_owned(), value.clone()),
                (Some(map), None) => map.shift_remove(field),
                (None, _) => None,
            };
        }
        new["metadata"] = metadata;
        values[at] = new;
    }
    Ok(values)
}

async fn ask(server: &Server, webhook: &Value, objects: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
    let review = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": uuid::Uuid::new_v4().to_string(), "desiredAPIVersion": api_version, "objects": objects},
    });
    let answer = server.endpoint(&webhook["clientConfig"])?.post(&review, LIMIT).await?;
    let response = &answer["response"];
    if response["uid"] != review["request"]["uid"] {
        return Err("the answer is for another request".to_owned());
    }
    if text(response, "/result/status") != "Success" {
        return Err(text(response, "/result/message").to_owned());
    }
    let converted = items(response, "/convertedObjects");
    let fine = converted.len() == objects.len() && converted.iter().all(|o| text(o, "/apiVersion") == api_version);
    if fine {
        Ok(converted.to_vec())
    } else {
        Err("the answer has not all objects in the version asked for".to_owned())
    }
}
