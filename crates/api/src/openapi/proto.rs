//! The protobuf form of an OpenAPI version 2 document, as the gnostic project defines it: the messages and fields that
//! kubectl reads.

use prost::Message;
use serde_json::Value;

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<NamedSchemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query_parameter_sub_schema: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}

/// `Definitions` and `Properties` alike.
#[derive(Clone, PartialEq, Message)]
struct NamedSchemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, tag = "13")]
    pattern: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    options: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    kind: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<NamedSchemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

/// The document of `v2::document` in protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let message = Document {
        swagger: text(document, "swagger"),
        info: Some(Info { title: text(&document["info"], "title"), version: text(&document["info"], "version") }),
        paths: Some(Paths { path: paths.map(|(name, item)| path(name, item)).collect() }),
        definitions: named_schemas(&document["definitions"]),
    };
    message.encode_to_vec()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn path(name: &str, item: &Value) -> NamedPathItem {
    let patch = item.get("patch").map(operation);
    NamedPathItem { name: name.to_owned(), value: Some(PathItem { patch }) }
}

fn operation(operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    Operation {
        operation_id: text(operation, "operationId"),
        parameters: parameters.map(parameter).collect(),
        vendor_extension: extensions(operation),
    }
}

fn parameter(parameter: &Value) -> ParametersItem {
    let query =
        QueryParameter { place: text(parameter, "in"), name: text(parameter, "name"), kind: text(parameter, "type") };
    let non_body_parameter = Some(NonBodyParameter { query_parameter_sub_schema: Some(query) });
    ParametersItem { parameter: Some(Parameter { non_body_parameter }) }
}

/// Extensions, whose values are written in YAML; JSON is YAML.
fn extensions(value: &Value) -> Vec<NamedAny> {
    let all = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    all.map(|(name, value)| NamedAny { name: name.clone(), value: Some(Any { yaml: value.to_string() }) }).collect()
}

fn named_schemas(map: &Value) -> Option<NamedSchemas> {
    let map = map.as_object()?;
    let named = map.iter().map(|(name, value)| NamedSchema { name: name.clone(), value: Some(schema(value)) });
    Some(NamedSchemas { additional_properties: named.collect() })
}

fn schema(value: &Value) -> Schema {
    let list = |field: &str| value[field].as_array().into_iter().flatten();
    let additional = value["additionalProperties"].is_object();
    Schema {
        reference: text(value, "$ref"),
        format: text(value, "format"),
        description: text(value, "description"),
        pattern: text(value, "pattern"),
        required: list("required").filter_map(|r| r.as_str().map(str::to_owned)).collect(),
        options: list("enum").map(|option| Any { yaml: option.to_string() }).collect(),
        additional_properties: additional
            .then(|| Box::new(AdditionalProperties { schema: Some(Box::new(schema(&value["additionalProperties"]))) })),
        kind: value["type"].as_str().map(|kind| TypeItem { value: vec![kind.to_owned()] }),
        items: value["items"].is_object().then(|| Items { schema: vec![schema(&value["items"])] }),
        properties: named_schemas(&value["properties"]),
        vendor_extension: extensions(value),
    }
}
