//! The kinds and versions there are.

use std::fmt;

use serde_json::Value;

use crate::path::closest;
use crate::{Invalid, InvalidReason};

/// The kinds that are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    TrafficTarget,
    IdentityBinding,
    HttpRouteGroup,
    TcpRoute,
    UdpRoute,
    TrafficSplit,
    MeshConfig,
}

/// A version of SMI's groups, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Version {
    V1Alpha1,
    V1Alpha2,
    V1Alpha3,
    V1Alpha4,
}

/// How a kind is called in the Kubernetes API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names {
    pub group: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static str,
    pub namespaced: bool,
}

// === impl Kind ===

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::TrafficTarget,
        Self::IdentityBinding,
        Self::HttpRouteGroup,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::TrafficSplit,
        Self::MeshConfig,
    ];

    pub const fn names(self) -> Names {
        const fn smi(
            group: &'static str,
            kind: &'static str,
            plural: &'static str,
            singular: &'static str,
            short: &'static str,
        ) -> Names {
            Names { group, kind, plural, singular, short, namespaced: true }
        }
        match self {
            Self::TrafficTarget => smi("access.smi-spec.io", "TrafficTarget", "traffictargets", "traffictarget", "tt"),
            Self::IdentityBinding => {
                smi("access.smi-spec.io", "IdentityBinding", "identitybindings", "identitybinding", "ib")
            }
            Self::HttpRouteGroup => {
                smi("specs.smi-spec.io", "HTTPRouteGroup", "httproutegroups", "httproutegroup", "htr")
            }
            Self::TcpRoute => smi("specs.smi-spec.io", "TCPRoute", "tcproutes", "tcproute", "tr"),
            Self::UdpRoute => smi("specs.smi-spec.io", "UDPRoute", "udproutes", "udproute", "ur"),
            Self::TrafficSplit => smi("split.smi-spec.io", "TrafficSplit", "trafficsplits", "trafficsplit", "ts"),
            Self::MeshConfig => {
                Names { namespaced: false, ..smi("heddle.dev", "MeshConfig", "meshconfigs", "meshconfig", "mc") }
            }
        }
    }

    /// The versions of the kind, oldest first.
    pub const fn versions(self) -> &'static [Version] {
        use Version::{V1Alpha1, V1Alpha2, V1Alpha3, V1Alpha4};
        match self {
            Self::IdentityBinding | Self::UdpRoute => &[V1Alpha4],
            Self::MeshConfig => &[V1Alpha1],
            _ => &[V1Alpha1, V1Alpha2, V1Alpha3, V1Alpha4],
        }
    }

    /// The newest version: the one that is stored, and the one the types of this crate are of.
    pub const fn hub(self) -> Version {
        match self {
            Self::MeshConfig => Version::V1Alpha1,
            _ => Version::V1Alpha4,
        }
    }

    /// Whether an object of this version must have a `spec`.
    pub(crate) fn has_spec(self, version: Version) -> bool {
        match self {
            Self::TrafficTarget => version > Version::V1Alpha1,
            Self::HttpRouteGroup => version > Version::V1Alpha2,
            Self::TcpRoute => version > Version::V1Alpha3,
            Self::MeshConfig => false,
            Self::IdentityBinding | Self::UdpRoute | Self::TrafficSplit => true,
        }
    }

    /// Such as `split.smi-spec.io/v1alpha4`.
    pub fn api_version(self, version: Version) -> String {
        format!("{}/{version}", self.names().group)
    }

    /// The kind and version that an object says it is of.
    ///
    /// # Errors
    ///
    /// When it says nothing, or names a kind or version that is not stored.
    pub fn of(value: &Value) -> Result<(Self, Version), Invalid> {
        let api_version = required(value, "apiVersion")?;
        let name = required(value, "kind")?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group == "metrics.smi-spec.io" {
            let message = format!("{name} is measured and served by the mesh, not written to it");
            return Err(Invalid::new("kind", InvalidReason::UnknownKind, message).hint("remove the object"));
        }
        let of_group = Self::ALL.into_iter().filter(|kind| kind.names().group == group);
        let Some(kind) = of_group.clone().find(|kind| kind.names().kind == name) else {
            return Err(unknown_kind(group, name, of_group));
        };
        let found = kind.versions().iter().copied().find(|known| known.as_str() == version);
        found.map(|version| (kind, version)).ok_or_else(|| {
            let known: Vec<_> = kind.versions().iter().map(|known| kind.api_version(*known)).collect();
            let message = format!("{name} has no version `{version}`");
            Invalid::new("apiVersion", InvalidReason::UnknownVersion, message)
                .hint(format!("known: {}", known.join(", ")))
        })
    }

    /// Whether an object says that it is of one of the groups this crate reads, known or not.
    pub fn is_ours(value: &Value) -> bool {
        let group = value["apiVersion"].as_str().and_then(|text| text.split_once('/')).map(|(group, _)| group);
        group.is_some_and(|group| group == "heddle.dev" || group.ends_with(".smi-spec.io"))
    }
}

fn required<'a>(value: &'a Value, field: &str) -> Result<&'a str, Invalid> {
    match &value[field] {
        Value::String(text) if !text.is_empty() => Ok(text),
        Value::Null | Value::String(_) => {
            Err(Invalid::new(field, InvalidReason::Required, "is missing").hint(format!("add `{field}`")))
        }
        value => Err(Invalid::new(field, InvalidReason::Type, "must be a string").unquoted(value)),
    }
}

fn unknown_kind(group: &str, name: &str, of_group: impl Iterator<Item = Kind>) -> Invalid {
    let known: Vec<_> = of_group.map(|kind| kind.names().kind).collect();
    if known.is_empty() {
        let invalid = Invalid::new("apiVersion", InvalidReason::UnknownKind, format!("`{group}` is no group of SMI"));
        let groups: Vec<_> = Kind::ALL.map(|kind| kind.names().group).into();
        return match closest(group, &groups) {
            Some(group) => invalid.hint(format!("did you mean `{group}`?")),
            None => invalid.hint(format!("known: {}", groups.join(", "))),
        };
    }
    let invalid = Invalid::new("kind", InvalidReason::UnknownKind, format!("`{group}` has no kind `{name}`"));
    match closest(name, &known) {
        Some(kind) => invalid.hint(format!("did you mean `{kind}`?")),
        None => invalid.hint(format!("known: {}", known.join(", "))),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().kind)
    }
}

// === impl Version ===

impl Version {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1Alpha1 => "v1alpha1",
            Self::V1Alpha2 => "v1alpha2",
            Self::V1Alpha3 => "v1alpha3",
            Self::V1Alpha4 => "v1alpha4",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
