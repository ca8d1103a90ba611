//! What the compiler asks of Kubernetes objects: neutral facts, lowered once when an object is inserted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_policy::{AccessLog, HttpMatch, Mode, Origin, PodName, Probe, Protocol, ServiceName};

/// Labels of an object, or the labels that a selector demands.
pub(crate) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// An object and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Fact<T> {
    pub(crate) origin: Origin,
    /// The version of its API that it is written in.
    pub(crate) version: Arc<str>,
    /// RFC 3339 in UTC, so that the order of texts is that of times. Absent in manifests.
    pub(crate) created: Option<Arc<str>>,
    /// Of a resource that is not valid there is no value: it has no effect.
    pub(crate) value: Option<T>,
    pub(crate) problems: Vec<crate::Problem>,
}

#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    /// The label `heddle.dev/mode`, when it names a mode; its text, when it does not.
    pub(crate) mode: Option<Result<Mode, Arc<str>>>,
    /// Whether the label `heddle.dev/inject` keeps its pods out of the mesh.
    pub(crate) opted_out: bool,
    pub(crate) unknown_inject: UnknownInject,
    pub(crate) access_log: AccessLogSetting,
}

/// The text of the label `heddle.dev/inject`, when it means nothing.
pub(crate) type UnknownInject = Option<Arc<str>>;

/// The annotation `heddle.dev/access-log`: absent, what it asks for, or its text when that means nothing.
pub(crate) type AccessLogSetting = Option<Result<AccessLog, Arc<str>>>;

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) kind: ServiceKind,
    /// Its ClusterIPs.
    pub(crate) addresses: Vec<IpAddr>,
    /// Empty: its endpoints are written by hand.
    pub(crate) selector: Labels,
    /// Those of TCP and UDP.
    pub(crate) ports: Vec<ServicePort>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServiceKind {
    Cluster,
    Headless,
    /// A name outside the cluster.
    External,
}

#[derive(Clone, Debug)]
pub(crate) struct ServicePort {
    /// Empty for the only port of a Service.
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
    pub(crate) target: TargetPort,
    pub(crate) transport: Transport,
    /// What is said of it; `Detect` when nothing is.
    pub(crate) protocol: Protocol,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TargetPort {
    Number(u16),
    /// The name of a container port, which each pod has at its own number (T13).
    Name(Arc<str>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// A pod, or the pods that a template will make.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Of a template, the name of the object that holds it.
    pub(crate) name: PodName,
    /// Whether this is a template: it has no addresses and no proxy.
    pub(crate) is_template: bool,
    pub(crate) labels: Labels,
    pub(crate) service_account: Arc<str>,
    /// Such as `Deployment/bookstore-v1`.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node_addresses: Vec<IpAddr>,
    /// On its node's network, or kept out of the mesh by its label.
    pub(crate) opted_out: bool,
    pub(crate) unknown_inject: UnknownInject,
    /// Its containers have ended and will not start again.
    pub(crate) finished: bool,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) probes: Vec<Probe>,
    pub(crate) access_log: AccessLogSetting,
}

#[derive(Clone, Debug)]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
}

/// An EndpointSlice of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) service: ServiceName,
    /// Names of Service ports and the numbers that they have on these endpoints.
    pub(crate) ports: Vec<(Arc<str>, u16, Transport)>,
    /// The ready ones.
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    /// Absent for an endpoint that is no pod.
    pub(crate) pod: Option<PodName>,
}

/// An HTTPRouteGroup with its patterns compiled, by the names of its matches.
#[derive(Clone, Debug)]
pub(crate) struct RouteGroup {
    pub(crate) matches: Vec<(Arc<str>, Arc<HttpMatch>)>,
}

// === impl Fact ===

impl<T> Fact<T> {
    /// The place of one of its fields. It is named as in the newest version of the kind, and said as it stands in the
    /// version that the resource is written in.
    pub(crate) fn at(&self, field: &str) -> Origin {
        let bare = || field.strip_prefix("spec.").unwrap_or(field);
        match (&*self.origin.kind, &*self.version) {
            ("TrafficTarget", "v1alpha1") if bare().starts_with("rules") => {
                self.origin.field(bare().replacen("rules", "specs", 1))
            }
            ("TrafficTarget", "v1alpha1") | ("HTTPRouteGroup", "v1alpha1" | "v1alpha2") => self.origin.field(bare()),
            _ => self.origin.field(field),
        }
    }
}

impl Fact<Workload> {
    /// The place of a field of the pods that it is or makes, such as `metadata.labels`.
    pub(crate) fn at_pod(&self, field: &str) -> Origin {
        let template = match &*self.origin.kind {
            "Pod" => "",
            "CronJob" => "spec.jobTemplate.spec.template.",
            _ => "spec.template.",
        };
        self.at(&format!("{template}{field}"))
    }
}

// === impl Workload ===

impl Workload {
    /// The container port that `target` means on this workload.
    pub(crate) fn resolve(&self, target: &TargetPort, transport: Transport) -> Option<u16> {
        match target {
            TargetPort::Number(port) => Some(*port),
            TargetPort::Name(name) => {
                let named = |port: &&ContainerPort| port.transport == transport && port.name.as_ref() == Some(name);
                self.ports.iter().find(named).map(|port| port.port)
            }
        }
    }
}
