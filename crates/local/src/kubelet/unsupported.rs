//! The fields of a pod that a node without images, cgroups and users of its own does not honour.
//!
//! The structs are taken apart to the last field, so that one that Kubernetes adds does not compile until somebody has
//! decided what becomes of it.

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
        volume_fields(&format!("spec.volumes[{index}]"), volume, &mut found);
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
const NO_DEVICES: &str = "there are no devices to give";
const ONE_NODE: &str = "there is one node";
const SHARED: &str = "processes of all pods see each other, as the node's";

/// Goes through every field of a pod: what is bound to `_` is honoured.
fn pod_fields(spec: &core::PodSpec, found: &mut Found) {
    let core::PodSpec {
        // By the kubelet; the fields of containers and volumes are gone through by themselves.
        active_deadline_seconds: _,
        automount_service_account_token: _,
        containers: _,
        dns_config: _,
        dns_policy: _,
        enable_service_links: _,
        host_aliases: _,
        host_network: _,
        hostname: _,
        init_containers: _,
        readiness_gates: _,
        restart_policy: _,
        service_account: _,
        service_account_name: _,
        subdomain: _,
        termination_grace_period_seconds: _,
        volumes: _,
        // By the scheduler.
        node_name: _,
        node_selector: _,
        scheduler_name: _,
        scheduling_gates: _,
        tolerations: _,
        // They follow from the class of the priority.
        preemption_policy: _,
        priority: _,
        affinity,
        ephemeral_containers,
        host_ipc,
        host_pid,
        host_users,
        image_pull_secrets,
        os,
        overhead,
        priority_class_name,
        resource_claims,
        resources,
        runtime_class_name,
        security_context,
        set_hostname_as_fqdn,
        share_process_namespace,
        topology_spread_constraints,
    } = spec;
    found.note(security_context.as_ref().is_some_and(|it| *it != Default::default()), "spec.securityContext", ONE_USER);
    let debugging = ephemeral_containers.iter().flatten().any(|container| container.name != PROXY_CONTAINER);
    found.note(debugging, "spec.ephemeralContainers", "use `kubectl exec`");
    found.note(runtime_class_name.is_some(), "spec.runtimeClassName", "there is one way to run a process");
    found.note(resources.is_some(), "spec.resources", NO_CGROUPS);
    found.note(overhead.as_ref().is_some_and(|all| !all.is_empty()), "spec.overhead", NO_CGROUPS);
    found.note(has_items(resource_claims), "spec.resourceClaims", NO_DEVICES);
    found.note(has_items(image_pull_secrets), "spec.imagePullSecrets", NO_IMAGES);
    found.note(has_items(topology_spread_constraints), "spec.topologySpreadConstraints", ONE_NODE);
    let affinity = affinity.clone().unwrap_or_default();
    found.note(affinity.pod_affinity.is_some(), "spec.affinity.podAffinity", ONE_NODE);
    found.note(affinity.pod_anti_affinity.is_some(), "spec.affinity.podAntiAffinity", ONE_NODE);
    found.note(*host_ipc == Some(true), "spec.hostIPC", SHARED);
    found.note(*host_pid == Some(true), "spec.hostPID", SHARED);
    found.note(*share_process_namespace == Some(true), "spec.shareProcessNamespace", SHARED);
    found.note(*host_users == Some(false), "spec.hostUsers", ONE_USER);
    found.note(*set_hostname_as_fqdn == Some(true), "spec.setHostnameAsFQDN", "the host name is the short one");
    found.note(os.as_ref().is_some_and(|os| os.name != "linux"), "spec.os", "processes run on Linux");
    let priority = priority_class_name.as_deref().is_some_and(|name| !name.is_empty());
    found.note(priority, "spec.priorityClassName", "no pod has to make room for another");
}

/// Goes through every field of a container, as [`pod_fields`] does.
fn container_fields(path: &str, container: &core::Container, found: &mut Found) {
    let core::Container {
        args: _,
        command: _,
        env: _,
        env_from: _,
        lifecycle,
        liveness_probe: _,
        name: _,
        readiness_probe: _,
        restart_policy: _,
        startup_probe: _,
        termination_message_path: _,
        termination_message_policy: _,
        working_dir: _,
        // Nothing comes of them without an image, a change of resources, or standard input.
        image_pull_policy: _,
        resize_policy: _,
        stdin_once: _,
        image,
        ports,
        resources,
        security_context,
        stdin,
        tty,
        volume_devices,
        volume_mounts,
    } = container;
    let resources = resources.clone().unwrap_or_default();
    let limited = resources.limits.is_some_and(|limits| !limits.is_empty());
    found.note(limited, format!("{path}.resources.limits"), NO_CGROUPS);
    found.note(has_items(&resources.claims), format!("{path}.resources.claims"), NO_DEVICES);
    let secured = security_context.as_ref().is_some_and(|it| *it != Default::default());
    found.note(secured, format!("{path}.securityContext"), ONE_USER);
    found.note(image.as_ref().is_some_and(|image| !image.is_empty()), format!("{path}.image"), NO_IMAGES);
    found.note(*stdin == Some(true), format!("{path}.stdin"), "standard input is empty");
    found.note(*tty == Some(true), format!("{path}.tty"), "containers have no terminal; `kubectl exec -t` has");
    found.note(has_items(volume_devices), format!("{path}.volumeDevices"), NO_DEVICES);
    let signal = lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_ref());
    found.note(signal.is_some(), format!("{path}.lifecycle.stopSignal"), "containers are stopped by SIGTERM");
    for (index, port) in ports.iter().flatten().enumerate() {
        let why = "a pod's ports are not this machine's; use `kubectl port-forward`";
        found.note(port.host_port.is_some(), format!("{path}.ports[{index}].hostPort"), why);
    }
    for (index, mount) in volume_mounts.iter().flatten().enumerate() {
        mount_fields(&format!("{path}.volumeMounts[{index}]"), mount, found);
    }
}

fn mount_fields(path: &str, mount: &core::VolumeMount, found: &mut Found) {
    let core::VolumeMount {
        mount_path: _,
        name: _,
        read_only: _,
        sub_path: _,
        sub_path_expr: _,
        mount_propagation,
        recursive_read_only,
    } = mount;
    let propagates = mount_propagation.as_deref().is_some_and(|how| how != "None");
    found.note(propagates, format!("{path}.mountPropagation"), "later mounts stay where they are made");
    let recursive = recursive_read_only.as_deref().is_some_and(|how| how != "Disabled");
    found.note(recursive, format!("{path}.recursiveReadOnly"), "mounts below the volume stay writable");
}

fn volume_fields(path: &str, volume: &core::Volume, found: &mut Found) {
    let kind = "this kind of volume is not provided; use emptyDir or hostPath";
    found.note(!is_supported_volume(volume), path, kind);
    let core::EmptyDirVolumeSource { medium, size_limit } = volume.empty_dir.clone().unwrap_or_default();
    found.note(size_limit.is_some(), format!("{path}.emptyDir.sizeLimit"), "its size is not limited");
    let huge = medium.is_some_and(|medium| medium.starts_with("HugePages"));
    found.note(huge, format!("{path}.emptyDir.medium"), "it has no huge pages");
}

fn has_items<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn is_supported_volume(volume: &core::Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.empty_dir.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.host_path.is_some()
        || volume.persistent_volume_claim.is_some()
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
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "b", "nfs": {"server": "s", "path": "/"}}],
        }))
        .unwrap();
        let fields: Vec<_> = unsupported(&spec).into_iter().map(|(field, _)| field).collect();
        let expected = [
            "spec.securityContext",
            "spec.topologySpreadConstraints",
            "spec.initContainers[0].tty",
            "spec.containers[0].resources.limits",
            "spec.containers[0].image",
            "spec.volumes[0].emptyDir.sizeLimit",
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
