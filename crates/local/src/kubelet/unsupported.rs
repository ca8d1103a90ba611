//! The fields of a pod that a node without images, cgroups and users of its own does not honour.

use k8s_openapi::api::core::v1 as core;

use super::context::PROXY_CONTAINER;

/// The fields of `spec` that are set and change nothing here, each with the reason. The path is as Kubernetes writes
/// it, from the pod: `spec.containers[0].resources.limits`.
pub fn unsupported(spec: &core::PodSpec) -> Vec<(String, &'static str)> {
    let mut found = Found(Vec::new());
    pod_fields(spec, &mut found);
    let init = spec.init_containers.iter().flatten().enumerate();
    for (index, container) in init {
        container_fields(&format!("spec.initContainers[{index}]"), container, &mut found);
    }
    for (index, container) in spec.containers.iter().enumerate() {
        container_fields(&format!("spec.containers[{index}]"), container, &mut found);
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if !is_supported_volume(volume) {
            found.note(
                true,
                format!("spec.volumes[{index}]"),
                "this kind of volume is not provided; use emptyDir or hostPath",
            );
        }
    }
    found.0
}

struct Found(Vec<(String, &'static str)>);

impl Found {
    fn note(&mut self, is_set: bool, field: impl Into<String>, why: &'static str) {
        if is_set {
            self.0.push((field.into(), why));
        }
    }
}

const NO_CGROUPS: &str = "processes are not limited";
const ONE_USER: &str = "processes run as the user of the node, with its rights";
const NO_IMAGES: &str = "images are not run: the container sees this machine's files";

fn pod_fields(spec: &core::PodSpec, found: &mut Found) {
    let security = spec.security_context.clone().unwrap_or_default();
    found.note(security != core::PodSecurityContext::default(), "spec.securityContext", ONE_USER);
    let debugging = spec.ephemeral_containers.iter().flatten().any(|container| container.name != PROXY_CONTAINER);
    found.note(debugging, "spec.ephemeralContainers", "use `kubectl exec`");
    found.note(spec.runtime_class_name.is_some(), "spec.runtimeClassName", "there is one way to run a process");
    found.note(spec.resources.is_some(), "spec.resources", NO_CGROUPS);
    found.note(spec.active_deadline_seconds.is_some(), "spec.activeDeadlineSeconds", "a pod runs until it is deleted");
}

fn container_fields(path: &str, container: &core::Container, found: &mut Found) {
    let resources = container.resources.clone().unwrap_or_default();
    found.note(
        resources.limits.is_some_and(|limits| !limits.is_empty()),
        format!("{path}.resources.limits"),
        NO_CGROUPS,
    );
    let security = container.security_context.clone().unwrap_or_default();
    found.note(security != core::SecurityContext::default(), format!("{path}.securityContext"), ONE_USER);
    let image = container.image.as_deref().unwrap_or_default();
    found.note(!image.is_empty(), format!("{path}.image"), NO_IMAGES);
    found.note(container.stdin == Some(true), format!("{path}.stdin"), "standard input is empty");
    found.note(
        container.tty == Some(true),
        format!("{path}.tty"),
        "containers have no terminal; `kubectl exec -t` has",
    );
    found.note(
        container.volume_devices.is_some(),
        format!("{path}.volumeDevices"),
        "there are no block devices to give",
    );
    let signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_ref());
    found.note(signal.is_some(), format!("{path}.lifecycle.stopSignal"), "containers are stopped by SIGTERM");
}

fn is_supported_volume(volume: &core::Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.empty_dir.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.host_path.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_that_is_not_honoured_is_named_by_its_path() {
        let spec: core::PodSpec = serde_json::from_value(serde_json::json!({
            "securityContext": {"runAsUser": 1},
            "initContainers": [{"name": "setup", "tty": true}],
            "containers": [{"name": "app", "image": "app:1", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "nfs": {"server": "s", "path": "/"}}],
        }))
        .unwrap();
        let fields: Vec<_> = unsupported(&spec).into_iter().map(|(field, _)| field).collect();
        let expected = [
            "spec.securityContext",
            "spec.initContainers[0].tty",
            "spec.containers[0].resources.limits",
            "spec.containers[0].image",
            "spec.volumes[1]",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_special_has_no_warning() {
        let spec: core::PodSpec =
            serde_json::from_value(serde_json::json!({"containers": [{"name": "app", "command": ["sleep", "1"]}]}))
                .unwrap();
        assert_eq!(unsupported(&spec), []);
    }
}
