//! The columns of tables, by resource type.

mod cluster;
mod events;
mod rest;
mod workload;

use serde_json::{Value, json};

use super::object::{integer, text};
use super::resource::Resource;
use super::table::{age, name, object_age};

/// One column: its head and how its cell is made.
pub(crate) struct Column {
    name: String,
    kind: String,
    /// Shown by `-o wide` only when it is 1.
    priority: u8,
    cell: Cell,
}

enum Cell {
    Of(fn(&Value) -> Value),
    /// A JSON path of a custom type's column.
    Path {
        path: String,
        date: bool,
    },
}

impl Column {
    pub(crate) fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({"name": self.name, "type": self.kind, "format": format, "description": "", "priority": self.priority})
    }

    pub(crate) fn cell(&self, object: &Value) -> Value {
        match &self.cell {
            Cell::Of(make) => make(object),
            Cell::Path { path, date } => {
                let found = super::jsonpath::first(object, path);
                match (found, date) {
                    (Some(value), true) => json!(age(value.as_str().unwrap_or_default())),
                    (Some(value), false) => value,
                    (None, _) => Value::Null,
                }
            }
        }
    }
}

fn column(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { name: name.to_owned(), kind: "string".to_owned(), priority: 0, cell: Cell::Of(cell) }
}

/// A column of numbers.
fn count(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { kind: "integer".to_owned(), ..column(name, cell) }
}

fn wide(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { priority: 1, ..column(name, cell) }
}

fn created(object: &Value) -> Value {
    json!(object_age(object))
}

fn number(value: &Value, pointer: &str) -> i64 {
    integer(value, pointer).unwrap_or_default()
}

/// The columns of a type's table.
pub(crate) fn columns(resource: &Resource) -> Vec<Column> {
    if let Some(custom) = resource.custom() {
        return custom_columns(&custom.columns);
    }
    let mut columns = vec![column("Name", name)];
    columns.extend(match resource.qualified().as_str() {
        "pods" => workload::pods(),
        "deployments.apps" => workload::deployments(),
        "replicasets.apps" | "replicationcontrollers" => workload::replicated(),
        "statefulsets.apps" => workload::stateful_sets(),
        "daemonsets.apps" => workload::daemon_sets(),
        "jobs.batch" => workload::jobs(),
        "cronjobs.batch" => workload::cron_jobs(),
        "podtemplates" => workload::templates(),
        "controllerrevisions.apps" => workload::revisions(),
        "services" => cluster::services(),
        "nodes" => cluster::nodes(),
        "ingresses.networking.k8s.io" => cluster::ingresses(),
        "endpoints" => cluster::endpoints(),
        "endpointslices.discovery.k8s.io" => cluster::endpoint_slices(),
        "events" | "events.events.k8s.io" => return events::columns(),
        _ => rest::columns(resource),
    });
    columns
}

fn custom_columns(given: &[Value]) -> Vec<Column> {
    let mut columns = vec![column("Name", name)];
    if given.is_empty() {
        columns.push(column("Age", created));
    }
    columns.extend(given.iter().map(|definition| {
        let kind = text(definition, "/type").to_owned();
        Column {
            name: text(definition, "/name").to_owned(),
            priority: u8::from(number(definition, "/priority") > 0),
            cell: Cell::Path { path: text(definition, "/jsonPath").to_owned(), date: kind == "date" },
            kind: if kind == "date" { "string".to_owned() } else { kind },
        }
    }));
    columns
}

/// The text of a number or string, or `N/A`.
fn or_na(value: &Value) -> String {
    match value {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// Lists of texts in one cell.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>, between: &str) -> Value {
    json!(texts.into_iter().collect::<Vec<_>>().join(between))
}
