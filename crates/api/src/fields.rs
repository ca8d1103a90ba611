//! Sets of fields, as `metadata.managedFields` writes them, and what changed between two objects.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{ListType, Schema};

/// A set of fields as a tree. Elements are written `f:NAME`, `k:{"KEY":VALUE}` and `v:VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Whether this very path is in the set.
    pub own: bool,
    pub children: BTreeMap<String, Fields>,
}

/// How one object differs from another.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Added or modified.
    pub set: Fields,
    pub removed: Fields,
}

impl Fields {
    pub(crate) fn from_json(value: &Value) -> Self {
        let mut fields = Fields::default();
        for (element, below) in value.as_object().into_iter().flatten() {
            if element == "." {
                fields.own = true;
                continue;
            }
            let mut child = Fields::from_json(below);
            child.own |= child.children.is_empty();
            fields.children.insert(element.clone(), child);
        }
        fields
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.children.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        map.extend(self.children.iter().map(|(element, child)| (element.clone(), child.to_json())));
        Value::Object(map)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.own && self.children.values().all(Fields::is_empty)
    }

    pub(crate) fn child(&mut self, element: String) -> &mut Fields {
        self.children.entry(element).or_default()
    }

    pub(crate) fn add(&mut self, other: &Fields) {
        self.own |= other.own;
        for (element, child) in &other.children {
            self.child(element.clone()).add(child);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Fields) {
        self.own &= !other.own;
        for (element, child) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.subtract(child);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    /// Takes away these paths and everything below them.
    pub(crate) fn subtract_whole(&mut self, other: &Fields) {
        self.own &= !other.own;
        for (element, child) in &other.children {
            if child.own {
                self.children.remove(element);
            } else if let Some(mine) = self.children.get_mut(element) {
                mine.subtract_whole(child);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    pub(crate) fn common(&self, other: &Fields) -> Fields {
        let children = self.children.iter().filter_map(|(element, child)| {
            let common = child.common(other.children.get(element)?);
            (!common.is_empty()).then(|| (element.clone(), common))
        });
        Fields { own: self.own && other.own, children: children.collect() }
    }

    /// The paths as people read them, such as `.spec.replicas`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, path: &str, paths: &mut Vec<String>) {
        if self.own {
            paths.push(path.to_owned());
        }
        for (element, child) in &self.children {
            child.collect_paths(&format!("{path}{}", step(element)), paths);
        }
    }
}

/// An element as a step of a path.
pub(crate) fn step(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => key_path(keys),
        Some((_, value)) => format!("[={value}]"),
        None => element.to_owned(),
    }
}

fn key_path(keys: &str) -> String {
    let parsed: Value = serde_json::from_str(keys).unwrap_or_default();
    let pairs: Vec<String> = parsed.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    format!("[{}]", pairs.join(","))
}

pub(crate) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The element of an item of a list that merges by these keys.
pub(crate) fn key(keys: &[String], item: &Value) -> String {
    let mut sorted: Vec<&String> = keys.iter().collect();
    sorted.sort();
    let values: Map<String, Value> = sorted
        .into_iter()
        .filter_map(|name| {
            let absent = || (name == "protocol").then(|| json!("TCP"));
            Some((name.clone(), item.get(name).cloned().or_else(absent)?))
        })
        .collect();
    format!("k:{}", Value::Object(values))
}

pub(crate) fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// How a value is made up, by its schema.
enum Shape<'v> {
    Map(&'v Map<String, Value>),
    Keyed(&'v [Value], Vec<String>),
    Set(&'v [Value]),
    /// Replaced as a whole.
    Leaf,
}

fn shape<'v>(schema: Option<Schema<'_>>, value: &'v Value) -> Shape<'v> {
    match value {
        Value::Object(_) if schema.is_some_and(|s| s.is_atomic()) => Shape::Leaf,
        Value::Object(map) => Shape::Map(map),
        Value::Array(items) => match schema.map_or(ListType::Atomic, |s| s.list_type()) {
            ListType::Map(keys) => Shape::Keyed(items, keys),
            ListType::Set => Shape::Set(items),
            ListType::Atomic => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// The parts of a value by element, with their schemas; none for a leaf.
fn parts<'v, 's>(
    schema: Option<Schema<'s>>,
    whole: &'v Value,
) -> Option<BTreeMap<String, (Option<Schema<'s>>, &'v Value)>> {
    let items = schema.and_then(|s| s.items());
    match shape(schema, whole) {
        Shape::Map(map) => {
            Some(map.iter().map(|(name, v)| (field(name), (schema.and_then(|s| s.field(name)), v))).collect())
        }
        Shape::Keyed(list, keys) => Some(list.iter().map(|item| (key(&keys, item), (items, item))).collect()),
        Shape::Set(list) => Some(list.iter().map(|item| (value(item), (None, item))).collect()),
        Shape::Leaf => None,
    }
}

/// The fields that a configuration names: its leaves, empty maps, and items of keyed lists.
pub(crate) fn of(schema: Option<Schema<'_>>, whole: &Value) -> Fields {
    let mut fields = Fields::default();
    match parts(schema, whole) {
        None => fields.own = true,
        Some(parts) if parts.is_empty() => fields.own = true,
        Some(parts) => {
            for (element, (schema, part)) in parts {
                let mut child = of(schema, part);
                child.own |= element.starts_with("k:");
                fields.children.insert(element, child);
            }
        }
    }
    fields
}

/// Every path of a value that comes or goes as a whole.
fn everything(schema: Option<Schema<'_>>, whole: &Value) -> Fields {
    let children = parts(schema, whole).into_iter().flatten();
    Fields {
        own: true,
        children: children.map(|(element, (schema, part))| (element, everything(schema, part))).collect(),
    }
}

/// What `new` changes in `old`.
pub(crate) fn compare(schema: Option<Schema<'_>>, old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    if old == new {
        return changes;
    }
    let (Some(before), Some(after)) = (parts(schema, old), parts(schema, new)) else {
        changes.set.own = true;
        return changes;
    };
    for (element, (schema, part)) in &after {
        match before.get(element) {
            None => {
                changes.set.children.insert(element.clone(), everything(*schema, part));
            }
            Some((_, earlier)) => {
                let below = compare(*schema, earlier, part);
                for (to, from) in [(&mut changes.set, below.set), (&mut changes.removed, below.removed)] {
                    if !from.is_empty() {
                        to.children.insert(element.clone(), from);
                    }
                }
            }
        }
    }
    for (element, (schema, part)) in &before {
        if !after.contains_key(element) {
            changes.removed.children.insert(element.clone(), everything(*schema, part));
        }
    }
    changes
}
