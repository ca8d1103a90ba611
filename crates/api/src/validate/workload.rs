//! Validation of what makes pods.

use serde_json::{Map, Value, json};

use super::super::error::Cause;
use super::super::names;
use super::super::object::{integer, items, text};
use super::super::resource::Resource;
use super::super::selector::label_selector_matches;
use super::{not_negative, one_of, pod};

/// Kinds that keep pods: a selector, which covers the template, and a strategy where there is one.
pub(super) fn workload(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    not_negative(value, "/spec/replicas", "spec.replicas", causes);
    not_negative(value, "/spec/minReadySeconds", "spec.minReadySeconds", causes);
    let labels = &value["spec"]["template"]["metadata"]["labels"];
    selector(resource, &value["spec"]["selector"], labels, causes);
    names::labels(labels.as_object(), "spec.template.metadata.labels", causes);
    let spec = &with_claims(value);
    if spec["restartPolicy"] != "Always" {
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", &spec["restartPolicy"], &["Always"]));
    }
    strategy(&value["spec"], causes);
    pod::spec(spec, "spec.template.spec", causes);
}

/// The pods' spec, with a volume for each claim that a StatefulSet makes for them.
fn with_claims(value: &Value) -> Value {
    let mut spec = value["spec"]["template"]["spec"].clone();
    for claim in items(value, "/spec/volumeClaimTemplates") {
        let name = &claim["metadata"]["name"];
        if items(&spec, "/volumes").iter().all(|volume| volume["name"] != *name)
            && let Some(spec) = spec.as_object_mut()
            && let Some(volumes) = spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut()
        {
            volumes.push(json!({"name": name}));
        }
    }
    spec
}

fn selector(resource: &Resource, selector: &Value, labels: &Value, causes: &mut Vec<Cause>) {
    let field = "spec.template.metadata.labels";
    let differs = |causes: &mut Vec<Cause>| {
        causes.push(Cause::invalid(field, labels, "`selector` does not match template `labels`"));
    };
    if resource.is("", "replicationcontrollers") {
        let wanted = selector.as_object().into_iter().flatten();
        if selector.as_object().is_none_or(Map::is_empty) {
            causes.push(Cause::required("spec.selector", ""));
        } else if wanted.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
            differs(causes);
        }
        return;
    }
    let before = causes.len();
    for (index, expression) in items(selector, "/matchExpressions").iter().enumerate() {
        let path = format!("spec.selector.matchExpressions[{index}]");
        let operator = text(expression, "/operator");
        if !matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist") {
            let cause = Cause::invalid(format!("{path}.operator"), &json!(operator), "not a valid selector operator");
            causes.push(cause);
        }
        if matches!(operator, "In" | "NotIn") && items(expression, "/values").is_empty() {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            causes.push(Cause::required(format!("{path}.values"), detail));
        }
    }
    let empty = selector["matchLabels"].as_object().is_none_or(Map::is_empty)
        && items(selector, "/matchExpressions").is_empty();
    if empty {
        let detail = format!("empty selector is invalid for {}", resource.singular);
        causes.push(Cause::invalid("spec.selector", selector, &detail));
    } else if causes.len() == before && !label_selector_matches(selector, labels) {
        differs(causes);
    }
}

/// How pods are replaced: `strategy` of Deployments, `updateStrategy` of the others.
fn strategy(spec: &Value, causes: &mut Vec<Cause>) {
    one_of(&spec["strategy"], "type", "spec.strategy", &["Recreate", "RollingUpdate"], causes);
    one_of(&spec["updateStrategy"], "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"], causes);
    one_of(spec, "podManagementPolicy", "spec", &["OrderedReady", "Parallel"], causes);
    let rolling = &spec["strategy"]["rollingUpdate"];
    let none = |value: &Value| *value == json!(0) || value == "0%";
    if none(&rolling["maxSurge"]) && none(&rolling["maxUnavailable"]) {
        let field = "spec.strategy.rollingUpdate.maxUnavailable";
        causes.push(Cause::invalid(field, &rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0"));
    }
}

/// What of a StatefulSet may change after its creation.
pub(super) fn stateful_set_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    const CHANGEABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |set: &Value| {
        let mut spec = set["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                      'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", detail));
    }
}

pub(super) fn job(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["completions", "parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        not_negative(spec, &format!("/{field}"), &format!("{path}.{field}"), causes);
    }
    let template = &spec["template"]["spec"];
    if !matches!(text(template, "/restartPolicy"), "OnFailure" | "Never") {
        let field = format!("{path}.template.spec.restartPolicy");
        causes.push(Cause::unsupported(field, &template["restartPolicy"], &["OnFailure", "Never"]));
    }
    pod::spec(template, &format!("{path}.template.spec"), causes);
}

pub(super) fn cron_job(spec: &Value, causes: &mut Vec<Cause>) {
    let schedule = text(spec, "/schedule").trim();
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 && !schedule.starts_with('@') {
        let detail = format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "));
        causes.push(Cause::invalid("spec.schedule", &json!(schedule), &detail));
    }
    one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"], causes);
    job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", causes);
}

/// The bounds between which an autoscaler scales.
pub(super) fn autoscaler(spec: &Value, causes: &mut Vec<Cause>) {
    let (min, max) = (integer(spec, "/minReplicas").unwrap_or(1), integer(spec, "/maxReplicas").unwrap_or_default());
    if max < 1 {
        causes.push(Cause::invalid("spec.maxReplicas", &json!(max), "must be greater than 0"));
    }
    if max < min {
        let detail = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid("spec.maxReplicas", &json!(max), detail));
    }
}
