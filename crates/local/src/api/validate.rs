//! Validation of built-in types, in Kubernetes' words.

use serde_json::{Map, Value, json};

use super::error::Cause;
use super::names;
use super::object::{integer, items, text};
use super::resource::Resource;
use super::schema::Schema;
use super::selector::label_selector_matches;

/// What is wrong with a new object.
pub(crate) fn create(resource: &Resource, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(resource, value, &mut causes);
    if resource.custom().is_none() {
        required(resource, value, &mut causes);
        // Further checks assume that what is required is there.
        if causes.is_empty() {
            specific(resource, value, &mut causes);
        }
    }
    causes
}

/// What is wrong with a change.
pub(crate) fn update(resource: &Resource, new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = create(resource, new);
    for field in immutable(resource) {
        let (before, after) = (old.pointer(field), new.pointer(field));
        if before != after && before.is_some_and(|b| !b.is_null()) {
            let path = field.trim_start_matches('/').replace('/', ".");
            causes.push(Cause::invalid(path, after.unwrap_or(&Value::Null), "field is immutable"));
        }
    }
    match resource.qualified().as_str() {
        "pods" => pod_update(new, old, &mut causes),
        "configmaps" | "secrets" if old["immutable"] == true => {
            for field in ["data", "binaryData", "immutable"] {
                if new[field] != old[field] {
                    causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        _ => {}
    }
    causes
}

/// Fields of a type that cannot change.
fn immutable(resource: &Resource) -> &'static [&'static str] {
    match resource.qualified().as_str() {
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" => &["/spec/selector"],
        "statefulsets.apps" => &["/spec/selector", "/spec/serviceName", "/spec/podManagementPolicy"],
        "jobs.batch" => &["/spec/selector", "/spec/template", "/spec/completionMode"],
        "secrets" => &["/type"],
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => &["/roleRef"],
        "endpointslices.discovery.k8s.io" => &["/addressType"],
        "customresourcedefinitions.apiextensions.k8s.io" => {
            &["/spec/scope", "/spec/group", "/spec/names/kind", "/spec/names/plural"]
        }
        _ => &[],
    }
}

fn metadata(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    let name = super::object::name(value);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = name_syntax(resource, name) {
        causes.push(Cause::invalid("metadata.name", &json!(name), &why));
    }
    let meta = &value["metadata"];
    names::labels(meta["labels"].as_object(), "metadata.labels", causes);
    names::annotations(meta["annotations"].as_object(), "metadata.annotations", causes);
    for (index, owner) in items(meta, "/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(format!("metadata.ownerReferences[{index}].{field}"), "must not be empty"));
            }
        }
    }
    for finalizer in items(meta, "/finalizers") {
        if let Err(why) = names::qualified_name(finalizer.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid("metadata.finalizers", finalizer, &why));
        }
    }
}

fn name_syntax(resource: &Resource, name: &str) -> Result<(), String> {
    match resource.qualified().as_str() {
        "services" => names::dns_1035_label(name),
        "namespaces" => names::dns_label(name),
        _ if resource.group == "rbac.authorization.k8s.io" => names::path_segment(name),
        _ => names::dns_subdomain(name),
    }
}

/// Required fields that a typed server takes as empty.
const MAY_BE_ABSENT: &[(&str, &str)] = &[
    ("EndpointSlice", "endpoints"),
    ("ClusterRole", "rules"),
    ("Role", "rules"),
    ("Event", "metadata"),
    ("NetworkPolicySpec", "podSelector"),
    ("TopologySpreadConstraint", "maxSkew"),
    ("Event", "eventTime"),
    ("PodSpec", "containers"),
];

/// Checks that what the schema requires is there; the status is the controllers' matter.
fn required(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    let Some(schema) = Schema::of(resource) else { return };
    for (field, value) in value.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "status" | "metadata")
            && let Some(schema) = schema.property(field)
        {
            required_at(schema, value, field, causes);
        }
    }
    require_fields(schema, value.as_object(), "", causes);
}

fn require_fields(schema: Schema<'_>, map: Option<&Map<String, Value>>, path: &str, causes: &mut Vec<Cause>) {
    let kind = schema.name.rsplit('.').next().unwrap_or_default();
    for field in schema.keyword("required").as_array().into_iter().flatten().filter_map(Value::as_str) {
        let absent = map.is_none_or(|m| !m.contains_key(field));
        if absent && !MAY_BE_ABSENT.contains(&(kind, field)) {
            let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
            causes.push(Cause::required(path, ""));
        }
    }
}

fn required_at(schema: Schema<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) if schema.properties().is_some() => {
            require_fields(schema, Some(map), path, causes);
            for (field, value) in map {
                if let Some(schema) = schema.property(field) {
                    required_at(schema, value, &format!("{path}.{field}"), causes);
                }
            }
        }
        Value::Array(list) => {
            let Some(schema) = schema.items() else { return };
            for (index, item) in list.iter().enumerate() {
                required_at(schema, item, &format!("{path}[{index}]"), causes);
            }
        }
        _ => {}
    }
}

fn specific(resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    match resource.qualified().as_str() {
        "pods" => pod_spec(&value["spec"], "spec", causes),
        "services" => service(value, causes),
        "configmaps" => keys(value, &["data", "binaryData"], causes),
        "secrets" => keys(value, &["data"], causes),
        "deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps" => workload(value, causes),
        "jobs.batch" => job(&value["spec"], "spec", causes),
        "cronjobs.batch" => job(&value["spec"]["jobTemplate"]["spec"], "spec.jobTemplate.spec", causes),
        "customresourcedefinitions.apiextensions.k8s.io" => super::crd_validation::check(value, causes),
        _ => {}
    }
}

fn keys(value: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    for field in fields {
        for key in value[*field].as_object().into_iter().flat_map(Map::keys) {
            if let Err(why) = names::config_key(key) {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), &why));
            }
        }
    }
}

fn not_negative(value: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    if let Some(number) = integer(value, pointer).filter(|n| *n < 0) {
        causes.push(Cause::invalid(field, &json!(number), "must be greater than or equal to 0"));
    }
}

fn workload(value: &Value, causes: &mut Vec<Cause>) {
    not_negative(value, "/spec/replicas", "spec.replicas", causes);
    let selector = &value["spec"]["selector"];
    let empty = selector["matchLabels"].as_object().is_none_or(Map::is_empty)
        && items(selector, "/matchExpressions").is_empty();
    let labels = &value["spec"]["template"]["metadata"]["labels"];
    if empty {
        causes.push(Cause::invalid("spec.selector", selector, "empty selector is invalid for deployment"));
    } else if !label_selector_matches(selector, labels) {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    names::labels(labels.as_object(), "spec.template.metadata.labels", causes);
    let spec = &value["spec"]["template"]["spec"];
    if spec["restartPolicy"] != "Always" {
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", &spec["restartPolicy"], &["Always"]));
    }
    pod_spec(spec, "spec.template.spec", causes);
}

fn job(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["completions", "parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        not_negative(spec, &format!("/{field}"), &format!("{path}.{field}"), causes);
    }
    let template = &spec["template"]["spec"];
    if !matches!(text(template, "/restartPolicy"), "OnFailure" | "Never") {
        let field = format!("{path}.template.spec.restartPolicy");
        causes.push(Cause::unsupported(field, &template["restartPolicy"], &["OnFailure", "Never"]));
    }
    pod_spec(template, &format!("{path}.template.spec"), causes);
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if items(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
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
        }
    }
    let policy = text(spec, "/restartPolicy");
    if !matches!(policy, "Always" | "OnFailure" | "Never") {
        causes.push(Cause::unsupported(
            format!("{path}.restartPolicy"),
            &json!(policy),
            &["Always", "OnFailure", "Never"],
        ));
    }
    volumes(spec, path, causes);
}

fn container(container: &Value, pod: &Value, path: &str, causes: &mut Vec<Cause>) {
    if text(container, "/image").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        port_number(port, "containerPort", &path, causes);
        let name = text(port, "/name");
        if !name.is_empty()
            && let Err(why) = names::port_name(name)
        {
            causes.push(Cause::invalid(format!("{path}.name"), &json!(name), &why));
        }
    }
    for (index, variable) in items(container, "/env").iter().enumerate() {
        if text(variable, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.env[{index}].name"), ""));
        }
        if !text(variable, "/value").is_empty() && !variable["valueFrom"].is_null() {
            causes.push(Cause::invalid(
                format!("{path}.env[{index}].valueFrom"),
                &json!(""),
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let volumes = items(pod, "/volumes");
    for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
        if !volumes.iter().any(|v| v["name"] == mount["name"]) {
            let field = format!("{path}.volumeMounts[{index}].name");
            causes.push(Cause {
                reason: "FieldValueNotFound",
                field,
                message: format!("Not found: {}", mount["name"]),
            });
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
        if volume.as_object().is_some_and(|v| v.len() > 2) {
            causes.push(Cause::forbidden(path, "may not specify more than 1 volume type"));
        }
    }
}

fn port_number(port: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let number = integer(port, &format!("/{field}")).unwrap_or_default();
    if !(1..=65_535).contains(&number) {
        causes.push(Cause::invalid(
            format!("{path}.{field}"),
            &json!(number),
            "must be between 1 and 65535, inclusive",
        ));
    }
    let protocol = text(port, "/protocol");
    if !matches!(protocol, "TCP" | "UDP" | "SCTP" | "") {
        causes.push(Cause::unsupported(format!("{path}.protocol"), &json!(protocol), &["SCTP", "TCP", "UDP"]));
    }
}

/// What may change in a pod after its creation.
fn pod_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        for field in
            ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "nodeName", "ephemeralContainers"]
        {
            if let Some(spec) = spec.as_object_mut() {
                spec.shift_remove(field);
            }
        }
        spec
    };
    let moved = !text(old, "/spec/nodeName").is_empty() && new["spec"]["nodeName"] != old["spec"]["nodeName"];
    if fixed(new) != fixed(old) || moved {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                      `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                      `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
}

fn service(value: &Value, causes: &mut Vec<Cause>) {
    let spec = &value["spec"];
    let kind = text(spec, "/type");
    const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !TYPES.contains(&kind) {
        causes.push(Cause::unsupported("spec.type", &json!(kind), TYPES));
    }
    let ports = items(spec, "/ports");
    if ports.is_empty() && kind != "ExternalName" && text(spec, "/clusterIP") != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName"
        && let Err(why) = names::dns_subdomain(text(spec, "/externalName").trim_end_matches('.'))
    {
        causes.push(Cause::invalid("spec.externalName", &spec["externalName"], &why));
    }
    for (index, port) in ports.iter().enumerate() {
        service_port(port, ports, index, causes);
    }
    names::labels(spec["selector"].as_object(), "spec.selector", causes);
}

fn service_port(port: &Value, ports: &[Value], index: usize, causes: &mut Vec<Cause>) {
    let path = format!("spec.ports[{index}]");
    port_number(port, "port", &path, causes);
    let name = text(port, "/name");
    if name.is_empty() && ports.len() > 1 {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    if !name.is_empty()
        && let Err(why) = names::dns_label(name)
    {
        causes.push(Cause::invalid(format!("{path}.name"), &json!(name), &why));
    }
    let earlier = &ports[..index];
    if !name.is_empty() && earlier.iter().any(|p| p["name"] == name) {
        causes.push(Cause::duplicate(format!("{path}.name"), &json!(name)));
    }
    if earlier.iter().any(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]) {
        causes.push(Cause::duplicate(path.clone(), &json!({"protocol": port["protocol"], "port": port["port"]})));
    }
    match &port["targetPort"] {
        Value::String(name) => {
            if let Err(why) = names::port_name(name) {
                causes.push(Cause::invalid(format!("{path}.targetPort"), &port["targetPort"], &why));
            }
        }
        number => {
            if !number.as_u64().is_some_and(|n| (1..=65_535).contains(&n)) {
                causes.push(Cause::invalid(
                    format!("{path}.targetPort"),
                    number,
                    "must be between 1 and 65535, inclusive",
                ));
            }
        }
    }
}
