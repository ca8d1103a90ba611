//! Kubernetes objects to facts: namespaces, Services, EndpointSlices.

use std::sync::Arc;

use heddle_policy::{Mode, PodName, ServiceName};
use heddle_smi::MODE_LABEL;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::facts::{
    AccessLogSetting, Labels, Namespace, Service, ServiceKind, ServicePort, Slice, SliceEndpoint, TargetPort,
    Transport, UnknownInject,
};
use crate::protocol::{of_app_protocol, of_name};
use crate::resource_set::Identity;

/// Keeps a namespace or a pod out of the mesh when its value is `disabled`. `enabled` is as none.
pub(crate) const INJECT_LABEL: &str = "heddle.dev/inject";

// What is read of the objects. An absent field and `null` are the same, as in Kubernetes.

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Metadata {
    #[serde(deserialize_with = "nullable")]
    pub(crate) labels: Labels,
    #[serde(deserialize_with = "nullable")]
    annotations: Annotations,
}

/// Of all annotations, those that mean something here.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Annotations {
    #[serde(rename = "heddle.dev/access-log")]
    access_log: Option<Arc<str>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object<S: Default + for<'a> Deserialize<'a>> {
    #[serde(deserialize_with = "nullable")]
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    spec: S,
}

#[derive(Deserialize, Default)]
struct Nothing {}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    cluster_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    selector: Labels,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<ServicePortSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePortSpec {
    name: Option<Arc<str>>,
    port: u16,
    target_port: Option<PortReference>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

/// A port by number or by name.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum PortReference {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SliceObject {
    #[serde(deserialize_with = "nullable")]
    metadata: Metadata,
    address_type: Option<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<SlicePort>,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<EndpointObject>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SlicePort {
    name: Option<Arc<str>>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EndpointObject {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    conditions: EndpointConditions,
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TargetRef {
    kind: Option<String>,
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
}

pub(crate) fn namespace(object: &Value) -> serde_json::Result<Namespace> {
    let Metadata { labels, annotations } = Object::<Nothing>::deserialize(object)?.metadata;
    let mode = labels.get(MODE_LABEL).map(|text| match &**text {
        "enforce" => Ok(Mode::Enforce),
        "audit" => Ok(Mode::Audit),
        "permissive" => Ok(Mode::Permissive),
        _ => Err(text.clone()),
    });
    Ok(Namespace {
        mode,
        opted_out: is_opted_out(&labels),
        unknown_inject: unknown_inject(&labels),
        access_log: annotations.access_log(),
    })
}

impl Annotations {
    pub(crate) fn access_log(&self) -> AccessLogSetting {
        self.access_log.as_ref().map(|text| text.parse().map_err(|()| text.clone()))
    }
}

pub(crate) fn is_opted_out(labels: &Labels) -> bool {
    labels.get(INJECT_LABEL).is_some_and(|value| &**value == "disabled")
}

pub(crate) fn unknown_inject(labels: &Labels) -> UnknownInject {
    labels.get(INJECT_LABEL).filter(|value| !matches!(&***value, "disabled" | "enabled")).cloned()
}

pub(crate) fn service(identity: &Identity<'_>, object: &Value) -> serde_json::Result<Service> {
    let spec = Object::<ServiceSpec>::deserialize(object)?.spec;
    // `clusterIPs` repeats `clusterIP` as its first.
    let addresses = if spec.cluster_ips.is_empty() { Vec::from_iter(spec.cluster_ip) } else { spec.cluster_ips };
    let kind = match spec.r#type.as_deref() {
        Some("ExternalName") => ServiceKind::External,
        _ if addresses.iter().any(|address| address == "None") => ServiceKind::Headless,
        _ => ServiceKind::Cluster,
    };
    Ok(Service {
        name: ServiceName::new(identity.namespace.clone(), identity.name.clone()),
        kind,
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        selector: spec.selector,
        ports: spec.ports.into_iter().filter_map(service_port).collect(),
    })
}

/// `None` for a transport that is neither TCP nor UDP.
fn service_port(spec: ServicePortSpec) -> Option<ServicePort> {
    let name = spec.name.unwrap_or_default();
    let target = match spec.target_port {
        Some(PortReference::Number(number)) if number != 0 => TargetPort::Number(number),
        Some(PortReference::Name(name)) if !name.is_empty() => TargetPort::Name(name),
        _ => TargetPort::Number(spec.port),
    };
    let transport = transport(spec.protocol.as_deref())?;
    let protocol = spec.app_protocol.as_deref().and_then(of_app_protocol).unwrap_or_else(|| of_name(&name));
    Some(ServicePort { name, port: spec.port, target, transport, protocol })
}

pub(crate) fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("" | "TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

/// `None` for a slice that belongs to no Service or has names in stead of addresses.
pub(crate) fn slice(identity: &Identity<'_>, object: &Value) -> serde_json::Result<Option<Slice>> {
    let slice = SliceObject::deserialize(object)?;
    let service = slice.metadata.labels.get("kubernetes.io/service-name");
    let service = match service {
        Some(service) if slice.address_type.as_deref() != Some("FQDN") => service.clone(),
        _ => return Ok(None),
    };
    let port =
        |port: SlicePort| Some((port.name.unwrap_or_default(), port.port?, transport(port.protocol.as_deref())?));
    let is_ready = |endpoint: &EndpointObject| endpoint.conditions.ready != Some(false);
    Ok(Some(Slice {
        service: ServiceName::new(identity.namespace.clone(), service),
        ports: slice.ports.into_iter().filter_map(port).collect(),
        endpoints: slice
            .endpoints
            .into_iter()
            .filter(is_ready)
            .filter_map(|endpoint| slice_endpoint(&identity.namespace, endpoint))
            .collect(),
    }))
}

/// The addresses of an endpoint are alternatives, and clients use the first.
fn slice_endpoint(namespace: &Arc<str>, endpoint: EndpointObject) -> Option<SliceEndpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let target = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = target
        .and_then(|target| Some(PodName::new(target.namespace.unwrap_or_else(|| namespace.clone()), target.name?)));
    Some(SliceEndpoint { address, pod })
}

/// Reads `null` as the default.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
