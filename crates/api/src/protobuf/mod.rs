//! Request bodies in Kubernetes' protobuf encoding, which newer Go clients send for built-in types: read by a table of
//! fields into the JSON form that everything else here works on. Answers are always JSON, which those clients accept.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const MAX_DEPTH: usize = 64;

/// `MESSAGE: NUMBER NAME TYPE, ...`. Of a type: `s` string, `i` integer, `b` boolean, `d` double, `y` bytes, `[]` before
/// it a list, `{}` a map by string, `*` optional (its zero means something), `items:` a message that is a list. `^` before
/// a name: the message's fields belong to the object itself.
const FIELDS: &str = include_str!("fields.txt");

static MESSAGES: LazyLock<HashMap<&str, Vec<Field>>> = LazyLock::new(|| FIELDS.lines().filter_map(message).collect());

struct Field {
    number: u32,
    name: &'static str,
    inline: bool,
    kind: &'static str,
}

fn message(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let (name, fields) = line.split_once(": ")?;
    let fields = fields.split(", ").filter_map(|field| {
        let mut words = field.split(' ');
        let (number, name, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        Some(Field { number, name: name.trim_start_matches('^'), inline: name.starts_with('^'), kind })
    });
    Some((name, fields.collect()))
}

/// Why a body cannot be read.
type Mistake = &'static str;

const SHORT: Mistake = "the protobuf body is cut short";

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order they come.
fn wire(mut bytes: &[u8]) -> Result<Vec<(u32, Wire<'_>)>, Mistake> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a protobuf field number is too large")?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Number(u64::from_le_bytes(take(&mut bytes, 8)?.try_into().map_err(|_| SHORT)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| SHORT)?;
                Wire::Bytes(take(&mut bytes, length)?)
            }
            5 => Wire::Number(u64::from(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().map_err(|_| SHORT)?))),
            _ => return Err("the protobuf body has an unknown wire type"),
        };
        fields.push((number, value));
    }
    Ok(fields)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Mistake> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a protobuf number is too long")
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Mistake> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(SHORT)?;
    *bytes = rest;
    Ok(taken)
}

/// The object in a body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Mistake> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body does not begin as Kubernetes' protobuf does")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in wire(envelope)? {
        let Wire::Bytes(bytes) = value else { continue };
        match number {
            1 => {
                for (number, value) in wire(bytes)? {
                    if let Wire::Bytes(bytes) = value {
                        *(if number == 1 { &mut api_version } else { &mut kind }) = string(bytes)?;
                    }
                }
            }
            2 => raw = bytes,
            _ => {}
        }
    }
    let message = message_name(&api_version, &kind);
    let mut object = decode_message(
        MESSAGES
            .get_key_value(message.as_str())
            .map(|(name, _)| *name)
            .ok_or("this kind is not known in protobuf here; send it as application/json")?,
        raw,
        0,
    )?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

fn message_name(api_version: &str, kind: &str) -> String {
    if matches!(kind, "DeleteOptions" | "CreateOptions" | "PatchOptions" | "UpdateOptions") {
        return format!("meta.v1.{kind}");
    }
    let (group, version) = super::resource::split_api_version(api_version);
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    format!("{group}.{version}.{kind}")
}

fn string(bytes: &[u8]) -> Result<String, Mistake> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a protobuf string is not UTF-8")
}

fn decode_message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Mistake> {
    if depth > MAX_DEPTH {
        return Err("the protobuf body is nested too deeply");
    }
    let fields = MESSAGES.get(name).map(Vec::as_slice).unwrap_or_default();
    let mut object = Map::new();
    for (number, value) in wire(bytes)? {
        let Some(field) = fields.iter().find(|f| f.number == number) else { continue };
        add_field(&mut object, field, &value, depth)?;
    }
    Ok(object)
}

fn add_field(object: &mut Map<String, Value>, field: &Field, value: &Wire<'_>, depth: usize) -> Result<(), Mistake> {
    if let Some(kind) = field.kind.strip_prefix("[]") {
        let item = decode_value(kind, value, depth)?;
        let list = object.entry(field.name).or_insert_with(|| json!([]));
        list.as_array_mut().into_iter().for_each(|list| list.push(item.clone()));
        return Ok(());
    }
    if let Some(kind) = field.kind.strip_prefix("{}") {
        let Wire::Bytes(entry) = value else { return Err("a protobuf map has no entries") };
        let (mut key, mut item) = (String::new(), None);
        for (number, value) in wire(entry)? {
            match (number, &value) {
                (1, Wire::Bytes(bytes)) => key = string(bytes)?,
                (2, value) => item = Some(decode_value(kind, value, depth)?),
                _ => {}
            }
        }
        let map = super::object::as_map(object.entry(field.name).or_insert_with(|| json!({})));
        map.insert(key, item.unwrap_or_else(|| if kind == "s" || kind == "y" { json!("") } else { Value::Null }));
        return Ok(());
    }
    let kind = field.kind.trim_start_matches('*');
    let value = decode_value(kind, value, depth)?;
    let optional = field.kind.starts_with('*');
    match value {
        Value::Object(inner) if field.inline => object.extend(inner),
        Value::Null => {}
        value if !optional && is_zero(&value) => {}
        value => {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(())
}

/// What a client leaves out in JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn decode_value(kind: &str, value: &Wire<'_>, depth: usize) -> Result<Value, Mistake> {
    let bytes = match value {
        Wire::Number(number) => {
            return Ok(match kind {
                "b" => json!(*number != 0),
                "d" => json!(f64::from_bits(*number)),
                // Negative numbers are sent as the 64 bits of the integer.
                _ => json!(number.cast_signed()),
            });
        }
        Wire::Bytes(bytes) => *bytes,
    };
    if let Some(item) = kind.strip_prefix("items:") {
        let items = wire(bytes)?.into_iter().map(|(_, value)| decode_value(item, &value, depth + 1));
        return Ok(Value::Array(items.collect::<Result<_, _>>()?));
    }
    match kind {
        "s" => Ok(json!(string(bytes)?)),
        "y" => Ok(json!(base64::engine::general_purpose::STANDARD.encode(bytes))),
        "time" => time(bytes, false),
        "microtime" => time(bytes, true),
        "quantity" => text_field(bytes),
        "raw" => match wire(bytes)?.into_iter().find_map(|(number, value)| match value {
            Wire::Bytes(raw) if number == 1 => Some(raw),
            _ => None,
        }) {
            Some(raw) => serde_json::from_slice(raw).map_err(|_| "JSON inside of the protobuf body cannot be read"),
            None => Ok(Value::Null),
        },
        "intstr" => int_or_string(bytes),
        // An object, or something simpler.
        "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            let mut either = decode_message(kind, bytes, depth + 1)?;
            let other = ["allows", "jSONSchemas", "property"].iter().find_map(|name| either.shift_remove(*name));
            Ok(either.shift_remove("schema").or(other).unwrap_or(Value::Bool(false)))
        }
        message => Ok(Value::Object(decode_message(message, bytes, depth + 1)?)),
    }
}

fn text_field(bytes: &[u8]) -> Result<Value, Mistake> {
    match wire(bytes)?.first() {
        Some((1, Wire::Bytes(text))) => Ok(json!(string(text)?)),
        _ => Ok(json!("0")),
    }
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Mistake> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (field, value) in wire(bytes)? {
        match (field, value) {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = string(value)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

/// Seconds and nanoseconds; an empty message is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Mistake> {
    let fields = wire(bytes)?;
    let number = |wanted: u32| {
        fields.iter().find_map(|(field, value)| match value {
            Wire::Number(number) if *field == wanted => Some(number.cast_signed()),
            _ => None,
        })
    };
    let Some(seconds) = number(1) else { return Ok(Value::Null) };
    let nanos = i32::try_from(number(2).unwrap_or_default()).unwrap_or_default();
    let at =
        jiff::Timestamp::new(seconds, if micro { nanos } else { 0 }).map_err(|_| "a protobuf time is out of range")?;
    Ok(json!(if micro { at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string() } else { super::object::time(at) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, inner.len() as u8];
        out.extend(inner);
        out
    }

    #[test]
    fn a_config_map_is_read_with_its_metadata_and_data() {
        let kind = [bytes(1, b"v1"), bytes(2, b"ConfigMap")].concat();
        // ObjectMeta: name, an empty namespace and a zero creation time, as clients send them.
        let metadata = [bytes(1, b"settings"), bytes(3, b""), bytes(8, b"")].concat();
        let entry = [bytes(1, b"colour"), bytes(2, b"blue")].concat();
        let object = [bytes(1, &metadata), bytes(2, &entry)].concat();
        let body = [MAGIC.to_vec(), bytes(1, &kind), bytes(2, &object)].concat();
        let wanted = json!({
            "metadata": {"name": "settings"}, "data": {"colour": "blue"}, "apiVersion": "v1", "kind": "ConfigMap",
        });
        assert_eq!(decode(&body), Ok(wanted));
    }

    #[test]
    fn bodies_that_are_cut_short_are_refused() {
        assert!(decode(b"k8s\0\x0a\x7f").is_err());
        assert!(decode(b"{}").is_err());
    }

    #[test]
    fn every_message_a_field_names_is_in_the_table() {
        const OWN: &[&str] = &["s", "i", "b", "y", "d", "time", "microtime", "quantity", "raw", "intstr"];
        for field in MESSAGES.values().flatten() {
            let kind = field.kind.trim_start_matches(['*', '[', ']', '{', '}']).trim_start_matches("items:");
            assert!(OWN.contains(&kind) || MESSAGES.contains_key(kind), "{} {}", field.name, field.kind);
        }
    }
}
