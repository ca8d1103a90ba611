//! Any resource, read from JSON of any version.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::validate::{Found, http_match, validate};
use crate::{
    Headers, HttpMatch, HttpRouteGroup, IdentityBinding, Invalid, InvalidReason, Kind, MeshConfig, TcpRoute,
    TrafficSplit, TrafficTarget, UdpRoute, Version, convert, crd, path, schema,
};

/// A resource of any kind, in its newest version.
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    TrafficTarget(TrafficTarget),
    IdentityBinding(IdentityBinding),
    HttpRouteGroup(HttpRouteGroup),
    TcpRoute(TcpRoute),
    UdpRoute(UdpRoute),
    TrafficSplit(TrafficSplit),
    MeshConfig(MeshConfig),
}

/// A valid resource, and what is doubtful in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    pub resource: Resource,
    /// The version it was written in.
    pub version: Version,
    /// Mistakes that cost a part of the resource its effect and are no reason to refuse it, such as a source of an
    /// unknown kind (A26).
    pub warnings: Vec<Invalid>,
}

/// Reads an object of any kind and version, converts it to the newest and checks it.
///
/// All that is wrong is reported at once, with the fields of the version it was written in. Of an object that is
/// refused nothing may take effect.
///
/// # Errors
///
/// When the object is of no known kind and version, has another shape, cannot be converted, or says what cannot be.
pub fn parse(value: &Value) -> Result<Parsed, Vec<Invalid>> {
    let (kind, version) = Kind::of(value).map_err(|invalid| vec![invalid])?;
    let errors = check_shape(kind, version, value);
    if !errors.is_empty() {
        return Err(with_patterns(kind, version, value, errors));
    }
    let in_version = |invalid| in_version(kind, version, value, invalid);
    let mut value = value.clone();
    remove_nulls(&mut value);
    convert::to_hub(kind, version, &mut value).map_err(|invalid| vec![in_version(invalid)])?;
    let mut resource = Resource::decode(kind, value).map_err(|invalid| vec![in_version(invalid)])?;
    let mut found = Found::default();
    validate(&mut resource, &mut found);
    if found.errors.is_empty() {
        let warnings = found.warnings.into_iter().map(in_version).collect();
        Ok(Parsed { resource, version, warnings })
    } else {
        Err(found.errors.into_iter().map(in_version).collect())
    }
}

/// The mistakes of a shape, and those of the patterns in it: they are found whatever else is wrong.
fn with_patterns(kind: Kind, version: Version, value: &Value, mut errors: Vec<Invalid>) -> Vec<Invalid> {
    if kind != Kind::HttpRouteGroup {
        return errors;
    }
    let mut found = Found::default();
    for (rule, field) in matches(version, value) {
        let headers = rule.get("headers").and_then(|headers| Headers::from_value(headers, "").ok());
        let pattern = rule.get("pathRegex").and_then(Value::as_str).map(str::to_owned);
        let rule = HttpMatch { path_regex: pattern, headers: headers.unwrap_or_default(), ..HttpMatch::default() };
        http_match(&rule, &field, &mut found);
    }
    for invalid in found.errors {
        let field = in_array(version, value, invalid.field.clone());
        // A pattern may be too long for both.
        if errors.iter().all(|known| known.field != field) {
            errors.push(Invalid { field, ..invalid });
        }
    }
    errors
}

/// Corrects what was commonly written wrong and can only have meant one thing: `matches` outside `spec`. `None` when
/// there is nothing to correct.
pub fn fix(value: &Value) -> Option<Value> {
    let (kind, version) = Kind::of(value).ok()?;
    let under_spec = crd::absent(kind, version).any(|absent| absent.is_under_spec());
    let mut fixed = value.as_object()?.clone();
    let matches = fixed.remove("matches").filter(|_| under_spec)?;
    let spec = fixed.entry("spec").or_insert_with(|| Map::new().into()).as_object_mut()?;
    if spec.contains_key("matches") {
        return None;
    }
    spec.insert("matches".to_owned(), matches);
    Some(fixed.into())
}

/// Checks the fields against the schema of their version.
fn check_shape(kind: Kind, version: Version, value: &Value) -> Vec<Invalid> {
    let mut found = Vec::new();
    let Some(schema) = crd::schema(kind, version) else { return found };
    schema::check(schema, value, "", &mut found);
    // Status is the mesh's own and no reason to refuse what people wrote.
    found.retain(|invalid| invalid.field != "status" && !invalid.field.starts_with("status."));
    for invalid in found.iter_mut().filter(|invalid| invalid.reason == InvalidReason::UnknownField) {
        if let Some(absent) = crd::absent(kind, version).find(|absent| absent.is_at(&invalid.field)) {
            invalid.hint = Some(absent.hint.to_owned());
        }
    }
    let misplaced = found.iter().any(|invalid| invalid.field == "matches");
    let has_spec = value.get("spec").is_some_and(|spec| !spec.is_null());
    if kind.has_spec(version) && !has_spec && !misplaced && found.iter().all(|i| i.field != "spec") {
        found.push(Invalid::new("spec", InvalidReason::Required, "is missing").hint("add `spec` with an object"));
    }
    check_metadata(value, &mut found);
    if kind == Kind::HttpRouteGroup {
        check_headers(version, value, &mut found);
    }
    found
}

fn check_metadata(value: &Value, found: &mut Vec<Invalid>) {
    let Some(metadata) = value.get("metadata").filter(|metadata| !metadata.is_null()) else {
        found.push(Invalid::new("metadata", InvalidReason::Required, "is missing").hint("write metadata.name"));
        return;
    };
    schema::check(crd::metadata(), metadata, "metadata", found);
    if let Some(name) = metadata.get("name").and_then(Value::as_str) {
        if !is_dns_subdomain(name) {
            let invalid = Invalid::new("metadata.name", InvalidReason::Value, format!("`{name}` is no name"));
            found.push(invalid.hint("write lower-case letters, digits, `-` and `.`, at most 253 characters"));
        }
    } else if metadata.get("generateName").is_none_or(Value::is_null) {
        let invalid = Invalid::new("metadata.name", InvalidReason::Required, "is missing");
        found.push(invalid.hint("add `name` with a string"));
    }
}

fn is_dns_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn check_headers(version: Version, value: &Value, found: &mut Vec<Invalid>) {
    for (rule, field) in headers(version, value) {
        found.extend(Headers::from_value(rule, &field).err());
    }
}

/// The headers of every match of a group, each with its path.
fn headers(version: Version, value: &Value) -> impl Iterator<Item = (&Value, String)> {
    matches(version, value).filter_map(|(rule, field)| Some((rule.get("headers")?, path::key(&field, "headers"))))
}

/// The matches of a group, each with its path.
fn matches(version: Version, value: &Value) -> impl Iterator<Item = (&Value, String)> {
    let (holder, field) = match version {
        Version::V1Alpha1 | Version::V1Alpha2 => (value.get("matches"), "matches"),
        _ => (value.get("spec").and_then(|spec| spec.get("matches")), "spec.matches"),
    };
    let matches = holder.and_then(Value::as_array).into_iter().flatten().enumerate();
    matches.map(move |(index, rule)| (rule, path::item(field, index)))
}

/// The field of the newest version that a mistake names, as it stands in the object that was written.
fn in_version(kind: Kind, version: Version, written: &Value, invalid: Invalid) -> Invalid {
    let renamed: &[(&str, &str)] = match (kind, version) {
        (Kind::TrafficTarget, Version::V1Alpha1) => {
            &[("spec.rules", "specs"), ("spec.sources", "sources"), ("spec.destination", "destination")]
        }
        (Kind::HttpRouteGroup, Version::V1Alpha1 | Version::V1Alpha2) => &[("spec.matches", "matches")],
        _ => &[],
    };
    let found = renamed.iter().find_map(|(new, old)| Some((old, invalid.field.strip_prefix(new)?)));
    let field = found.map_or_else(|| invalid.field.clone(), |(old, rest)| format!("{old}{rest}"));
    let field = if kind == Kind::HttpRouteGroup { in_array(version, written, field) } else { field };
    Invalid { field, ..invalid }
}

/// The path of a header, which names no item, as that of the array it may be written in.
fn in_array(version: Version, written: &Value, field: String) -> String {
    let mut found = headers(version, written).filter_map(|(value, at)| {
        let rest = field.strip_prefix(&at).filter(|rest| !rest.is_empty())?;
        let name = rest.strip_prefix('.').or_else(|| rest.strip_prefix('[')?.strip_suffix(']'))?;
        Some(Headers::field(value, &at, name))
    });
    found.next().unwrap_or_else(|| field.clone())
}

/// Removes the nulls of fields, which most clients mean as absent. Those that would cost a restriction, of headers and
/// of labels, were refused before.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

// === impl Resource ===

impl Resource {
    pub fn kind(&self) -> Kind {
        match self {
            Self::TrafficTarget(_) => Kind::TrafficTarget,
            Self::IdentityBinding(_) => Kind::IdentityBinding,
            Self::HttpRouteGroup(_) => Kind::HttpRouteGroup,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::UdpRoute(_) => Kind::UdpRoute,
            Self::TrafficSplit(_) => Kind::TrafficSplit,
            Self::MeshConfig(_) => Kind::MeshConfig,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::TrafficTarget(resource) => &resource.metadata,
            Self::IdentityBinding(resource) => &resource.metadata,
            Self::HttpRouteGroup(resource) => &resource.metadata,
            Self::TcpRoute(resource) => &resource.metadata,
            Self::UdpRoute(resource) => &resource.metadata,
            Self::TrafficSplit(resource) => &resource.metadata,
            Self::MeshConfig(resource) => &resource.metadata,
        }
    }

    /// Decodes an object of the newest version whose shape was checked. Its status is left out.
    fn decode(kind: Kind, mut value: Value) -> Result<Self, Invalid> {
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
            if kind == Kind::MeshConfig {
                object.entry("spec").or_insert_with(|| Map::new().into());
            }
        }
        let decoded = match kind {
            Kind::TrafficTarget => serde_json::from_value(value).map(Self::TrafficTarget),
            Kind::IdentityBinding => serde_json::from_value(value).map(Self::IdentityBinding),
            Kind::HttpRouteGroup => serde_json::from_value(value).map(Self::HttpRouteGroup),
            Kind::TcpRoute => serde_json::from_value(value).map(Self::TcpRoute),
            Kind::UdpRoute => serde_json::from_value(value).map(Self::UdpRoute),
            Kind::TrafficSplit => serde_json::from_value(value).map(Self::TrafficSplit),
            Kind::MeshConfig => serde_json::from_value(value).map(Self::MeshConfig),
        };
        decoded.map_err(|error| Invalid::new("", InvalidReason::Value, error.to_string()))
    }
}
