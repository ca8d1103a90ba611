//! One view of schemas for built-in and custom types: structure, merge semantics, and reading objects against it.

use serde_json::{Map, Value};

use super::definitions::{self, Definitions, REFERENCE};
use super::resource::{Resource, SchemaSource};

/// A schema node, with references followed.
#[derive(Clone, Copy)]
pub(crate) struct Schema<'a> {
    /// The node itself; its extensions go before those of what it refers to.
    node: &'a Value,
    /// What it refers to, or the node again.
    target: &'a Value,
    /// The name of the definition it refers to, or "".
    pub name: &'a str,
    definitions: &'a Definitions,
}

/// How a list merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Of distinct scalars.
    Set,
    /// Of objects told apart by these keys.
    Map(Vec<String>),
}

static NO_DEFINITIONS: std::sync::LazyLock<Definitions> = std::sync::LazyLock::new(Map::new);

impl<'a> Schema<'a> {
    /// The schema of a resource type's objects.
    pub(crate) fn of(resource: &'a Resource) -> Option<Self> {
        match &resource.schema {
            SchemaSource::Builtin(name) => Schema::builtin(name),
            SchemaSource::Custom(custom) => Some(Schema::custom(&custom.schema)),
        }
    }

    /// A built-in definition.
    pub(crate) fn builtin(name: &str) -> Option<Schema<'static>> {
        let definitions = definitions::builtin();
        let (name, target) = definitions.get_key_value(name)?;
        Some(Schema { node: target, target, name, definitions })
    }

    /// A custom type's `openAPIV3Schema`.
    pub(crate) fn custom(node: &'a Value) -> Self {
        Schema { node, target: node, name: "", definitions: &NO_DEFINITIONS }
    }

    fn at(&self, node: &'a Value) -> Self {
        let mut schema = Schema { node, target: node, name: "", definitions: self.definitions };
        if let Some(name) = node["$ref"].as_str().and_then(|r| r.strip_prefix(REFERENCE))
            && let Some((name, target)) = self.definitions.get_key_value(name)
        {
            (schema.name, schema.target) = (name, target);
        }
        schema
    }

    /// A keyword of this node, or of what it refers to.
    pub(crate) fn keyword(&self, keyword: &str) -> &'a Value {
        match &self.node[keyword] {
            Value::Null => &self.target[keyword],
            value => value,
        }
    }

    pub(crate) fn text(&self, keyword: &str) -> &'a str {
        self.keyword(keyword).as_str().unwrap_or_default()
    }

    pub(crate) fn flag(&self, keyword: &str) -> bool {
        self.keyword(keyword).as_bool().unwrap_or_default()
    }

    pub(crate) fn properties(&self) -> Option<&'a Map<String, Value>> {
        self.target["properties"].as_object()
    }

    pub(crate) fn property(&self, name: &str) -> Option<Self> {
        Some(self.at(self.properties()?.get(name)?))
    }

    /// The schema of values that no property describes.
    pub(crate) fn additional(&self) -> Option<Self> {
        self.target["additionalProperties"].as_object()?;
        Some(self.at(&self.target["additionalProperties"]))
    }

    /// The schema of a field: its property's, or that of additional properties.
    pub(crate) fn field(&self, name: &str) -> Option<Self> {
        self.property(name).or_else(|| self.additional())
    }

    pub(crate) fn items(&self) -> Option<Self> {
        self.target["items"].as_object()?;
        Some(self.at(&self.target["items"]))
    }

    /// The one of several forms that an object takes, for the few definitions that are an object or something else.
    pub(crate) fn object_form(&self) -> Option<Self> {
        self.target["oneOf"].as_array()?.iter().map(|node| self.at(node)).find(|s| s.properties().is_some())
    }

    /// The schemas of `allOf`, `anyOf` or `oneOf`.
    pub(crate) fn branches(&self, keyword: &str) -> Vec<Self> {
        self.target[keyword].as_array().into_iter().flatten().map(|node| self.at(node)).collect()
    }

    pub(crate) fn not(&self) -> Option<Self> {
        self.target["not"].as_object()?;
        Some(self.at(&self.target["not"]))
    }

    pub(crate) fn list_type(&self) -> ListType {
        match self.text("x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map(strings(self.keyword("x-kubernetes-list-map-keys"))),
            _ => ListType::Atomic,
        }
    }

    /// Whether objects are replaced as a whole.
    pub(crate) fn is_atomic(&self) -> bool {
        self.text("x-kubernetes-map-type") == "atomic"
    }

    /// Whether the values may be anything (`RawExtension`, `FieldsV1`, JSON, preserved fields).
    pub(crate) fn is_open(&self) -> bool {
        let target = self.target;
        let structured = ["properties", "additionalProperties", "items", "oneOf", "x-kubernetes-int-or-string"];
        let untyped =
            structured.iter().all(|k| target[*k].is_null()) && matches!(target["type"].as_str(), None | Some("object"));
        untyped || self.flag("x-kubernetes-preserve-unknown-fields")
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// What reading an object of a built-in type found. Unknown fields are dropped, as a typed server drops them.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub unknown: Vec<UnknownField>,
    /// Values that the schema does not allow, in the order of the object.
    pub mistakes: Vec<Mistake>,
}

/// A field that the schema does not have.
#[derive(Debug)]
pub(crate) struct UnknownField {
    /// Its path from the object's root.
    pub field: String,
    /// The fields that the schema has in its place.
    pub known: Vec<String>,
}

/// A value that the schema does not allow.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// Its path from the object's root.
    pub field: String,
    /// In the words of a JSON decoder, with the path: what the API answers.
    pub answer: String,
    /// In plain words, without the path.
    pub plain: String,
}

/// Reads `value` as the built-in type `schema`: drops nulls, unknown fields and empty optional lists and maps.
pub(crate) fn decode(schema: Schema<'_>, kind: &str, value: &mut Value) -> Decoded {
    let mut decoded = Decoded::default();
    decode_at(schema, value, &Path { kind, path: String::new() }, &mut decoded);
    decoded
}

struct Path<'a> {
    kind: &'a str,
    path: String,
}

impl Path<'_> {
    fn field(&self, name: &str) -> Self {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_$".contains(&byte));
        let path = match (self.path.is_empty(), plain) {
            (true, true) => name.to_owned(),
            (false, true) => format!("{}.{name}", self.path),
            (_, false) => format!("{}[{name}]", self.path),
        };
        Path { kind: self.kind, path }
    }

    fn index(&self, index: usize) -> Self {
        Path { kind: self.kind, path: format!("{}[{index}]", self.path) }
    }
}

impl Decoded {
    /// A value of another type than the schema's: `wanted` by its name in Go and in plain words.
    fn expected(&mut self, at: &Path<'_>, value: &Value, (go, plain): (&str, &str)) {
        let (found, found_plain) = match value {
            Value::Null => ("null", "null"),
            Value::Bool(_) => ("bool", "a boolean"),
            Value::Number(number) if number.is_f64() => ("number", "a fraction"),
            Value::Number(_) => ("number", "a number"),
            Value::String(_) => ("string", "a string"),
            Value::Array(_) => ("array", "a list"),
            Value::Object(_) => ("object", "an object"),
        };
        let answer =
            format!("json: cannot unmarshal {found} into Go struct field {}.{} of type {go}", at.kind, at.path);
        let quotes = plain == "a string" && matches!(value, Value::Bool(_) | Value::Number(_));
        let hint = if quotes { "; put it in quotes" } else { "" };
        let plain = format!("must be {plain}, not {found_plain}{hint}");
        self.mistakes.push(Mistake { field: at.path.clone(), answer, plain });
    }

    fn refused(&mut self, at: &Path<'_>, answer: String, plain: &str) {
        self.mistakes.push(Mistake { field: at.path.clone(), answer, plain: plain.to_owned() });
    }
}

fn decode_at(schema: Schema<'_>, value: &mut Value, at: &Path<'_>, decoded: &mut Decoded) {
    if schema.name.ends_with(".JSON") {
        return;
    }
    if schema.flag("x-kubernetes-int-or-string") {
        return decode_int_or_string(schema, value, at, decoded);
    }
    if let Some(form) = schema.object_form() {
        if value.is_object() {
            decode_at(form, value, at, decoded);
        }
        return;
    }
    match (schema.text("type"), &mut *value) {
        ("object", Value::Object(map)) if !schema.is_open() => decode_object(schema, map, at, decoded),
        ("object" | "", Value::Object(_)) | ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => {}
        ("array", Value::Array(items)) => {
            if let Some(schema) = schema.items() {
                for (index, item) in items.iter_mut().enumerate() {
                    decode_at(schema, item, &at.index(index), decoded);
                }
            }
        }
        ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        ("integer", Value::Number(number)) if number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9e15) => {
            *value = Value::from(number.as_f64().unwrap_or_default() as i64);
        }
        ("string", Value::String(text)) => decode_string(schema, text, at, decoded),
        ("", _) => {}
        ("integer", _) => decoded.expected(at, value, (schema.text("format"), "a whole number")),
        ("string", _) => decoded.expected(at, value, ("string", "a string")),
        ("boolean", _) => decoded.expected(at, value, ("boolean", "true or false")),
        ("array", _) => decoded.expected(at, value, ("array", "a list")),
        ("object", _) => decoded.expected(at, value, ("object", "an object")),
        (wanted, _) => decoded.expected(at, value, (wanted, &format!("a {wanted}"))),
    }
}

fn decode_object(schema: Schema<'_>, map: &mut Map<String, Value>, at: &Path<'_>, decoded: &mut Decoded) {
    let required = schema.keyword("required").as_array().map(Vec::as_slice).unwrap_or_default();
    map.retain(|field, value| {
        let Some(field_schema) = schema.field(field) else {
            let known = schema.properties().into_iter().flat_map(Map::keys).cloned().collect();
            decoded.unknown.push(UnknownField { field: at.field(field).path, known });
            return false;
        };
        if value.is_null() {
            return schema.properties().is_none();
        }
        decode_at(field_schema, value, &at.field(field), decoded);
        !is_empty_collection(field_schema, value)
            || required.iter().any(|r| r == field.as_str())
            || schema.properties().is_none()
    });
}

/// A list or map that a typed server would leave out again. An empty object with properties is a choice, and stays.
fn is_empty_collection(schema: Schema<'_>, value: &Value) -> bool {
    match value {
        _ if schema.name.ends_with(".JSON") => false,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && schema.additional().is_some(),
        _ => false,
    }
}

fn decode_int_or_string(schema: Schema<'_>, value: &mut Value, at: &Path<'_>, decoded: &mut Decoded) {
    let quantity = schema.name.ends_with(".Quantity");
    match value {
        Value::String(text) if quantity && !super::quantity::is_quantity(text) => {
            let answer = format!(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' ({}: {text:?})",
                at.path
            );
            decoded.refused(at, answer, &format!("{text:?} is no quantity; write one such as 500m, 2 or 64Mi"));
        }
        Value::String(_) => {}
        Value::Number(number) if quantity => *value = Value::String(number.to_string()),
        Value::Number(_) => {}
        other => decoded.expected(at, &other.clone(), ("intstr.IntOrString", "a number or a string")),
    }
}

fn decode_string(schema: Schema<'_>, text: &str, at: &Path<'_>, decoded: &mut Decoded) {
    use base64::Engine as _;
    match schema.text("format") {
        "byte" if base64::engine::general_purpose::STANDARD.decode(text).is_err() => {
            decoded.refused(at, format!("{}: illegal base64 data", at.path), "is not in base64");
        }
        "date-time" if !text.is_empty() && text.parse::<jiff::Timestamp>().is_err() => {
            let answer = format!("{}: parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse", at.path);
            decoded.refused(at, answer, &format!("{text:?} is no time; write one such as 2006-01-02T15:04:05Z"));
        }
        _ => {}
    }
}
