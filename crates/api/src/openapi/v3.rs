//! OpenAPI version 3: an index of group-versions and a document for each.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::definitions::{Definitions, REFERENCE};
use super::super::resource::{Registry, Resource};
use super::{all_definitions, schema_name, urls, walk};

/// `/openapi/v3`.
pub(super) fn index(registry: &Registry, remote: &[(String, String)]) -> Value {
    let versions: BTreeSet<(String, String)> = registry.iter().map(|r| (r.group.clone(), r.version.clone())).collect();
    let mut paths = Map::new();
    for (group, version) in versions {
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let hash = fingerprint(registry, &group, &version);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    for (group, version) in remote {
        let path = format!("apis/{group}/{version}");
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    }
    json!({"paths": paths})
}

/// Changes when the document of the group-version does; clients keep documents by it.
fn fingerprint(registry: &Registry, group: &str, version: &str) -> String {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for resource in of_version(registry, group, version) {
        hash.update(resource.plural.as_bytes());
        if let Some(custom) = resource.custom() {
            hash.update(custom.schema.to_string());
        }
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02X}")).collect()
}

fn of_version<'a>(registry: &'a Registry, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    registry.iter().filter(move |r| r.group == group && r.version == version).map(|r| &**r)
}

/// The document of a group-version, or none where nothing is served in it.
pub(super) fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let all = all_definitions(registry);
    let mut paths = Map::new();
    let mut roots = BTreeSet::new();
    for resource in of_version(registry, group, version) {
        add_paths(&mut paths, resource);
        roots.insert(schema_name(resource));
        roots.insert(format!("{}List", schema_name(resource)));
        if resource.has("scale") {
            roots.insert("io.k8s.api.autoscaling.v1.Scale".to_owned());
        }
    }
    if paths.is_empty() {
        return None;
    }
    roots.insert("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned());
    roots.insert("io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned());
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::super::discovery::version()["gitVersion"]},
        "paths": paths,
        "components": {"schemas": closure(&all, roots)},
    }))
}

/// The definitions named and all that they refer to, in the form version 3 wants.
fn closure(all: &Definitions, mut pending: BTreeSet<String>) -> Map<String, Value> {
    let mut found = Map::new();
    while let Some(name) = pending.pop_first() {
        let Some(definition) = all.get(&name).filter(|_| !found.contains_key(&name)) else { continue };
        let mut definition = definition.clone();
        walk(&mut definition, &mut |node| {
            if let Some(name) = node["$ref"].as_str().and_then(|r| r.strip_prefix(REFERENCE)) {
                pending.insert(name.to_owned());
            }
            wrap_reference(node);
        });
        if name.ends_with(".JSON")
            && let Some(map) = definition.as_object_mut()
        {
            map.shift_remove("type");
        }
        found.insert(name, definition);
    }
    found.sort_keys();
    found
}

/// A reference with anything beside it is put into `allOf`: beside `$ref` everything is ignored.
fn wrap_reference(node: &mut Value) {
    let Some(map) = node.as_object_mut() else { return };
    if map.len() > 1
        && let Some(reference) = map.shift_remove("$ref")
    {
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let (collection, object) = urls(resource);
    if resource.create_only {
        paths.insert(collection, json!({"post": operation(resource, "post", "create", true)}));
        return;
    }
    paths.insert(
        collection,
        json!({
            "get": operation(resource, "list", "list", false), "post": operation(resource, "post", "create", true),
            "delete": operation(resource, "deletecollection", "delete", false),
        }),
    );
    let on_object = json!({
        "get": operation(resource, "get", "read", false), "put": operation(resource, "put", "replace", true),
        "patch": operation(resource, "patch", "patch", true), "delete": operation(resource, "delete", "delete", false),
    });
    if resource.has("status") {
        let mut status = on_object.clone();
        if let Some(status) = status.as_object_mut() {
            status.shift_remove("delete");
        }
        paths.insert(format!("{object}/status"), status);
    }
    paths.insert(object, on_object);
}

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn operation(resource: &Resource, action: &str, verb: &str, writes: bool) -> Value {
    let query =
        |name: &str, kind: &str| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}});
    let mut parameters = vec![query("pretty", "string")];
    if writes {
        parameters.extend(["dryRun", "fieldManager", "fieldValidation"].map(|name| query(name, "string")));
    }
    if action == "patch" {
        parameters.push(query("force", "boolean"));
    }
    let name = schema_name(resource);
    let name = if action == "list" { format!("{name}List") } else { name };
    let content = json!({"application/json": {"schema": {"$ref": format!("{REFERENCE}{name}")}}});
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let mut operation = json!({
        "operationId": format!("{verb}{}{}{scope}{}", capitalized(&resource.group), capitalized(&resource.version), resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
    });
    if writes {
        let kinds: &[&str] = match action {
            // kubectl patches in the first way it knows of these: custom kinds have no strategic merge.
            "patch" if resource.custom().is_some() => &PATCHES[..3],
            "patch" => &PATCHES,
            _ => &["application/json"],
        };
        let schema = json!({"schema": {"$ref": format!("{REFERENCE}{name}")}});
        let content: Map<String, Value> = kinds.iter().map(|kind| ((*kind).to_owned(), schema.clone())).collect();
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation
}

fn capitalized(text: &str) -> String {
    text.split('.')
        .next()
        .map(|t| t.chars().take(1).flat_map(char::to_uppercase).chain(t.chars().skip(1)).collect())
        .unwrap_or_default()
}
