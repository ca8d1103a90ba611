//! Conversion of custom objects between versions.

use serde_json::{Value, json};

use super::crd::CustomVersion;
use super::error::Answer;
use super::resource::Resource;
use super::server::Server;

/// The objects in `api_version`. Without a webhook only `apiVersion` differs between versions.
pub(crate) async fn convert(
    _server: &Server,
    _resource: &Resource,
    _custom: &CustomVersion,
    mut values: Vec<Value>,
    api_version: &str,
) -> Answer<Vec<Value>> {
    values.iter_mut().for_each(|value| value["apiVersion"] = json!(api_version));
    Ok(values)
}
