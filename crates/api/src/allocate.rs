//! Addresses and ports of Services, from what the other Services leave free.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::error::{Answer, Cause, Failure};
use super::object::{items, map_at, text};
use super::server::{Call, Server};

/// Services' addresses: 10.96.0.0/16. The first 256 are for those that ask for one.
const RANGE: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const DYNAMIC: std::ops::Range<u32> = 256..65_535;
const NODE_PORTS: std::ops::Range<u16> = 30_000..32_768;

const PORTS_IN_USE: &str = "provided port is already allocated";

/// Gives a Service the addresses and node ports its type needs, keeping those of `old`. The caller holds the lock of
/// allocations until the Service is stored.
pub(crate) fn service(server: &Server, call: &Call, value: &mut Value, old: Option<&Value>) -> Answer<()> {
    let name = super::object::name(value).to_owned();
    let kind = text(value, "/spec/type").to_owned();
    let invalid = |cause| Failure::invalid(&call.resource, &name, &[cause]);
    if kind == "ExternalName" {
        let spec = map_at(value, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.shift_remove(field);
        }
        return Ok(());
    }
    let (others, _) = server.store.list("/services", None);
    let key = call.key_of(&name);
    let others: Vec<&Value> = others.iter().filter(|o| o.key != key).map(|o| &o.value).collect();
    let address = cluster_ip(value, old, &others).map_err(invalid)?;
    let spec = map_at(value, "spec");
    spec.insert("clusterIP".to_owned(), json!(address));
    spec.insert("clusterIPs".to_owned(), json!([address]));
    spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
    spec.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
    node_ports(value, old, &others, &kind).map_err(invalid)
}

fn cluster_ip(value: &Value, old: Option<&Value>, others: &[&Value]) -> Result<String, Cause> {
    let asked = text(value, "/spec/clusterIP");
    let kept = old.map(|o| text(o, "/spec/clusterIP")).unwrap_or_default();
    let field = "spec.clusterIPs[0]";
    if !kept.is_empty() {
        if asked.is_empty() || asked == kept {
            return Ok(kept.to_owned());
        }
        return Err(Cause::invalid(field, &json!([asked]), "may not change once set"));
    }
    let taken = |ip: &str| others.iter().any(|o| text(o, "/spec/clusterIP") == ip);
    match asked {
        "None" => Ok("None".to_owned()),
        "" => free_address(&taken),
        asked => {
            let address: Ipv4Addr = asked.parse().map_err(|_| {
                Cause::invalid(field, &json!(asked), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
            })?;
            if u32::from(address) & 0xffff_0000 != RANGE {
                let why = format!("failed to allocate IP {asked}: the provided IP is not in the range 10.96.0.0/16");
                return Err(Cause::invalid("spec.clusterIPs", &json!([asked]), &why));
            }
            if taken(asked) {
                let why = format!("failed to allocate IP {asked}: provided IP is already allocated");
                return Err(Cause::invalid("spec.clusterIPs", &json!([asked]), &why));
            }
            Ok(asked.to_owned())
        }
    }
}

fn free_address(taken: &impl Fn(&str) -> bool) -> Result<String, Cause> {
    let start = random(DYNAMIC.end - DYNAMIC.start);
    let count = DYNAMIC.end - DYNAMIC.start;
    let mut candidates = (0..count).map(|n| Ipv4Addr::from(RANGE + DYNAMIC.start + (start + n) % count).to_string());
    let full = || Cause::invalid("spec.clusterIPs", &Value::Null, "failed to allocate IP: the range is full");
    candidates.find(|ip| !taken(ip)).ok_or_else(full)
}

/// A number below `end`, spread well enough that allocations seldom meet.
fn random(end: u32) -> u32 {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % end
}

fn node_ports(value: &mut Value, old: Option<&Value>, others: &[&Value], kind: &str) -> Result<(), Cause> {
    let wanted =
        kind == "NodePort" || (kind == "LoadBalancer" && value["spec"]["allocateLoadBalancerNodePorts"] != false);
    let mut taken: BTreeSet<u64> =
        others.iter().flat_map(|o| items(o, "/spec/ports")).filter_map(|p| p["nodePort"].as_u64()).collect();
    let Some(ports) = value["spec"]["ports"].as_array_mut() else { return Ok(()) };
    for (index, port) in ports.iter_mut().enumerate() {
        if !wanted {
            if let Some(port) = port.as_object_mut() {
                port.shift_remove("nodePort");
            }
            continue;
        }
        let field = format!("spec.ports[{index}].nodePort");
        let kept = old.and_then(|o| {
            items(o, "/spec/ports").iter().find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"])
        });
        let asked = port["nodePort"].as_u64().filter(|n| *n > 0).or_else(|| kept.and_then(|p| p["nodePort"].as_u64()));
        let chosen = match asked {
            Some(asked) if taken.contains(&asked) => return Err(Cause::invalid(field, &json!(asked), PORTS_IN_USE)),
            Some(asked) if !u16::try_from(asked).is_ok_and(|p| NODE_PORTS.contains(&p)) => {
                return Err(Cause::invalid(
                    field,
                    &json!(asked),
                    "provided port is not in the valid range. The range of valid ports is 30000-32767",
                ));
            }
            Some(asked) => asked,
            None => NODE_PORTS
                .map(u64::from)
                .find(|p| !taken.contains(p))
                .ok_or_else(|| Cause::invalid(field, &Value::Null, "failed to allocate a nodePort: range is full"))?,
        };
        taken.insert(chosen);
        port["nodePort"] = json!(chosen);
    }
    Ok(())
}
