//! Fields that a version does not have, and whose silent loss would grant or select more than was written.
//!
//! An API server drops unknown fields unless the client asks it to be strict. For these fields the schemas carry a
//! rule that refuses them: fields of other versions, of other places, of similar kinds, and misspelt ones.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray;

use super::build::{Refine, Schema, anything, list, string};
use crate::Kind;
use crate::Version::{self, V1Alpha1, V1Alpha2, V1Alpha3, V1Alpha4};

/// A field that must not be there.
pub(crate) struct Absent {
    kind: Kind,
    versions: &'static [Version],
    /// The path of the objects that have the field. A list is passed by `[]`: `spec.rules[]`.
    parent: &'static str,
    name: &'static str,
    /// What it was where it was meant.
    type_: Type,
    /// What to do instead.
    pub(crate) hint: &'static str,
}

/// The types of fields that must not be there.
#[derive(Clone, Copy)]
enum Type {
    Integer,
    String,
    Strings,
    Object,
    Objects,
}

const UNDER_SPEC: &str = "write it under spec; `heddle check --fix` does so";
const PORTS_CAME: &str = "ports came with v1alpha4; write the route in that version";
const METHODS: &str = "did you mean `methods`?";
const PATH_REGEX: &str = "did you mean `pathRegex`?";
const PATH_PREFIX: &str = "write it as `pathRegex`, which is anchored at its start only";
const HEADERS: &str = "did you mean `headers`?";
const MATCHES: &str = "did you mean `matches`?";
const PORTS: &str = "did you mean `ports`, a list?";
const SOURCE_PORT: &str = "a port belongs to the destination";

/// The versions whose HTTPRouteGroups have no `spec`.
const FLAT: &[Version] = &[V1Alpha1, V1Alpha2];
const WITH_SPEC: &[Version] = &[V1Alpha3, V1Alpha4];

static ABSENT: &[Absent] = &[
    field(
        Kind::TrafficTarget,
        WITH_SPEC,
        "spec.destination",
        "port",
        Type::Integer,
        "it ended with v1alpha2; add a rule with a TCPRoute whose matches.ports has the port",
    ),
    field(Kind::TrafficTarget, &[V1Alpha1], "sources[]", "port", Type::Integer, SOURCE_PORT),
    field(Kind::TrafficTarget, &[V1Alpha2], "spec.sources[]", "port", Type::Integer, SOURCE_PORT),
    field(Kind::TrafficTarget, &[V1Alpha1], "specs[]", "match", Type::Strings, MATCHES),
    field(Kind::TrafficTarget, &[V1Alpha2, V1Alpha3, V1Alpha4], "spec.rules[]", "match", Type::Strings, MATCHES),
    field(
        Kind::IdentityBinding,
        &[V1Alpha4],
        "spec.schemes.podLabelSelector",
        "matchExpressions",
        Type::Objects,
        "pods are selected by matchLabels alone",
    ),
    field(
        Kind::TrafficSplit,
        &[V1Alpha1, V1Alpha2],
        "spec",
        "matches",
        Type::Objects,
        "it came with v1alpha3; write the split in that version or a newer one",
    ),
    field(
        Kind::TrafficSplit,
        &[V1Alpha1, V1Alpha2],
        "",
        "matches",
        Type::Objects,
        "it came with v1alpha3, under spec; write the split in that version or a newer one",
    ),
    field(Kind::TrafficSplit, WITH_SPEC, "", "matches", Type::Objects, UNDER_SPEC),
    field(
        Kind::TrafficSplit,
        &[V1Alpha1, V1Alpha2],
        "spec",
        "match",
        Type::Objects,
        "matches came with v1alpha3; write the split in that version or a newer one",
    ),
    field(Kind::TrafficSplit, WITH_SPEC, "spec", "match", Type::Objects, MATCHES),
    field(Kind::TcpRoute, &[V1Alpha1, V1Alpha2], "", "spec", Type::Object, PORTS_CAME),
    field(Kind::TcpRoute, &[V1Alpha3], "spec", "matches", Type::Object, PORTS_CAME),
    field(Kind::TcpRoute, &[V1Alpha4], "", "matches", Type::Object, UNDER_SPEC),
    field(Kind::TcpRoute, &[V1Alpha4], "spec.matches", "port", Type::Integer, PORTS),
    field(Kind::UdpRoute, &[V1Alpha4], "", "matches", Type::Object, UNDER_SPEC),
    field(Kind::UdpRoute, &[V1Alpha4], "spec.matches", "port", Type::Integer, PORTS),
    field(Kind::HttpRouteGroup, WITH_SPEC, "", "matches", Type::Objects, UNDER_SPEC),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "method", Type::Strings, METHODS),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "pathregex", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "pathRegexp", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "path", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "pathPrefix", Type::String, PATH_PREFIX),
    field(Kind::HttpRouteGroup, FLAT, "matches[]", "header", Type::Object, HEADERS),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "method", Type::Strings, METHODS),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "pathregex", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "pathRegexp", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "path", Type::String, PATH_REGEX),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "pathPrefix", Type::String, PATH_PREFIX),
    field(Kind::HttpRouteGroup, WITH_SPEC, "spec.matches[]", "header", Type::Object, HEADERS),
];

const fn field(
    kind: Kind,
    versions: &'static [Version],
    parent: &'static str,
    name: &'static str,
    type_: Type,
    hint: &'static str,
) -> Absent {
    Absent { kind, versions, parent, name, type_, hint }
}

/// The fields that this version must not have.
pub(crate) fn absent(kind: Kind, version: Version) -> impl Iterator<Item = &'static Absent> {
    ABSENT.iter().filter(move |absent| absent.kind == kind && absent.versions.contains(&version))
}

/// Adds the rules that refuse these fields.
pub(super) fn refuse(kind: Kind, version: Version, root: &mut Schema) {
    for absent in absent(kind, version) {
        let Some(parent) = absent.parent_in(root) else { continue };
        let about = format!("Not a field here: {}.", absent.hint.trim_end_matches('?'));
        let field = absent.type_.schema().about(&about);
        parent.properties.get_or_insert_default().insert(absent.name.to_owned(), field);
        let rule = format!("!has(self.{})", absent.name);
        *parent = std::mem::take(parent).rule(&rule, &format!("{} is not a field here: {}", absent.name, absent.hint));
    }
}

// === impl Absent ===

impl Absent {
    /// Whether this is the field at a path, whose lists have indexes.
    pub(crate) fn is_at(&self, field: &str) -> bool {
        let parent = match field.rsplit_once('.') {
            Some((parent, name)) if name == self.name => parent,
            None if field == self.name => "",
            _ => return false,
        };
        let (names, wanted) = (parent.split('.'), self.parent.split('.'));
        names.clone().count() == wanted.clone().count() && names.zip(wanted).all(|(name, wanted)| is_step(name, wanted))
    }

    /// Whether the field belongs under `spec`, as it stands.
    pub(crate) fn is_under_spec(&self) -> bool {
        self.hint == UNDER_SPEC
    }

    /// The schema of the objects that have the field.
    fn parent_in<'a>(&self, root: &'a mut Schema) -> Option<&'a mut Schema> {
        let mut names = self.parent.split('.').filter(|name| !name.is_empty());
        names.try_fold(root, |schema, name| match name.strip_suffix("[]") {
            Some(name) => schema.properties.as_mut()?.get_mut(name).and_then(items),
            None => schema.properties.as_mut()?.get_mut(name),
        })
    }
}

/// Whether a step of a path is the wanted one: `rules[3]` is `rules[]`.
fn is_step(name: &str, wanted: &str) -> bool {
    match wanted.strip_suffix("[]") {
        Some(wanted) => name.split_once('[').is_some_and(|(name, _)| name == wanted),
        None => name == wanted,
    }
}

fn items(list: &mut Schema) -> Option<&mut Schema> {
    match &mut list.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

// === impl Type ===

impl Type {
    fn schema(self) -> Schema {
        let typed = |name: &str| Schema { type_: Some(name.to_owned()), ..anything() };
        match self {
            Self::Integer => Schema { type_: Some("integer".to_owned()), ..Schema::default() },
            Self::String => string(),
            Self::Strings => list(string()).items(0, 1024),
            Self::Object => typed("object"),
            Self::Objects => list(typed("object")).items(0, 1024),
        }
    }
}
