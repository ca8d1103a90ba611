//! Conversion between the versions of a kind, by way of the newest.
//!
//! What an older version cannot carry is kept in an [annotation] and comes back on the way up. Nothing
//! that restricts a resource is ever dropped: where it can be neither carried nor kept, the conversion is refused.

mod weight;

use serde_json::{Map, Value};

use crate::{Headers, Invalid, InvalidReason, Kind, Version, annotation, path, schema};

/// Converts an object to another version of its kind, such as `split.smi-spec.io/v1alpha2`.
///
/// An object that is of that version already comes back as it is. Status and metadata pass unchanged, but for the
/// annotations under `conversion.heddle.dev/`.
///
/// # Errors
///
/// When the object's kind or version, or the version asked for, is unknown; when a field has another type than in its
/// version; and when an annotation that keeps something cannot be read or does not fit the object any more. Absent
/// fields are no error: server-side apply converts parts of objects too.
pub fn convert(mut value: Value, to_api_version: &str) -> Result<Value, Invalid> {
    let (kind, from) = Kind::of(&value)?;
    let known = kind.versions().iter().copied().find(|version| kind.api_version(*version) == to_api_version);
    let Some(to) = known else {
        let message = format!("{kind} has no version `{to_api_version}`");
        return Err(Invalid::new("apiVersion", InvalidReason::UnknownVersion, message));
    };
    if from == to {
        return Ok(value);
    }
    to_hub(kind, from, &mut value)?;
    from_hub(kind, to, &mut value)?;
    Ok(value)
}

/// Makes an object of version `from` one of the newest version.
pub(crate) fn to_hub(kind: Kind, from: Version, value: &mut Value) -> Result<(), Invalid> {
    let object = object_mut(value, "")?;
    if from != kind.hub() {
        match kind {
            Kind::TrafficTarget => target_up(from, object)?,
            Kind::HttpRouteGroup => group_up(from, object)?,
            Kind::TcpRoute => tcp_route_up(object)?,
            Kind::TrafficSplit => split_up(from, object)?,
            Kind::IdentityBinding | Kind::UdpRoute | Kind::MeshConfig => {}
        }
    }
    object.insert("apiVersion".to_owned(), kind.api_version(kind.hub()).into());
    Ok(())
}

/// Makes an object of the newest version one of version `to`.
fn from_hub(kind: Kind, to: Version, value: &mut Value) -> Result<(), Invalid> {
    let object = object_mut(value, "")?;
    if to != kind.hub() {
        match kind {
            Kind::TrafficTarget => target_down(to, object)?,
            Kind::HttpRouteGroup => group_down(to, object)?,
            Kind::TcpRoute => tcp_route_down(to, object)?,
            Kind::TrafficSplit => split_down(to, object)?,
            Kind::IdentityBinding | Kind::UdpRoute | Kind::MeshConfig => {}
        }
    }
    object.insert("apiVersion".to_owned(), kind.api_version(to).into());
    Ok(())
}

// === TrafficTarget ===

/// The fields of `spec`, and their names in v1alpha1, where they stand at the top.
const TARGET_FIELDS: [(&str, &str); 3] = [("destination", "destination"), ("rules", "specs"), ("sources", "sources")];

fn target_up(from: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    if from == Version::V1Alpha1 {
        let fields = TARGET_FIELDS.iter().filter_map(|(new, old)| Some(((*new).to_owned(), object.remove(*old)?)));
        let spec = fields.collect::<Map<_, _>>();
        new_spec(object, spec)?;
    }
    if from <= Version::V1Alpha2 {
        let Some(spec) = field_mut(object, "spec", "")? else { return Ok(()) };
        for list in ["rules", "sources"] {
            spec.entry(list).or_insert_with(|| Value::Array(Vec::new()));
        }
        let port = field_mut(spec, "destination", "spec")?.and_then(|destination| destination.remove("port"));
        if let Some(port) = port.filter(|port| !port.is_null()) {
            keep_port(object, &port)?;
        }
    }
    Ok(())
}

/// Moves the destination's port to its annotation. An annotation that is there already may not say otherwise: two
/// different ports together would grant nothing.
fn keep_port(object: &mut Map<String, Value>, port: &Value) -> Result<(), Invalid> {
    let port = annotation::port(&port.to_string())
        .map_err(|_| Invalid::new("spec.destination.port", InvalidReason::Value, format!("{port} is not a port")))?;
    match annotation::get(object, annotation::DESTINATION_PORT)? {
        Some(kept) if annotation::port(&kept)? != port => {
            let message = format!("says {kept}, but destination.port is {port}");
            let field = annotation::field(annotation::DESTINATION_PORT);
            Err(Invalid::new(field, InvalidReason::Value, message).hint("remove the annotation, or make them equal"))
        }
        _ => annotation::set(object, annotation::DESTINATION_PORT, &port.to_string()),
    }
}

fn target_down(to: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    // An annotation that is no port stays where it is, and the target grants nothing in any version.
    let kept = annotation::get(object, annotation::DESTINATION_PORT)?.and_then(|text| annotation::port(&text).ok());
    if to <= Version::V1Alpha2
        && let Some(port) = kept
        && let Some(spec) = field_mut(object, "spec", "")?
        && let Some(destination) = field_mut(spec, "destination", "spec")?
    {
        destination.insert("port".to_owned(), port.into());
        annotation::take(object, annotation::DESTINATION_PORT)?;
    }
    if to == Version::V1Alpha1 {
        let mut spec = take_field(object, "spec", "")?;
        for (new, old) in TARGET_FIELDS {
            if let Some(value) = spec.remove(new) {
                object.insert(old.to_owned(), value);
            }
        }
        no_rest(&spec)?;
    }
    Ok(())
}

// === HTTPRouteGroup ===

fn group_up(from: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    if from <= Version::V1Alpha2 {
        let matches = object.remove("matches").map(|matches| ("matches".to_owned(), matches));
        new_spec(object, Map::from_iter(matches))?;
    }
    if from == Version::V1Alpha1
        && let Some(text) = annotation::take(object, annotation::HEADERS)?
    {
        restore_headers(object, &text)?;
    }
    array_headers(matches_mut(object)?);
    Ok(())
}

fn group_down(to: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    array_headers(matches_mut(object)?);
    if to == Version::V1Alpha1 {
        let mut kept = Map::new();
        for (index, rule) in matches_mut(object)?.iter_mut().enumerate() {
            let field = path::item("spec.matches", index);
            let rule = object_mut(rule, &field)?;
            if let Some(headers) = rule.get("headers").cloned() {
                let name = text(rule, "name", &field)?;
                if kept.insert(name.to_owned(), headers).is_some() {
                    let message = format!("there are two matches `{name}`");
                    return Err(Invalid::new(path::key(&field, "name"), InvalidReason::Duplicate, message));
                }
            }
        }
        annotation::keep(object, annotation::HEADERS, (!kept.is_empty()).then(|| kept.into()))?;
    }
    if to <= Version::V1Alpha2 {
        let mut spec = take_field(object, "spec", "")?;
        if let Some(matches) = spec.remove("matches") {
            object.insert("matches".to_owned(), matches);
        }
        no_rest(&spec)?;
    }
    Ok(())
}

/// Gives the matches that say nothing of headers those that are kept for them: v1alpha1 has no headers in its types,
/// and a client built on them drops the field. A match that has the field, be it empty, has what it says.
///
/// Kept headers whose match is not there may be those of a match that got another name and lost them: refused.
fn restore_headers(object: &mut Map<String, Value>, text_of_all: &str) -> Result<(), Invalid> {
    let field = annotation::field(annotation::HEADERS);
    let refused = |message: String| {
        Invalid::new(&field, InvalidReason::Value, message)
            .hint("write the headers of every match, `[]` for none, or correct the annotation")
    };
    let Ok(Value::Object(mut kept)) = serde_json::from_str(text_of_all) else {
        return Err(refused("is not a JSON object of headers by match".to_owned()));
    };
    let mut some_lack = false;
    for (index, rule) in matches_mut(object)?.iter_mut().enumerate() {
        let at = path::item("spec.matches", index);
        let rule = object_mut(rule, &at)?;
        let headers = kept.remove(text(rule, "name", &at)?);
        if rule.get("headers").is_some_and(|own| !own.is_null()) {
            continue;
        }
        some_lack = true;
        if let Some(headers) = headers {
            let headers = Headers::from_value(&headers, "").map_err(|invalid| refused(invalid.message))?;
            rule.insert("headers".to_owned(), headers.to_value());
        }
    }
    match kept.keys().next() {
        Some(name) if some_lack => Err(refused(format!("keeps headers of the match `{name}`, which is not there"))),
        _ => Ok(()),
    }
}

/// Writes all headers as arrays. What is not headers is left for [`parse`](crate::parse) to complain about: a stored
/// object must stay readable in every version.
fn array_headers(matches: &mut [Value]) {
    for rule in matches {
        let Some(rule) = rule.as_object_mut() else { continue };
        let headers = rule.get("headers").map(|headers| Headers::from_value(headers, ""));
        match headers {
            Some(Ok(headers)) if headers.is_empty() => rule.remove("headers"),
            Some(Ok(headers)) => rule.insert("headers".to_owned(), headers.to_value()),
            Some(Err(_)) | None => None,
        };
    }
}

/// The matches of a group; none when there is no list of them.
fn matches_mut(object: &mut Map<String, Value>) -> Result<&mut [Value], Invalid> {
    match field_mut(object, "spec", "")?.and_then(|spec| spec.get_mut("matches")) {
        Some(Value::Array(matches)) => Ok(matches),
        Some(Value::Null) | None => Ok(&mut []),
        Some(_) => Err(Invalid::new("spec.matches", InvalidReason::Type, "must be a list")),
    }
}

// === TCPRoute ===

fn tcp_route_up(object: &mut Map<String, Value>) -> Result<(), Invalid> {
    let kept = kept_matches(object, Kind::TcpRoute)?;
    let matches = kept.unwrap_or_else(|| serde_json::json!({ "ports": [] }));
    // An older version has nothing in `spec`; what is there nevertheless must not vanish.
    no_rest(&object.remove("spec").and_then(|spec| spec.as_object().cloned()).unwrap_or_default())?;
    object.insert("spec".to_owned(), serde_json::json!({ "matches": matches }));
    Ok(())
}

fn tcp_route_down(to: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    let mut spec = take_field(object, "spec", "")?;
    let matches = spec.remove("matches").filter(|matches| *matches != serde_json::json!({ "ports": [] }));
    no_rest(&spec)?;
    annotation::keep(object, annotation::MATCHES, matches)?;
    if to == Version::V1Alpha3 {
        object.insert("spec".to_owned(), Map::new().into());
    }
    Ok(())
}

// === TrafficSplit ===

fn split_up(from: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    if from == Version::V1Alpha1 {
        weight::up(object)?;
    }
    if from <= Version::V1Alpha2
        && let Some(matches) = kept_matches(object, Kind::TrafficSplit)?
    {
        let spec = object_mut(object.entry("spec").or_insert_with(|| Map::new().into()), "spec")?;
        if spec.insert("matches".to_owned(), matches).is_some() {
            return Err(Invalid::new("spec.matches", InvalidReason::UnknownField, "is not a field of this version"));
        }
    }
    Ok(())
}

fn split_down(to: Version, object: &mut Map<String, Value>) -> Result<(), Invalid> {
    if to <= Version::V1Alpha2 {
        let matches = field_mut(object, "spec", "")?.and_then(|spec| spec.remove("matches"));
        let empty = |matches: &Value| matches.is_null() || matches.as_array().is_some_and(Vec::is_empty);
        annotation::keep(object, annotation::MATCHES, matches.filter(|matches| !empty(matches)))?;
    }
    if to == Version::V1Alpha1 {
        weight::down(object)?;
    }
    Ok(())
}

// === parts ===

/// Takes the `spec.matches` that an annotation keeps, and checks that it is one of the newest version.
fn kept_matches(object: &mut Map<String, Value>, kind: Kind) -> Result<Option<Value>, Invalid> {
    let Some(text) = annotation::take(object, annotation::MATCHES)? else { return Ok(None) };
    let field = annotation::field(annotation::MATCHES);
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Invalid::new(&field, InvalidReason::Value, format!("is not JSON: {error}")))?;
    let properties = crate::crd::schema(kind, kind.hub()).and_then(|root| root.properties.as_ref());
    let spec = properties.and_then(|root| root.get("spec")).and_then(|spec| spec.properties.as_ref());
    let mut found = Vec::new();
    if let Some(schema) = spec.and_then(|spec| spec.get("matches")) {
        schema::check(schema, &value, &field, &mut found);
    }
    match found.into_iter().next() {
        Some(invalid) => Err(invalid.hint("correct or remove the annotation, or write the newest version")),
        None => Ok(Some(value)),
    }
}

/// Refuses fields that no version knows, rather than losing them.
fn no_rest(rest: &Map<String, Value>) -> Result<(), Invalid> {
    match rest.keys().next() {
        Some(name) => Err(Invalid::new(path::key("spec", name), InvalidReason::UnknownField, "cannot be converted")),
        None => Ok(()),
    }
}

/// Puts the fields of an older version under `spec`, which that version does not have.
fn new_spec(object: &mut Map<String, Value>, spec: Map<String, Value>) -> Result<(), Invalid> {
    match object.insert("spec".to_owned(), spec.into()) {
        Some(_) => Err(Invalid::new("spec", InvalidReason::UnknownField, "is not a field of this version")),
        None => Ok(()),
    }
}

pub(crate) fn object_mut<'a>(value: &'a mut Value, field: &str) -> Result<&'a mut Map<String, Value>, Invalid> {
    value.as_object_mut().ok_or_else(|| Invalid::new(field, InvalidReason::Type, "must be an object"))
}

/// The object in a field of an object, if the field is there.
fn field_mut<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
    parent: &str,
) -> Result<Option<&'a mut Map<String, Value>>, Invalid> {
    let value = object.get_mut(name).filter(|value| !value.is_null());
    value.map(|value| object_mut(value, &path::key(parent, name))).transpose()
}

/// Takes the object out of a field of an object; an empty one if the field is not there.
fn take_field(object: &mut Map<String, Value>, name: &str, parent: &str) -> Result<Map<String, Value>, Invalid> {
    let taken = field_mut(object, name, parent)?.map(std::mem::take).unwrap_or_default();
    object.remove(name);
    Ok(taken)
}

fn text<'a>(object: &'a Map<String, Value>, name: &str, parent: &str) -> Result<&'a str, Invalid> {
    let text = object.get(name).and_then(Value::as_str);
    text.ok_or_else(|| Invalid::new(path::key(parent, name), InvalidReason::Required, "is missing"))
}
