//! The form of answers: objects, tables or metadata alone, in JSON or YAML.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::error::{Answer, Failure};

/// What the client asked for with `Accept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub view: View,
    pub yaml: bool,
}

/// How objects are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Object,
    /// `meta.k8s.io/VERSION` Table.
    Table(String),
    /// `meta.k8s.io/VERSION` PartialObjectMetadata.
    Metadata(String),
}

impl Format {
    /// Objects in JSON.
    pub(crate) fn json() -> Self {
        Format { view: View::Object, yaml: false }
    }

    /// The first of the media types that can be served.
    pub(crate) fn of(headers: &HeaderMap) -> Answer<Self> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accept.trim().is_empty() {
            return Ok(Format::json());
        }
        accept.split(',').find_map(media_type).ok_or_else(Failure::not_acceptable)
    }
}

fn media_type(text: &str) -> Option<Format> {
    let mut parts = text.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "application/*" | "*/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut kind, mut version, mut group) = ("", "v1", "meta.k8s.io");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            _ => {}
        }
    }
    let known = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
    let view = match kind {
        "" => View::Object,
        "Table" if known => View::Table(version.to_owned()),
        "PartialObjectMetadata" | "PartialObjectMetadataList" if known => View::Metadata(version.to_owned()),
        _ => return None,
    };
    Some(Format { view, yaml })
}

/// `object` as PartialObjectMetadata.
pub(crate) fn metadata_only(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"]})
}

/// An answer with a body, and with the warnings that kubectl prints.
pub(crate) fn respond(code: StatusCode, body: &Value, yaml: bool, warnings: &[String]) -> Response {
    let (kind, text) = match yaml {
        true => ("application/yaml", serde_saphyr::to_string(body).unwrap_or_else(|_| body.to_string())),
        false => ("application/json", body.to_string()),
    };
    let mut response = (code, [(header::CONTENT_TYPE, kind)], text).into_response();
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(accept: &str) -> Answer<Format> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header"));
        Format::of(&headers)
    }

    #[test]
    fn the_first_media_type_served_wins() {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(format(accept).expect("a format").view, View::Table("v1".to_owned()));
        assert_eq!(
            format("application/vnd.kubernetes.protobuf,application/json").expect("a format").view,
            View::Object
        );
        assert_eq!(format("application/vnd.kubernetes.protobuf").expect_err("refused").code, 406);
    }
}
