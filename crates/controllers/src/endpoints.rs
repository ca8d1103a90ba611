//! Endpoints of Services: EndpointSlices, and the Endpoints that came before them, for every Service with a selector;
//! EndpointSlices that mirror the Endpoints of a user for every other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as CorePort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use super::plan::{Op, Plan, controller_reference};
use super::pods;
use super::world::World;

const COMPONENT: &str = "endpoint-slice-controller";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICES: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints in one slice, as Kubernetes' own default.
const SLICE: usize = 100;

/// Addresses in one Endpoints object; Kubernetes cuts there too.
const ADDRESSES: usize = 1000;

/// Ports as a pod serves them; pods whose named ports differ go into different slices.
type Ports = Vec<EndpointPort>;

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for service in world.services.iter() {
        let selected = selector(service).filter(|_| service.metadata.deletion_timestamp.is_none());
        if let Some(selector) = selected {
            let pods = selected_pods(world, service, selector);
            reconcile_slices(world, &**service, SLICES, slices(service, &pods), now, &mut plan);
            reconcile_endpoints(world, service, &pods, &mut plan);
        }
    }
    for endpoints in world.endpoints.iter() {
        let (namespace, name) = (endpoints.metadata.namespace.as_deref(), endpoints.metadata.name.as_deref());
        let service = world.services.get(namespace.unwrap_or_default(), name.unwrap_or_default());
        if service.is_none() && is_labelled(&endpoints.metadata, ENDPOINTS_MANAGED_BY, ENDPOINTS) {
            plan.act(COMPONENT, &**endpoints, Op::delete(&**endpoints));
        }
        let mirrored = service.is_some_and(|service| is_mirrored(endpoints, service));
        let wanted = if mirrored { mirror(endpoints) } else { Vec::new() };
        reconcile_slices(world, &**endpoints, MIRROR, wanted, now, &mut plan);
    }
    plan
}

/// The selector by which Kubernetes finds the endpoints; none where the user, or an external name, provides them.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !selector.is_empty() && !external)
}

fn selected_pods<'a>(world: &'a World, service: &Service, selector: &BTreeMap<String, String>) -> Vec<&'a Pod> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let matches = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let candidates = world.pods.within(namespace).map(|pod| &**pod);
    candidates.filter(|pod| matches(pod) && !pods::is_terminal(pod) && ip(pod).is_some()).collect()
}

fn ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn is_labelled(meta: &ObjectMeta, key: &str, value: &str) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|it| it == value)
}

// === ports ===

/// The Service's ports as numbers of this pod; a port whose name the pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => named_port(name, port.protocol.as_deref().unwrap_or("TCP"), pod),
    }
}

/// A port by its name, of the containers and of those init containers that run beside them.
fn named_port(name: &str, protocol: &str, pod: &Pod) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let found =
        ports.find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
    found.map(|port| port.container_port)
}

// === slices ===

/// Has the slices that one manager keeps for the Service of the owner's name be those that are wanted.
fn reconcile_slices<O: Resource<DynamicType = ()>>(
    world: &World,
    owner: &O,
    manager: &str,
    wanted: Vec<EndpointSlice>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let name = owner.meta().name.as_deref().unwrap_or_default();
    let ours = |slice: &EndpointSlice| {
        is_labelled(&slice.metadata, SERVICE_NAME, name) && is_labelled(&slice.metadata, MANAGED_BY, manager)
    };
    let known = world.endpoint_slices.within(namespace).filter(|slice| ours(slice));
    let mut known: Vec<_> = known.filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for (nonce, wanted) in wanted.into_iter().enumerate() {
        let same = known.iter().position(|slice| is_same_group(slice, &wanted));
        match same.map(|at| known.remove(at)) {
            Some(slice) => {
                let mut updated = EndpointSlice { endpoints: wanted.endpoints, ..EndpointSlice::clone(slice) };
                updated.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.unwrap_or_default());
                if updated != **slice {
                    plan.act(COMPONENT, owner, Op::patch(&**slice, &updated));
                }
            }
            None => {
                let mut slice = wanted;
                let prefix = format!("{name}-");
                slice.metadata.name =
                    Some(format!("{prefix}{}", pods::suffix((&owner.meta().uid, now.as_nanosecond(), nonce))));
                slice.metadata.generate_name = Some(prefix);
                plan.act(COMPONENT, owner, Op::create(&slice))
                    .failed("FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service");
            }
        }
    }
    for surplus in known {
        plan.act(COMPONENT, owner, Op::delete(&**surplus));
    }
}

/// Whether both are for pods with the same ports and family of addresses, neither of which a slice can change.
fn is_same_group(known: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    known.ports.as_deref().unwrap_or_default() == wanted.ports.as_deref().unwrap_or_default()
        && known.address_type == wanted.address_type
}

/// The slices that a Service should have; one without endpoints if it has none.
fn slices(service: &Service, pods: &[&Pod]) -> Vec<EndpointSlice> {
    let mut groups: Vec<((Ports, bool), Vec<Endpoint>)> = Vec::new();
    for pod in pods {
        let key = (ports(service, pod), ip(pod).is_some_and(|ip| ip.contains(':')));
        let endpoint = endpoint(service, pod);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => groups.push((key, vec![endpoint])),
        }
    }
    if groups.is_empty() {
        return vec![slice(service, Vec::new(), false, Vec::new())];
    }
    let chunk = |((ports, v6), endpoints): ((Ports, bool), Vec<Endpoint>)| {
        let chunks: Vec<Vec<Endpoint>> = endpoints.chunks(SLICE).map(<[Endpoint]>::to_vec).collect();
        chunks.into_iter().map(move |endpoints| slice(service, ports.clone(), v6, endpoints))
    };
    groups.into_iter().flat_map(chunk).collect()
}

fn slice(service: &Service, ports: Ports, v6: bool, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), SLICES.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: Some(ports).filter(|ports| !ports.is_empty()),
    }
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses: ip(pod).map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(reference(pod)),
        ..Default::default()
    }
}

/// The name under which DNS has the pod below the Service: only if the pod asks for this very Service.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.hostname.clone().filter(|_| spec.subdomain.is_some() && spec.subdomain == service.metadata.name)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some(Pod::kind(&()).into_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

// === slices of Endpoints ===

/// Whether a user wrote the Endpoints for a Service that finds none by itself, and did not ask for no mirror of them.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|it| !it.is_empty());
    let going = service.metadata.deletion_timestamp.is_some() || endpoints.metadata.deletion_timestamp.is_some();
    !selects && !going && !is_labelled(&endpoints.metadata, SKIP_MIRROR, "true")
}

/// The slices that say what Endpoints say: one for each subset and family of addresses, or more where one is full.
fn mirror(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
            addresses.iter().flatten().map(|address| mirrored(address, ready)).collect()
        };
        let all = [of(&subset.addresses, true), of(&subset.not_ready_addresses, false)].concat();
        let (v6, v4): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|endpoint| endpoint.addresses.iter().any(|ip| ip.contains(':')));
        let ports: Ports = subset.ports.iter().flatten().map(mirrored_port).collect();
        for (v6, family) in [(false, v4), (true, v6)] {
            let chunks = family.chunks(SLICE);
            slices.extend(chunks.map(|chunk| mirror_slice(endpoints, ports.clone(), v6, chunk.to_vec())));
        }
    }
    slices
}

fn mirror_slice(owner: &Endpoints, ports: Ports, v6: bool, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = owner.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), owner.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MIRROR.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: owner.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: Some(ports).filter(|ports| !ports.is_empty()),
    }
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

fn mirrored_port(port: &CorePort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

// === Endpoints ===

fn reconcile_endpoints(world: &World, service: &Service, pods: &[&Pod], plan: &mut Plan) {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(ENDPOINTS_MANAGED_BY.to_owned(), ENDPOINTS.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let subsets = Some(subsets(service, pods)).filter(|subsets| !subsets.is_empty());
    match world.endpoints.get(namespace, name) {
        None => {
            let metadata = ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                ..Default::default()
            };
            plan.act(ENDPOINTS, service, Op::create(&Endpoints { metadata, subsets }));
        }
        Some(known) => {
            let mut updated = Endpoints { subsets, ..Endpoints::clone(known) };
            updated.metadata.labels = Some(labels);
            if updated != **known {
                plan.act(ENDPOINTS, service, Op::patch(&**known, &updated));
            }
        }
    }
}

fn subsets(service: &Service, pods: &[&Pod]) -> Vec<EndpointSubset> {
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    let publish = publishes_not_ready(service);
    for pod in pods.iter().filter(|pod| publish || !pods::is_terminating(pod)).take(ADDRESSES) {
        let ports = Some(core_ports(ports(service, pod))).filter(|ports| !ports.is_empty());
        if ports.is_none() && !is_headless(service) {
            continue;
        }
        let at = subsets.iter().position(|subset| subset.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..Default::default() });
            subsets.len() - 1
        });
        let subset = &mut subsets[at];
        let ready = publish || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(EndpointAddress {
            ip: ip(pod).unwrap_or_default().to_owned(),
            hostname: hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(reference(pod)),
        });
    }
    subsets
}

fn core_ports(ports: Ports) -> Vec<CorePort> {
    let core = |port: EndpointPort| CorePort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol,
        app_protocol: port.app_protocol,
    };
    ports.into_iter().map(core).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::Cluster;

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  clusterIP: 10.96.0.9
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: web }]
";

    fn pod(name: &str, port: u16) -> String {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: web }} }}
spec:
  hostname: {name}
  subdomain: web
  containers: [{{ name: a, ports: [{{ name: web, containerPort: {port} }}] }}]
"
        )
    }

    fn cluster(service: &str, pods: &[(&str, u16)]) -> Cluster {
        let mut cluster = Cluster::new(service);
        for (name, port) in pods {
            cluster.apply(&pod(name, *port));
        }
        cluster.settle();
        cluster
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice_and_empty_endpoints() {
        let cluster = cluster(SERVICE, &[]);
        let slices = cluster.names("endpointslices");
        assert_eq!(slices.len(), 1);
        assert_eq!(cluster.get(&format!("endpointslices/{}", slices[0]), "/endpoints"), json!([]));
        assert_eq!(cluster.names("endpoints"), ["web"]);
    }

    #[test]
    fn an_endpoint_is_ready_serving_and_terminating_as_its_pod_is() {
        let mut cluster = cluster(SERVICE, &[("a", 8080)]);
        let slice = format!("endpointslices/{}", cluster.names("endpointslices")[0]);
        assert_eq!(cluster.get(&slice, "/endpoints"), json!([]), "a pod without an address is no endpoint");
        cluster.set_pod("a", "Running", false);
        cluster.settle();
        let slice = format!("endpointslices/{}", cluster.names("endpointslices")[0]);
        let state =
            |ready, serving, terminating| json!({ "ready": ready, "serving": serving, "terminating": terminating });
        assert_eq!(cluster.get(&slice, "/endpoints/0/conditions"), state(false, false, false));
        assert_eq!(cluster.get("endpoints/web", "/subsets/0/notReadyAddresses/0/targetRef/name"), json!("a"));
        cluster.set_pod("a", "Running", true);
        cluster.settle();
        assert_eq!(cluster.get(&slice, "/endpoints/0/conditions"), state(true, true, false));
        assert_eq!(cluster.get(&slice, "/endpoints/0/hostname"), json!("a"));
        assert_eq!(cluster.get("endpoints/web", "/subsets/0/addresses/0/hostname"), json!("a"));
        cluster.request_deletion("pods/a", None);
        cluster.settle();
        assert_eq!(cluster.get(&slice, "/endpoints/0/conditions"), state(false, true, true));
        assert_eq!(cluster.get("endpoints/web", "/subsets"), json!(null));
        cluster.run_pods();
        let slice = format!("endpointslices/{}", cluster.names("endpointslices")[0]);
        assert_eq!(cluster.get(&slice, "/endpoints"), json!([]));
    }

    #[test]
    fn not_ready_addresses_are_published_when_asked_for() {
        let service = SERVICE.replace("  ports", "  publishNotReadyAddresses: true\n  ports");
        let mut cluster = cluster(&service, &[("a", 8080)]);
        cluster.set_pod("a", "Running", false);
        cluster.settle();
        let slice = format!("endpointslices/{}", cluster.names("endpointslices")[0]);
        assert_eq!(cluster.get(&slice, "/endpoints/0/conditions/ready"), json!(true));
        assert_eq!(cluster.get("endpoints/web", "/subsets/0/addresses/0/targetRef/name"), json!("a"));
    }

    #[test]
    fn pods_that_name_different_ports_are_in_different_slices() {
        let mut cluster = cluster(SERVICE, &[("a", 8080), ("b", 9090)]);
        cluster.set_pod("a", "Running", true);
        cluster.set_pod("b", "Running", true);
        cluster.settle();
        let slices = cluster.names("endpointslices");
        let port = |name: &String| cluster.get(&format!("endpointslices/{name}"), "/ports/0/port");
        let mut ports: Vec<_> = slices.iter().map(|name| port(name).to_string()).collect();
        ports.sort();
        assert_eq!(ports, ["8080", "9090"]);
    }

    #[test]
    fn a_service_without_a_selector_is_left_to_the_user() {
        let service = SERVICE.replace("  selector: { app: web }\n", "");
        let cluster = cluster(&service, &[]);
        assert_eq!(cluster.names("endpointslices").len() + cluster.names("endpoints").len(), 0);
    }

    #[test]
    fn the_endpoints_of_a_user_are_mirrored() {
        let service = SERVICE.replace("  selector: { app: web }\n", "");
        let endpoints = |extra: &str| {
            format!(
                "apiVersion: v1
kind: Endpoints
metadata: {{ name: web{extra} }}
subsets:
- addresses: [{{ ip: 192.0.2.1 }}]
  notReadyAddresses: [{{ ip: 192.0.2.2 }}]
  ports: [{{ name: http, port: 8080 }}]
"
            )
        };
        let mut cluster = cluster(&service, &[]);
        cluster.apply(&endpoints(""));
        cluster.settle();
        let names = cluster.names("endpointslices");
        assert_eq!(names.len(), 1);
        let get = |pointer: &str| cluster.get(&format!("endpointslices/{}", names[0]), pointer);
        assert_eq!(
            get("/metadata/labels"),
            json!({
                "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
                "kubernetes.io/service-name": "web",
            })
        );
        assert_eq!(get("/ports"), json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));
        let endpoint = |ip, ready| json!({ "addresses": [ip], "conditions": { "ready": ready } });
        assert_eq!(get("/endpoints"), json!([endpoint("192.0.2.1", true), endpoint("192.0.2.2", false)]));

        cluster.apply(&endpoints(", labels: { endpointslice.kubernetes.io/skip-mirror: \"true\" }"));
        cluster.settle();
        assert_eq!(cluster.names("endpointslices").len(), 0);
    }

    #[test]
    fn endpoints_go_with_their_service() {
        let mut cluster = cluster(SERVICE, &[]);
        cluster.request_deletion("services/web", None);
        cluster.settle();
        assert_eq!(cluster.names("endpointslices").len() + cluster.names("endpoints").len(), 0);
    }
}
