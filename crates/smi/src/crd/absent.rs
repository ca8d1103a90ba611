//! Fields that a version does not have, and whose silent loss would grant or select more than was written.
//!
//! An API server drops unknown fields unless the client asks it to be strict. For these fields the schemas carry a
//! rule that refuses them.

use super::build::{Refine, Schema, anything, list};
use crate::Version::{self, V1Alpha1, V1Alpha2, V1Alpha3, V1Alpha4};
use crate::{Kind, path};

/// A field that must not be there.
pub(crate) struct Absent {
    kind: Kind,
    versions: &'static [Version],
    /// The objects that lead to the field.
    parents: &'static [&'static str],
    name: &'static str,
    /// Its type where it was meant.
    type_: &'static str,
    /// What to do instead.
    pub(crate) hint: &'static str,
}

const UNDER_SPEC: &str = "write it under spec; `heddle check --fix` does so";

static ABSENT: &[Absent] = &[
    Absent {
        kind: Kind::TrafficTarget,
        versions: &[V1Alpha3, V1Alpha4],
        parents: &["spec", "destination"],
        name: "port",
        type_: "integer",
        hint: "it ended with v1alpha2; add a rule with a TCPRoute whose matches.ports has the port",
    },
    Absent {
        kind: Kind::TrafficSplit,
        versions: &[V1Alpha1, V1Alpha2],
        parents: &["spec"],
        name: "matches",
        type_: "array",
        hint: "it came with v1alpha3; write the split in that version or a newer one",
    },
    Absent {
        kind: Kind::TcpRoute,
        versions: &[V1Alpha1, V1Alpha2],
        parents: &[],
        name: "spec",
        type_: "object",
        hint: "ports came with v1alpha4; write the route in that version",
    },
    Absent {
        kind: Kind::TcpRoute,
        versions: &[V1Alpha3],
        parents: &["spec"],
        name: "matches",
        type_: "object",
        hint: "ports came with v1alpha4; write the route in that version",
    },
    Absent {
        kind: Kind::HttpRouteGroup,
        versions: &[V1Alpha3, V1Alpha4],
        parents: &[],
        name: "matches",
        type_: "array",
        hint: UNDER_SPEC,
    },
    Absent {
        kind: Kind::TcpRoute,
        versions: &[V1Alpha4],
        parents: &[],
        name: "matches",
        type_: "object",
        hint: UNDER_SPEC,
    },
    Absent {
        kind: Kind::UdpRoute,
        versions: &[V1Alpha4],
        parents: &[],
        name: "matches",
        type_: "object",
        hint: UNDER_SPEC,
    },
];

/// The fields that this version must not have.
pub(crate) fn absent(kind: Kind, version: Version) -> impl Iterator<Item = &'static Absent> {
    ABSENT.iter().filter(move |absent| absent.kind == kind && absent.versions.contains(&version))
}

/// Adds the rules that refuse these fields.
pub(super) fn refuse(kind: Kind, version: Version, root: &mut Schema) {
    for absent in absent(kind, version) {
        let parent = absent.parents.iter().try_fold(&mut *root, |schema, name| {
            schema.properties.as_mut().and_then(|properties| properties.get_mut(*name))
        });
        let Some(parent) = parent else { continue };
        let field = match absent.type_ {
            "array" => list(Schema { type_: Some("object".to_owned()), ..anything() }).items(0, 1024),
            "object" => Schema { type_: Some("object".to_owned()), ..anything() },
            other => Schema { type_: Some(other.to_owned()), ..Schema::default() },
        };
        let about = format!("Not a field of this version: {}.", absent.hint);
        parent.properties.get_or_insert_default().insert(absent.name.to_owned(), field.about(&about));
        let rule = format!("!has(self.{})", absent.name);
        *parent = std::mem::take(parent).rule(&rule, &format!("{} is not a field here: {}", absent.name, absent.hint));
    }
}

// === impl Absent ===

impl Absent {
    /// The field's path.
    pub(crate) fn field(&self) -> String {
        path::key(&self.parents.iter().fold(String::new(), |parent, name| path::key(&parent, name)), self.name)
    }
}
