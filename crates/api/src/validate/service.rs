//! Validation of Services.

use serde_json::{Value, json};

use super::super::error::Cause;
use super::super::names;
use super::super::object::{items, text};
use super::{one_of, port_number};

pub(super) fn service(value: &Value, causes: &mut Vec<Cause>) {
    let spec = &value["spec"];
    let kind = text(spec, "/type");
    one_of(spec, "type", "spec", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"], causes);
    let ports = items(spec, "/ports");
    if ports.is_empty() && kind != "ExternalName" && text(spec, "/clusterIP") != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    match text(spec, "/externalName").trim_end_matches('.') {
        _ if kind != "ExternalName" => {}
        "" => causes.push(Cause::required("spec.externalName", "")),
        name => {
            if let Err(why) = names::dns_subdomain(name) {
                causes.push(Cause::invalid("spec.externalName", &spec["externalName"], &why));
            }
        }
    }
    for (index, port) in ports.iter().enumerate() {
        self::port(port, ports, index, causes);
    }
    names::labels(spec["selector"].as_object(), "spec.selector", causes);
}

fn port(port: &Value, ports: &[Value], index: usize, causes: &mut Vec<Cause>) {
    let path = format!("spec.ports[{index}]");
    port_number(port, "port", &path, causes);
    let name = text(port, "/name");
    if name.is_empty() && ports.len() > 1 {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    if !name.is_empty()
        && let Err(why) = names::dns_label(name)
    {
        causes.push(Cause::invalid(format!("{path}.name"), &json!(name), &why));
    }
    let earlier = &ports[..index];
    if !name.is_empty() && earlier.iter().any(|p| p["name"] == name) {
        causes.push(Cause::duplicate(format!("{path}.name"), &json!(name)));
    }
    if earlier.iter().any(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]) {
        causes.push(Cause::duplicate(path.clone(), &json!({"protocol": port["protocol"], "port": port["port"]})));
    }
    match &port["targetPort"] {
        Value::String(name) => {
            if let Err(why) = names::port_name(name) {
                causes.push(Cause::invalid(format!("{path}.targetPort"), &port["targetPort"], &why));
            }
        }
        number => {
            if !number.as_u64().is_some_and(|n| (1..=65_535).contains(&n)) {
                causes.push(Cause::invalid(
                    format!("{path}.targetPort"),
                    number,
                    "must be between 1 and 65535, inclusive",
                ));
            }
        }
    }
}
