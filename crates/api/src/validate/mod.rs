//! Validation of built-in types, in Kubernetes' words.

mod pod;
mod service;
mod workload;

use serde_json::{Map, Value, json};

use super::error::Cause;
use super::names;
use super::object::{self, integer, items, text};
use super::resource::Resource;
use super::schema::Schema;

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
    added_finalizers(new, old, &mut causes);
    for field in immutable(resource) {
        let (before, after) = (old.pointer(field), new.pointer(field));
        if before != after && before.is_some_and(|b| !b.is_null()) {
            let path = field.trim_start_matches('/').replace('/', ".");
            let detail = if *field == "/roleRef" { "cannot change roleRef" } else { "field is immutable" };
            causes.push(Cause::invalid(path, after.unwrap_or(&Value::Null), detail));
        }
    }
    match resource.qualified().as_str() {
        "pods" => pod::update(new, old, &mut causes),
        "statefulsets.apps" => workload::stateful_set_update(new, old, &mut causes),
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

/// Once deletion began no finalizer may be added: it could hold the object for ever.
fn added_finalizers(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let before = object::finalizers(old);
    let added: Vec<String> = object::finalizers(new)
        .iter()
        .filter(|finalizer| !before.contains(finalizer))
        .map(ToString::to_string)
        .collect();
    if object::is_deleting(old) && !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        causes.push(Cause::forbidden("metadata.finalizers", &detail));
    }
}

/// Fields of a type that cannot change.
fn immutable(resource: &Resource) -> &'static [&'static str] {
    match resource.qualified().as_str() {
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" => &["/spec/selector"],
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
    let name = object::name(value);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = name_syntax(resource, name) {
        causes.push(Cause::invalid("metadata.name", &json!(name), &why));
    }
    let meta = &value["metadata"];
    names::labels(meta["labels"].as_object(), "metadata.labels", causes);
    names::annotations(meta["annotations"].as_object(), "metadata.annotations", causes);
    for owner in items(meta, "/ownerReferences") {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let field = format!("metadata.ownerReferences.{field}");
                causes.push(Cause::invalid(field, &json!(""), "must not be empty"));
            }
        }
    }
    for (index, finalizer) in items(meta, "/finalizers").iter().enumerate() {
        if let Err(why) = finalizer_syntax(finalizer.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(format!("metadata.finalizers[{index}]"), finalizer, &why));
        }
    }
}

/// A finalizer is one of Kubernetes' own or bears the domain of who takes it off.
fn finalizer_syntax(finalizer: &str) -> Result<(), String> {
    names::qualified_name(finalizer)?;
    match finalizer.contains('/') || matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        true => Ok(()),
        false if finalizer.ends_with(".k8s.io") => Ok(()),
        false => Err("name is neither a standard finalizer name nor is it fully qualified".to_owned()),
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
        "pods" => pod::spec(&value["spec"], "spec", causes),
        "services" => service::service(value, causes),
        "configmaps" => keys(value, &["data", "binaryData"], causes),
        "secrets" => secret(value, causes),
        "deployments.apps"
        | "replicasets.apps"
        | "statefulsets.apps"
        | "daemonsets.apps"
        | "replicationcontrollers" => workload::workload(resource, value, causes),
        "horizontalpodautoscalers.autoscaling" => workload::autoscaler(&value["spec"], causes),
        "jobs.batch" => workload::job(&value["spec"], "spec", causes),
        "cronjobs.batch" => workload::cron_job(&value["spec"], causes),
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => role(value, causes),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            role_binding(value, causes);
        }
        "customresourcedefinitions.apiextensions.k8s.io" => super::crd_validation::check(value, causes),
        _ => {}
    }
}

fn secret(value: &Value, causes: &mut Vec<Cause>) {
    keys(value, &["data"], causes);
    if value["type"] == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if value["data"].get(key).is_none() {
                causes.push(Cause::required(format!("data[{key}]"), ""));
            }
        }
    }
}

fn role(value: &Value, causes: &mut Vec<Cause>) {
    for (index, rule) in items(value, "/rules").iter().enumerate() {
        let mut need = |field: &str, detail: &str| {
            if items(rule, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(format!("rules[{index}].{field}"), detail));
            }
        };
        need("verbs", "verbs must contain at least one value");
        if items(rule, "/nonResourceURLs").is_empty() {
            need("apiGroups", "resource rules must supply at least one api group");
            need("resources", "resource rules must supply at least one resource");
        }
    }
}

fn role_binding(value: &Value, causes: &mut Vec<Cause>) {
    let role = &value["roleRef"];
    one_of(role, "kind", "roleRef", &["Role", "ClusterRole"], causes);
    if text(role, "/name").is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    for (index, subject) in items(value, "/subjects").iter().enumerate() {
        let path = format!("subjects[{index}]");
        one_of(subject, "kind", &path, &["ServiceAccount", "User", "Group"], causes);
        if text(subject, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
    }
}

/// The text at `field` must be one of these, if it is there.
fn one_of(value: &Value, field: &str, path: &str, known: &[&str], causes: &mut Vec<Cause>) {
    if let Some(found) = value[field].as_str().filter(|found| !known.contains(found)) {
        causes.push(Cause::unsupported(format!("{path}.{field}"), &json!(found), known));
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

fn port_number(port: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let number = integer(port, &format!("/{field}")).unwrap_or_default();
    if !(1..=65_535).contains(&number) {
        causes.push(Cause::invalid(
            format!("{path}.{field}"),
            &json!(number),
            "must be between 1 and 65535, inclusive",
        ));
    }
    one_of(port, "protocol", path, &["SCTP", "TCP", "UDP"], causes);
}
