//! The kinds of objects that the control plane reads.

use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};

/// A kind at one version, as the API server's paths name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

/// Everything that policy is made of: the core kinds, SMI at its newest version, and Heddle's own.
pub const KINDS: [Kind; 12] = [
    Kind::new("", "v1", "Namespace", "namespaces"),
    Kind::new("", "v1", "Service", "services"),
    Kind::new("", "v1", "ServiceAccount", "serviceaccounts"),
    Kind::new("", "v1", "Pod", "pods"),
    Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    Kind::new("access.smi-spec.io", "v1alpha4", "TrafficTarget", "traffictargets"),
    Kind::new("access.smi-spec.io", "v1alpha4", "IdentityBinding", "identitybindings"),
    Kind::new("specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup", "httproutegroups"),
    Kind::new("specs.smi-spec.io", "v1alpha4", "TCPRoute", "tcproutes"),
    Kind::new("specs.smi-spec.io", "v1alpha4", "UDPRoute", "udproutes"),
    Kind::new("split.smi-spec.io", "v1alpha4", "TrafficSplit", "trafficsplits"),
    Kind::new("heddle.dev", "v1alpha1", "MeshConfig", "meshconfigs"),
];

/// What contains pods, beside the kinds of [`KINDS`]: of no meaning for policy, and for what is measured.
pub const WORKLOAD_KINDS: [Kind; 7] = [
    Kind::new("", "v1", "Node", "nodes"),
    Kind::new("", "v1", "ReplicationController", "replicationcontrollers"),
    Kind::new("apps", "v1", "DaemonSet", "daemonsets"),
    Kind::new("apps", "v1", "Deployment", "deployments"),
    Kind::new("apps", "v1", "ReplicaSet", "replicasets"),
    Kind::new("apps", "v1", "StatefulSet", "statefulsets"),
    Kind::new("batch", "v1", "Job", "jobs"),
];

// === impl Kind ===

impl Kind {
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self { group, version, kind, plural }
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether a CustomResourceDefinition defines it, so that it can be missing from an API server.
    pub fn is_custom(&self) -> bool {
        self.group.ends_with(".smi-spec.io") || self.group == "heddle.dev"
    }

    /// Its objects in one namespace; in all of them, or of a cluster-scoped kind, when `namespace` is empty.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        };
        match namespace {
            "" => Api::all_with(client.clone(), &resource),
            namespace => Api::namespaced_with(client.clone(), namespace, &resource),
        }
    }
}
