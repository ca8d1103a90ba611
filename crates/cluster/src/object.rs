//! Upkeep of objects: read, create, apply.

use kube::Client;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::Value;

use crate::{FIELD_MANAGER, Kind};

/// Reads an object; `None` when there is none.
pub async fn read(client: &Client, kind: &Kind, namespace: &str, name: &str) -> kube::Result<Option<Value>> {
    let object = kind.api(client, namespace).get_opt(name).await?;
    object.map(|object| to_value(&object)).transpose()
}

/// Applies fields as this control plane's own (server-side apply). The API server leaves an object alone that has them
/// already. Takes over fields that another wrote: what is applied is what only the control plane knows.
pub async fn apply(client: &Client, kind: &Kind, fields: &Value) -> kube::Result<()> {
    let (namespace, name) = name_of(fields);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    kind.api(client, namespace).patch(name, &params, &Patch::Apply(fields)).await?;
    Ok(())
}

/// Changes fields of an object that exists (JSON merge patch).
pub async fn merge(client: &Client, kind: &Kind, fields: &Value) -> kube::Result<()> {
    let (namespace, name) = name_of(fields);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    kind.api(client, namespace).patch(name, &params, &Patch::Merge(fields)).await?;
    Ok(())
}

/// Creates an object, or reads the one that is there: of several that try at once, all get the same.
pub async fn create_or_read(client: &Client, kind: &Kind, object: &Value) -> kube::Result<Value> {
    let (namespace, name) = name_of(object);
    let api = kind.api(client, namespace);
    let new: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, &new).await {
        Err(kube::Error::Api(status)) if status.code == 409 => to_value(&api.get(name).await?),
        created => to_value(&created?),
    }
}

fn name_of(object: &Value) -> (&str, &str) {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    (field("namespace"), field("name"))
}

fn to_value(object: &DynamicObject) -> kube::Result<Value> {
    serde_json::to_value(object).map_err(kube::Error::SerdeError)
}
