//! Bodies of writing requests: read in the forms that clients send, and cut to what the type has.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::duplicates::duplicate_keys;
use super::error::{Answer, Cause, Failure};
use super::object::{metadata, text};
use super::protobuf;
use super::resource::SchemaSource;
use super::schema::{self, Schema};
use super::server::Call;
use super::write::Write;

/// What becomes of fields that the schema does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// The parameter `fieldValidation`; a client that says nothing is warned.
    pub(crate) fn read(call: &Call) -> Answer<Self> {
        match call.query.get("fieldValidation") {
            "Strict" => Ok(FieldValidation::Strict),
            "Ignore" => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                let cause = Cause::unsupported("fieldValidation", &json!(other), &supported);
                Err(Failure::invalid_options(call.options_kind(), cause))
            }
        }
    }
}

impl Write<'_> {
    /// The body as an object of the call's type.
    pub(crate) fn read(&mut self, body: &[u8]) -> Answer<Value> {
        let value = read_value(&self.call.headers, body)?;
        if self.validation != FieldValidation::Ignore && media_type(&self.call.headers) == JSON {
            self.duplicates = duplicate_keys(body);
        }
        self.typed(value)
    }

    /// The value as an object of the call's type.
    pub(crate) fn typed(&mut self, mut value: Value) -> Answer<Value> {
        let resource = &self.call.resource;
        let (version, kind) = (resource.api_version(), resource.kind.clone());
        let (sent_version, sent_kind) = (text(&value, "/apiVersion"), text(&value, "/kind"));
        if !sent_kind.is_empty() && sent_kind != kind {
            let message =
                format!("{sent_kind} in version {sent_version:?} cannot be handled as a {kind}: unknown conversion");
            return Err(Failure::bad_request(message));
        }
        if !sent_version.is_empty() && sent_version != version {
            return Err(Failure::bad_request(format!(
                "the API version in the data ({sent_version}) does not match the expected API version ({version})"
            )));
        }
        value["apiVersion"] = json!(version);
        value["kind"] = json!(kind);
        self.decode(&mut value)?;
        Ok(value)
    }

    /// Checks the object's structure and drops what the type does not have, with the consequence the client asked for.
    pub(crate) fn decode(&mut self, value: &mut Value) -> Answer<()> {
        let resource = &self.call.resource;
        let refused = |why: &str| {
            let (kind, version) = (&resource.kind, &resource.version);
            Failure::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
        };
        metadata(value);
        let unknown = match &resource.schema {
            SchemaSource::Builtin(name) => {
                let Some(schema) = Schema::builtin(name) else { return Ok(()) };
                let decoded = schema::decode(schema, &resource.kind, value);
                if let Some(mistake) = decoded.mistakes.first() {
                    return Err(refused(&mistake.answer));
                }
                decoded.unknown.into_iter().map(|unknown| unknown.field).collect()
            }
            SchemaSource::Custom(custom) => super::custom::decode(custom, value)?,
        };
        let mut wrong: Vec<String> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
        wrong.extend(self.duplicates.drain(..).map(|field| format!("duplicate field \"{field}\"")));
        match self.validation {
            FieldValidation::Strict if !wrong.is_empty() => {
                Err(refused(&format!("strict decoding error: {}", wrong.join(", "))))
            }
            FieldValidation::Warn => {
                self.warnings.extend(wrong);
                Ok(())
            }
            FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
        }
    }
}

const JSON: &str = "application/json";

/// The content type without its parameters; JSON where none is named.
fn media_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() { JSON } else { kind }
}

/// A JSON or YAML body.
pub(crate) fn read_value(headers: &HeaderMap, body: &[u8]) -> Answer<Value> {
    let value: Value = match media_type(headers) {
        JSON => serde_json::from_slice(body).map_err(|e| {
            Failure::bad_request(format!("the object provided is unrecognized (must be of type json): {e}"))
        })?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => parse_yaml(body)?,
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body).map_err(Failure::bad_request)?,
        _ => {
            let wanted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            return Err(Failure::unsupported_media(wanted));
        }
    };
    if !value.is_object() {
        return Err(Failure::bad_request("the body must be an object"));
    }
    Ok(value)
}

pub(crate) fn parse_yaml(body: &[u8]) -> Answer<Value> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|e| Failure::bad_request(format!("error converting YAML to JSON: {e}")))
}

/// The body as JSON, or an empty object where there is none.
pub(crate) fn optional_body(headers: &HeaderMap, body: &Bytes) -> Answer<Value> {
    if body.is_empty() { Ok(json!({})) } else { read_value(headers, body) }
}
