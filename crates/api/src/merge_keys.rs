//! How lists and maps of the built-in types merge: what Kubernetes' OpenAPI says in `x-kubernetes-*` extensions and
//! the generated Rust schemas leave out. A list without a row is replaced as a whole.

/// One property of a built-in type that does not simply replace.
pub(super) struct MergeRow {
    /// OpenAPI definition, without the leading `io.k8s.`.
    pub definition: &'static str,
    pub field: &'static str,
    /// `x-kubernetes-list-map-keys`; empty for `set` lists and for objects.
    pub map_keys: &'static [&'static str],
    /// `x-kubernetes-patch-merge-key`; empty when there is none.
    pub merge_key: &'static str,
    /// `x-kubernetes-patch-strategy`; empty when there is none.
    pub strategy: &'static str,
    /// Whether the list is a `set` of scalars.
    pub set: bool,
}

const fn row(
    definition: &'static str,
    field: &'static str,
    map_keys: &'static [&'static str],
    merge_key: &'static str,
    strategy: &'static str,
) -> MergeRow {
    MergeRow { definition, field, map_keys, merge_key, strategy, set: false }
}

const fn set(definition: &'static str, field: &'static str, strategy: &'static str) -> MergeRow {
    MergeRow { definition, field, map_keys: &[], merge_key: "", strategy, set: true }
}

/// Types whose objects are replaced as a whole (`x-kubernetes-map-type: atomic`), without the leading `io.k8s.`.
pub(super) const ATOMIC_TYPES: &[&str] = &[
    "api.admissionregistration.v1.MatchResources",
    "api.admissionregistration.v1.NamedRuleWithOperations",
    "api.admissionregistration.v1.ParamKind",
    "api.admissionregistration.v1.ParamRef",
    "api.admissionregistration.v1.Variable",
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EndpointAddress",
    "api.core.v1.EndpointPort",
    "api.core.v1.FileKeySelector",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.ScopeSelector",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.SecretReference",
    "api.core.v1.TopologySelectorTerm",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "api.networking.v1.ServiceBackendPort",
    "api.rbac.v1.RoleRef",
    "api.rbac.v1.Subject",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Properties that are maps replaced as a whole.
pub(super) const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("api.core.v1.PersistentVolumeClaimStatus", "allocatedResourceStatuses"),
    ("api.core.v1.PersistentVolumeSpec", "claimRef"),
    ("api.core.v1.PodSpec", "nodeSelector"),
    ("api.core.v1.ReplicationControllerSpec", "selector"),
    ("api.core.v1.ServiceSpec", "selector"),
];

pub(super) const MERGE_ROWS: &[MergeRow] = &[
    row("api.admissionregistration.v1.MutatingWebhook", "matchConditions", &["name"], "name", "merge"),
    row("api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", &["name"], "name", "merge"),
    set("api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions", ""),
    row("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", &["name"], "name", "merge"),
    row("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", &["name"], "name", "merge"),
    row("api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", &["type"], "", ""),
    row("api.admissionregistration.v1.ValidatingWebhook", "matchConditions", &["name"], "name", "merge"),
    row("api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", &["name"], "name", "merge"),
    row("api.apps.v1.DaemonSetStatus", "conditions", &["type"], "type", "merge"),
    row("api.apps.v1.DeploymentSpec", "strategy", &[], "", "retainKeys"),
    row("api.apps.v1.DeploymentStatus", "conditions", &["type"], "type", "merge"),
    row("api.apps.v1.ReplicaSetStatus", "conditions", &["type"], "type", "merge"),
    row("api.apps.v1.StatefulSetStatus", "conditions", &["type"], "type", "merge"),
    row("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", &["type"], "type", "merge"),
    row("api.batch.v1.JobStatus", "conditions", &[], "type", "merge"),
    set("api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", ""),
    set("api.batch.v1.UncountedTerminatedPods", "failed", ""),
    set("api.batch.v1.UncountedTerminatedPods", "succeeded", ""),
    row("api.core.v1.ComponentStatus", "conditions", &["type"], "type", "merge"),
    row("api.core.v1.Container", "env", &["name"], "name", "merge"),
    row("api.core.v1.Container", "ports", &["containerPort", "protocol"], "containerPort", "merge"),
    row("api.core.v1.Container", "volumeDevices", &["devicePath"], "devicePath", "merge"),
    row("api.core.v1.Container", "volumeMounts", &["mountPath"], "mountPath", "merge"),
    set("api.core.v1.ContainerRestartRuleOnExitCodes", "values", ""),
    row("api.core.v1.ContainerStatus", "allocatedResourcesStatus", &["name"], "name", "merge"),
    row("api.core.v1.ContainerStatus", "volumeMounts", &["mountPath"], "mountPath", "merge"),
    row("api.core.v1.EphemeralContainer", "env", &["name"], "name", "merge"),
    row("api.core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"], "containerPort", "merge"),
    row("api.core.v1.EphemeralContainer", "volumeDevices", &["devicePath"], "devicePath", "merge"),
    row("api.core.v1.EphemeralContainer", "volumeMounts", &["mountPath"], "mountPath", "merge"),
    row("api.core.v1.NamespaceStatus", "conditions", &["type"], "type", "merge"),
    set("api.core.v1.NodeSpec", "podCIDRs", "merge"),
    row("api.core.v1.NodeStatus", "addresses", &["type"], "type", "merge"),
    row("api.core.v1.NodeStatus", "conditions", &["type"], "type", "merge"),
    row("api.core.v1.PersistentVolumeClaimStatus", "conditions", &["type"], "type", "merge"),
    row("api.core.v1.PodSpec", "containers", &["name"], "name", "merge"),
    row("api.core.v1.PodSpec", "ephemeralContainers", &["name"], "name", "merge"),
    row("api.core.v1.PodSpec", "hostAliases", &["ip"], "ip", "merge"),
    row("api.core.v1.PodSpec", "imagePullSecrets", &["name"], "name", "merge"),
    row("api.core.v1.PodSpec", "initContainers", &["name"], "name", "merge"),
    row("api.core.v1.PodSpec", "resourceClaims", &["name"], "name", "merge,retainKeys"),
    row("api.core.v1.PodSpec", "schedulingGates", &["name"], "name", "merge"),
    row(
        "api.core.v1.PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
        "topologyKey",
        "merge",
    ),
    row("api.core.v1.PodSpec", "volumes", &["name"], "name", "merge,retainKeys"),
    row("api.core.v1.PodStatus", "conditions", &["type"], "type", "merge"),
    row("api.core.v1.PodStatus", "hostIPs", &[], "ip", "merge"),
    row("api.core.v1.PodStatus", "podIPs", &["ip"], "ip", "merge"),
    row("api.core.v1.PodStatus", "resourceClaimStatuses", &["name"], "name", "merge,retainKeys"),
    row("api.core.v1.ReplicationControllerStatus", "conditions", &["type"], "type", "merge"),
    row("api.core.v1.ResourceRequirements", "claims", &["name"], "", ""),
    row("api.core.v1.ResourceStatus", "resources", &["resourceID"], "", ""),
    row("api.core.v1.ServiceAccount", "secrets", &["name"], "name", "merge"),
    row("api.core.v1.ServiceSpec", "ports", &["port", "protocol"], "port", "merge"),
    row("api.core.v1.ServiceStatus", "conditions", &["type"], "type", "merge"),
    set("api.discovery.v1.Endpoint", "addresses", ""),
    row("api.networking.v1.ServiceCIDRStatus", "conditions", &["type"], "type", "merge"),
    row("api.policy.v1.PodDisruptionBudgetSpec", "selector", &[], "", "replace"),
    row("api.policy.v1.PodDisruptionBudgetStatus", "conditions", &["type"], "type", "merge"),
    set("api.storage.v1.CSIDriverSpec", "volumeLifecycleModes", ""),
    row("api.storage.v1.CSINodeSpec", "drivers", &["name"], "name", "merge"),
    row(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        "conditions",
        &["type"],
        "",
        "",
    ),
    row(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        "x-kubernetes-validations",
        &["rule"],
        "rule",
        "merge",
    ),
    set("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", "merge"),
    row("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", &["uid"], "uid", "merge"),
    row("kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", &["type"], "type", "merge"),
];
