//! The words in which the schemas are written.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;

pub(super) type Schema = JSONSchemaProps;

fn of_type(name: &str) -> Schema {
    Schema { type_: Some(name.to_owned()), ..Schema::default() }
}

/// An object of these fields.
pub(super) fn object<const N: usize>(fields: [(&str, Schema); N]) -> Schema {
    let properties = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    Schema { properties: Some(properties), ..of_type("object") }
}

/// An object of any fields with such values.
pub(super) fn map(values: Schema) -> Schema {
    Schema { additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(values))), ..of_type("object") }
}

/// An object of any fields with string values.
pub(super) fn strings() -> Schema {
    map(string())
}

pub(super) fn list(items: Schema) -> Schema {
    Schema { items: Some(JSONSchemaPropsOrArray::Schema(Box::new(items))), ..of_type("array") }
}

pub(super) fn string() -> Schema {
    of_type("string")
}

/// A string of 1 to 253 characters.
pub(super) fn name() -> Schema {
    Schema { min_length: Some(1), max_length: Some(253), ..string() }
}

pub(super) fn one_of(values: &[&str]) -> Schema {
    Schema { enum_: Some(values.iter().map(|value| JSON(Value::from(*value))).collect()), ..string() }
}

pub(super) fn boolean() -> Schema {
    of_type("boolean")
}

pub(super) fn integer(min: u64, max: u64) -> Schema {
    Schema {
        format: Some("int64".to_owned()),
        minimum: Some(min as f64),
        maximum: Some(max as f64),
        ..of_type("integer")
    }
}

pub(super) fn number(min: f64, max: f64) -> Schema {
    Schema { minimum: Some(min), maximum: Some(max), ..of_type("number") }
}

/// A port number.
pub(super) fn port() -> Schema {
    Schema { format: Some("int32".to_owned()), ..integer(1, 65535) }
}

/// Anything, kept as it is.
pub(super) fn anything() -> Schema {
    Schema { x_kubernetes_preserve_unknown_fields: Some(true), ..Schema::default() }
}

/// What is added to a schema.
pub(super) trait Refine: Sized {
    fn about(self, description: &str) -> Self;
    fn required(self, fields: &[&str]) -> Self;
    fn items(self, min: i64, max: i64) -> Self;
    /// A list without duplicates.
    fn set(self) -> Self;
    /// A list of objects told apart by this field.
    fn keyed(self, key: &str) -> Self;
    fn default_to(self, value: impl Into<Value>) -> Self;
    /// A CEL rule, and what is said when it does not hold.
    fn rule(self, rule: &str, message: &str) -> Self;
}

impl Refine for Schema {
    fn about(self, description: &str) -> Self {
        Self { description: Some(description.to_owned()), ..self }
    }

    fn required(self, fields: &[&str]) -> Self {
        Self { required: Some(fields.iter().map(|field| (*field).to_owned()).collect()), ..self }
    }

    fn items(self, min: i64, max: i64) -> Self {
        Self { min_items: (min > 0).then_some(min), max_items: Some(max), ..self }
    }

    fn set(self) -> Self {
        Self { x_kubernetes_list_type: Some("set".to_owned()), ..self }
    }

    fn keyed(self, key: &str) -> Self {
        Self {
            x_kubernetes_list_type: Some("map".to_owned()),
            x_kubernetes_list_map_keys: Some(vec![key.to_owned()]),
            ..self
        }
    }

    fn default_to(self, value: impl Into<Value>) -> Self {
        Self { default: Some(JSON(value.into())), ..self }
    }

    fn rule(mut self, rule: &str, message: &str) -> Self {
        self.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
            rule: rule.to_owned(),
            message: Some(message.to_owned()),
            ..ValidationRule::default()
        });
        self
    }
}
