//! The columns of nodes and of the ways to pods.

use serde_json::{Value, json};

use super::super::object::{integer, items, text};
use super::super::table::{or_none, pairs};
use super::{Column, column, created, number, or_unset, wide};

pub(super) fn services() -> Vec<Column> {
    vec![
        column("Type", |o| json!(text(o, "/spec/type"))),
        column("Cluster-IP", |o| json!(or_none(text(o, "/spec/clusterIP").to_owned()))),
        column("External-IP", external_ip),
        column("Port(s)", |o| {
            json!(or_none(items(o, "/spec/ports").iter().map(service_port).collect::<Vec<_>>().join(",")))
        }),
        column("Age", created),
        wide("Selector", |o| json!(pairs(&o["spec"]["selector"]))),
    ]
}

fn external_ip(service: &Value) -> Value {
    let ingress = items(service, "/status/loadBalancer/ingress").iter().map(|i| text(i, "/ip"));
    let external = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let listed = ingress.chain(external).filter(|ip| !ip.is_empty()).collect::<Vec<_>>().join(",");
    match text(service, "/spec/type") {
        "ExternalName" => json!(text(service, "/spec/externalName")),
        "LoadBalancer" if listed.is_empty() => json!("<pending>"),
        _ => json!(or_none(listed)),
    }
}

fn service_port(port: &Value) -> String {
    let protocol = text(port, "/protocol");
    match integer(port, "/nodePort") {
        Some(node) if node > 0 => format!("{}:{node}/{protocol}", number(port, "/port")),
        _ => format!("{}/{protocol}", number(port, "/port")),
    }
}

pub(super) fn nodes() -> Vec<Column> {
    vec![
        column("Status", |o| {
            let ready = items(o, "/status/conditions").iter().find(|c| c["type"] == "Ready");
            let said = match ready.map(|c| text(c, "/status")) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            json!(if o["spec"]["unschedulable"] == true {
                format!("{said},SchedulingDisabled")
            } else {
                said.to_owned()
            })
        }),
        column("Roles", |o| {
            let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
            let roles = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
            json!(or_none(roles.collect::<Vec<_>>().join(",")))
        }),
        column("Age", created),
        column("Version", |o| json!(text(o, "/status/nodeInfo/kubeletVersion"))),
        wide("Internal-IP", |o| node_address(o, "InternalIP")),
        wide("External-IP", |o| node_address(o, "ExternalIP")),
        wide("OS-Image", |o| node_info(o, "osImage")),
        wide("Kernel-Version", |o| node_info(o, "kernelVersion")),
        wide("Container-Runtime", |o| node_info(o, "containerRuntimeVersion")),
    ]
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = items(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    json!(or_none(found.map(|a| text(a, "/address")).unwrap_or_default().to_owned()))
}

fn node_info(node: &Value, field: &str) -> Value {
    match node["status"]["nodeInfo"][field].as_str() {
        None | Some("") => json!("<unknown>"),
        Some(known) => json!(known),
    }
}

pub(super) fn ingresses() -> Vec<Column> {
    vec![
        column("Class", |o| json!(or_none(text(o, "/spec/ingressClassName").to_owned()))),
        column("Hosts", |o| {
            let hosts: Vec<&str> =
                items(o, "/spec/rules").iter().map(|r| text(r, "/host")).filter(|host| !host.is_empty()).collect();
            json!(if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") })
        }),
        column("Address", |o| {
            let addresses = items(o, "/status/loadBalancer/ingress").iter();
            let shown = addresses.map(|i| [text(i, "/ip"), text(i, "/hostname")].concat());
            json!(shown.collect::<Vec<_>>().join(","))
        }),
        column("Ports", |o| json!(if items(o, "/spec/tls").is_empty() { "80" } else { "80, 443" })),
        column("Age", created),
    ]
}

pub(super) fn endpoints() -> Vec<Column> {
    vec![column("Endpoints", addresses), column("Age", created)]
}

pub(super) fn endpoint_slices() -> Vec<Column> {
    vec![
        column("AddressType", |o| json!(text(o, "/addressType"))),
        column("Ports", |o| json!(or_unset(&slice_ports(o)))),
        column("Endpoints", |o| json!(or_unset(&slice_addresses(o)))),
        column("Age", created),
    ]
}

fn addresses(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            let ports = items(subset, "/ports");
            let ip = text(address, "/ip");
            all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port"))));
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
        }
    }
    json!(or_none(some_of(&all)))
}

/// The first three, and how many more.
fn some_of(all: &[String]) -> String {
    match all.len() {
        0..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn slice_ports(object: &Value) -> String {
    let ports: Vec<String> = items(object, "/ports").iter().map(|p| number(p, "/port").to_string()).collect();
    some_of(&ports)
}

fn slice_addresses(object: &Value) -> String {
    let addresses = items(object, "/endpoints").iter().flat_map(|e| items(e, "/addresses"));
    some_of(&addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect::<Vec<_>>())
}
