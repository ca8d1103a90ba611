//! What a cluster needs for a control plane to run in it: namespace, identity, rights, Deployment, Service.

use serde_json::{Value, json};

use crate::names::{NAME, NAMESPACE, ROOT_SECRET, SERVICE, SERVICE_PORT, TRUST_BUNDLE};
use crate::{HEALTH_PORT, WEBHOOK_PORT, XDS_PORT, view};

/// The objects of a control plane whose program is `executable`, in the order in which they are to be applied. The
/// CustomResourceDefinitions ([`heddle_smi::crds`]) come before them.
pub fn manifests(executable: &str) -> Vec<Value> {
    let mut objects = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(NAME) }),
    ];
    objects.extend(rights());
    objects.extend([service(), deployment(executable)]);
    objects
}

fn rights() -> Vec<Value> {
    let of_smi = ["access.smi-spec.io", "specs.smi-spec.io", "split.smi-spec.io", "heddle.dev"];
    let cluster = json!([
        rule(&[""], &["namespaces", "pods", "serviceaccounts", "services"], &READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
        rule(&[""], &["nodes", "replicationcontrollers"], &READ),
        rule(&["apps"], &["daemonsets", "deployments", "replicasets", "statefulsets"], &READ),
        rule(&["batch"], &["jobs"], &READ),
        rule(&of_smi, &["*"], &READ),
        rule(&of_smi, &STATUS, &["patch", "update"]),
        rule(&["events.k8s.io"], &["events"], &["create", "patch"]),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(&["admissionregistration.k8s.io"], &["validatingwebhookconfigurations"], &REGISTER),
        rule(&["apiregistration.k8s.io"], &["apiservices"], &REGISTER),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], &["get", "list", "watch", "patch"]),
    ]);
    let own = json!([
        rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "update"]),
        rule(&[""], &["secrets", "configmaps"], &["create"]),
        named(rule(&[""], &["secrets"], &["get"]), ROOT_SECRET),
        named(rule(&[""], &["configmaps"], &["get", "patch"]), TRUST_BUNDLE),
    ]);
    let viewer = json!([
        rule(&of_smi[..3], &["*"], &READ),
        rule(&["heddle.dev"], &["*"], &READ),
        rule(&[view::GROUP, heddle_smi::metrics::GROUP], &["*"], &["get", "list"]),
    ]);
    // Who may edit a namespace shapes its traffic; who may talk to whom is for those who administer it (A30).
    let editor = json!([rule(&["split.smi-spec.io"], &["trafficsplits"], &WRITE)]);
    let administrator = json!([rule(&["access.smi-spec.io", "specs.smi-spec.io"], &["*"], &WRITE)]);
    vec![
        rbac("ClusterRole", json!({ "name": NAME }), json!({ "rules": cluster })),
        rbac("ClusterRoleBinding", json!({ "name": NAME }), binding("ClusterRole", NAME)),
        rbac("Role", metadata(NAME), json!({ "rules": own })),
        rbac("RoleBinding", metadata(NAME), binding("Role", NAME)),
        rbac(
            "RoleBinding",
            json!({ "namespace": "kube-system", "name": NAME }),
            binding("Role", "extension-apiserver-authentication-reader"),
        ),
        aggregated("view", viewer),
        aggregated("edit", editor),
        aggregated("admin", administrator),
    ]
}

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
const REGISTER: [&str; 5] = ["get", "list", "watch", "create", "patch"];
const STATUS: [&str; 7] = [
    "traffictargets/status",
    "identitybindings/status",
    "httproutegroups/status",
    "tcproutes/status",
    "udproutes/status",
    "trafficsplits/status",
    "meshconfigs/status",
];

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn named(mut rule: Value, name: &str) -> Value {
    rule["resourceNames"] = json!([name]);
    rule
}

/// A ClusterRole whose rules are part of Kubernetes' own role of this name.
fn aggregated(role: &str, rules: Value) -> Value {
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
    rbac(
        "ClusterRole",
        json!({ "name": format!("heddle-{role}"), "labels": { label: "true" } }),
        json!({ "rules": rules }),
    )
}

fn binding(kind: &str, role: &str) -> Value {
    json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": NAME }],
    })
}

fn rbac(kind: &str, metadata: Value, mut fields: Value) -> Value {
    fields["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
    fields["kind"] = json!(kind);
    fields["metadata"] = metadata;
    fields
}

fn metadata(name: &str) -> Value {
    json!({ "namespace": NAMESPACE, "name": name })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(SERVICE),
        "spec": {
            "selector": { "app": NAME },
            "ports": [
                { "name": "webhook", "port": SERVICE_PORT, "targetPort": WEBHOOK_PORT },
                { "name": "grpc-xds", "port": XDS_PORT, "targetPort": XDS_PORT },
                { "name": "http-health", "port": HEALTH_PORT, "targetPort": HEALTH_PORT },
            ],
        },
    })
}

/// One replica on the node's network, so that it runs before any pod network does.
fn deployment(executable: &str) -> Value {
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port });
    let probe = |path: &str, period: u32| json!({ "httpGet": { "path": path, "port": HEALTH_PORT }, "periodSeconds": period, "failureThreshold": 3 });
    let pod_name = json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
    let pod_ip = json!({ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } });
    let container = json!({
        "name": "control",
        "image": "heddle",
        // Its own address alone: on the node's network others listen at the same ports of other addresses.
        "command": [executable, "control", "--listen=$(POD_IP)"],
        "env": [pod_name, pod_ip],
        "ports": [port("xds", XDS_PORT), port("webhook", WEBHOOK_PORT), port("health", HEALTH_PORT)],
        "readinessProbe": probe("/ready", 1),
        "livenessProbe": probe("/live", 10),
    });
    let scraped = json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": HEALTH_PORT.to_string(),
        "prometheus.io/path": "/metrics",
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(NAME),
        "spec": {
            "replicas": 1,
            // On the node's network two of them would want the same ports.
            "strategy": { "type": "Recreate" },
            "selector": { "matchLabels": { "app": NAME } },
            "template": {
                "metadata": { "labels": { "app": NAME }, "annotations": scraped },
                "spec": {
                    "serviceAccountName": NAME,
                    "hostNetwork": true,
                    "containers": [container],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo test -p heddle-control --lib` writes the file anew.
    #[test]
    fn the_file_in_deploy_is_current() {
        let documents = manifests("/heddle").into_iter().map(|object| serde_saphyr::to_string(&object).unwrap());
        let text = documents.collect::<Vec<_>>().join("---\n");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/control-plane.yaml");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), text, "{file}: run with UPDATE=1");
    }

    #[test]
    fn secrets_can_be_read_by_name_alone() {
        let rules = manifests("/heddle").into_iter().flat_map(|object| object["rules"].as_array().cloned()).flatten();
        for rule in rules {
            let grants = |field: &str, value: &str| rule[field].to_string().contains(&format!("\"{value}\""));
            let reads = grants("verbs", "get") || grants("verbs", "list") || grants("verbs", "*");
            assert!(
                !(grants("resources", "secrets") && reads) || rule["resourceNames"] == json!([ROOT_SECRET]),
                "{rule}"
            );
        }
    }
}
