//! The table of resource types: what is served, under which names, with which subresources.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::crd::CustomVersion;

/// One resource type in one version.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Reviews and their like: they are answered, never stored.
    pub create_only: bool,
    /// Names of subresources, such as `status` and `scale`.
    pub subresources: Vec<String>,
    /// Where the schema is.
    pub schema: SchemaSource,
}

/// Where the schema of a resource type comes from.
#[derive(Clone, Debug)]
pub(crate) enum SchemaSource {
    /// An OpenAPI definition, such as `io.k8s.api.apps.v1.Deployment`.
    Builtin(String),
    Custom(Arc<CustomVersion>),
}

/// One version of a resource type, by its place in URLs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourcePath {
    pub group: String,
    pub version: String,
    pub plural: String,
}

/// Everything that is served from the store: built-in types and those of CustomResourceDefinitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    resources: BTreeMap<ResourcePath, Arc<Resource>>,
}

impl Resource {
    /// `deployments.apps`, or `pods` in the core group.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `apps/v1`, or `v1` in the core group.
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Where its objects are stored; `events.k8s.io` shows the core group's events.
    pub(crate) fn storage(&self) -> String {
        match (self.group.as_str(), self.plural.as_str()) {
            ("events.k8s.io", "events") => "/events".to_owned(),
            (group, plural) => format!("{group}/{plural}"),
        }
    }

    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s == subresource)
    }

    /// Whether it is this built-in type of any version.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn custom(&self) -> Option<&Arc<CustomVersion>> {
        match &self.schema {
            SchemaSource::Custom(custom) => Some(custom),
            SchemaSource::Builtin(_) => None,
        }
    }

    pub(crate) fn path(&self) -> ResourcePath {
        ResourcePath { group: self.group.clone(), version: self.version.clone(), plural: self.plural.clone() }
    }
}

/// `apps/v1`, or `v1` in the core group.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`.
pub(crate) fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

impl Registry {
    pub(crate) fn builtin() -> Self {
        let mut registry = Registry::default();
        for row in BUILTIN {
            registry.insert(row.resource());
        }
        registry
    }

    pub(crate) fn insert(&mut self, resource: Resource) {
        self.resources.insert(resource.path(), Arc::new(resource));
    }

    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let path = ResourcePath { group: group.to_owned(), version: version.to_owned(), plural: plural.to_owned() };
        self.resources.get(&path).cloned()
    }

    /// A built-in type of the core or another group. Most are served in one version.
    pub(crate) fn builtin_type(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.iter().find(|r| r.is(group, plural)).cloned()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}

/// A row of the table of built-in types.
struct Row {
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    categories: &'static [&'static str],
    create_only: bool,
    subresources: &'static [&'static str],
}

const CLUSTER: bool = false;
const NAMESPACED: bool = true;
const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];

type Names = &'static [&'static str];

const fn row(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: Names,
    namespaced: bool,
    categories: Names,
    subresources: Names,
) -> Row {
    Row { api_version, kind, plural, short, namespaced, categories, create_only: false, subresources }
}

const fn review(api_version: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Row {
    Row { api_version, kind, plural, short: &[], namespaced, categories: &[], create_only: true, subresources: &[] }
}

const POD_SUBRESOURCES: Names =
    &["attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "status"];

#[rustfmt::skip]
const BUILTIN: &[Row] = &[
    row("v1", "ConfigMap", "configmaps", &["cm"], NAMESPACED, &[], &[]),
    row("v1", "Endpoints", "endpoints", &["ep"], NAMESPACED, &[], &[]),
    row("v1", "Event", "events", &["ev"], NAMESPACED, &[], &[]),
    row("v1", "LimitRange", "limitranges", &["limits"], NAMESPACED, &[], &[]),
    row("v1", "Namespace", "namespaces", &["ns"], CLUSTER, &[], &["finalize", "status"]),
    row("v1", "Node", "nodes", &["no"], CLUSTER, &[], &["status"]),
    row("v1", "PersistentVolume", "persistentvolumes", &["pv"], CLUSTER, &[], &["status"]),
    row("v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], NAMESPACED, &[], &["status"]),
    row("v1", "Pod", "pods", &["po"], NAMESPACED, ALL, POD_SUBRESOURCES),
    row("v1", "PodTemplate", "podtemplates", &[], NAMESPACED, &[], &[]),
    row("v1", "ReplicationController", "replicationcontrollers", &["rc"], NAMESPACED, ALL, &["scale", "status"]),
    row("v1", "ResourceQuota", "resourcequotas", &["quota"], NAMESPACED, &[], &["status"]),
    row("v1", "Secret", "secrets", &[], NAMESPACED, &[], &[]),
    row("v1", "Service", "services", &["svc"], NAMESPACED, ALL, &["status"]),
    row("v1", "ServiceAccount", "serviceaccounts", &["sa"], NAMESPACED, &[], &["token"]),
    row("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", &[], CLUSTER, API_EXTENSIONS, &[]),
    row("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[], CLUSTER, API_EXTENSIONS, &[]),
    row("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"], CLUSTER, API_EXTENSIONS, &["status"]),
    row("apiregistration.k8s.io/v1", "APIService", "apiservices", &[], CLUSTER, API_EXTENSIONS, &["status"]),
    row("apps/v1", "ControllerRevision", "controllerrevisions", &[], NAMESPACED, &[], &[]),
    row("apps/v1", "DaemonSet", "daemonsets", &["ds"], NAMESPACED, ALL, &["status"]),
    row("apps/v1", "Deployment", "deployments", &["deploy"], NAMESPACED, ALL, &["scale", "status"]),
    row("apps/v1", "ReplicaSet", "replicasets", &["rs"], NAMESPACED, ALL, &["scale", "status"]),
    row("apps/v1", "StatefulSet", "statefulsets", &["sts"], NAMESPACED, ALL, &["scale", "status"]),
    review("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", CLUSTER),
    review("authentication.k8s.io/v1", "TokenReview", "tokenreviews", CLUSTER),
    review("authorization.k8s.io/v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", NAMESPACED),
    review("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", CLUSTER),
    review("authorization.k8s.io/v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", CLUSTER),
    review("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", CLUSTER),
    row("autoscaling/v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], NAMESPACED, ALL, &["status"]),
    row("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], NAMESPACED, ALL, &["status"]),
    row("batch/v1", "CronJob", "cronjobs", &["cj"], NAMESPACED, ALL, &["status"]),
    row("batch/v1", "Job", "jobs", &[], NAMESPACED, ALL, &["status"]),
    row("certificates.k8s.io/v1", "CertificateSigningRequest", "certificatesigningrequests", &["csr"], CLUSTER, &[], &["approval", "status"]),
    row("coordination.k8s.io/v1", "Lease", "leases", &[], NAMESPACED, &[], &[]),
    row("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", &[], NAMESPACED, &[], &[]),
    row("events.k8s.io/v1", "Event", "events", &["ev"], NAMESPACED, &[], &[]),
    row("networking.k8s.io/v1", "Ingress", "ingresses", &["ing"], NAMESPACED, &[], &["status"]),
    row("networking.k8s.io/v1", "IngressClass", "ingressclasses", &[], CLUSTER, &[], &[]),
    row("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", &["netpol"], NAMESPACED, &[], &[]),
    row("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], NAMESPACED, &[], &["status"]),
    row("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", &[], CLUSTER, &[], &[]),
    row("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", &[], CLUSTER, &[], &[]),
    row("rbac.authorization.k8s.io/v1", "Role", "roles", &[], NAMESPACED, &[], &[]),
    row("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", &[], NAMESPACED, &[], &[]),
    row("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", &["pc"], CLUSTER, &[], &[]),
    row("storage.k8s.io/v1", "StorageClass", "storageclasses", &["sc"], CLUSTER, &[], &[]),
];

impl Row {
    fn resource(&self) -> Resource {
        let owned = |names: Names| names.iter().map(|s| (*s).to_owned()).collect();
        let (group, version) = split_api_version(self.api_version);
        Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: owned(self.short),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            create_only: self.create_only,
            subresources: owned(self.subresources),
            schema: SchemaSource::Builtin(definition(group, version, self.kind)),
        }
    }
}

/// The OpenAPI definition of a built-in kind.
pub(crate) fn definition(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        group => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}
