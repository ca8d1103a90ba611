//! OpenAPI: version 3 by group-version, and version 2 whole, in JSON and in protobuf for older kubectls.

mod proto;
mod v2;
mod v3;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::definitions::{self, Definitions, REFERENCE};
use super::error::{Answer, Failure};
use super::negotiate::respond;
use super::resource::{Registry, Resource, SchemaSource, definition};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What other servers serve.
pub(crate) struct Remote {
    /// Group and version. Their documents of version 3 are theirs; the index names them.
    pub versions: Vec<(String, String)>,
    /// Their documents of version 2, where that is asked for.
    pub documents: Vec<Value>,
}

pub(crate) const V2: &str = "/openapi/v2";

/// Answers below `/openapi`.
pub(crate) fn answer(registry: &Registry, remote: &Remote, path: &str, headers: &HeaderMap) -> Answer<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let document = match path {
        V2 if accept.contains("proto-openapi") => {
            let bytes = proto::encode(&v2::document(registry, &remote.documents));
            return Ok(([(header::CONTENT_TYPE, V2_PROTOBUF)], bytes).into_response());
        }
        V2 => v2::document(registry, &remote.documents),
        "/openapi/v3" => v3::index(registry, &remote.versions),
        _ => {
            let rest = path.strip_prefix("/openapi/v3/").ok_or_else(Failure::no_such_path)?;
            let (group, version) = match rest.split('/').collect::<Vec<_>>().as_slice() {
                ["api", version] => ("", *version),
                ["apis", group, version] => (*group, *version),
                _ => return Err(Failure::no_such_path()),
            };
            v3::document(registry, group, version).ok_or_else(Failure::no_such_path)?
        }
    };
    Ok(respond(StatusCode::OK, &document, false, &[]))
}

/// The definition that describes a type: the built-in one, or `org.example.v1.Kind` for a custom type.
fn schema_name(resource: &Resource) -> String {
    match &resource.schema {
        SchemaSource::Builtin(name) => name.clone(),
        SchemaSource::Custom(_) => {
            let reversed: Vec<&str> = resource.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
        }
    }
}

/// The built-in definitions and those of custom types, each kind's with its group, version and kind.
fn all_definitions(registry: &Registry) -> Definitions {
    let mut all = definitions::builtin().clone();
    for resource in registry.iter() {
        let name = schema_name(resource);
        if let SchemaSource::Custom(custom) = &resource.schema {
            all.insert(name.clone(), custom_definition(&custom.schema));
        }
        mark_kind(&mut all, &name, &resource.group, &resource.version, &resource.kind);
        let list = json!({
            "type": "object", "description": format!("{}List is a list of {}", resource.kind, resource.kind), "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                "metadata": {"$ref": format!("{REFERENCE}{LIST_META}")},
                "items": {"type": "array", "items": {"$ref": format!("{REFERENCE}{name}")}},
            },
        });
        if !resource.create_only {
            let list_name = format!("{name}List");
            all.insert(list_name.clone(), list);
            mark_kind(&mut all, &list_name, &resource.group, &resource.version, &format!("{}List", resource.kind));
        }
    }
    for (group, version, kind) in
        [("autoscaling", "v1", "Scale"), ("policy", "v1", "Eviction"), ("authentication.k8s.io", "v1", "TokenRequest")]
    {
        mark_kind(&mut all, &definition(group, version, kind), group, version, kind);
    }
    all.insert(LIST_META.to_owned(), list_meta());
    all
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn list_meta() -> Value {
    json!({
        "type": "object", "description": "ListMeta describes a list as a whole.",
        "properties": {
            "continue": {"type": "string"}, "remainingItemCount": {"type": "integer", "format": "int64"},
            "resourceVersion": {"type": "string"}, "selfLink": {"type": "string"},
        },
    })
}

fn mark_kind(all: &mut Definitions, name: &str, group: &str, version: &str, kind: &str) {
    if let Some(definition) = all.get_mut(name) {
        definition["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
    }
}

/// A custom type's schema with the fields that every object has.
fn custom_definition(schema: &Value) -> Value {
    let mut definition = schema.clone();
    let properties = super::object::map_at(&mut definition, "properties");
    properties.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description": "The version of the API this object is written in."}),
    );
    properties.insert("kind".to_owned(), json!({"type": "string", "description": "The kind of this object."}));
    properties.insert(
        "metadata".to_owned(),
        json!({"$ref": format!("{REFERENCE}{OBJECT_META}"), "description": "Standard object's metadata."}),
    );
    definition
}

/// Where a type's collection and its objects are.
fn urls(resource: &Resource) -> (String, String) {
    let base = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let object = format!("{collection}/{{name}}");
    (collection, object)
}

/// Every node of a schema, outermost first.
fn walk(node: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(node);
    match node {
        Value::Object(map) => map.values_mut().for_each(|value| walk(value, visit)),
        Value::Array(items) => items.iter_mut().for_each(|value| walk(value, visit)),
        _ => {}
    }
}
