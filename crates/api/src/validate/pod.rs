//! Validation of pods and of the templates they are made from.

use serde_json::{Value, json};

use super::super::error::Cause;
use super::super::names;
use super::super::object::{integer, items, text};
use super::super::quantity;
use super::{not_negative, one_of, port_number};

/// A pod's spec, or that of a template, at `path`.
pub(super) fn spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if items(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = text(container, "/name");
            if let Err(why) = names::dns_label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &json!(name), &why));
            }
            if seen.contains(&name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &json!(name)));
            }
            seen.push(name);
            self::container(container, spec, &path, causes);
            if list == "initContainers" && container["restartPolicy"] != "Always" {
                ended_before(container, &path, causes);
            }
        }
    }
    one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], causes);
    one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], causes);
    for field in ["hostname", "subdomain"] {
        if let Some(Err(why)) = spec[field].as_str().map(names::dns_label) {
            causes.push(Cause::invalid(format!("{path}.{field}"), &spec[field], &why));
        }
    }
    volumes(spec, path, causes);
}

/// An init container that ends before the others start has nothing to probe.
fn ended_before(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            causes.push(Cause::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

fn container(container: &Value, pod: &Value, path: &str, causes: &mut Vec<Cause>) {
    let image = text(container, "/image");
    if image.is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{path}.image"), &json!(image), detail));
    }
    one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], causes);
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if let Some(Err(why)) = port["name"].as_str().map(names::port_name) {
            causes.push(Cause::invalid(format!("{path}.name"), &port["name"], &why));
        }
        port_number(port, "containerPort", &path, causes);
    }
    for (index, variable) in items(container, "/env").iter().enumerate() {
        self::variable(variable, &format!("{path}.env[{index}]"), causes);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[name].is_null() {
            probe(&container[name], name, &format!("{path}.{name}"), causes);
        }
    }
    for hook in ["postStart", "preStop"] {
        let lifecycle = &container["lifecycle"];
        if !lifecycle[hook].is_null() {
            handler(
                &lifecycle[hook],
                &format!("{path}.lifecycle.{hook}"),
                &["exec", "httpGet", "sleep", "tcpSocket"],
                causes,
            );
        }
    }
    resources(&container["resources"], path, causes);
    let volumes = items(pod, "/volumes");
    for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
        if !volumes.iter().any(|v| v["name"] == mount["name"]) {
            let (field, message) =
                (format!("{path}.volumeMounts[{index}].name"), format!("Not found: {}", mount["name"]));
            causes.push(Cause { reason: "FieldValueNotFound", field, message });
        }
    }
}

fn variable(variable: &Value, path: &str, causes: &mut Vec<Cause>) {
    /// What the downward API tells of a pod.
    const FIELDS: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    if text(variable, "/name").is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    if !text(variable, "/value").is_empty() && !variable["valueFrom"].is_null() {
        let detail = "may not be specified when `value` is not empty";
        causes.push(Cause::invalid(format!("{path}.valueFrom"), &json!(""), detail));
    }
    let Some(field) = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() else { return };
    let of_map = field.starts_with("metadata.labels['") || field.starts_with("metadata.annotations['");
    if !FIELDS.contains(&field) && !of_map {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        causes.push(Cause::invalid(format!("{path}.valueFrom.fieldRef.fieldPath"), &json!(field), &detail));
    }
}

fn probe(probe: &Value, name: &str, path: &str, causes: &mut Vec<Cause>) {
    handler(probe, path, &["exec", "grpc", "httpGet", "tcpSocket"], causes);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(probe, &format!("/{field}"), &format!("{path}.{field}"), causes);
    }
    let successes = integer(probe, "/successThreshold").unwrap_or(1);
    if name != "readinessProbe" && successes != 1 {
        causes.push(Cause::invalid(format!("{path}.successThreshold"), &json!(successes), "must be 1"));
    }
}

/// A probe or hook does exactly one thing.
fn handler(handler: &Value, path: &str, kinds: &[&str], causes: &mut Vec<Cause>) {
    let mut given = kinds.iter().filter(|kind| !handler[**kind].is_null());
    match (given.next(), given.next()) {
        (None, _) => causes.push(Cause::required(path, "must specify a handler type")),
        (Some(_), Some(second)) => {
            causes.push(Cause::forbidden(format!("{path}.{second}"), "may not specify more than 1 handler type"));
        }
        (Some(kind), None) => {
            let port = &handler[*kind]["port"];
            if port.as_i64().is_some_and(|port| !(1..=65_535).contains(&port)) {
                let detail = "must be between 1 and 65535, inclusive";
                causes.push(Cause::invalid(format!("{path}.{kind}.port"), port, detail));
            }
        }
    }
}

/// A request must not be over the limit.
fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (name, limit) in resources["limits"].as_object().into_iter().flatten() {
        let request = resources["requests"][name].as_str();
        let of = |text: Option<&str>| text.and_then(quantity::value);
        if let (Some(limit_value), Some(request_value)) = (of(limit.as_str()), of(request))
            && request_value > limit_value
        {
            let detail =
                format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            causes.push(Cause::invalid(format!("{path}.resources.requests"), &json!(request), &detail));
        }
    }
}

fn volumes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let volumes = items(spec, "/volumes");
    for (index, volume) in volumes.iter().enumerate() {
        let name = text(volume, "/name");
        let path = format!("{path}.volumes[{index}]");
        if let Err(why) = names::dns_label(name) {
            causes.push(Cause::invalid(format!("{path}.name"), &json!(name), &why));
        }
        if volumes[..index].iter().any(|v| v["name"] == name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &json!(name)));
        }
        if let Some(second) = volume.as_object().and_then(|v| v.keys().filter(|field| *field != "name").nth(1)) {
            causes.push(Cause::forbidden(format!("{path}.{second}"), "may not specify more than 1 volume type"));
        }
    }
}

/// What may change in a pod after its creation.
pub(super) fn update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "ephemeralContainers"] {
            if let Some(spec) = spec.as_object_mut() {
                spec.shift_remove(field);
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                      `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                      `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
}
