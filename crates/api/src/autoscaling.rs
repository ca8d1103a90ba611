//! HorizontalPodAutoscalers of `autoscaling/v1`: they are stored as of v2. What v1 has no field for stands in annotations
//! there, so that a client of v1 that writes back what it read loses nothing.

use serde_json::{Map, Value, json};

use super::object::{as_map, map_at, metadata};
use super::resource::Resource;

/// The annotations by which Kubernetes does the same; their values are in v2's form here.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// The percentage of CPU that Kubernetes aims at when no metric is given.
const DEFAULT_TARGET: i64 = 80;

/// Whether a resource is the older of the two versions.
pub(crate) fn is_v1(resource: &Resource) -> bool {
    resource.is("autoscaling", "horizontalpodautoscalers") && resource.version == "v1"
}

/// A stored autoscaler as clients of v1 see it.
pub(crate) fn to_v1(autoscaler: &mut Value) {
    autoscaler["apiVersion"] = json!("autoscaling/v1");
    let spec = map_at(autoscaler, "spec");
    let (target, metrics) = split_cpu(spec.shift_remove("metrics"), "target");
    if let Some(target) = target {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), target);
    }
    let mut rest = vec![(METRICS, metrics), (BEHAVIOR, spec.shift_remove("behavior"))];
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let (current, metrics) = split_cpu(status.shift_remove("currentMetrics"), "current");
        if let Some(current) = current {
            status.insert("currentCPUUtilizationPercentage".to_owned(), current);
        }
        rest.extend([(CURRENT_METRICS, metrics), (CONDITIONS, status.shift_remove("conditions"))]);
    }
    for (annotation, value) in rest {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let annotations = as_map(metadata(autoscaler).entry("annotations").or_insert_with(|| json!({})));
            annotations.insert(annotation.to_owned(), json!(value.to_string()));
        }
    }
}

/// An autoscaler of a client of v1 as it is stored.
pub(crate) fn to_v2(autoscaler: &mut Value) {
    autoscaler["apiVersion"] = json!("autoscaling/v2");
    let [metrics, behavior, current, conditions] =
        [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS].map(|annotation| take_annotation(autoscaler, annotation));
    let spec = map_at(autoscaler, "spec");
    let target = spec.shift_remove("targetCPUUtilizationPercentage");
    let metrics = join_cpu(target, "target", metrics);
    spec.extend(metrics.map(|metrics| ("metrics".to_owned(), metrics)));
    spec.extend(behavior.map(|behavior| ("behavior".to_owned(), behavior)));
    default_metrics(spec);
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let percentage = status.shift_remove("currentCPUUtilizationPercentage");
        let current = join_cpu(percentage, "current", current);
        status.extend(current.map(|metrics| ("currentMetrics".to_owned(), metrics)));
        status.extend(conditions.map(|conditions| ("conditions".to_owned(), conditions)));
    }
}

/// Where no metric is given it is the CPU.
pub(crate) fn default_metrics(spec: &mut Map<String, Value>) {
    let has_metrics = spec.get("metrics").and_then(Value::as_array).is_some_and(|metrics| !metrics.is_empty());
    if !has_metrics {
        spec.insert("metrics".to_owned(), json!([cpu("target", json!(DEFAULT_TARGET))]));
    }
}

/// The utilization of CPU among metrics, which v1 has a field for, and the others. `figure` is where a metric has it.
fn split_cpu(metrics: Option<Value>, figure: &str) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(mut metrics)) = metrics else { return (None, None) };
    let utilization = |metric: &Value| {
        let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
        metric["resource"][figure].get("averageUtilization").filter(|_| is_cpu).cloned()
    };
    let at = metrics.iter().position(|metric| utilization(metric).is_some());
    let percentage = at.and_then(|at| utilization(&metrics.remove(at)));
    (percentage, (!metrics.is_empty()).then_some(Value::Array(metrics)))
}

fn join_cpu(percentage: Option<Value>, figure: &str, rest: Option<Value>) -> Option<Value> {
    let mut metrics: Vec<Value> = percentage.map(|percentage| cpu(figure, percentage)).into_iter().collect();
    if let Some(Value::Array(rest)) = rest {
        metrics.extend(rest);
    }
    (!metrics.is_empty()).then_some(Value::Array(metrics))
}

fn cpu(figure: &str, percentage: Value) -> Value {
    let mut resource = json!({ "name": "cpu", figure: { "averageUtilization": percentage } });
    if figure == "target" {
        resource[figure]["type"] = json!("Utilization");
    }
    json!({ "type": "Resource", "resource": resource })
}

/// The value of an annotation, which is taken out; one that is not JSON says nothing.
fn take_annotation(autoscaler: &mut Value, annotation: &str) -> Option<Value> {
    let metadata = metadata(autoscaler);
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let value = annotations.shift_remove(annotation)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    serde_json::from_str(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {
                "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {
                        "name": "cpu", "target": {"averageUtilization": 70, "type": "Utilization"},
                    }},
                    {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
            },
            "status": {"currentReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}]},
        })
    }

    #[test]
    fn what_the_older_version_has_no_field_for_is_not_lost() {
        let mut changed = autoscaler();
        to_v1(&mut changed);
        assert_eq!(changed["apiVersion"], "autoscaling/v1");
        assert_eq!(changed["spec"], json!({"maxReplicas": 5, "targetCPUUtilizationPercentage": 70}));
        assert_eq!(changed["status"], json!({"currentReplicas": 2}));
        to_v2(&mut changed);
        assert_eq!(changed, autoscaler());
    }

    #[test]
    fn without_a_metric_it_is_the_cpu() {
        let mut plain = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 5}});
        to_v2(&mut plain);
        to_v1(&mut plain);
        assert_eq!(plain["spec"]["targetCPUUtilizationPercentage"], 80);
    }
}
