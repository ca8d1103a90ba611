//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::aggregate::Aggregated;
use super::error::{Answer, Failure};
use super::negotiate::{Format, respond};
use super::object::text;
use super::resource::{Registry, Resource, api_version};
use super::server::Server;

/// The version of Kubernetes whose API this follows: that of the schemas.
const GIT_VERSION: &str = "v1.33.0+heddle";

/// `/version`.
pub(crate) fn version() -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1", "minor": "33", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    })
}

/// Answers for `path` below `/api` and `/apis`.
pub(crate) async fn answer(server: &Server, path: &str, headers: &HeaderMap) -> Answer<Response> {
    let registry = server.registry();
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let remote =
        if matches!(segments.as_slice(), ["apis"] | ["apis", _]) { server.aggregated().await } else { Vec::new() };
    if let (Some(version), ["api" | "apis"]) = (aggregated_version(headers), segments.as_slice()) {
        return Ok(aggregated(&registry, segments[0] == "api", &remote, version));
    }
    let document = match segments.as_slice() {
        [] => json!({"paths": paths(&registry)}),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let mut groups: Vec<Value> = groups(&registry).iter().map(|group| api_group(&registry, group)).collect();
            groups.extend(remote_groups(&remote));
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] if groups(&registry).contains(group) => {
            let mut document = api_group(&registry, group);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["apis", group] => {
            let mut document =
                remote_groups(&remote).find(|g| g["name"] == **group).ok_or_else(Failure::no_such_path)?;
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["api", version] => resource_list(&registry, "", version)?,
        ["apis", group, version] => resource_list(&registry, group, version)?,
        _ => return Err(Failure::no_such_path()),
    };
    Ok(respond(StatusCode::OK, &document, Format::of(headers).is_ok_and(|f| f.yaml), &[]))
}

fn paths(registry: &Registry) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned)
            .to_vec();
    for group in groups(registry) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(registry, group).iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.sort();
    paths
}

/// The groups other than the core group, in order.
pub(crate) fn groups(registry: &Registry) -> Vec<&str> {
    let mut groups: Vec<&str> = registry.iter().map(|r| r.group.as_str()).filter(|g| !g.is_empty()).collect();
    groups.dedup();
    groups
}

/// The versions of a group, the preferred one first.
pub(crate) fn versions<'a>(registry: &'a Registry, group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = registry.iter().filter(|r| r.group == group).map(|r| r.version.as_str()).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    versions.dedup();
    versions
}

/// Kubernetes' order of versions: v2 before v1 before v1beta2 before v1alpha1 before other names.
fn priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = || (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other() };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse() else { return other() };
    let none = std::cmp::Reverse(String::new());
    let stage = &rest[end..];
    if stage.is_empty() {
        return (3, major, 0, none);
    }
    let staged = [("beta", 2), ("alpha", 1)]
        .iter()
        .find_map(|(name, rank)| Some((*rank, stage.strip_prefix(name)?.parse().ok()?)));
    staged.map_or_else(other, |(rank, minor)| (rank, major, minor, none))
}

fn api_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = versions(registry, group)
        .iter()
        .map(|v| json!({"groupVersion": api_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// The groups of other servers, each with the versions that are served of it.
fn remote_groups(remote: &[Aggregated]) -> impl Iterator<Item = Value> {
    by_group(remote).into_iter().map(|(group, served)| {
        let version = |r: &&Aggregated| json!({"groupVersion": api_version(group, &r.version), "version": r.version});
        let versions: Vec<Value> = served.iter().map(version).collect();
        json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
    })
}

/// The group-versions of other servers by group, the preferred version first.
fn by_group(remote: &[Aggregated]) -> Vec<(&str, Vec<&Aggregated>)> {
    let mut groups: Vec<(&str, Vec<&Aggregated>)> = Vec::new();
    for one in remote {
        match groups.iter_mut().find(|(group, _)| *group == one.group) {
            Some((_, served)) => served.push(one),
            None => groups.push((&one.group, vec![one])),
        }
    }
    groups.iter_mut().for_each(|(_, served)| served.sort_by_key(|one| std::cmp::Reverse(one.priority)));
    groups
}

/// A group of another server in the aggregated form.
fn remote_discovery((group, served): (&str, Vec<&Aggregated>)) -> Value {
    let versions: Vec<Value> = served.into_iter().map(remote_version).collect();
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
}

fn remote_version(remote: &Aggregated) -> Value {
    let all = remote.resources.as_deref().unwrap_or_default();
    let main = all.iter().filter(|r| !text(r, "/name").contains('/'));
    let resources: Vec<Value> = main
        .map(|resource| {
            let name = text(resource, "/name");
            let subresources = all.iter().filter_map(|sub| {
                let own = text(sub, "/name").strip_prefix(name)?.strip_prefix('/')?;
                Some(json!({"subresource": own, "responseKind": remote_kind(remote, sub), "verbs": sub["verbs"]}))
            });
            json!({
                "resource": name, "responseKind": remote_kind(remote, resource),
                "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "singularResource": resource["singularName"], "verbs": resource["verbs"], "shortNames": resource["shortNames"],
                "categories": resource["categories"], "subresources": subresources.collect::<Vec<_>>(),
            })
        })
        .collect();
    let freshness = if remote.resources.is_some() { "Current" } else { "Stale" };
    json!({"version": remote.version, "resources": resources, "freshness": freshness})
}

fn remote_kind(remote: &Aggregated, resource: &Value) -> Value {
    let or = |field: &str, default: &str| match text(resource, field) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    json!({"group": or("/group", &remote.group), "version": or("/version", &remote.version), "kind": resource["kind"]})
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Answer<Value> {
    let resources: Vec<Value> =
        registry.iter().filter(|r| r.group == group && r.version == version).flat_map(|r| api_resources(r)).collect();
    if resources.is_empty() {
        return Err(Failure::no_such_path());
    }
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": resources}),
    )
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    match resource.create_only {
        true => vec!["create"],
        false => vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    }
}

/// A type and its subresources as APIResources.
fn api_resources(resource: &Resource) -> Vec<Value> {
    let mut main = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        main["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        main["categories"] = json!(resource.categories);
    }
    let subresources = resource.subresources.iter().map(|name| {
        let sub = subresource(resource, name);
        let mut entry = json!({
            "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
            "kind": sub.kind, "verbs": sub.verbs,
        });
        if !sub.version.is_empty() {
            entry["group"] = json!(sub.group);
            entry["version"] = json!(sub.version);
        }
        entry
    });
    std::iter::once(main).chain(subresources).collect()
}

/// What a subresource speaks.
struct Subresource<'a> {
    /// Of a kind of another group; empty when it is the type's own.
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: &'static [&'static str],
}

fn subresource<'a>(resource: &'a Resource, name: &str) -> Subresource<'a> {
    let own = |kind: &'a str, verbs| Subresource { group: "", version: "", kind, verbs };
    match name {
        "scale" => {
            Subresource { group: "autoscaling", version: "v1", kind: "Scale", verbs: &["get", "patch", "update"] }
        }
        "token" => {
            Subresource { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", verbs: &["create"] }
        }
        "eviction" => Subresource { group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        "binding" => own("Binding", &["create"]),
        "log" => own("Pod", &["get"]),
        "exec" => own("PodExecOptions", &["create", "get"]),
        "attach" => own("PodAttachOptions", &["create", "get"]),
        "portforward" => own("PodPortForwardOptions", &["create", "get"]),
        "finalize" => own("Namespace", &["update"]),
        _ => own(&resource.kind, &["get", "patch", "update"]),
    }
}

/// The version of the aggregated form that the client reads, where it asks for one.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    let first = accept.split(',').find(|t| t.trim_start().starts_with("application/json"))?;
    let asked = first.contains("as=APIGroupDiscoveryList") && first.contains("g=apidiscovery.k8s.io");
    match asked {
        true if first.contains("v=v2beta1") => Some("v2beta1"),
        true if first.contains("v=v2") => Some("v2"),
        _ => None,
    }
}

fn aggregated(registry: &Registry, core: bool, remote: &[Aggregated], version: &str) -> Response {
    let groups = if core { vec![""] } else { groups(registry) };
    let mut items: Vec<Value> = groups.iter().map(|group| discovery_group(registry, group)).collect();
    items.extend(by_group(remote).into_iter().map(remote_discovery));
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items,
    });
    let mut response = respond(StatusCode::OK, &document, false, &[]);
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn discovery_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = versions(registry, group)
        .iter()
        .map(|version| {
            let resources = registry.iter().filter(|r| r.group == group && r.version == *version);
            let resources: Vec<Value> = resources.map(|r| discovery_resource(r)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn discovery_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|name| {
            let sub = subresource(resource, name);
            let response = match sub.version {
                "" => kind(&resource.group, &resource.version, sub.kind),
                version => kind(sub.group, version, sub.kind),
            };
            json!({"subresource": name, "responseKind": response, "verbs": sub.verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": verbs(resource),
    });
    for (field, value) in [
        ("shortNames", json!(resource.short_names)),
        ("categories", json!(resource.categories)),
        ("subresources", json!(subresources)),
    ] {
        if value.as_array().is_some_and(|a| !a.is_empty()) {
            entry[field] = value;
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_stability_and_age() {
        let mut versions = ["v1alpha1", "foo", "v1", "v2", "v1beta2", "v1beta10"].to_vec();
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}
