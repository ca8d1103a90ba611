//! OpenAPI version 2, whole.

use serde_json::{Map, Value, json};

use super::super::definitions::REFERENCE;
use super::super::resource::{Registry, Resource};
use super::{all_definitions, schema_name, urls};

/// Keywords that version 2 and its clients understand.
const KEYWORDS: &[&str] = &[
    "$ref",
    "type",
    "format",
    "title",
    "description",
    "default",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
    "required",
    "enum",
    "multipleOf",
];

/// `/openapi/v2`, with what other servers say of theirs.
pub(super) fn document(registry: &Registry, remote: &[Value]) -> Value {
    let mut definitions: Map<String, Value> = all_definitions(registry)
        .iter()
        .map(|(name, definition)| (name.clone(), top_level(name, definition)))
        .collect();
    let mut paths = Map::new();
    for resource in registry.iter().filter(|r| !r.create_only) {
        let (_, object) = urls(resource);
        paths.insert(object, json!({"patch": patch_operation(resource)}));
    }
    for other in remote {
        add_unknown(&mut paths, &other["paths"]);
        add_unknown(&mut definitions, &other["definitions"]);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::super::discovery::version()["gitVersion"]},
        "paths": paths,
        "definitions": definitions,
    })
}

/// What others say never changes what is said of types of this server.
fn add_unknown(known: &mut Map<String, Value>, others: &Value) {
    for (name, other) in others.as_object().into_iter().flatten() {
        known.entry(name.clone()).or_insert_with(|| other.clone());
    }
}

/// Clients look here for what a patch can be asked to do.
fn patch_operation(resource: &Resource) -> Value {
    let query = |name: &str| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true});
    let parameters = ["dryRun", "fieldManager", "fieldValidation"].map(query);
    json!({
        "operationId": format!("patch{}{}", resource.version, resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{}", schema_name(resource))}}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
    })
}

fn top_level(name: &str, definition: &Value) -> Value {
    // These are anything, an object or something else: no type can be said in version 2.
    if name.ends_with(".JSON") || name.contains(".JSONSchemaPropsOr") {
        return json!({"description": definition["description"]});
    }
    if name.ends_with(".Quantity") {
        return json!({"description": definition["description"], "type": "string"});
    }
    node(definition)
}

fn node(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return json!({}) };
    let mut out = Map::new();
    for (keyword, value) in map {
        match keyword.as_str() {
            "properties" => {
                let properties =
                    value.as_object().into_iter().flatten().map(|(name, schema)| (name.clone(), node(schema)));
                out.insert(keyword.clone(), Value::Object(properties.collect()));
            }
            "items" => {
                out.insert(keyword.clone(), node(value));
            }
            "additionalProperties" if value.is_object() => {
                out.insert(keyword.clone(), node(value));
            }
            "$ref" => {
                let name = value.as_str().and_then(|r| r.strip_prefix(REFERENCE)).unwrap_or_default();
                out.insert(keyword.clone(), json!(format!("#/definitions/{name}")));
            }
            known if KEYWORDS.contains(&known) || known.starts_with("x-kubernetes-") => {
                out.insert(keyword.clone(), value.clone());
            }
            _ => {}
        }
    }
    if out.shift_remove("x-kubernetes-int-or-string").is_some() {
        out.insert("type".to_owned(), json!("string"));
        out.insert("format".to_owned(), json!("int-or-string"));
    }
    // What may hold unknown fields must not be checked against the known ones.
    if out.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        out.shift_remove("properties");
        out.shift_remove("type");
    }
    Value::Object(out)
}
