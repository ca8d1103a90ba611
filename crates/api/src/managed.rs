//! Server-side apply and the managers of fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::error::{Answer, Failure};
use super::fields::{self, Fields};
use super::object::{self, items, metadata, text};
use super::schema::{ListType, Schema};

/// An entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    who: Who,
    time: String,
    fields: Fields,
}

/// A manager: the same program applies and updates as two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    pub api_version: String,
    pub subresource: String,
}

/// Metadata that nobody manages.
const UNMANAGED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "generateName",
];

/// The part of an object that a write of this subresource manages.
fn managed_part(value: &Value, subresource: &str, has_status: bool) -> Value {
    let mut part: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
    part.retain(|field, _| match (field.as_str(), subresource) {
        ("apiVersion" | "kind", _) => false,
        ("status", "") => !has_status,
        (field, "status") => field == "status",
        _ => true,
    });
    // The top-level parts of an object always exist.
    for field in ["metadata", "spec", "status"] {
        part.entry(field).or_insert_with(|| json!({}));
    }
    if let Some(metadata) = part.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !UNMANAGED.contains(&field.as_str()));
    }
    Value::Object(part)
}

/// The entries that a writer sent; none when there are none, or when they cannot be read.
fn sent_entries(value: &Value) -> Option<Vec<Entry>> {
    let readable = |entry: &Value| {
        matches!(text(entry, "/operation"), "Apply" | "Update")
            && text(entry, "/fieldsType") == "FieldsV1"
            && entry["fieldsV1"].is_object()
    };
    let sent = items(value, "/metadata/managedFields");
    (!sent.is_empty() && sent.iter().all(readable)).then(|| entries(value))
}

fn entries(value: &Value) -> Vec<Entry> {
    items(value, "/metadata/managedFields")
        .iter()
        .filter(|entry| !text(entry, "/manager").is_empty())
        .map(|entry| Entry {
            who: Who {
                manager: text(entry, "/manager").to_owned(),
                operation: if text(entry, "/operation") == "Apply" { "Apply" } else { "Update" },
                api_version: text(entry, "/apiVersion").to_owned(),
                subresource: text(entry, "/subresource").to_owned(),
            },
            time: text(entry, "/time").to_owned(),
            fields: Fields::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

fn write_entries(value: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|Entry { who, time, fields }| {
            let mut entry = json!({
                "manager": who.manager, "operation": who.operation, "apiVersion": who.api_version, "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": fields.to_json(),
            });
            if !who.subresource.is_empty() {
                entry["subresource"] = json!(who.subresource);
            }
            entry
        })
        .collect();
    match list.is_empty() {
        true => metadata(value).shift_remove("managedFields"),
        false => metadata(value).insert("managedFields".to_owned(), Value::Array(list)),
    };
}

/// The entry of `who`, made when it is new.
fn entry_of<'a>(entries: &'a mut Vec<Entry>, who: &Who) -> &'a mut Entry {
    let at = entries.iter().position(|e| e.who == *who).unwrap_or_else(|| {
        entries.push(Entry { who: who.clone(), time: object::now(), fields: Fields::default() });
        entries.len() - 1
    });
    &mut entries[at]
}

/// Notes in `new` that `who` changed what differs from `old`. A writer may send the managers so far, and who sends an
/// empty list forgets them.
pub(crate) fn record_update(
    schema: Option<Schema<'_>>,
    old: Option<&Value>,
    new: &mut Value,
    who: &Who,
    has_status: bool,
) {
    let sent = new["metadata"].get("managedFields").and_then(Value::as_array);
    let reset = sent.is_some_and(|list| list.iter().all(|e| text(e, "/manager").is_empty()));
    let known = || sent_entries(new).unwrap_or_else(|| old.map(entries).unwrap_or_default());
    let mut entries = if reset { Vec::new() } else { known() };
    let nothing = json!({});
    let before = managed_part(old.unwrap_or(&nothing), &who.subresource, has_status);
    let changes = fields::compare(schema, &before, &managed_part(new, &who.subresource, has_status));
    if !changes.set.is_empty() || !changes.removed.is_empty() {
        for entry in entries.iter_mut().filter(|e| e.who != *who) {
            entry.fields.subtract(&changes.set);
            entry.fields.subtract_whole(&changes.removed);
        }
        let own = entry_of(&mut entries, who);
        own.fields.subtract_whole(&changes.removed);
        own.fields.add(&changes.set);
        own.time = object::now();
    }
    write_entries(new, &entries);
}

/// What `who` applies to `live` (nothing, for a new object): the merged object with its managers.
pub(crate) fn apply(
    schema: Option<Schema<'_>>,
    live: &Value,
    config: &Value,
    who: &Who,
    force: bool,
    has_status: bool,
) -> Answer<Value> {
    if let Some(why) = ambiguous(schema, config, "") {
        return Err(Failure::bad_request(format!("the configuration cannot be applied: {why}")));
    }
    let part = |value: &Value| managed_part(value, &who.subresource, has_status);
    let mut entries = entries(live);
    let mut new = live.clone();
    merge(schema, &mut new, config);
    let mut applied = fields::of(schema, &part(config));
    applied.children.retain(|_, top| !top.children.is_empty());
    let mut dropped = entry_of(&mut entries, who).fields.clone();
    dropped.subtract(&applied);
    let mut others = Fields::default();
    entries.iter().filter(|e| e.who != *who).for_each(|e| others.add(&e.fields));
    others.add(&applied);
    remove_fields(schema, &mut new, &dropped, Some(&others));
    let changes = fields::compare(schema, &part(live), &part(&new));
    let conflicts: Vec<(Who, Fields)> = entries
        .iter()
        .filter(|e| e.who != *who)
        .map(|e| (e.who.clone(), leaves(e.fields.common(&changes.set))))
        .filter(|(_, common)| !common.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    for entry in entries.iter_mut().filter(|e| e.who != *who) {
        entry.fields.subtract(&changes.set);
        entry.fields.subtract_whole(&changes.removed);
    }
    let own = entry_of(&mut entries, who);
    if own.fields != applied {
        own.fields = applied;
        own.time = object::now();
    }
    write_entries(&mut new, &entries);
    Ok(new)
}

/// The first list that has two items of one key, of which nobody can tell which is meant.
fn ambiguous(schema: Option<Schema<'_>>, value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let schema = schema.and_then(|schema| schema.field(name));
            ambiguous(schema, value, &format!("{path}.{name}"))
        }),
        Value::Array(list) => {
            if let Some(ListType::Map(keys)) = schema.map(|schema| schema.list_type()) {
                let mut seen = BTreeSet::new();
                let twice = list.iter().map(|item| fields::key(&keys, item)).find(|key| !seen.insert(key.clone()));
                if let Some(key) = twice {
                    return Some(format!("{path}: duplicate entries for key {}", fields::step(&key)));
                }
            }
            let items = schema.and_then(|schema| schema.items());
            list.iter().find_map(|item| ambiguous(items, item, path))
        }
        _ => None,
    }
}

/// Of each branch the deepest paths: a container in common is no conflict when something in it is.
fn leaves(mut fields: Fields) -> Fields {
    if !fields.children.is_empty() {
        fields.own = false;
    }
    fields.children = fields.children.into_iter().map(|(element, child)| (element, leaves(child))).collect();
    fields
}

fn conflict(conflicts: &[(Who, Fields)]) -> Failure {
    let (mut causes, mut said) = (Vec::new(), Vec::new());
    for (who, fields) in conflicts {
        let paths = fields.paths();
        let mut by = format!("conflict with {:?}", who.manager);
        if !who.subresource.is_empty() {
            by += &format!(" with subresource {:?}", who.subresource);
        }
        if who.operation == "Update" {
            by += &format!(" using {}", who.api_version);
        }
        said.push(match paths.as_slice() {
            [path] => format!("{by}: {path}"),
            paths => format!("{}:\n- {}", by.replacen("conflict", "conflicts", 1), paths.join("\n- ")),
        });
        causes.extend(paths.iter().map(|path| json!({"reason": "FieldManagerConflict", "message": by, "field": path})));
    }
    let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", causes.len(), said.join("\n"));
    let mut failure = Failure::new(http::StatusCode::CONFLICT, "Conflict", message);
    failure.details = json!({"causes": causes});
    failure
}

/// Lays a configuration over an object by the schema's list types.
fn merge(schema: Option<Schema<'_>>, live: &mut Value, config: &Value) {
    let atomic = schema.is_some_and(|s| s.is_atomic());
    match (&mut *live, config) {
        (Value::Object(live), Value::Object(config)) if !atomic => {
            for (name, value) in config {
                let slot = live.entry(name.as_str()).or_insert(Value::Null);
                merge(schema.and_then(|s| s.field(name)), slot, value);
            }
        }
        (Value::Array(live), Value::Array(config)) => {
            let items = schema.and_then(|s| s.items());
            match schema.map_or(ListType::Atomic, |s| s.list_type()) {
                ListType::Map(keys) => merge_keyed(items, &keys, live, config),
                ListType::Set => live.extend(config.iter().filter(|v| !live.contains(v)).cloned().collect::<Vec<_>>()),
                ListType::Atomic => *live = config.clone(),
            }
        }
        _ => *live = config.clone(),
    }
}

fn merge_keyed(items: Option<Schema<'_>>, keys: &[String], live: &mut Vec<Value>, config: &[Value]) {
    for item in config {
        let key = fields::key(keys, item);
        match live.iter_mut().find(|old| fields::key(keys, old) == key) {
            Some(old) => merge(items, old, item),
            None => live.push(item.clone()),
        }
    }
}

/// Removes these fields, unless somebody else has them or something below them.
fn remove_fields(schema: Option<Schema<'_>>, value: &mut Value, gone: &Fields, others: Option<&Fields>) {
    let items = schema.and_then(|s| s.items());
    let list_type = schema.map_or(ListType::Atomic, |s| s.list_type());
    for (element, gone) in &gone.children {
        let kept = others.and_then(|o| o.children.get(element));
        let whole = gone.own && kept.is_none_or(Fields::is_empty);
        match value {
            Value::Object(map) => {
                let Some(name) = element.strip_prefix("f:") else { continue };
                if whole {
                    map.shift_remove(name);
                } else if let Some(below) = map.get_mut(name) {
                    remove_fields(schema.and_then(|s| s.field(name)), below, gone, kept);
                    // A map or list that only this manager filled goes with the last that was in it.
                    let emptied =
                        below.as_object().is_some_and(Map::is_empty) || below.as_array().is_some_and(Vec::is_empty);
                    if emptied && kept.is_none_or(Fields::is_empty) {
                        map.shift_remove(name);
                    }
                }
            }
            Value::Array(list) => {
                let is_it = |item: &Value| match &list_type {
                    ListType::Map(keys) => fields::key(keys, item) == *element,
                    _ => fields::value(item) == *element,
                };
                if whole {
                    list.retain(|item| !is_it(item));
                } else if let Some(item) = list.iter_mut().find(|item| is_it(item)) {
                    remove_fields(items, item, gone, kept);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(manager: &str, operation: &'static str) -> Who {
        Who { manager: manager.to_owned(), operation, api_version: "apps/v1".to_owned(), subresource: String::new() }
    }

    fn schema() -> Option<Schema<'static>> {
        Schema::builtin("io.k8s.api.apps.v1.Deployment")
    }

    fn deployment(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    #[test]
    fn what_is_no_longer_applied_goes_unless_another_has_it() {
        let first = deployment(json!({"replicas": 2, "minReadySeconds": 5, "paused": true}));
        let live = apply(schema(), &json!({}), &first, &who("a", "Apply"), false, true).expect("applies");
        let mut edited = live.clone();
        edited["spec"]["paused"] = json!(false);
        record_update(schema(), Some(&live), &mut edited, &who("b", "Update"), true);
        let live = apply(schema(), &edited, &deployment(json!({"replicas": 2})), &who("a", "Apply"), false, true)
            .expect("applies");
        assert_eq!(live["spec"], json!({"replicas": 2, "paused": false}));
    }

    #[test]
    fn a_field_that_another_changed_is_a_conflict_until_forced() {
        let config = deployment(json!({"replicas": 2}));
        let live = apply(schema(), &json!({}), &config, &who("a", "Apply"), false, true).expect("applies");
        let mut edited = live.clone();
        edited["spec"]["replicas"] = json!(5);
        record_update(schema(), Some(&live), &mut edited, &who("b", "Update"), true);
        let refused = apply(schema(), &edited, &config, &who("a", "Apply"), false, true).expect_err("a conflict");
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (409, "Apply failed with 1 conflict: conflict with \"b\" using apps/v1: .spec.replicas")
        );
        let forced = apply(schema(), &edited, &config, &who("a", "Apply"), true, true).expect("applies");
        assert_eq!(forced["spec"]["replicas"], 2);
        assert_eq!(entries(&forced).len(), 1);
    }

    #[test]
    fn a_writer_may_hand_the_fields_of_one_manager_to_another() {
        let first = deployment(json!({"replicas": 2, "minReadySeconds": 5}));
        let mut live = first.clone();
        record_update(schema(), None, &mut live, &who("kubectl-client-side-apply", "Update"), true);
        let mut migrated = live.clone();
        migrated["metadata"]["managedFields"][0]["manager"] = json!("kubectl");
        migrated["metadata"]["managedFields"][0]["operation"] = json!("Apply");
        record_update(schema(), Some(&live), &mut migrated, &who("kubectl", "Update"), true);
        let config = deployment(json!({"replicas": 2}));
        let applied = apply(schema(), &migrated, &config, &who("kubectl", "Apply"), false, true).expect("applies");
        assert_eq!(applied["spec"], json!({"replicas": 2}));

        let mut garbled = live.clone();
        garbled["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Steal"}]);
        record_update(schema(), Some(&live), &mut garbled, &who("kubectl", "Update"), true);
        assert_eq!(entries(&garbled), entries(&live));
    }

    #[test]
    fn two_items_of_one_key_cannot_be_applied() {
        let containers = json!([{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]);
        let config = deployment(json!({"template": {"spec": {"containers": containers}}}));
        let refused = apply(schema(), &json!({}), &config, &who("a", "Apply"), false, true).expect_err("refused");
        let said = "the configuration cannot be applied: .spec.template.spec.containers: duplicate entries for key [name=\"a\"]";
        assert_eq!(refused.message, said);
    }

    #[test]
    fn containers_are_told_apart_by_name() {
        let container =
            |name: &str, image: &str| json!({"template": {"spec": {"containers": [{"name": name, "image": image}]}}});
        let live = apply(schema(), &json!({}), &deployment(container("x", "1")), &who("a", "Apply"), false, true)
            .expect("applies");
        let live =
            apply(schema(), &live, &deployment(container("y", "1")), &who("b", "Apply"), false, true).expect("applies");
        let both = items(&live, "/spec/template/spec/containers");
        assert_eq!(both.iter().map(|c| text(c, "/name")).collect::<Vec<_>>(), ["x", "y"]);
        let live = apply(schema(), &live, &deployment(json!({})), &who("a", "Apply"), false, true).expect("applies");
        assert_eq!(live["spec"]["template"]["spec"]["containers"], json!([{"name": "y", "image": "1"}]));
    }

    #[test]
    fn the_same_value_applied_by_two_has_two_managers() {
        let config = deployment(json!({"replicas": 2}));
        let live = apply(schema(), &json!({}), &config, &who("a", "Apply"), false, true).expect("applies");
        let live = apply(schema(), &live, &config, &who("b", "Apply"), false, true).expect("no conflict");
        assert_eq!(entries(&live).len(), 2);
        assert_eq!(live["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    }
}
