//! The scale subresource: an `autoscaling/v1` Scale over the fields that hold replicas.

use http::StatusCode;
use serde_json::{Value, json};

use super::body::read_value;
use super::crd::ScalePaths;
use super::error::{Answer, Cause, Failure};
use super::object::{integer, text};
use super::patch::Patch;
use super::resource::Resource;
use super::schema::{self, Schema};
use super::write::Write;

fn paths(resource: &Resource) -> Option<ScalePaths> {
    match resource.custom() {
        Some(custom) => custom.scale.clone(),
        None => Some(ScalePaths {
            spec: "/spec/replicas".to_owned(),
            status: "/status/replicas".to_owned(),
            selector: None,
        }),
    }
}

/// The Scale of an object.
pub(crate) fn show(resource: &Resource, value: &Value) -> Answer<Value> {
    let paths = paths(resource).ok_or_else(Failure::no_such_path)?;
    let from = &value["metadata"];
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = from.get(field) {
            metadata[field] = value.clone();
        }
    }
    let selector = match &paths.selector {
        Some(pointer) => text(value, pointer).to_owned(),
        None if resource.custom().is_some() => String::new(),
        None => selector_text(&value["spec"]["selector"]),
    };
    let mut status = json!({"replicas": integer(value, &paths.status).unwrap_or_default()});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    let spec = json!({"replicas": integer(value, &paths.spec).unwrap_or_default()});
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
}

/// A LabelSelector (or the plain map of ReplicationControllers) as text.
pub(crate) fn selector_text(selector: &Value) -> String {
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        &selector["matchLabels"]
    } else {
        selector
    };
    let labels = labels.as_object().into_iter().flatten().filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)));
    let expressions = super::object::items(selector, "/matchExpressions").iter().map(|expression| {
        let key = text(expression, "/key");
        let values: Vec<&str> = super::object::items(expression, "/values").iter().filter_map(Value::as_str).collect();
        match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

impl Write<'_> {
    pub(crate) async fn update_scale(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        let mut scale = read_value(&self.call.headers, body)?;
        if let Some(why) = mistake(&mut scale) {
            return Err(Failure::bad_request(why));
        }
        self.set_scale(move |_| Ok(scale.clone())).await
    }

    pub(crate) async fn patch_scale(&mut self, patch: &Patch) -> Answer<(StatusCode, Value)> {
        self.set_scale(|old| match patch {
            Patch::Apply(scale) => Ok(scale.clone()),
            patch => {
                let mut scale = patch.apply(schema(), false, old)?;
                let patched = scale.to_string();
                mistake(&mut scale).map_or(Ok(scale), |why| Err(Failure::unpatchable(&patched, &why)))
            }
        })
        .await
    }

    async fn set_scale(&mut self, edit: impl Fn(&Value) -> Answer<Value> + Sync) -> Answer<(StatusCode, Value)> {
        let resource = self.call.resource.clone();
        let paths = paths(&resource).ok_or_else(Failure::no_such_path)?;
        let changed = self
            .change(true, |_, old| {
                let scale = edit(&show(&resource, old)?)?;
                scaled(old, &scale, &paths.spec)
            })
            .await?;
        Ok((StatusCode::OK, show(&resource, &changed)?))
    }
}

fn schema() -> Option<Schema<'static>> {
    Schema::builtin("io.k8s.api.autoscaling.v1.Scale")
}

/// What is not of its type in a Scale.
fn mistake(scale: &mut Value) -> Option<String> {
    let decoded = schema::decode(schema()?, "Scale", scale);
    decoded.mistakes.into_iter().next().map(|mistake| mistake.answer)
}

/// The object with the replicas that the Scale asks for.
fn scaled(old: &Value, scale: &Value, pointer: &str) -> Answer<Value> {
    let replicas = integer(scale, "/spec/replicas").unwrap_or_default();
    if replicas < 0 {
        let cause = Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(Failure::invalid_kind("autoscaling", "Scale", text(old, "/metadata/name"), &[cause]));
    }
    let mut new = old.clone();
    let revision = &scale["metadata"]["resourceVersion"];
    if revision.is_string() {
        new["metadata"]["resourceVersion"] = revision.clone();
    }
    let mut place = &mut new;
    for part in pointer.split('/').skip(1) {
        place = super::object::as_map(place).entry(part).or_insert(Value::Null);
    }
    *place = json!(replicas);
    Ok(new)
}
