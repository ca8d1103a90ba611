//! Admission webhooks: which are concerned, what they are asked, and what they change or refuse.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::StatusCode;
use kube_cel::{AdmissionRequest, GroupVersionKind, GroupVersionResource, VapEvaluator, VapExpression};
use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::object::{self, integer, items, text};
use super::selector::label_selector_matches;
use super::store::Object;
use super::write::Write;

const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

/// What is admitted.
pub(crate) struct Review<'a> {
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub operation: &'static str,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

impl Review<'_> {
    fn either(&self) -> &Value {
        self.object.or(self.old).unwrap_or(&Value::Null)
    }
}

/// Deletion is reviewed by validating webhooks alone: there is nothing to change.
pub(crate) async fn review_delete(write: &mut Write<'_>, old: &Arc<Object>) -> Answer<()> {
    let shown = write.server.show(write.call, vec![old.clone()]).await?;
    validate(write, &Review { operation: "DELETE", object: None, old: shown.first() }).await
}

/// The object as the mutating webhooks leave it.
pub(crate) async fn mutate(
    write: &mut Write<'_>,
    operation: &'static str,
    mut object: Value,
    old: Option<&Value>,
) -> Answer<Value> {
    for webhook in concerned(write, MUTATING, &Review { operation, object: Some(&object), old })? {
        let review = Review { operation, object: Some(&object), old };
        let Some(response) = call(write, &webhook, &review).await? else { continue };
        let Some(patch) = response["patch"].as_str() else { continue };
        let patched = apply_patch(&object, patch).map_err(|why| {
            Failure::internal(format!(
                "admission webhook {} answered a patch that does not apply: {why}",
                webhook["name"]
            ))
        })?;
        object = patched;
        write.decode(&mut object)?;
    }
    Ok(object)
}

fn apply_patch(object: &Value, patch: &str) -> Result<Value, String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch).map_err(|e| e.to_string())?;
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|e| e.to_string())?;
    Ok(patched)
}

/// Asks the validating webhooks; the first refusal counts.
pub(crate) async fn validate(write: &mut Write<'_>, review: &Review<'_>) -> Answer<()> {
    for webhook in concerned(write, VALIDATING, review)? {
        call(write, &webhook, review).await?;
    }
    Ok(())
}

/// The webhooks of all configurations that are concerned, in the order of names.
fn concerned(write: &Write<'_>, kind: &str, review: &Review<'_>) -> Answer<Vec<Value>> {
    if write.call.resource.group == "admissionregistration.k8s.io" {
        return Ok(Vec::new());
    }
    let (configurations, _) = write.server.store.list(kind, None);
    let mut found = Vec::new();
    for webhook in configurations.iter().flat_map(|c| items(&c.value, "/webhooks")) {
        if rules_match(write, webhook, review.operation)
            && selectors_match(write, webhook, review)
            && conditions_match(write, webhook, review)?
        {
            found.push(webhook.clone());
        }
    }
    Ok(found)
}

fn rules_match(write: &Write<'_>, webhook: &Value, operation: &str) -> bool {
    let (resource, place) = (&write.call.resource, &write.call.place);
    let full = if place.subresource.is_empty() {
        resource.plural.clone()
    } else {
        format!("{}/{}", resource.plural, place.subresource)
    };
    items(webhook, "/rules").iter().any(|rule| {
        let lists = |field: &str, wanted: &str| items(rule, field).iter().any(|v| v == "*" || v == wanted);
        let resources =
            items(rule, "/resources").iter().filter_map(Value::as_str).any(|pattern| match pattern.split_once('/') {
                Some((main, sub)) => {
                    (main == "*" || main == resource.plural) && (sub == "*" || sub == place.subresource)
                }
                None => (pattern == "*" && place.subresource.is_empty()) || pattern == full,
            });
        let scope = match text(rule, "/scope") {
            "Namespaced" => resource.namespaced,
            "Cluster" => !resource.namespaced,
            _ => true,
        };
        resources
            && scope
            && lists("/operations", operation)
            && lists("/apiGroups", &resource.group)
            && lists("/apiVersions", &resource.version)
    })
}

fn selectors_match(write: &Write<'_>, webhook: &Value, review: &Review<'_>) -> bool {
    let labels = |value: Option<&Value>| {
        value.is_some_and(|v| label_selector_matches(&webhook["objectSelector"], &v["metadata"]["labels"]))
    };
    if !labels(review.object) && !labels(review.old) {
        return false;
    }
    let selector = &webhook["namespaceSelector"];
    if write.call.resource.is("", "namespaces") {
        return label_selector_matches(selector, &review.either()["metadata"]["labels"]);
    }
    if !write.call.resource.namespaced {
        return true;
    }
    let namespace = write.server.lookup("/namespaces", "", &write.call.place.namespace);
    namespace.is_none_or(|n| label_selector_matches(selector, &n.value["metadata"]["labels"]))
}

/// Evaluates `matchConditions`; one that cannot be evaluated counts as the failure policy says.
fn conditions_match(write: &Write<'_>, webhook: &Value, review: &Review<'_>) -> Answer<bool> {
    let conditions: Vec<VapExpression> = items(webhook, "/matchConditions")
        .iter()
        .map(|c| VapExpression {
            expression: text(c, "/expression").to_owned(),
            message: None,
            message_expression: None,
        })
        .collect();
    if conditions.is_empty() {
        return Ok(true);
    }
    let (call, resource) = (write.call, &write.call.resource);
    let request = AdmissionRequest {
        operation: review.operation.to_owned(),
        username: call.user.name.clone(),
        uid: call.user.uid.clone(),
        groups: call.user.groups.clone(),
        name: object::name(review.either()).to_owned(),
        namespace: call.place.namespace.clone(),
        dry_run: write.dry_run,
        kind: GroupVersionKind {
            group: resource.group.clone(),
            version: resource.version.clone(),
            kind: resource.kind.clone(),
        },
        resource: GroupVersionResource {
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.plural.clone(),
        },
    };
    let evaluator = VapEvaluator::builder()
        .object(review.object.cloned().unwrap_or_default())
        .old_object(review.old.cloned().unwrap_or_default())
        .request(request)
        .build();
    Ok(evaluator.evaluate(&conditions).iter().all(|result| result.passed))
}

/// Asks one webhook. None when it could not be asked and its policy is to ignore that.
async fn call(write: &mut Write<'_>, webhook: &Value, review: &Review<'_>) -> Answer<Option<Value>> {
    let name = text(webhook, "/name");
    let limit = Duration::from_secs(
        integer(webhook, "/timeoutSeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(10).clamp(1, 30),
    );
    let body = request(write, review);
    let answer = match write.server.endpoint(&webhook["clientConfig"]) {
        Ok(endpoint) => endpoint.post(&body, limit).await,
        Err(why) => Err(why),
    };
    let answer = answer.and_then(|answer| match answer["response"]["uid"] == body["request"]["uid"] {
        true => Ok(answer),
        false => Err("the answer is for another request".to_owned()),
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) if text(webhook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(
                webhook = name,
                why,
                "an admission webhook could not be asked; its policy is to ignore that"
            );
            return Ok(None);
        }
        Err(why) => {
            return Err(Failure::internal(format!("failed calling webhook {name:?}: failed to call webhook: {why}")));
        }
    };
    let response = answer["response"].clone();
    write.warnings.extend(items(&response, "/warnings").iter().filter_map(|w| w.as_str().map(str::to_owned)));
    if response["allowed"] == true { Ok(Some(response)) } else { Err(refusal(name, &response["status"])) }
}

fn refusal(name: &str, status: &Value) -> Failure {
    let message = match (text(status, "/message"), text(status, "/reason")) {
        ("", "") => format!("admission webhook {name:?} denied the request without explanation"),
        ("", reason) => format!("admission webhook {name:?} denied the request: {reason}"),
        (message, _) => format!("admission webhook {name:?} denied the request: {message}"),
    };
    let code = integer(status, "/code").and_then(|c| u16::try_from(c).ok()).and_then(|c| StatusCode::from_u16(c).ok());
    let code = code.filter(|c| c.is_client_error() || c.is_server_error()).unwrap_or(StatusCode::FORBIDDEN);
    let reason = if code == StatusCode::UNPROCESSABLE_ENTITY { "Invalid" } else { "Forbidden" };
    let mut failure = Failure::new(code, reason, message);
    failure.details = status["details"].clone();
    failure
}

fn request(write: &Write<'_>, review: &Review<'_>) -> Value {
    let (call, resource) = (write.call, &write.call.resource);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let place = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let mut request = json!({
        "uid": uuid::Uuid::new_v4().to_string(), "kind": kind, "resource": place, "requestKind": kind, "requestResource": place,
        "name": object::name(review.either()), "operation": review.operation, "userInfo": call.user.info(),
        "object": review.object, "oldObject": review.old, "dryRun": write.dry_run, "options": null,
    });
    if !call.place.namespace.is_empty() {
        request["namespace"] = json!(call.place.namespace);
    }
    if !call.place.subresource.is_empty() {
        request["subResource"] = json!(call.place.subresource);
        request["requestSubResource"] = json!(call.place.subresource);
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}
