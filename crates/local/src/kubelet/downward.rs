//! The downward API: a pod's own fields and its containers' resources, as text.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::sources::ConfigError;

/// What the node adds to a pod's own fields.
#[derive(Clone, Debug)]
pub struct Place {
    pub pod_ip: Ipv4Addr,
    pub host_ip: Ipv4Addr,
    /// The node's processors and bytes of memory: the limits of a container that has none.
    pub processors: i64,
    pub memory: i64,
}

/// The value of a `fieldRef`. `at` is the field that holds the reference.
pub(super) fn field(pod: &core::Pod, place: &Place, path: &str, at: &str) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let spec = pod.spec.clone().unwrap_or_default();
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.node_name,
        "spec.serviceAccountName" => Some(spec.service_account_name.unwrap_or_else(|| "default".to_owned())),
        "status.podIP" | "status.podIPs" => Some(place.pod_ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(place.host_ip.to_string()),
        _ => match (subscript(path, "metadata.labels"), subscript(path, "metadata.annotations")) {
            (Some(key), _) => Some(meta.labels.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()),
            (_, Some(key)) => Some(meta.annotations.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()),
            (None, None) => {
                let message = format!("`{path}` is not a field that the downward API offers");
                return Err(ConfigError::Invalid { field: at.to_owned(), message });
            }
        },
    };
    Ok(value.unwrap_or_default())
}

/// The value of a `resourceFieldRef`: a limit or request in units of the divisor, rounded up. A limit that is not set
/// is what the node has.
pub(super) fn resource(
    pod: &core::Pod,
    own: Option<&core::Container>,
    place: &Place,
    selector: &core::ResourceFieldSelector,
    at: &str,
) -> Result<String, ConfigError> {
    let invalid = |message: String| ConfigError::Invalid { field: at.to_owned(), message };
    let named = selector.container_name.as_deref().and_then(|name| find(pod, name));
    let container = named.as_ref().or(own).ok_or_else(|| invalid("`containerName` names no container".to_owned()))?;
    let resources = container.resources.clone().unwrap_or_default();
    let (kind, name) = selector.resource.split_once('.').unwrap_or((&selector.resource, ""));
    let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
    let declared = match kind {
        "limits" => limit,
        "requests" => resources.requests.as_ref().and_then(|requests| requests.get(name)).or(limit),
        _ => return Err(invalid(format!("`{}` is neither `limits.` nor `requests.` of something", selector.resource))),
    };
    let milli = match (declared, kind, name) {
        (Some(quantity), ..) => {
            milli(quantity).ok_or_else(|| invalid(format!("`{}` is not a quantity", quantity.0)))?
        }
        (None, "limits", "cpu") => i128::from(place.processors) * 1000,
        (None, "limits", "memory") => i128::from(place.memory) * 1000,
        _ => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(milli_of_divisor).unwrap_or(1000);
    Ok(((milli + divisor - 1) / divisor).to_string())
}

fn milli_of_divisor(quantity: &Quantity) -> Option<i128> {
    milli(quantity).filter(|milli| *milli > 0)
}

/// A quantity in thousandths, rounded up; absent for what is none.
pub(super) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "Ki" => 1024.0 * 1e3,
        "Mi" => 1024_f64.powi(2) * 1e3,
        "Gi" => 1024_f64.powi(3) * 1e3,
        "Ti" => 1024_f64.powi(4) * 1e3,
        "Pi" => 1024_f64.powi(5) * 1e3,
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?) * 1e3,
    };
    Some((number * factor).ceil() as i128)
}

/// `key` of `prefix['key']`.
fn subscript<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")
}

/// A map as lines `key="value"`, the value quoted as in Go.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

fn find(pod: &core::Pod, name: &str) -> Option<core::Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation() {
        let milli = |text: &str| milli(&Quantity(text.to_owned()));
        assert_eq!(milli("250m"), Some(250));
        assert_eq!(milli("1.5"), Some(1500));
        assert_eq!(milli("1Ki"), Some(1_024_000));
        assert_eq!(milli("2e3"), Some(2_000_000));
        assert_eq!(milli("100n"), Some(1));
        assert_eq!(milli("much"), None);
        assert_eq!(milli("1Q"), None);
    }
}
