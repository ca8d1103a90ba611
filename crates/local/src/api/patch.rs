//! JSON, merge and strategic merge patches.

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::error::{Answer, Failure};
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
                Patch::Apply(super::write::parse_yaml(body)?)
            }
            other => {
                let wanted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                              application/strategic-merge-patch+json";
                return Err(Failure::unsupported_media(other, wanted));
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
            Patch::Json(patch) => json_patch::patch(&mut new, patch).map_err(|e| {
                let message = format!("the server rejected our request due to an error in our request: {e}");
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            })?,
            Patch::Merge(patch) => json_patch::merge(&mut new, patch),
            Patch::Strategic(_) if custom => {
                let wanted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                return Err(Failure::unsupported_media("application/strategic-merge-patch+json", wanted));
            }
            Patch::Strategic(patch) => super::strategic::merge(schema, &mut new, patch)?,
            Patch::Apply(_) => return Err(Failure::internal("an apply is not an edit")),
        }
        if new.is_object() { Ok(new) } else { Err(Failure::bad_request("the patched object is not an object")) }
    }
}
