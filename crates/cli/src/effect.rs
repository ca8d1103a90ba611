//! Whether everything is in effect: known to the control plane, and by their own word to the proxies. A pod that is
//! ready can be called only when its clients' proxies have been told of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use heddle_control::view;
use heddle_policy::{PodName, ServiceName};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::ready::Pending;
use crate::{apply, mesh, overview};

/// What the API has of pods and Services.
struct Wanted {
    /// Those that are ready.
    pods: Vec<Pod>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

/// What of `objects`, and of the pods that are ready, is not in effect yet.
pub(crate) async fn pending(client: &Client, objects: &[Value]) -> anyhow::Result<Vec<Pending>> {
    let mut pending = Vec::new();
    for object in objects.iter().filter(|object| is_policy(object)) {
        if !apply::get(client, object).await?.as_ref().is_some_and(is_compiled) {
            let why = "the control plane has not seen it yet".to_owned();
            pending.push(Pending { name: apply::describe(object), why });
        }
    }
    let wanted = Wanted::read(client).await?;
    pending.extend(wanted.unsliced());
    // In this order: proxies that have all there is to know then have at least what the Services say.
    let told = async {
        let destinations = overview::view_list::<view::Destination>(client, "destinations").await?;
        let proxies = overview::view_list::<view::Proxy>(client, "proxies").await?;
        anyhow::Ok((destinations, proxies))
    };
    match told.await {
        Ok((destinations, proxies)) => {
            pending.extend(wanted.untold(&destinations));
            pending.extend(wanted.outdated(&proxies));
        }
        Err(error) => pending.push(Pending {
            name: "the control plane".to_owned(),
            why: format!("it does not say what proxies were told: {}", crate::output::explain(&error)),
        }),
    }
    Ok(pending)
}

fn is_policy(object: &Value) -> bool {
    object["apiVersion"].as_str().is_some_and(|version| version.contains(".smi-spec.io/"))
}

/// Whether the control plane has written what it makes of the newest version.
fn is_compiled(live: &DynamicObject) -> bool {
    let conditions = live.data.pointer("/status/conditions").and_then(Value::as_array);
    let observed = |condition: &Value| condition["observedGeneration"].as_i64() >= live.metadata.generation;
    conditions.is_some_and(|conditions| conditions.iter().any(observed))
}

impl Wanted {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let everything = ListParams::default();
        let (pods, services, slices) = (Api::all(client.clone()), Api::all(client.clone()), Api::all(client.clone()));
        let (pods, services, slices) =
            tokio::try_join!(pods.list(&everything), services.list(&everything), slices.list(&everything))
                .context("cannot list the pods and Services")?;
        let mut pods = pods.items;
        pods.retain(|pod: &Pod| mesh::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        Ok(Self { pods, services: services.items, slices: slices.items })
    }

    /// The ready pods that a Service selects and whose endpoint no slice of it has yet.
    fn unsliced(&self) -> Vec<Pending> {
        let sliced: BTreeSet<(ServiceName, PodName)> =
            self.slices.iter().flat_map(|slice| endpoints(slice, |_| true)).collect();
        let selected = self.services.iter().flat_map(|service| {
            let pods = self.pods.iter().filter(|pod| selects(service, pod));
            pods.map(|pod| (name_of_service(service), name_of_pod(pod)))
        });
        let missing = selected.filter(|endpoint| !sliced.contains(endpoint));
        missing.map(|(service, pod)| not_yet(&service, &pod, "it has no endpoint there yet")).collect()
    }

    /// The ready endpoints that proxies are not told of yet.
    fn untold(&self, destinations: &[view::Destination]) -> Vec<Pending> {
        let told: BTreeMap<&ServiceName, &Vec<PodName>> =
            destinations.iter().map(|destination| (&destination.service, &destination.endpoints)).collect();
        let ready: BTreeSet<PodName> = self.pods.iter().map(name_of_pod).collect();
        let wanted = self.slices.iter().flat_map(|slice| endpoints(slice, has_tcp_port));
        let is_told = |service: &ServiceName, pod: &PodName| told.get(service).is_some_and(|told| told.contains(pod));
        let missing = wanted.filter(|(service, pod)| ready.contains(pod) && !is_told(service, pod));
        missing.map(|(service, pod)| not_yet(&service, &pod, "proxies have not been told of it yet")).collect()
    }

    /// The ready pods whose proxies do not have all there is for them to know. One that refuses it will not have it,
    /// which `heddle status` says.
    fn outdated(&self, proxies: &[view::Proxy]) -> Vec<Pending> {
        let outdated: BTreeSet<&PodName> =
            proxies.iter().filter(|proxy| !proxy.current && proxy.rejected.is_none()).map(|proxy| &proxy.pod).collect();
        let names = self.pods.iter().map(name_of_pod).filter(|pod| outdated.contains(pod));
        let why = || "it does not have the newest configuration yet".to_owned();
        names.map(|pod| Pending { name: format!("the proxy of {pod}"), why: why() }).collect()
    }
}

fn not_yet(service: &ServiceName, pod: &PodName, why: &str) -> Pending {
    Pending { name: format!("Service {service}"), why: format!("it does not lead to the pod {}: {why}", pod.name) }
}

/// The ready endpoints of a slice that are pods, with the Service that they are of.
fn endpoints(
    slice: &EndpointSlice,
    counts: impl Fn(&EndpointSlice) -> bool,
) -> impl Iterator<Item = (ServiceName, PodName)> {
    let namespace = slice.namespace().unwrap_or_default();
    let service = slice.labels().get("kubernetes.io/service-name").filter(|_| counts(slice));
    let service = service.map(|service| ServiceName::new(namespace.clone(), service.as_str()));
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    let pods = ready.filter_map(|endpoint| {
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
        target.name.as_deref()
    });
    pods.filter_map(move |pod| Some((service.clone()?, PodName::new(namespace.clone(), pod))))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Proxies carry nothing else.
fn has_tcp_port(slice: &EndpointSlice) -> bool {
    let mut ports = slice.ports.iter().flatten();
    ports.any(|port| port.port.is_some() && port.protocol.as_deref().unwrap_or("TCP") == "TCP")
}

/// Whether a Service finds the pod by its selector.
fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(spec) = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName")) else {
        return false;
    };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return false };
    service.namespace() == pod.namespace() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

fn name_of_service(service: &Service) -> ServiceName {
    ServiceName::new(service.namespace().unwrap_or_default(), service.name_any())
}

fn name_of_pod(pod: &Pod) -> PodName {
    PodName::new(pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(slice_ready: bool, ports: Value) -> Wanted {
        fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
            serde_json::from_value(value).unwrap()
        }
        let service = |namespace: &str| {
            of(json!({
                "metadata": { "namespace": namespace, "name": "web" }, "spec": { "selector": { "app": "web" } },
            }))
        };
        let conditions = json!([{ "type": "Ready", "status": "True" }]);
        Wanted {
            pods: vec![of(json!({
                "metadata": { "namespace": "shop", "name": "web-1", "labels": { "app": "web", "tier": "front" } },
                "status": { "conditions": conditions },
            }))],
            services: vec![service("shop"), service("other")],
            slices: vec![of(json!({
                "metadata": {
                    "namespace": "shop", "name": "web-x", "labels": { "kubernetes.io/service-name": "web" },
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [{
                    "addresses": ["10.244.0.5"], "conditions": { "ready": slice_ready },
                    "targetRef": { "kind": "Pod", "name": "web-1" },
                }],
            }))],
        }
    }

    fn told(endpoints: &[&str]) -> view::Destination {
        let endpoints: Vec<String> = endpoints.iter().map(|pod| format!("shop/{pod}")).collect();
        serde_json::from_value(json!({
            "apiVersion": view::API_VERSION, "kind": "Destination", "metadata": { "name": "web.shop" },
            "service": "shop/web", "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn proxy(current: bool, rejected: Option<&str>) -> view::Proxy {
        serde_json::from_value(json!({
            "apiVersion": view::API_VERSION, "kind": "Proxy", "metadata": { "name": "web-1.shop" },
            "pod": "shop/web-1", "connected": true, "revision": "a", "current": current, "rejected": rejected,
        }))
        .unwrap()
    }

    #[test]
    fn a_ready_pod_is_awaited_until_its_services_lead_to_it() {
        let tcp = || json!([{ "port": 80 }]);
        let pending = wanted(false, tcp()).unsliced();
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].name, "Service shop/web");
        assert!(wanted(true, tcp()).unsliced().is_empty());
        assert_eq!(wanted(true, tcp()).untold(&[told(&["web-0"])]).len(), 1);
        assert!(wanted(true, tcp()).untold(&[told(&["web-0", "web-1"])]).is_empty());
    }

    #[test]
    fn what_no_proxy_will_ever_be_told_is_not_awaited() {
        assert!(wanted(true, json!([{ "port": 53, "protocol": "UDP" }])).untold(&[]).is_empty());
        assert!(wanted(true, json!(null)).untold(&[]).is_empty(), "a port whose name the pod does not have");
        assert!(wanted(true, json!([])).outdated(&[proxy(false, Some("too large"))]).is_empty());
    }

    #[test]
    fn a_proxy_that_has_not_acknowledged_everything_is_awaited() {
        assert_eq!(wanted(true, json!([])).outdated(&[proxy(false, None)])[0].name, "the proxy of shop/web-1");
        assert!(wanted(true, json!([])).outdated(&[proxy(true, None)]).is_empty());
    }

    #[test]
    fn a_resource_is_compiled_when_a_condition_is_of_its_newest_version() {
        let live = |observed: Value| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit",
                "metadata": { "name": "web", "generation": 2 },
                "status": { "conditions": [{ "type": "Accepted", "observedGeneration": observed }] },
            }))
            .unwrap()
        };
        assert!(is_compiled(&live(json!(2))));
        assert!(!is_compiled(&live(json!(1))) && !is_compiled(&live(Value::Null)));
    }
}
