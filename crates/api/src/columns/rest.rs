//! The columns of types that have few of them.

use serde_json::{Map, Value, json};

use super::super::object::{items, text};
use super::super::resource::Resource;
use super::super::scale::selector_text;
use super::super::table::or_none;
use super::{Column, column, count, created, joined, number, or_na, or_unset, wide};

pub(super) fn columns(resource: &Resource) -> Vec<Column> {
    let age = || column("Age", created);
    match resource.qualified().as_str() {
        "namespaces" => vec![column("Status", |o| json!(text(o, "/status/phase"))), age()],
        "configmaps" => vec![column("Data", |o| json!(size(&o["data"]) + size(&o["binaryData"]))), age()],
        "secrets" => {
            vec![column("Type", |o| json!(text(o, "/type"))), column("Data", |o| json!(size(&o["data"]))), age()]
        }
        "leases.coordination.k8s.io" => vec![column("Holder", |o| json!(text(o, "/spec/holderIdentity"))), age()],
        "roles.rbac.authorization.k8s.io"
        | "clusterroles.rbac.authorization.k8s.io"
        | "limitranges"
        | "customresourcedefinitions.apiextensions.k8s.io" => {
            vec![column("Created At", |o| json!(text(o, "/metadata/creationTimestamp")))]
        }
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => role_bindings(),
        "apiservices.apiregistration.k8s.io" => {
            vec![column("Service", api_service), column("Available", available), age()]
        }
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            vec![count("Webhooks", |o| json!(items(o, "/webhooks").len())), age()]
        }
        "networkpolicies.networking.k8s.io" => {
            vec![column("Pod-Selector", |o| json!(or_none(selector_text(&o["spec"]["podSelector"])))), age()]
        }
        "ingressclasses.networking.k8s.io" => vec![column("Controller", |o| json!(text(o, "/spec/controller"))), age()],
        "poddisruptionbudgets.policy" => vec![
            column("Min Available", |o| json!(or_na(&o["spec"]["minAvailable"]))),
            column("Max Unavailable", |o| json!(or_na(&o["spec"]["maxUnavailable"]))),
            count("Allowed Disruptions", |o| json!(number(o, "/status/disruptionsAllowed"))),
            age(),
        ],
        "horizontalpodautoscalers.autoscaling" => autoscalers(),
        "certificatesigningrequests.certificates.k8s.io" => signing_requests(),
        "persistentvolumeclaims" => vec![
            column("Status", |o| json!(text(o, "/status/phase"))),
            column("Volume", |o| json!(text(o, "/spec/volumeName"))),
            column("Capacity", |o| json!(text(o, "/status/capacity/storage"))),
            column("StorageClass", |o| json!(text(o, "/spec/storageClassName"))),
            age(),
        ],
        "persistentvolumes" => vec![
            column("Capacity", |o| json!(text(o, "/spec/capacity/storage"))),
            column("Reclaim Policy", |o| json!(text(o, "/spec/persistentVolumeReclaimPolicy"))),
            column("Status", |o| json!(text(o, "/status/phase"))),
            column("StorageClass", |o| json!(or_unset(text(o, "/spec/storageClassName")))),
            age(),
        ],
        "storageclasses.storage.k8s.io" => vec![column("Provisioner", |o| json!(text(o, "/provisioner"))), age()],
        "priorityclasses.scheduling.k8s.io" => vec![
            count("Value", |o| json!(number(o, "/value"))),
            column("Global-Default", |o| json!(o["globalDefault"] == true)),
            age(),
        ],
        _ => vec![age()],
    }
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, Map::len)
}

fn role_bindings() -> Vec<Column> {
    fn subjects(binding: &Value, kind: &str) -> Value {
        let of_kind = items(binding, "/subjects").iter().filter(|subject| subject["kind"] == kind);
        let names = of_kind.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
            _ => text(subject, "/name").to_owned(),
        });
        json!(names.collect::<Vec<_>>().join(", "))
    }
    vec![
        column("Role", |o| json!(format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")))),
        column("Age", created),
        wide("Users", |o| subjects(o, "User")),
        wide("Groups", |o| subjects(o, "Group")),
        wide("ServiceAccounts", |o| subjects(o, "ServiceAccount")),
    ]
}

/// Nothing scales here: the targets are never known.
fn autoscalers() -> Vec<Column> {
    vec![
        column("Reference", |o| {
            json!(format!("{}/{}", text(o, "/spec/scaleTargetRef/kind"), text(o, "/spec/scaleTargetRef/name")))
        }),
        column("Targets", |_| json!("<unknown>")),
        column("MinPods", |o| json!(number(o, "/spec/minReplicas").to_string())),
        column("MaxPods", |o| json!(number(o, "/spec/maxReplicas"))),
        column("Replicas", |o| json!(number(o, "/status/currentReplicas"))),
        column("Age", created),
    ]
}

fn signing_requests() -> Vec<Column> {
    vec![
        column("Age", created),
        column("SignerName", |o| json!(text(o, "/spec/signerName"))),
        column("Requestor", |o| json!(text(o, "/spec/username"))),
        column("Condition", |o| match items(o, "/status/conditions") {
            [] => json!("Pending"),
            conditions => joined(conditions.iter().map(|condition| text(condition, "/type")), ","),
        }),
    ]
}

fn api_service(object: &Value) -> Value {
    match &object["spec"]["service"] {
        Value::Null => json!("Local"),
        service => json!(format!("{}/{}", text(service, "/namespace"), text(service, "/name"))),
    }
}

fn available(object: &Value) -> Value {
    let condition = items(object, "/status/conditions").iter().find(|c| c["type"] == "Available");
    match condition {
        None => json!("Unknown"),
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => json!(format!("{} ({})", text(c, "/status"), text(c, "/reason"))),
    }
}
