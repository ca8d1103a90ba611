//! Reading and editing an object's metadata in its JSON form.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The string at `pointer` (RFC 6901), or "".
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at `pointer`, or an empty one.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The integer at `pointer`.
pub(crate) fn integer(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

pub(crate) fn finalizers(value: &Value) -> &[Value] {
    items(value, "/metadata/finalizers")
}

pub(crate) fn is_deleting(value: &Value) -> bool {
    !text(value, "/metadata/deletionTimestamp").is_empty()
}

/// `value` as an object, made empty when it is of another type.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made an object above")
}

/// The object at `field` of `parent`, made empty when it is absent or of another type.
pub(crate) fn map_at<'a>(parent: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    as_map(as_map(parent).entry(field).or_insert(Value::Null))
}

pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    map_at(value, "metadata")
}

/// Now, in seconds, as `metav1.Time` is written.
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets `field` when it is absent or null.
pub(crate) fn set_default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Each object of the list at `field`.
pub(crate) fn each(map: &mut Map<String, Value>, field: &str, mut edit: impl FnMut(&mut Map<String, Value>)) {
    let list = map.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&mut edit);
}

/// Copies `field` from `old`, or removes it where `old` has none.
pub(crate) fn keep(new: &mut Map<String, Value>, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
}

/// Five characters that make a name unique enough, from the alphabet Kubernetes uses.
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    random.as_bytes()[..5].iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}
