//! Objects of custom types against their structural schema: pruning, defaults, and later validation.

use serde_json::{Map, Value};

use super::crd::CustomVersion;
use super::error::Answer;
use super::schema::Schema;

/// Fields every object has, whatever the schema says.
const ROOT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata"];

/// Drops fields that the schema does not have, fills in defaults, and returns the paths of what was dropped.
pub(crate) fn decode(custom: &CustomVersion, value: &mut Value) -> Answer<Vec<String>> {
    let mut unknown = Vec::new();
    let schema = Schema::custom(&custom.schema);
    prune(schema, value, "", true, &mut unknown);
    apply_defaults(schema, value);
    Ok(unknown)
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn prune(schema: Schema<'_>, value: &mut Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    let root = root || schema.flag("x-kubernetes-embedded-resource");
    match value {
        Value::Object(map) => {
            let keep_unknown = schema.flag("x-kubernetes-preserve-unknown-fields");
            map.retain(|field, value| {
                if root && ROOT_FIELDS.contains(&field.as_str()) {
                    return true;
                }
                let Some(field_schema) = schema.field(field) else {
                    let kept = keep_unknown || schema.keyword("additionalProperties") == true;
                    if !kept {
                        unknown.push(join(path, field));
                    }
                    return kept;
                };
                prune(field_schema, value, &join(path, field), false, unknown);
                true
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items() {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(schema, item, &format!("{path}[{index}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

/// Sets what is absent, or null where null is not allowed, to the schema's default.
pub(crate) fn apply_defaults(schema: Schema<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            default_properties(schema, map);
            for (field, value) in map.iter_mut() {
                if let Some(schema) = schema.field(field) {
                    apply_defaults(schema, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items() {
                items.iter_mut().for_each(|item| apply_defaults(schema, item));
            }
        }
        _ => {}
    }
}

fn default_properties(schema: Schema<'_>, map: &mut Map<String, Value>) {
    for name in schema.properties().into_iter().flat_map(Map::keys) {
        let Some(property) = schema.property(name) else { continue };
        let default = property.keyword("default");
        let null = map.get(name).is_some_and(Value::is_null) && !property.flag("nullable");
        if default.is_null() {
            // A null where null is not allowed is dropped, as if it had not been sent.
            if null {
                map.shift_remove(name);
            }
        } else if null || !map.contains_key(name) {
            map.insert(name.clone(), default.clone());
        }
    }
}
