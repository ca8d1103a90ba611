//! A container's environment, and `$(NAME)` in its command.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::downward::{self, Place};
use super::sources::{ConfigError, Sources};

/// Variables in the order in which they were set; a later one with the same name replaces the earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment(Vec<(String, String)>);

/// The environment of a container, from its `envFrom` and `env`, on top of `base`.
///
/// `at` is the container's path, such as `spec.containers[0]`, for errors.
pub(super) fn of_container(
    pod: &core::Pod,
    container: &core::Container,
    at: &str,
    place: &Place,
    sources: &Sources,
    base: Environment,
) -> Result<Environment, ConfigError> {
    let mut env = base;
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        add_all(&mut env, pod, source, &format!("{at}.envFrom[{index}]"), sources)?;
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let at = format!("{at}.env[{index}]");
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => value_from(pod, container, from, &at, place, sources)?,
            (value, None) => Some(expand(value.as_deref().unwrap_or_default(), |name| env.get(name))),
        };
        if let Some(value) = value {
            env.set(&variable.name, value);
        }
    }
    Ok(env)
}

/// Adds every entry of a ConfigMap or Secret whose name is a variable's.
fn add_all(
    env: &mut Environment,
    pod: &core::Pod,
    source: &core::EnvFromSource,
    at: &str,
    sources: &Sources,
) -> Result<(), ConfigError> {
    let (kind, name, optional, entries) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), _) => ("ConfigMap", &map.name, map.optional, sources.config_map_text(&map.name)),
        (None, Some(secret)) => ("Secret", &secret.name, secret.optional, sources.secret(&secret.name)),
        (None, None) => return Ok(()),
    };
    let Some(entries) = entries else {
        let missing = || missing_object(at, kind, pod, name);
        return if optional == Some(true) { Ok(()) } else { Err(missing()) };
    };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    for (key, value) in entries {
        let name = format!("{prefix}{key}");
        if is_variable_name(&name) {
            env.set(&name, text(&value, &format!("{at}, key `{key}`"))?);
        }
    }
    Ok(())
}

/// The value of a `valueFrom`; absent when it is optional and its source is missing.
fn value_from(
    pod: &core::Pod,
    container: &core::Container,
    from: &core::EnvVarSource,
    at: &str,
    place: &Place,
    sources: &Sources,
) -> Result<Option<String>, ConfigError> {
    if let Some(reference) = &from.field_ref {
        return downward::field(pod, place, &reference.field_path, at).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        return downward::resource(pod, Some(container), place, reference, at).map(Some);
    }
    let (kind, name, key, optional, entries) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => ("ConfigMap", &r.name, &r.key, r.optional, sources.config_map_text(&r.name)),
        (None, Some(r)) => ("Secret", &r.name, &r.key, r.optional, sources.secret(&r.name)),
        (None, None) => {
            let message = "this form of `valueFrom` is not known here".to_owned();
            return Err(ConfigError::Invalid { field: at.to_owned(), message });
        }
    };
    match entries.as_ref().map(|entries| entries.get(key)) {
        Some(Some(value)) => text(value, at).map(Some),
        _ if optional == Some(true) => Ok(None),
        Some(None) => {
            let field = at.to_owned();
            Err(ConfigError::MissingKey { field, kind, name: name.clone(), key: key.clone() })
        }
        None => Err(missing_object(at, kind, pod, name)),
    }
}

/// An entry as a variable's value.
fn text(value: &[u8], at: &str) -> Result<String, ConfigError> {
    if value.contains(&0) {
        let message = "the value has a NUL byte, which no variable can hold; mount it as a file".to_owned();
        return Err(ConfigError::Invalid { field: at.to_owned(), message });
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

pub(super) fn missing_object(at: &str, kind: &'static str, pod: &core::Pod, name: &str) -> ConfigError {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    ConfigError::MissingObject { field: at.to_owned(), kind, namespace, name: name.to_owned() }
}

/// Replaces `$(NAME)` where the name is known; `$$` stands for `$`, and what names nothing is left as it is.
pub(super) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let reference = tail.strip_prefix('(').and_then(|tail| tail.split_once(')'));
        rest = match reference {
            _ if tail.starts_with('$') => {
                expanded.push('$');
                &tail[1..]
            }
            Some((name, after)) => {
                match lookup(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.extend(["$(", name, ")"]),
                }
                after
            }
            None => {
                expanded.push('$');
                tail
            }
        };
    }
    expanded + rest
}

/// The variables that tell of Services: `<NAME>_SERVICE_HOST`, `_SERVICE_PORT` and the Docker-style ones. Those of the
/// pod's namespace are given unless `enableServiceLinks` is false; `default/kubernetes` always.
///
/// `address` tells where a port of a Service is reached, which is its ClusterIP unless there are no ClusterIPs.
pub(super) fn of_services(
    pod: &core::Pod,
    services: &[core::Service],
    address: impl Fn(&core::Service, i32) -> Option<(String, u16)>,
) -> Environment {
    let namespace = pod.metadata.namespace.as_deref();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let is_api = |service: &&core::Service| {
        service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes")
    };
    let own = |service: &&core::Service| links && service.metadata.namespace.as_deref() == namespace;
    let mut env = Environment::default();
    // The pod's own namespace comes last, so that its Service named `kubernetes` would win, as in Kubernetes.
    for service in services.iter().filter(is_api).chain(services.iter().filter(own)) {
        add_service(&mut env, service, &address);
    }
    env
}

fn add_service(
    env: &mut Environment,
    service: &core::Service,
    address: &impl Fn(&core::Service, i32) -> Option<(String, u16)>,
) {
    let Some(name) = &service.metadata.name else { return };
    let name = variable_name(name);
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    for (index, port) in ports.enumerate() {
        let Some((host, number)) = address(service, port.port) else { return };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let url = format!("{protocol}://{host}:{number}");
        if index == 0 {
            env.set(&format!("{name}_SERVICE_HOST"), host.clone());
            env.set(&format!("{name}_SERVICE_PORT"), number.to_string());
            env.set(&format!("{name}_PORT"), url.clone());
        }
        if let Some(port_name) = &port.name {
            env.set(&format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), number.to_string());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        env.set(&prefix, url);
        env.set(&format!("{prefix}_PROTO"), protocol);
        env.set(&format!("{prefix}_PORT"), number.to_string());
        env.set(&format!("{prefix}_ADDR"), host);
    }
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

/// What Kubernetes accepts from `envFrom`: no `=`, no control characters, not empty.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

// === impl Environment ===

impl Environment {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.into(),
            None => self.0.push((name.to_owned(), value.into())),
        }
    }

    pub fn extend(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.set(&name, value);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As a map, for tests and messages.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0.into_iter().collect()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let mut env = Self::default();
        for (name, value) in variables {
            env.set(&name.into(), value);
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place() -> Place {
        Place { pod_ip: [10, 244, 0, 7].into(), host_ip: [10, 244, 0, 1].into(), processors: 2, memory: 1 << 30 }
    }

    fn check(container: serde_json::Value, expected: &[(&str, &str)]) {
        let env = build(container).unwrap().into_map();
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(env, expected);
    }

    fn build(container: serde_json::Value) -> Result<Environment, ConfigError> {
        let container: core::Container = serde_json::from_value(container).unwrap();
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "a"}}, "spec": {"containers": []},
        }))
        .unwrap();
        let sources = Sources {
            config_maps: [(
                "c".to_owned(),
                serde_json::from_value(json!({"data": {"K": "v", "bad=name": "x"}, "binaryData": {"B": "AAEC"}}))
                    .unwrap(),
            )]
            .into(),
            secrets: ["s", "binary"]
                .into_iter()
                .zip(["aHVzaA==", "AAEC"])
                .map(|(name, value)| (name.to_owned(), serde_json::from_value(json!({"data": {"P": value}})).unwrap()))
                .collect(),
        };
        of_container(&pod, &container, "spec.containers[0]", &place(), &sources, Environment::default())
    }

    #[test]
    fn every_form_of_env_gives_its_value() {
        check(
            json!({"name": "x", "resources": {"limits": {"cpu": "1500m"}}, "envFrom": [
                {"prefix": "C_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "gone", "optional": true}},
            ], "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(NONE)-$$(A)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "P"}}},
                {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "no", "optional": true}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            ]}),
            &[
                ("C_K", "v"),
                ("A", "1"),
                ("B", "1-$(NONE)-$(A)"),
                ("IP", "10.244.0.7"),
                ("APP", "a"),
                ("PASS", "hush"),
                ("CPU", "2"),
                ("MEM", "1024"),
            ],
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_field() {
        let missing = build(json!({"name": "x", "envFrom": [{"configMapRef": {"name": "gone"}}]})).unwrap_err();
        assert!(missing.to_string().starts_with("spec.containers[0].envFrom[0]: the ConfigMap `gone` does not exist"));
        let key =
            json!({"name": "x", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "Q"}}}]});
        assert!(build(key).unwrap_err().to_string().contains("env[0]: the Secret `s` has no key `Q`"));
        let binary = build(json!({"name": "x", "envFrom": [{"secretRef": {"name": "binary"}}]})).unwrap_err();
        assert!(binary.to_string().starts_with("spec.containers[0].envFrom[0], key `P`: the value has a NUL byte"));
    }

    #[test]
    fn dollars_that_name_nothing_stay() {
        let expand = |text| expand(text, |name| (name == "A").then_some("1"));
        assert_eq!(expand("$(A)$(A"), "1$(A");
        assert_eq!(expand("$$$(A)$"), "$1$");
        assert_eq!(expand("a$b"), "a$b");
    }

    #[test]
    fn services_are_told_by_variables() {
        let pod: core::Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}})).unwrap();
        let services: Vec<core::Service> = serde_json::from_value(json!([
            {"metadata": {"name": "book-store", "namespace": "n"}, "spec": {"ports": [{"name": "http", "port": 80}]}},
            {"metadata": {"name": "other", "namespace": "m"}, "spec": {"ports": [{"port": 80}]}},
        ]))
        .unwrap();
        let env = of_services(&pod, &services, |_, port| Some(("10.96.0.9".into(), port as u16)));
        assert_eq!(env.get("BOOK_STORE_SERVICE_HOST"), Some("10.96.0.9"));
        assert_eq!(env.get("BOOK_STORE_SERVICE_PORT_HTTP"), Some("80"));
        assert_eq!(env.get("BOOK_STORE_PORT_80_TCP"), Some("tcp://10.96.0.9:80"));
        assert_eq!(env.get("OTHER_SERVICE_HOST"), None);
    }
}
