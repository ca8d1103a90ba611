//! The defaults of built-in types that clients rely on.

use serde_json::{Map, Value, json};

use super::autoscaling;
use super::object::{as_map, each, map_at, set_default};
use super::resource::Resource;

/// Fills in what the client left out.
pub(crate) fn apply(resource: &Resource, value: &mut Value) {
    match resource.qualified().as_str() {
        "pods" => pod_spec(map_at(value, "spec")),
        "podtemplates" => template(value),
        "services" => service(map_at(value, "spec")),
        "secrets" => secret(value),
        "replicationcontrollers" => replication_controller(value),
        "replicasets.apps" => replica_set(map_at(value, "spec")),
        "deployments.apps" => deployment(map_at(value, "spec")),
        "statefulsets.apps" => stateful_set(map_at(value, "spec")),
        "daemonsets.apps" => daemon_set(map_at(value, "spec")),
        "jobs.batch" => job(map_at(value, "spec")),
        "cronjobs.batch" => cron_job(map_at(value, "spec")),
        "endpointslices.discovery.k8s.io" => endpoint_slice(value),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => binding(value),
        "validatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(value, false),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(value, true),
        "networkpolicies.networking.k8s.io" => network_policy(map_at(value, "spec")),
        "persistentvolumeclaims" => set_default(map_at(value, "spec"), "volumeMode", "Filesystem"),
        "horizontalpodautoscalers.autoscaling" => autoscaler(resource, map_at(value, "spec")),
        "apiservices.apiregistration.k8s.io" => api_service(value),
        _ => {}
    }
}

/// The object at `field`, when there is one.
fn at(map: &mut Map<String, Value>, field: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(map) = map.get_mut(field).and_then(Value::as_object_mut) {
        edit(map);
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        set_default(spec, field, value);
    }
    if let Some(account) = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned() {
        spec.insert("serviceAccountName".to_owned(), account.clone());
        spec.insert("serviceAccount".to_owned(), account);
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, |container| self::container(container, host_network));
    }
    each(spec, "volumes", volume);
}

fn autoscaler(resource: &Resource, spec: &mut Map<String, Value>) {
    set_default(spec, "minReplicas", 1);
    if !autoscaling::is_v1(resource) {
        autoscaling::default_metrics(spec);
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if image_tag(image) == "latest" { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", policy);
    each(container, "ports", |port| {
        set_default(port, "protocol", "TCP");
        if let (true, Some(number)) = (host_network, port.get("containerPort").cloned()) {
            set_default(port, "hostPort", number);
        }
    });
    at(container, "resources", requests_from_limits);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        at(container, name, probe);
    }
    at(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            at(lifecycle, hook, handler);
        }
    });
    each(container, "env", |variable| {
        at(variable, "valueFrom", |from| {
            at(from, "fieldRef", |field| set_default(field, "apiVersion", "v1"));
            at(from, "resourceFieldRef", |field| set_default(field, "divisor", "0"));
        });
    });
}

/// The tag of an image; one with a digest has none that changes.
fn image_tag(image: &str) -> &str {
    if image.contains('@') {
        return "";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}

/// A limit without a request is the request too.
fn requests_from_limits(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = as_map(resources.entry("requests").or_insert_with(|| json!({})));
    for (name, value) in limits {
        set_default(requests, &name, value);
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        set_default(probe, field, value);
    }
    at(probe, "grpc", |grpc| set_default(grpc, "service", ""));
    handler(probe);
}

fn handler(handler: &mut Map<String, Value>) {
    at(handler, "httpGet", |get| {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    });
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() == 1 {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        at(volume, source, |source| set_default(source, "defaultMode", 420));
    }
    at(volume, "hostPath", |path| set_default(path, "type", ""));
    at(volume, "downwardAPI", field_references);
    at(volume, "projected", |projected| {
        each(projected, "sources", |source| {
            at(source, "serviceAccountToken", |token| set_default(token, "expirationSeconds", 3600));
            at(source, "downwardAPI", field_references);
        });
    });
}

fn field_references(source: &mut Map<String, Value>) {
    each(source, "items", |item| at(item, "fieldRef", |field| set_default(field, "apiVersion", "v1")));
}

fn template(parent: &mut Value) {
    if let Some(template) = parent.get_mut("template") {
        template_value(template);
    }
}

fn template_value(template: &mut Value) {
    map_at(template, "metadata");
    pod_spec(map_at(template, "spec"));
}

/// Claims of a StatefulSet are objects within an object.
fn claim(claim: &mut Map<String, Value>) {
    set_default(claim, "apiVersion", "v1");
    set_default(claim, "kind", "PersistentVolumeClaim");
    at(claim, "spec", |spec| set_default(spec, "volumeMode", "Filesystem"));
    set_default(claim, "status", json!({"phase": "Pending"}));
}

fn workload_template(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template") {
        template_value(template);
    }
}

fn replica_set(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    workload_template(spec);
}

/// A ReplicationController selects, and itself bears, its template's labels when it says nothing else.
fn replication_controller(value: &mut Value) {
    let labels = value["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        set_default(map_at(value, "spec"), "selector", labels.clone());
        set_default(map_at(value, "metadata"), "labels", labels);
    }
    replica_set(map_at(value, "spec"));
}

fn deployment(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    let strategy = as_map(spec.entry("strategy").or_insert_with(|| json!({})));
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        set_default(rolling, "maxUnavailable", "25%");
        set_default(rolling, "maxSurge", "25%");
    }
    workload_template(spec);
}

fn stateful_set(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    let strategy = as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        set_default(rolling, "partition", 0);
    }
    each(spec, "volumeClaimTemplates", claim);
    workload_template(spec);
}

fn daemon_set(spec: &mut Map<String, Value>) {
    set_default(spec, "revisionHistoryLimit", 10);
    let strategy = as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        set_default(rolling, "maxUnavailable", 1);
        set_default(rolling, "maxSurge", 0);
    }
    workload_template(spec);
}

fn job(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), json!(1));
    }
    for (field, value) in [
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        set_default(spec, field, value);
    }
    workload_template(spec);
}

/// A Job that bears no labels bears its template's.
fn job_labels(value: &mut Value) {
    let labels = value["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        set_default(map_at(value, "metadata"), "labels", labels);
    }
}

/// A Job's own labels, by which it finds its pods, unless the client chose a selector.
pub(crate) fn job_selector(value: &mut Value) {
    if value["spec"]["manualSelector"] == true || !value["spec"]["selector"].is_null() {
        return;
    }
    let (name, uid) = (value["metadata"]["name"].clone(), value["metadata"]["uid"].clone());
    let labels = map_at(map_at_value(&mut value["spec"]["template"], "metadata"), "labels");
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(label.to_owned(), value.clone());
    }
    value["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    job_labels(value);
}

fn map_at_value<'a>(parent: &'a mut Value, field: &str) -> &'a mut Value {
    map_at(parent, field);
    &mut parent[field]
}

fn cron_job(spec: &mut Map<String, Value>) {
    set_default(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    at(spec, "jobTemplate", |template| at(template, "spec", workload_template));
}

fn service(spec: &mut Map<String, Value>) {
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if spec["sessionAffinity"] == "ClientIP" {
        set_default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    each(spec, "ports", |port| {
        set_default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        let unset = port.get("targetPort").is_none_or(|t| *t == json!(0) || *t == json!(""));
        if unset {
            port.insert("targetPort".to_owned(), number);
        }
    });
}

/// `stringData` is for writing only: it becomes `data`.
fn secret(value: &mut Value) {
    use base64::Engine as _;
    let map = as_map(value);
    set_default(map, "type", "Opaque");
    if let Some(Value::Object(plain)) = map.shift_remove("stringData") {
        let data = as_map(map.entry("data").or_insert_with(|| json!({})));
        for (key, text) in plain {
            let text = text.as_str().unwrap_or_default();
            data.insert(key, json!(base64::engine::general_purpose::STANDARD.encode(text)));
        }
    }
}

fn endpoint_slice(value: &mut Value) {
    let map = as_map(value);
    set_default(map, "endpoints", json!([]));
    each(map, "ports", |port| {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    });
}

fn binding(value: &mut Value) {
    let map = as_map(value);
    at(map, "roleRef", |role| set_default(role, "apiGroup", "rbac.authorization.k8s.io"));
    each(map, "subjects", |subject| {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set_default(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    });
}

fn webhooks(value: &mut Value, mutating: bool) {
    each(as_map(value), "webhooks", |webhook| {
        for (field, value) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
            ("timeoutSeconds", json!(10)),
        ] {
            set_default(webhook, field, value);
        }
        if mutating {
            set_default(webhook, "reinvocationPolicy", "Never");
        }
        each(webhook, "rules", |rule| set_default(rule, "scope", "*"));
        at(webhook, "clientConfig", |config| at(config, "service", |service| set_default(service, "port", 443)));
    });
}

fn network_policy(spec: &mut Map<String, Value>) {
    let egress = spec.contains_key("egress");
    set_default(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for list in ["ingress", "egress"] {
        each(spec, list, |rule| each(rule, "ports", |port| set_default(port, "protocol", "TCP")));
    }
}

fn api_service(value: &mut Value) {
    at(map_at(value, "spec"), "service", |service| set_default(service, "port", 443));
}
