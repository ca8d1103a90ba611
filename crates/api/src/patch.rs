//! JSON, merge and strategic merge patches.

use http::{HeaderMap, StatusCode, header};
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use super::error::{Answer, Failure};
use super::resource::Resource;
use super::schema::Schema;

/// Operations in one JSON patch, at most: each may copy.
const MAX_OPERATIONS: usize = 10_000;

/// A patch as its content type says it is meant.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply: the configuration.
    Apply(Value),
}

impl Patch {
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Answer<Self> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let json = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|e| Failure::bad_request(format!("the patch is not JSON: {e}")))
        };
        let patch = match kind.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body)
                    .map_err(|e| Failure::bad_request(format!("the patch is not a JSON patch: {e}")))?;
                if patch.0.len() > MAX_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message));
                }
                Patch::Json(patch)
            }
            "application/merge-patch+json" => Patch::Merge(json()?),
            "application/strategic-merge-patch+json" => Patch::Strategic(json()?),
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                Patch::Apply(super::body::parse_yaml(body)?)
            }
            _ => {
                let wanted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                              application/strategic-merge-patch+json";
                return Err(Failure::unsupported_media(wanted));
            }
        };
        match &patch {
            Patch::Merge(value) | Patch::Strategic(value) | Patch::Apply(value) if !value.is_object() => {
                Err(Failure::bad_request("the patch must be an object"))
            }
            _ => Ok(patch),
        }
    }

    /// The object after the patch. Custom types have no strategic merge.
    pub(crate) fn apply(&self, schema: Option<Schema<'_>>, custom: bool, old: &Value) -> Answer<Value> {
        let mut new = old.clone();
        match self {
            Patch::Json(patch) => patch.0.iter().try_for_each(|operation| operate(&mut new, operation))?,
            Patch::Merge(patch) => json_patch::merge(&mut new, patch),
            Patch::Strategic(_) if custom => {
                let wanted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                return Err(Failure::unsupported_media(wanted));
            }
            Patch::Strategic(patch) => super::strategic::merge(schema, &mut new, patch)?,
            Patch::Apply(_) => return Err(Failure::internal("an apply is not an edit")),
        }
        if new.is_object() { Ok(new) } else { Err(Failure::bad_request("the patched object is not an object")) }
    }
}

/// Kubernetes also replaces a member that is not there.
fn operate(value: &mut Value, operation: &PatchOperation) -> Answer<()> {
    let operation = match operation {
        PatchOperation::Replace(replace) if value.pointer(replace.path.as_str()).is_none() => {
            PatchOperation::Add(AddOperation { path: replace.path.clone(), value: replace.value.clone() })
        }
        other => other.clone(),
    };
    json_patch::patch(value, &[operation]).map_err(|e| {
        let message = format!("the server rejected our request due to an error in our request: {e}");
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    })
}

/// A patch makes no other kind of an object.
pub(crate) fn check_kind(resource: &Resource, patched: &Value) -> Answer<()> {
    for (field, wanted) in [("kind", resource.kind.clone()), ("apiVersion", resource.api_version())] {
        if patched[field] != wanted.as_str() {
            let why = format!("{field} is {}, and must stay {wanted:?}", patched[field]);
            return Err(Failure::unpatchable(&patched.to_string(), &why));
        }
    }
    Ok(())
}
