//! What the server decides when an object is created or changed: identity, generation, and which parts a write may touch.

use serde_json::{Map, Value, json};

use super::crd;
use super::error::{Answer, Failure};
use super::object::{self, keep, map_at, metadata};
use super::resource::{Registry, Resource};
use super::server::Call;

/// Metadata that only the server writes.
const SERVER_METADATA: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "selfLink",
];

/// Built-in types whose objects count their generations.
const WITH_GENERATION: &[&str] = &[
    "/pods",
    "/replicationcontrollers",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "apiextensions.k8s.io/customresourcedefinitions",
    "apps/daemonsets",
    "apps/deployments",
    "apps/replicasets",
    "apps/statefulsets",
    "batch/cronjobs",
    "batch/jobs",
    "discovery.k8s.io/endpointslices",
    "networking.k8s.io/ingresses",
    "networking.k8s.io/ingressclasses",
    "networking.k8s.io/networkpolicies",
    "policy/poddisruptionbudgets",
];

/// What becomes of objects that are stored for whoever reads them, and that nothing beside this server acts on.
pub(crate) fn unheeded(resource: &Resource) -> Option<String> {
    let consequence = match resource.qualified().as_str() {
        "horizontalpodautoscalers.autoscaling" => "nothing scales by it",
        "ingresses.networking.k8s.io" | "ingressclasses.networking.k8s.io" => "no ingress controller runs",
        "networkpolicies.networking.k8s.io" | "resourcequotas" | "limitranges" => "nothing enforces it",
        "persistentvolumes" | "storageclasses.storage.k8s.io" => "no volume is made of it",
        "certificatesigningrequests.certificates.k8s.io" => "nothing signs it",
        _ => return None,
    };
    Some(format!("{} is stored, but {consequence} here", resource.kind))
}

/// Gives a new object its name and namespace.
pub(crate) fn name_new(call: &Call, value: &mut Value) -> Answer<()> {
    let sent = object::namespace(value).to_owned();
    let path = call.place.namespace.clone();
    let metadata = metadata(value);
    if call.resource.namespaced {
        if !sent.is_empty() && sent != path {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Failure::bad_request(message));
        }
        metadata.insert("namespace".to_owned(), json!(path));
    } else {
        metadata.shift_remove("namespace");
    }
    let has_name = metadata.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    if let (false, Some(prefix)) = (has_name, metadata.get("generateName").and_then(Value::as_str)) {
        let prefix: String = prefix.chars().take(58).collect();
        metadata.insert("name".to_owned(), json!(format!("{prefix}{}", object::random_suffix())));
    }
    Ok(())
}

/// Sets what the server decides about a new object.
pub(crate) fn before_create(resource: &Resource, value: &mut Value, registry: &Registry) {
    let metadata = metadata(value);
    for field in SERVER_METADATA {
        metadata.shift_remove(*field);
    }
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::now()));
    if counts_generations(resource) {
        metadata.insert("generation".to_owned(), json!(1));
    }
    // A kubelet registers its node with the status it has.
    if resource.has("status")
        && !resource.is("", "nodes")
        && let Some(map) = value.as_object_mut()
    {
        map.shift_remove("status");
    }
    match resource.qualified().as_str() {
        "pods" => {
            let class = super::pod_admission::qos_class(value);
            value["status"] = json!({"phase": "Pending", "qosClass": class});
        }
        "namespaces" => new_namespace(value),
        "services" | "ingresses.networking.k8s.io" => value["status"] = json!({"loadBalancer": {}}),
        "deployments.apps" | "jobs.batch" | "cronjobs.batch" => value["status"] = json!({}),
        "replicasets.apps" | "replicationcontrollers" => value["status"] = json!({"replicas": 0}),
        "statefulsets.apps" => value["status"] = json!({"replicas": 0, "availableReplicas": 0}),
        "persistentvolumeclaims" => value["status"] = json!({"phase": "Pending"}),
        "customresourcedefinitions.apiextensions.k8s.io" => new_crd(value, registry),
        _ => {}
    }
}

fn new_namespace(value: &mut Value) {
    let name = object::name(value).to_owned();
    map_at(metadata_value(value), "labels").insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    let spec = map_at(value, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.contains(&json!("kubernetes"))
    {
        list.push(json!("kubernetes"));
    }
    value["status"] = json!({"phase": "Active"});
}

fn new_crd(value: &mut Value, registry: &Registry) {
    let finalizers = metadata(value).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.contains(&json!(super::reaper::CRD_FINALIZER))
    {
        list.push(json!(super::reaper::CRD_FINALIZER));
    }
    crd::settle(value, registry);
}

fn metadata_value(value: &mut Value) -> &mut Value {
    metadata(value);
    &mut value["metadata"]
}

fn counts_generations(resource: &Resource) -> bool {
    resource.custom().is_some() || WITH_GENERATION.contains(&resource.storage().as_str())
}

/// Keeps what this write must not touch, and counts the generation.
pub(crate) fn before_update(resource: &Resource, subresource: &str, new: &mut Value, old: &Value, registry: &Registry) {
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    keep_metadata(new, old);
    match subresource {
        "status" | "approval" => keep_all_but_status(resource, new, old),
        "finalize" => {
            let finalizers = new["spec"]["finalizers"].clone();
            keep_all_but(new, old, &[]);
            map_at(new, "spec").insert("finalizers".to_owned(), finalizers);
        }
        "ephemeralcontainers" => {
            let containers = new["spec"]["ephemeralContainers"].clone();
            keep_all_but(new, old, &[]);
            map_at(new, "spec").insert("ephemeralContainers".to_owned(), containers);
        }
        _ => {
            if resource.has("status") {
                keep(object::as_map(new), old, "status");
            }
            if resource.is("", "namespaces") {
                let finalizers = old["spec"]["finalizers"].clone();
                map_at(new, "spec").insert("finalizers".to_owned(), finalizers);
            }
        }
    }
    if resource.storage() == super::CRDS && subresource.is_empty() {
        crd::settle(new, registry);
    }
    if counts_generations(resource) && differs(resource, new, old) {
        let generation = object::integer(old, "/metadata/generation").unwrap_or(1) + 1;
        metadata(new).insert("generation".to_owned(), json!(generation));
    }
}

fn keep_metadata(new: &mut Value, old: &Value) {
    let kept = &old["metadata"];
    let metadata = metadata(new);
    for field in SERVER_METADATA.iter().chain(&["name", "namespace", "generateName"]) {
        keep(metadata, kept, field);
    }
}

/// A status write changes the status only; nodes' and pods' writers keep labels and annotations with it.
fn keep_all_but_status(resource: &Resource, new: &mut Value, old: &Value) {
    if !resource.is("", "pods") && !resource.is("", "nodes") {
        let managed = new["metadata"].get("managedFields").cloned();
        new["metadata"] = old["metadata"].clone();
        if let Some(managed) = managed {
            metadata(new).insert("managedFields".to_owned(), managed);
        }
    }
    keep_all_but(new, old, &["metadata", "status"]);
}

fn keep_all_but(new: &mut Value, old: &Value, fields: &[&str]) {
    let mut kept: Map<String, Value> = old.as_object().cloned().unwrap_or_default();
    for field in fields {
        kept.shift_remove(*field);
        if let Some(value) = new.get(*field) {
            kept.insert((*field).to_owned(), value.clone());
        }
    }
    *new = Value::Object(kept);
}

/// Whether more than metadata and (where it is a subresource) status changed.
fn differs(resource: &Resource, new: &Value, old: &Value) -> bool {
    let counts = |field: &str| field != "metadata" && !(field == "status" && resource.has("status"));
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    let fields = new.keys().chain(old.keys());
    fields.filter(|f| counts(f)).any(|field| new.get(field) != old.get(field))
}
