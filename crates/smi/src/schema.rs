//! Checks a value against a structural schema: the shape of a resource, with every mistake and its field.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::{Map, Value};

use crate::path::{self, closest};
use crate::{Invalid, InvalidReason};

/// Reports all that is wrong with `value` by `schema`. The null of a known field counts as absent, as most
/// clients mean it. Where people choose the names, as of labels, it does not: that would widen what they select.
pub(crate) fn check(schema: &JSONSchemaProps, value: &Value, field: &str, found: &mut Vec<Invalid>) {
    match value {
        _ if schema.x_kubernetes_int_or_string == Some(true) => check_int_or_string(schema, value, field, found),
        _ if !is_of_type(schema, value) => found.push(wrong_type(schema, value, field)),
        Value::Object(fields) => check_object(schema, fields, field, found),
        Value::Array(items) => check_array(schema, items, field, found),
        Value::String(text) => check_string(schema, text, field, found),
        Value::Number(_) => check_number(schema, value, field, found),
        Value::Bool(_) | Value::Null => {}
    }
}

fn check_object(schema: &JSONSchemaProps, fields: &Map<String, Value>, field: &str, found: &mut Vec<Invalid>) {
    for name in schema.required.iter().flatten() {
        if fields.get(name).is_none_or(Value::is_null) {
            let wanted = schema.properties.as_ref().and_then(|all| all.get(name)).map_or("a value", wanted);
            let invalid = Invalid::new(path::key(field, name), InvalidReason::Required, "is missing");
            found.push(invalid.hint(format!("add `{name}` with {wanted}")));
        }
    }
    let is_map = schema.additional_properties.is_some();
    let count = fields.values().filter(|value| is_map || !value.is_null()).count();
    if schema.min_properties.is_some_and(|min| (count as i64) < min) {
        let known: Vec<_> = schema.properties.iter().flat_map(|all| all.keys()).map(String::as_str).collect();
        let one_of =
            if known.is_empty() { "key and its value".to_owned() } else { format!("of: {}", known.join(", ")) };
        let invalid = Invalid::new(field, InvalidReason::Required, "must not be empty");
        found.push(invalid.hint(format!("write at least one {one_of}")));
    }
    for (name, value) in fields {
        let field = path::key(field, name);
        let properties = schema.properties.as_ref();
        if let Some(schema) = properties.and_then(|properties| properties.get(name)) {
            if !value.is_null() {
                check(schema, value, &field, found);
            }
        } else if let Some(JSONSchemaPropsOrBool::Schema(schema)) = &schema.additional_properties {
            check(schema, value, &field, found);
        } else if properties.is_some() && schema.x_kubernetes_preserve_unknown_fields != Some(true) {
            found.push(unknown_field(schema, name, field));
        }
    }
}

fn unknown_field(schema: &JSONSchemaProps, name: &str, field: String) -> Invalid {
    let known: Vec<_> = schema.properties.iter().flat_map(|all| all.keys()).map(String::as_str).collect();
    let invalid = Invalid::new(field, InvalidReason::UnknownField, "is not a known field");
    match closest(name, &known) {
        Some(known) => invalid.hint(format!("did you mean `{known}`?")),
        None => invalid.hint(format!("known here: {}", known.join(", "))),
    }
}

fn check_array(schema: &JSONSchemaProps, items: &[Value], field: &str, found: &mut Vec<Invalid>) {
    if schema.min_items.is_some_and(|min| (items.len() as i64) < min) {
        found.push(Invalid::new(field, InvalidReason::Required, "must not be empty").hint(an_item(schema)));
    }
    if let Some(max) = schema.max_items.filter(|max| items.len() as i64 > *max) {
        found.push(Invalid::new(field, InvalidReason::Value, format!("must have at most {max} items")));
        return;
    }
    if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
        for (index, value) in items.iter().enumerate() {
            check(schema, value, &path::item(field, index), found);
        }
    }
    check_duplicates(schema, items, field, found);
}

/// What to write into a list that may not be empty.
fn an_item(schema: &JSONSchemaProps) -> String {
    let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items else { return "write an item".to_owned() };
    match item.required.as_deref().unwrap_or_default() {
        [] => "write an item".to_owned(),
        required => format!("write an item with `{}`", required.join("` and `")),
    }
}

/// Of a list that is a set no item, and of one that is a map no key may come twice.
fn check_duplicates(schema: &JSONSchemaProps, items: &[Value], field: &str, found: &mut Vec<Invalid>) {
    let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let key_of = |value: &Value| match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => Some(value.to_string()),
        Some("map") => keys.iter().map(|key| value.get(key).map(Value::to_string)).collect::<Option<String>>(),
        _ => None,
    };
    let mut seen = std::collections::HashMap::new();
    for (index, value) in items.iter().enumerate() {
        let Some(key) = key_of(value) else { continue };
        let item = path::item(field, index);
        let at = keys.first().map_or_else(|| item.clone(), |key| path::key(&item, key));
        if let Some(first) = seen.get(&key) {
            let message = format!("{key} is already at {}", path::item(field, *first));
            let hint = match keys.first() {
                Some(key) => format!("remove one of them, or change its `{key}`"),
                None => "remove one of them".to_owned(),
            };
            found.push(Invalid::new(at, InvalidReason::Duplicate, message).hint(hint));
        } else {
            seen.insert(key, index);
        }
    }
}

fn check_string(schema: &JSONSchemaProps, text: &str, field: &str, found: &mut Vec<Invalid>) {
    let length = text.chars().count() as i64;
    if schema.min_length.is_some_and(|min| length < min) {
        let invalid = Invalid::new(field, InvalidReason::Required, "must not be empty");
        found.push(invalid.hint("write a text, or leave the field out if it may be"));
    }
    if let Some(max) = schema.max_length.filter(|max| length > *max) {
        found.push(Invalid::new(field, InvalidReason::Value, format!("must have at most {max} characters")));
    }
    if let Some(known) = &schema.enum_ {
        let known: Vec<_> = known.iter().filter_map(|value| value.0.as_str()).collect();
        if !known.contains(&text) {
            found.push(not_supported(text, &known, field));
        }
    }
    check_pattern(schema, text, field, found);
}

fn not_supported(text: &str, known: &[&str], field: &str) -> Invalid {
    let invalid = Invalid::new(field, InvalidReason::NotSupported, format!("`{text}` is not supported"));
    match closest(text, known) {
        Some(known) => invalid.hint(format!("did you mean `{known}`?")),
        None => {
            let named: Vec<_> = known.iter().copied().filter(|known| !known.is_empty()).collect();
            invalid.hint(format!("supported: {}", named.join(", ")))
        }
    }
}

fn check_pattern(schema: &JSONSchemaProps, text: &str, field: &str, found: &mut Vec<Invalid>) {
    let Some(pattern) = schema.pattern.as_deref().filter(|_| !text.is_empty()) else { return };
    if !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
        let invalid =
            Invalid::new(field, InvalidReason::Value, format!("`{text}` does not have the form it must have"));
        found.push(described(schema, invalid));
    }
}

fn check_number(schema: &JSONSchemaProps, value: &Value, field: &str, found: &mut Vec<Invalid>) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    let mut refuse = |message: String| {
        let invalid = described(schema, Invalid::new(field, InvalidReason::Value, message));
        found.push(match (&invalid.hint, schema.minimum, schema.maximum) {
            (None, Some(min), Some(max)) => invalid.hint(format!("write a number from {min} to {max}")),
            _ => invalid,
        });
    };
    if let Some(min) = schema.minimum.filter(|min| number < *min) {
        refuse(format!("must be at least {min}, is {value}"));
    }
    if let Some(max) = schema.maximum.filter(|max| number > *max) {
        refuse(format!("must be at most {max}, is {value}"));
    }
}

/// What a field is for says what to write into it.
fn described(schema: &JSONSchemaProps, invalid: Invalid) -> Invalid {
    match &schema.description {
        Some(description) => invalid.hint(description.clone()),
        None => invalid,
    }
}

fn check_int_or_string(schema: &JSONSchemaProps, value: &Value, field: &str, found: &mut Vec<Invalid>) {
    match value {
        Value::String(text) => check_string(schema, text, field, found),
        value if is_integer(value) => check_number(schema, value, field, found),
        value => found.push(
            Invalid::new(field, InvalidReason::Type, format!("must be an integer or a string, is {}", name_of(value)))
                .hint("write fractions as a quantity: `500m` is one half"),
        ),
    }
}

fn is_of_type(schema: &JSONSchemaProps, value: &Value) -> bool {
    match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => is_integer(value),
        Some("number") => value.is_number(),
        _ => true,
    }
}

/// As in JSON Schema, `2.0` is an integer too; but no client that SMI has reads it as one, so it is not here.
fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

fn wanted(schema: &JSONSchemaProps) -> &'static str {
    match schema.type_.as_deref() {
        Some("object") => "an object",
        Some("array") => "a list",
        Some("string") => "a string",
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        _ => "a value",
    }
}

fn wrong_type(schema: &JSONSchemaProps, value: &Value, field: &str) -> Invalid {
    let message = format!("must be {}, is {}", wanted(schema), name_of(value));
    let invalid = Invalid::new(field, InvalidReason::Type, message);
    match (schema.type_.as_deref(), value) {
        (Some("string"), Value::Number(_) | Value::Bool(_)) => invalid.unquoted(value),
        (Some("string"), Value::Null) => invalid.hint("write a value, or remove the key"),
        (Some("integer"), Value::String(text)) if text.parse::<i64>().is_ok() => {
            invalid.hint(format!("write it without quotes: {text}"))
        }
        (Some("array"), _) => invalid.hint("start each item with `- `"),
        (Some("object"), _) => invalid.hint("write its fields below it, further to the right"),
        _ => described(schema, invalid),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if is_integer(value) => "a whole number",
        Value::Number(_) => "a fraction",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
