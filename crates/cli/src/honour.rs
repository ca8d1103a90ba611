//! What manifests ask for and do not get on this machine.

use heddle_api::Types;
use heddle_local::kubelet::unsupported;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use crate::apply;

/// What of an object is not honoured on this machine.
pub(crate) struct NotHonoured {
    /// Empty for the object as a whole.
    pub(crate) field: String,
    /// Without the field.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: &'static str,
}

/// What to do about most of it.
const MAY_STAY: &str = "this is of `heddle up` alone: it may stay for a cluster";

/// A line for each object that nothing acts on and each field that is not honoured.
pub(crate) fn not_honoured(objects: &[Value]) -> Vec<String> {
    let types = Types::default();
    let lines = objects.iter().flat_map(|object| {
        let name = apply::describe(object);
        of_object(&types, object).into_iter().map(move |NotHonoured { field, message, .. }| match field.as_str() {
            "" => format!("{name}: {message}"),
            field => format!("{name}: {field} {message}"),
        })
    });
    lines.collect()
}

/// What of one object is not honoured. Of images none is, and they are named where they alone say what to run.
pub(crate) fn of_object(types: &Types, object: &Value) -> Vec<NotHonoured> {
    match types.unheeded(object) {
        Some(message) => vec![NotHonoured { field: String::new(), message, hint: MAY_STAY }],
        None if object["kind"] == "Service" => of_service(object),
        None => of_pods(object),
    }
}

fn of_service(object: &Value) -> Vec<NotHonoured> {
    const IN_THE_MESH: &str = "the Service is reached from pods, by its name and its ClusterIP";
    let spec = &object["spec"];
    let is_published = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    let fields = [
        ("spec.type", is_published, IN_THE_MESH),
        ("spec.externalIPs", !spec["externalIPs"].is_null(), IN_THE_MESH),
        ("spec.sessionAffinity", spec["sessionAffinity"] == "ClientIP", "every request may go to another pod"),
    ];
    let set = fields.into_iter().filter(|(_, is_set, _)| *is_set);
    set.map(|(field, _, why)| not_honoured_field(field.to_owned(), why)).collect()
}

fn not_honoured_field(field: String, why: &str) -> NotHonoured {
    NotHonoured { field, message: format!("is not honoured: {why}"), hint: MAY_STAY }
}

fn of_pods(object: &Value) -> Vec<NotHonoured> {
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
    let fields = fields.map(|(field, why)| not_honoured_field(field.replacen("spec", place, 1), why));
    fields.chain(without_command(&spec, place)).collect()
}

/// The containers whose images alone say what to run.
fn without_command(spec: &PodSpec, place: &str) -> Vec<NotHonoured> {
    let lists =
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)];
    let all = lists.into_iter().flat_map(|(list, all)| all.iter().enumerate().map(move |it| (list, it)));
    let silent = all.filter(|(_, (_, container))| container.command.as_ref().is_none_or(Vec::is_empty));
    let found = silent.map(|(list, (index, _))| NotHonoured {
        field: format!("{place}.{list}[{index}].image"),
        message: "is not run, and there is no `command`: the container cannot start".to_owned(),
        hint: "write as `command` what the image runs, by a program of this machine",
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_named_by_its_place_in_the_manifest() {
        let container =
            json!({"name": "app", "image": "app:1", "command": ["app"], "resources": {"limits": {"memory": "1Gi"}}});
        let object = json!({
            "kind": "Deployment", "metadata": {"name": "shop", "namespace": "web"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        });
        let expected = "Deployment web/shop: spec.template.spec.containers[0].resources.limits is not honoured: \
                        processes are not limited";
        assert_eq!(not_honoured(&[object]), [expected]);
    }

    #[test]
    fn an_image_that_alone_says_what_to_run_is_named() {
        let spec = json!({
            "initContainers": [{"name": "setup", "image": "setup:1", "args": ["all"]}],
            "containers": [{"name": "app", "image": "app:1", "command": ["app"]}],
        });
        let object = json!({"kind": "Pod", "metadata": {"name": "shop"}, "spec": spec});
        let expected = "Pod shop: spec.initContainers[0].image is not run, and there is no `command`: the container \
                        cannot start";
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
