//! Strategic merge patches: lists of objects merge by key, with `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder`
//! and `$retainKeys`.

use serde_json::{Map, Value};

use super::error::{Answer, Failure};
use super::schema::Schema;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target` by the schema.
pub(crate) fn merge(schema: Option<Schema<'_>>, target: &mut Value, patch: &Value) -> Answer<()> {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_object(schema, target, patch),
        (target, patch) => {
            *target = without_directives(patch);
            Ok(())
        }
    }
}

fn merge_object(schema: Option<Schema<'_>>, target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Answer<()> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("replace") => {
            *target = patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Failure::bad_request(format!("unknown patch type found: {other}"))),
    }
    if let Some(kept) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
        target.retain(|field, _| kept.iter().any(|k| k.as_str() == Some(field)));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(target, list, value);
        } else if !field.starts_with('$') {
            merge_field(schema.and_then(|s| s.field(field)), target, field, value)?;
        }
    }
    for (field, order) in patch {
        if let Some(list) = field.strip_prefix(ELEMENT_ORDER) {
            let key =
                schema.and_then(|s| s.field(list)).map(|s| s.text("x-kubernetes-patch-merge-key")).unwrap_or_default();
            set_order(target, list, key, order);
        }
    }
    Ok(())
}

fn delete_primitives(target: &mut Map<String, Value>, list: &str, gone: &Value) {
    if let (Some(items), Some(gone)) = (target.get_mut(list).and_then(Value::as_array_mut), gone.as_array()) {
        items.retain(|item| !gone.contains(item));
    }
}

fn merge_field(schema: Option<Schema<'_>>, target: &mut Map<String, Value>, field: &str, patch: &Value) -> Answer<()> {
    if patch.is_null() {
        target.shift_remove(field);
        return Ok(());
    }
    let strategy = schema.map(|s| s.text("x-kubernetes-patch-strategy")).unwrap_or_default();
    let merges = strategy.split(',').any(|s| s == "merge");
    match (target.get_mut(field), patch) {
        (Some(Value::Object(old)), Value::Object(patch)) if strategy != "replace" => {
            merge_object(schema, old, patch)?;
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                target.shift_remove(field);
            }
        }
        (Some(Value::Array(old)), Value::Array(patch)) if merges => merge_list(schema, old, patch)?,
        (None, Value::Array(patch)) if merges => {
            let mut list = Vec::new();
            merge_list(schema, &mut list, patch)?;
            target.insert(field.to_owned(), Value::Array(list));
        }
        _ => {
            target.insert(field.to_owned(), without_directives(patch));
        }
    }
    Ok(())
}

fn merge_list(schema: Option<Schema<'_>>, target: &mut Vec<Value>, patch: &[Value]) -> Answer<()> {
    let key = schema.map(|s| s.text("x-kubernetes-patch-merge-key")).unwrap_or_default();
    if patch.iter().any(|item| item[DIRECTIVE] == "replace") {
        *target = patch.iter().filter(|item| item[DIRECTIVE] != "replace").map(without_directives).collect();
        return Ok(());
    }
    for item in patch {
        if !item.is_object() {
            if !target.contains(item) {
                target.push(item.clone());
            }
            continue;
        }
        let id = &item[key];
        if id.is_null() {
            return Err(Failure::bad_request(format!("map: {item} does not contain declared merge key: {key}")));
        }
        let place = target.iter().position(|old| old[key] == *id);
        match (place, item[DIRECTIVE].as_str()) {
            (_, Some("delete")) => target.retain(|old| old[key] != *id),
            (Some(at), _) => merge(schema.and_then(|s| s.items()), &mut target[at], item)?,
            (None, _) => target.push(without_directives(item)),
        }
    }
    Ok(())
}

/// Puts the listed elements in the listed order; the others keep their place after those before them.
fn set_order(target: &mut Map<String, Value>, list: &str, key: &str, order: &Value) {
    let (Some(items), Some(order)) = (target.get_mut(list).and_then(Value::as_array_mut), order.as_array()) else {
        return;
    };
    let rank = |item: &Value| {
        order.iter().position(|wanted| {
            if key.is_empty() || !item.is_object() { wanted == item } else { wanted[key] == item[key] }
        })
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        last = rank(&item).unwrap_or(last);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

/// A value that is new in the object: directives and nulls have nothing to act on.
fn without_directives(patch: &Value) -> Value {
    match patch {
        Value::Object(map) => {
            let fields = map.iter().filter(|(field, value)| !field.starts_with('$') && !value.is_null());
            Value::Object(fields.map(|(field, value)| (field.clone(), without_directives(value))).collect())
        }
        Value::Array(items) => {
            Value::Array(items.iter().filter(|item| item[DIRECTIVE] != "delete").map(without_directives).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(kind: &str, target: Value, patch: Value) -> Value {
        let mut target = target;
        merge(Schema::builtin(kind), &mut target, &patch).expect("a patch that applies");
        target
    }

    const POD: &str = "io.k8s.api.core.v1.Pod";

    #[test]
    fn containers_merge_by_name_and_can_be_deleted() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        let wanted = json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]}});
        assert_eq!(merged(POD, pod, patch), wanted);
    }

    #[test]
    fn element_order_is_that_of_the_directive() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]}});
        let wanted = json!({"spec": {"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}});
        assert_eq!(merged(POD, pod, patch), wanted);
    }

    #[test]
    fn retain_keys_drops_the_other_volume_source() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}});
        assert_eq!(merged(POD, pod, patch), json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}}));
    }

    #[test]
    fn finalizers_are_a_set_and_nulls_delete() {
        let pod = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null}}});
        assert_eq!(merged(POD, pod, patch), json!({"metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}}}));
    }

    #[test]
    fn lists_without_a_merge_key_are_replaced() {
        let pod = json!({"spec": {"containers": [{"name": "a", "args": ["1", "2"]}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "args": ["3"]}]}});
        assert_eq!(merged(POD, pod, patch), json!({"spec": {"containers": [{"name": "a", "args": ["3"]}]}}));
    }
}
