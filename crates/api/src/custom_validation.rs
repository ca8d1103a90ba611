//! Validation of custom objects: the schema's keywords and its CEL rules.

use serde_json::{Value, json};

use super::crd::CustomVersion;
use super::error::Cause;
use super::resource::Resource;
use super::schema::{ListType, Schema};

/// What is wrong with an object of a custom type; `old` is what it replaces.
pub(crate) fn check(resource: &Resource, custom: &CustomVersion, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    node(Schema::custom(&custom.schema), value, "", &mut causes);
    // Rules read fields by their types, so they run on objects that have them.
    if causes.is_empty() {
        causes.extend(rules(resource, custom, value, old));
    }
    causes
}

fn rules(resource: &Resource, custom: &CustomVersion, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let context = kube_cel::RootContext {
        api_version: resource.api_version(),
        api_group: resource.group.clone(),
        kind: resource.kind.clone(),
    };
    let checked =
        kube_cel::Validator::new().validate_compiled_with_context(&custom.rules.0, value, old, Some(&context));
    let errors = checked.err().map(kube_cel::ValidationErrors::into_vec).unwrap_or_default();
    errors
        .into_iter()
        .map(|error| {
            let field = error.field_path.trim_start_matches('.').to_owned();
            let found = pointer(&field).and_then(|p| value.pointer(&p)).unwrap_or(value);
            let message = format!("Invalid value: {}: {}", brief(found), error.message);
            let reason = match error.reason.as_deref() {
                Some("FieldValueRequired") => "FieldValueRequired",
                Some("FieldValueForbidden") => "FieldValueForbidden",
                Some("FieldValueDuplicate") => "FieldValueDuplicate",
                _ => "FieldValueInvalid",
            };
            Cause { reason, field, message }
        })
        .collect()
}

/// `spec.ports[0].name` as a JSON pointer; keys in brackets with dots are not looked into.
fn pointer(field: &str) -> Option<String> {
    (!field.is_empty())
        .then(|| format!("/{}", field.replace("][", "/").replace('[', "/").replace(']', "").replace('.', "/")))
}

/// Scalars as they are, everything else by its type.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".to_owned(),
        Value::Array(_) => "\"array\"".to_owned(),
        other => other.to_string(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn node(schema: Schema<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.flag("nullable") {
        return;
    }
    if !has_type(schema, value) {
        let wanted = schema.text("type");
        let shown = type_name(value);
        let detail =
            format!("{} in body must be of type {wanted}: \"{shown}\"", if path.is_empty() { "object" } else { path });
        return causes.push(Cause::wrong_type(path, &json!(shown), &detail));
    }
    let options = schema.keyword("enum");
    if let Some(list) = options.as_array()
        && !list.contains(value)
    {
        let supported: Vec<String> =
            list.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        causes.push(Cause::unsupported(path, value, &supported.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    match value {
        Value::Object(_) => object(schema, value, path, causes),
        Value::Array(items) => array(schema, items, path, causes),
        Value::String(text) => string(schema, text, path, causes),
        Value::Number(_) => number(schema, value, path, causes),
        _ => {}
    }
    combined(schema, value, path, causes);
}

fn has_type(schema: Schema<'_>, value: &Value) -> bool {
    if schema.flag("x-kubernetes-int-or-string") {
        return matches!(type_name(value), "integer" | "string");
    }
    match (schema.text("type"), type_name(value)) {
        ("", _) => true,
        ("number", found) => matches!(found, "integer" | "number"),
        ("integer", "number") => value.as_f64().is_some_and(|f| f.fract() == 0.0),
        (wanted, found) => wanted == found,
    }
}

fn object(schema: Schema<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(map) = value.as_object() else { return };
    for field in schema.keyword("required").as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(field) {
            causes.push(Cause::required(join(path, field), ""));
        }
    }
    let count = map.len() as u64;
    if schema.keyword("maxProperties").as_u64().is_some_and(|max| count > max) {
        causes.push(Cause::invalid(
            path,
            &json!(count),
            &format!("{path} in body should have at most {} properties", schema.keyword("maxProperties")),
        ));
    }
    if schema.keyword("minProperties").as_u64().is_some_and(|min| count < min) {
        causes.push(Cause::invalid(
            path,
            &json!(count),
            &format!("{path} in body should have at least {} properties", schema.keyword("minProperties")),
        ));
    }
    for (field, value) in map {
        if let Some(schema) = schema.field(field) {
            node(schema, value, &join(path, field), causes);
        }
    }
}

fn array(schema: Schema<'_>, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let count = list.len() as u64;
    if let Some(max) = schema.keyword("maxItems").as_u64().filter(|max| count > *max) {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            field: path.to_owned(),
            message: format!("Too many: {count}: must have at most {max} items"),
        });
    }
    if let Some(min) = schema.keyword("minItems").as_u64().filter(|min| count < *min) {
        causes.push(Cause::invalid(path, &json!(count), &format!("{path} in body should have at least {min} items")));
    }
    let keys = match schema.list_type() {
        ListType::Map(keys) => Some(keys),
        ListType::Set => Some(Vec::new()),
        ListType::Atomic if schema.flag("uniqueItems") => Some(Vec::new()),
        ListType::Atomic => None,
    };
    for (index, item) in list.iter().enumerate() {
        let same = |other: &Value| {
            keys.as_ref().is_some_and(|keys| {
                if keys.is_empty() { other == item } else { keys.iter().all(|k| other[k] == item[k]) }
            })
        };
        if list[..index].iter().any(same) {
            let shown = match &keys {
                Some(keys) if !keys.is_empty() => keys.iter().map(|k| (k.clone(), item[k].clone())).collect(),
                _ => item.clone(),
            };
            causes.push(Cause::duplicate(format!("{path}[{index}]"), &shown));
        }
        if let Some(schema) = schema.items() {
            node(schema, item, &format!("{path}[{index}]"), causes);
        }
    }
}

fn string(schema: Schema<'_>, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let count = text.chars().count() as u64;
    if let Some(max) = schema.keyword("maxLength").as_u64().filter(|max| count > *max) {
        causes.push(Cause::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
    }
    if let Some(min) = schema.keyword("minLength").as_u64().filter(|min| count < *min) {
        causes.push(Cause::invalid(path, &json!(text), &format!("{path} in body should be at least {min} chars long")));
    }
    let pattern = schema.text("pattern");
    if !pattern.is_empty() && !regex::Regex::new(pattern).is_ok_and(|r| r.is_match(text)) {
        causes.push(Cause::invalid(path, &json!(text), &format!("{path} in body should match '{pattern}'")));
    }
    let format = schema.text("format");
    if !has_format(format, text) {
        causes.push(Cause::invalid(path, &json!(text), &format!("{path} in body must be of type {format}: {text:?}")));
    }
}

fn has_format(format: &str, text: &str) -> bool {
    use base64::Engine as _;
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        _ => true,
    }
}

fn number(schema: Schema<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    if let Some(max) = schema.keyword("maximum").as_f64() {
        let exclusive = schema.flag("exclusiveMaximum");
        if number > max || (exclusive && number == max) {
            let than = if exclusive { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should be {than} {}", schema.keyword("maximum")),
            ));
        }
    }
    if let Some(min) = schema.keyword("minimum").as_f64() {
        let exclusive = schema.flag("exclusiveMinimum");
        if number < min || (exclusive && number == min) {
            let than = if exclusive { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should be {than} {}", schema.keyword("minimum")),
            ));
        }
    }
    if let Some(step) =
        schema.keyword("multipleOf").as_f64().filter(|step| *step > 0.0 && (number / step).fract() != 0.0)
    {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should be a multiple of {step}")));
    }
    let fits = match schema.text("format") {
        "int32" => i32::try_from(value.as_i64().unwrap_or(i64::MAX)).is_ok(),
        _ => true,
    };
    if !fits {
        causes.push(Cause::invalid(path, value, &format!("{path} in body must be of type int32")));
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(schema: Schema<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fits = |schema: Schema<'_>| {
        let mut found = Vec::new();
        node(schema, value, path, &mut found);
        found.is_empty()
    };
    for branch in schema.branches("allOf") {
        node(branch, value, path, causes);
    }
    let any = schema.branches("anyOf");
    if !any.is_empty() && !any.iter().any(|b| fits(*b)) {
        causes.push(Cause::invalid(
            path,
            &json!(brief(value)),
            &format!("{path} in body must validate at least one schema (anyOf)"),
        ));
    }
    let one = schema.branches("oneOf");
    if !one.is_empty() && one.iter().filter(|b| fits(**b)).count() != 1 {
        causes.push(Cause::invalid(
            path,
            &json!(brief(value)),
            &format!("{path} in body must validate one and only one schema (oneOf)"),
        ));
    }
    if schema.not().is_some_and(fits) {
        causes.push(Cause::invalid(
            path,
            &json!(brief(value)),
            &format!("{path} in body must not validate the schema (not)"),
        ));
    }
}
