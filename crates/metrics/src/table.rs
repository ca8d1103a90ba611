//! Measures as the Table that `kubectl get` prints.

use heddle_policy::telemetry::Counts;
use heddle_smi::metrics::{Direction, ObjectReference};
use serde_json::{Value, json};

use crate::query::go_text;
use crate::render::{counts, latency};
use crate::{Kind, Measured, Query, Row, Scope};

/// A column: its name, its type, whether it appears without `-o wide`, and what it says.
struct Column {
    name: &'static str,
    kind: &'static str,
    is_wide: bool,
    description: &'static str,
    cell: fn(&Row, &Measured) -> Value,
}

const NAME: Column = column("Name", "The resource", |row, _| json!(row.resource.name));
const DIRECTION: Column = column("Direction", "Whether the resource sends or receives", |row, _| {
    json!(match row.direction {
        Direction::To => "to",
        Direction::From => "from",
    })
});
const OTHER: Column = column("Other end", "Who is at the other end", |row, _| json!(short(&row.other)));
const BACKEND: Column =
    column("Backend", "The backend of the split", |row, _| json!(row.backend.as_ref().map(|backend| &backend.name)));
const WEIGHT: Column =
    column("Weight", "The weight asked for", |row, _| json!(row.backend.as_ref().map(|backend| backend.weight)));
const VALUES: [Column; 7] = [
    column("Success", "Share of requests and connections that succeeded, of those not denied", |row, _| {
        let Counts { success, failure, .. } = counts(&row.totals);
        let share = success as f64 / (success + failure) as f64;
        json!(if share.is_nan() { "-".to_owned() } else { format!("{:.2}%", share * 100.0) })
    }),
    column("RPS", "Requests and connections a second", |row, measured| {
        json!(format!("{:.1}", counts(&row.totals).total() as f64 / measured.window.as_secs_f64()))
    }),
    column("Denied", "Refused by policy within the window", |row, _| json!(counts(&row.totals).denied)),
    column("P50", "Half of the requests took no longer", |row, _| milliseconds(row, 0.50)),
    column("P90", "Of ten requests nine took no longer", |row, _| milliseconds(row, 0.90)),
    column("P99", "Of a hundred requests 99 took no longer", |row, _| milliseconds(row, 0.99)),
    Column {
        is_wide: true,
        ..column("Window", "The time that is counted", |_, measured| json!(go_text(measured.window)))
    },
];

const fn column(name: &'static str, description: &'static str, cell: fn(&Row, &Measured) -> Value) -> Column {
    Column { name, kind: "string", is_wide: false, description, cell }
}

fn milliseconds(row: &Row, quantile: f64) -> Value {
    match row.totals.latency.count() {
        0 => json!("-"),
        _ => json!(format!("{:.1}ms", latency(&row.totals, quantile))),
    }
}

/// Kind and name, and the namespace when there is one: `shop/Deployment/web`.
fn short(reference: &ObjectReference) -> String {
    let parts = [&reference.namespace, &reference.kind, &reference.name];
    parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
}

/// The rows with what kubectl needs to tell them apart.
pub(crate) fn table(query: &Query, measured: &Measured, path: &str) -> Value {
    let is_edges = matches!(query.scope, Scope::Edges { .. });
    let own: &[&Column] = match (is_edges, query.kind == Kind::TrafficSplit) {
        (false, false) => &[],
        (false, true) => &[&BACKEND, &WEIGHT],
        (true, false) => &[&DIRECTION, &OTHER],
        (true, true) => &[&OTHER, &BACKEND, &WEIGHT],
    };
    let columns: Vec<&Column> = [&NAME].into_iter().chain(own.iter().copied()).chain(&VALUES).collect();
    let definitions = columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": if column.name == "Name" { "name" } else { "" },
            "description": column.description,
            "priority": u8::from(column.is_wide),
        })
    });
    let rows = measured.rows.iter().map(|row| {
        json!({
            "cells": columns.iter().map(|column| (column.cell)(row, measured)).collect::<Vec<_>>(),
            "object": {
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": {
                    "name": row.resource.name,
                    "namespace": row.resource.namespace,
                    "creationTimestamp": row.created,
                    "labels": row.labels,
                },
            },
        })
    });
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": { "selfLink": path, "resourceVersion": "" },
        "columnDefinitions": definitions.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}
