//! What manifests ask for and do not get on this machine.

use heddle_api::Types;
use heddle_local::kubelet::unsupported;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use crate::apply;

/// A line for each object that nothing acts on and each field that is not honoured, except for images, of which none is.
pub(crate) fn not_honoured(objects: &[Value]) -> Vec<String> {
    let types = Types::default();
    let lines = objects.iter().flat_map(|object| match types.unheeded(object) {
        Some(what) => vec![format!("{}: {what}", apply::describe(object))],
        None if object["kind"] == "Service" => of_service(object),
        None => of_pods(object),
    });
    lines.collect()
}

fn of_service(object: &Value) -> Vec<String> {
    const IN_THE_MESH: &str = "the Service is reached from pods, by its name and its ClusterIP";
    let spec = &object["spec"];
    let is_published = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    let fields = [
        ("spec.type", is_published, IN_THE_MESH),
        ("spec.externalIPs", !spec["externalIPs"].is_null(), IN_THE_MESH),
        ("spec.sessionAffinity", spec["sessionAffinity"] == "ClientIP", "every request may go to another pod"),
    ];
    let set = fields.into_iter().filter(|(_, is_set, _)| *is_set);
    set.map(|(field, _, why)| line(object, field, why)).collect()
}

fn line(object: &Value, field: &str, why: &str) -> String {
    format!("{}: {field} is not honoured: {why}", apply::describe(object))
}

fn of_pods(object: &Value) -> Vec<String> {
    let place = match object["kind"].as_str() {
        Some("Pod") => "spec",
        Some("Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job") => "spec.template.spec",
        Some("CronJob") => "spec.jobTemplate.spec.template.spec",
        _ => return Vec::new(),
    };
    let spec = object.pointer(&format!("/{}", place.replace('.', "/")));
    // What is no pod was told by the check, or will be by the API.
    let Some(spec) = spec.and_then(|spec| PodSpec::deserialize(spec).ok()) else { return Vec::new() };
    let fields = unsupported(&spec).into_iter().filter(|(field, _)| !field.ends_with(".image"));
    fields.map(|(field, why)| line(object, &field.replacen("spec", place, 1), why)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_named_by_its_place_in_the_manifest() {
        let container = json!({"name": "app", "image": "app:1", "resources": {"limits": {"memory": "1Gi"}}});
        let object = json!({
            "kind": "Deployment", "metadata": {"name": "shop", "namespace": "web"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        });
        let expected = "Deployment web/shop: spec.template.spec.containers[0].resources.limits is not honoured: \
                        processes are not limited";
        assert_eq!(not_honoured(&[object]), [expected]);
    }

    #[test]
    fn services_that_reach_out_and_objects_that_nothing_acts_on_are_named() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]},
        });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed"},
        });
        let plain = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {}});
        let expected = [
            "Service web: spec.type is not honoured: the Service is reached from pods, by its name and its ClusterIP",
            "Service web: spec.sessionAffinity is not honoured: every request may go to another pod",
            "NetworkPolicy closed: NetworkPolicy is stored, but nothing enforces it here",
        ];
        assert_eq!(not_honoured(&[service, policy, plain]), expected);
    }
}
