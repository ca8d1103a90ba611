//! The API's schemas, as OpenAPI 2 and 3: what `kubectl explain` reads.

use std::collections::BTreeSet;

use heddle_smi::metrics::{GROUP, VERSIONS};
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::discovery::kind_name;

/// The document at a path below `/openapi`, if there is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    match path.strip_prefix("/openapi/")?.trim_end_matches('/') {
        "v2" => Some(v2()),
        "v3" => Some(index()),
        other => {
            let version = other.strip_prefix("v3/apis/")?.strip_prefix(GROUP)?.strip_prefix('/')?;
            VERSIONS.into_iter().find(|known| *known == version).map(v3)
        }
    }
}

fn index() -> Value {
    let paths = VERSIONS.map(|version| {
        let path = format!("apis/{GROUP}/{version}");
        let link = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
        (path, link)
    });
    json!({ "paths": Map::from_iter(paths) })
}

fn v3(version: &str) -> Value {
    let reference = |name: &str| format!("#/components/schemas/{name}");
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Heddle", "version": version },
        "paths": paths(version, |name| {
            json!({ "content": { "application/json": { "schema": { "$ref": reference(name) } } } })
        }),
        "components": { "schemas": schemas(version, &reference) },
    })
}

fn v2() -> Value {
    let reference = |name: &str| format!("#/definitions/{name}");
    let paths = VERSIONS
        .into_iter()
        .flat_map(|version| paths(version, |name| json!({ "schema": { "$ref": reference(name) } })));
    let definitions = VERSIONS.into_iter().flat_map(|version| schemas(version, &reference));
    json!({
        "swagger": "2.0",
        "info": { "title": "Heddle", "version": VERSIONS[0] },
        "paths": Map::from_iter(paths),
        "definitions": Map::from_iter(definitions),
    })
}

/// The name of a schema, in the manner of Kubernetes.
fn name(version: &str, kind: &str) -> String {
    format!("io.smi-spec.metrics.{version}.{kind}")
}

fn paths(version: &str, answer: impl Fn(&str) -> Value) -> Map<String, Value> {
    let root = format!("/apis/{GROUP}/{version}");
    let get = |kind: Kind, action: &str, document: &str| {
        let mut answer = answer(&name(version, document));
        answer["description"] = json!("OK");
        let kind = kind_name(version, kind);
        json!({ "get": {
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": GROUP, "version": version, "kind": kind },
            "responses": { "200": answer },
        } })
    };
    let of_kind = |kind: Kind| {
        let place = if kind.is_namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{place}/{}", kind.plural());
        let one = if kind == Kind::TrafficSplit { "TrafficMetricsList" } else { "TrafficMetrics" };
        [
            (format!("{collection}/{{name}}/edges"), get(kind, "get", "TrafficMetricsList")),
            (format!("{collection}/{{name}}"), get(kind, "get", one)),
            (collection, get(kind, "list", "TrafficMetricsList")),
        ]
    };
    Kind::ALL.into_iter().flat_map(of_kind).collect()
}

fn schemas(version: &str, reference: &impl Fn(&str) -> String) -> Map<String, Value> {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let object = |description: &str, properties: Value| json!({ "type": "object", "description": description, "properties": properties });
    let of_kinds = |document: &str, kinds: BTreeSet<String>, mut schema: Value| {
        let kinds = kinds.iter().map(|kind| json!({ "group": GROUP, "version": version, "kind": kind }));
        schema["x-kubernetes-group-version-kind"] = kinds.collect();
        (name(version, document), schema)
    };
    let (one, many) = ("TrafficMetrics", "TrafficMetricsList");
    let kinds = Kind::ALL.into_iter().map(|kind| kind_name(version, kind)).chain([one.to_owned()]).collect();
    let metadata = object(
        "Name and namespace of the resource.",
        json!({
            "name": text("The resource's name."),
            "namespace": text("The resource's namespace."),
            "selfLink": text("The path under which this was asked for."),
            "creationTimestamp": text("When the resource was made."),
        }),
    );
    let resource = |description: &str| {
        object(
            description,
            json!({
                "apiVersion": text("The API of the object."),
                "kind": text("The kind of the object."),
                "namespace": text("The namespace of the object."),
                "name": text("The name of the object."),
            }),
        )
    };
    let metrics = object(
        "The traffic of a resource, or of one of its edges, within a window.",
        json!({
            "apiVersion": text("The version of this API."),
            "kind": text("TrafficMetrics."),
            "metadata": metadata.clone(),
            "timestamp": text("When the window ended."),
            "window": text("The time that the counts are of, such as 30s."),
            "resource": resource("What is measured."),
            "edge": object("Which traffic of the resource is measured.", json!({
                "direction": text("to: what the resource sends; from: what it receives."),
                "side": text("The end that measured: client or server."),
                "resource": resource("The other end; without any field it is everybody."),
            })),
            "backend": object("The backend that is measured; only of a TrafficSplit.", json!({
                "apex": text("The root Service."),
                "name": text("The backend Service."),
                "weight": { "type": "integer", "format": "int64", "description": "The weight asked for." },
            })),
            "metrics": {
                "type": "array",
                "description": "p99, p90 and p50_response_latency in ms, success_count, failure_count, denied_count; others when they are not zero.",
                "items": object("One measure.", json!({
                    "name": text("What is measured."),
                    "unit": text("ms of a latency; absent of a count."),
                    "value": text("A quantity, such as 296875m."),
                })),
            },
        }),
    );
    let list = object(
        "The traffic of several resources, of the edges of one, or of the backends of a split.",
        json!({
            "apiVersion": text("The version of this API."),
            "kind": text("TrafficMetricsList."),
            "metadata": metadata,
            "resource": resource("What is listed."),
            "selector": object("The labels by which resources were selected.", json!({
                "matchLabels": { "type": "object", "description": "Label and value.", "additionalProperties": { "type": "string" } },
            })),
            "items": {
                "type": "array",
                "description": "The measures.",
                "items": { "$ref": reference(&name(version, "TrafficMetrics")) },
            },
        }),
    );
    Map::from_iter([of_kinds(one, kinds, metrics), of_kinds(many, [many.to_owned()].into(), list)])
}
