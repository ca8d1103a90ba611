//! Admission: refuses resources that can never work, and warns of those that do not work yet.

use heddle_compile::{Problem, Severity};
use heddle_smi::Invalid;
use serde_json::{Map, Value, json};

/// The API server takes no more than this of each warning, in bytes, and not many of them.
const WARNING_MAX: usize = 250;
const WARNINGS: usize = 16;

/// What conversion keeps in annotations of this prefix is a part of what is asked for.
const CONVERSION: &str = "conversion.heddle.dev/";

/// Answers an AdmissionReview. `trial` says what problems the object would have in the mesh; they warn and never
/// refuse, because the order in which resources are created must not matter (A9).
pub(crate) fn review(review: &Value, trial: impl FnOnce(&Value) -> Vec<Problem>) -> Value {
    let request = &review["request"];
    let object = &request["object"];
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    if object.is_object() {
        match doubts(request) {
            Err(invalid) => {
                response["allowed"] = json!(false);
                response["status"] = refusal(object, &invalid);
            }
            Ok(doubts) => {
                let warnings = warnings(&doubts, trial(object));
                if !warnings.is_empty() {
                    response["warnings"] = json!(warnings);
                }
            }
        }
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

/// What is wrong with the object of a request: doubts, or the mistakes for which it is refused.
fn doubts(request: &Value) -> Result<Vec<Invalid>, Vec<Invalid>> {
    match heddle_smi::parse(&request["object"]) {
        Ok(parsed) => Ok(parsed.warnings),
        Err(invalid) if asks_nothing_new(request) => Ok(invalid),
        Err(invalid) => Err(invalid),
    }
}

/// Whether a write asks no more of the mesh than the stored object does. What is stored and not valid must still take
/// labels and a status, and must go away: to remove the last finalizer is an update, too.
fn asks_nothing_new(request: &Value) -> bool {
    let (object, old) = (&request["object"], &request["oldObject"]);
    let goes = !object["metadata"]["deletionTimestamp"].is_null();
    old.is_object() && (goes || asked(object) == asked(old))
}

/// What an object asks for: neither its status nor its metadata, but for what conversion keeps there.
fn asked(object: &Value) -> Value {
    let mut asked = object.as_object().cloned().unwrap_or_default();
    let annotations = object["metadata"]["annotations"].as_object();
    let kept = annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(CONVERSION));
    let kept: Map<_, _> = kept.map(|(name, text)| (name.clone(), text.clone())).collect();
    asked.remove("status");
    asked.insert("metadata".to_owned(), kept.into());
    asked.into()
}

/// The Status of a refusal: every field that is wrong, as the API server itself would say it.
fn refusal(object: &Value, invalid: &[Invalid]) -> Value {
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let listed: Vec<_> = invalid.iter().map(Invalid::to_string).collect();
    let causes: Vec<_> = invalid
        .iter()
        .map(|invalid| json!({ "reason": invalid.reason.cause(), "message": invalid.message, "field": invalid.field }))
        .collect();
    json!({
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": format!("{kind} \"{name}\" is invalid: {}", listed.join("; ")),
        "details": { "kind": kind, "name": name, "causes": causes },
    })
}

fn warnings(doubts: &[Invalid], problems: Vec<Problem>) -> Vec<String> {
    let problems = problems.iter().filter(|problem| problem.severity != Severity::Note).map(|problem| {
        let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        // What is about the resource as a whole names no field.
        let field = &*problem.origin.field;
        let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
        format!("{place}{}{hint}", problem.message)
    });
    let mut warnings: Vec<String> = Vec::new();
    for warning in doubts.iter().map(Invalid::to_string).chain(problems) {
        // What the parser doubts the compiler says again, in the same words.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings.truncate(WARNINGS);
    warnings.iter_mut().for_each(|warning| warning.truncate(warning.floor_char_boundary(WARNING_MAX)));
    warnings
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use heddle_compile::ProblemReason;
    use heddle_policy::Origin;

    use super::*;

    #[test]
    fn every_problem_of_a_field_is_shown_and_none_twice() {
        let target = json!({
            "apiVersion": "access.smi-spec.io/v1alpha2",
            "kind": "TrafficTarget",
            "metadata": { "name": "buyers" },
            "spec": { "destination": { "kind": "ServiceAccount", "name": "web" }, "sources": [] },
        });
        let problem = |field: &str, message: &str, hint: Option<String>| Problem {
            origin: Origin {
                kind: "TrafficTarget".into(),
                namespace: "shop".into(),
                name: "buyers".into(),
                field: field.into(),
                at: "".into(),
            },
            severity: Severity::Warning,
            reason: ProblemReason::NoWorkload,
            message: message.to_owned(),
            hint,
        };
        let doubts = heddle_smi::parse(&target).unwrap().warnings;
        let again = doubts.iter().map(|doubt| problem(&doubt.field, &doubt.message, doubt.hint.clone()));
        let others = [
            problem("spec.destination", "no pod runs as it", None),
            problem("spec.destination", "it is of another namespace", None),
            problem("", "has no effect", Some("write more".to_owned())),
        ];
        let answer = review(&json!({ "request": { "object": target } }), |_| again.chain(others).collect());
        let expected = json!([
            doubts[0].to_string(),
            doubts[1].to_string(),
            "spec.destination: no pod runs as it",
            "spec.destination: it is of another namespace",
            "has no effect (write more)",
        ]);
        assert_eq!(answer["response"]["warnings"], expected);
    }
}
