//! Names: of services, pods and identities, and of the resource that a piece of policy came from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A Service, by namespace and name. Written `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A pod, by namespace and name. Written `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A workload's identity: `spiffe://<trust domain>/<path>`, valid by the SPIFFE ID specification, section 2.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(Arc<str>);

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSpiffeId {
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    #[error("a trust domain has 1 to 255 characters of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    #[error("a SPIFFE ID's path has segments of a-z, A-Z, 0-9, `.`, `-` and `_`, none empty, `.` or `..`")]
    Path,
    #[error("a SPIFFE ID has at most 2048 bytes")]
    Length,
}

/// Where a piece of policy came from: the resource, the field in it, and the place that holds the resource.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The resource's kind, such as `TrafficTarget`.
    pub kind: Arc<str>,
    /// Empty for a cluster-scoped resource.
    #[serde(default, skip_serializing_if = "str_is_empty")]
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The field as Kubernetes writes it, such as `spec.rules[0].matches[1]`. Empty for the resource as a whole.
    #[serde(default, skip_serializing_if = "str_is_empty")]
    pub field: Arc<str>,
    /// `file:line:column` of a manifest, or `resourceVersion N` of a stored object. Empty when unknown.
    #[serde(default, skip_serializing_if = "str_is_empty")]
    pub at: Arc<str>,
}

// === impl SpiffeId ===

impl SpiffeId {
    /// The identity of a Kubernetes ServiceAccount: `spiffe://<trust domain>/ns/<namespace>/sa/<name>`.
    pub fn of_service_account(trust_domain: &str, namespace: &str, name: &str) -> Result<Self, InvalidSpiffeId> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn trust_domain(&self) -> &str {
        let rest = &self.0["spiffe://".len()..];
        rest.split('/').next().unwrap_or(rest)
    }

    /// Namespace and name of the ServiceAccount, when the path has the layout `/ns/<namespace>/sa/<name>`.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let mut segments = self.0["spiffe://".len()..].split('/').skip(1);
        let parts = (segments.next()?, segments.next()?, segments.next()?, segments.next()?, segments.next());
        match parts {
            ("ns", namespace, "sa", name, None) => Some((namespace, name)),
            _ => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > 2048 {
            return Err(InvalidSpiffeId::Length);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(InvalidSpiffeId::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(in_domain) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        let in_segment = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(in_segment);
        match path {
            Some(path) if !path.split('/').all(segment) => Err(InvalidSpiffeId::Path),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidSpiffeId;

    fn try_from(text: String) -> Result<Self, InvalidSpiffeId> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.0.as_ref().into()
    }
}

// === impl Origin ===

impl Origin {
    /// The same resource and place, at another field.
    pub fn field(&self, field: impl Into<Arc<str>>) -> Self {
        Self { field: field.into(), ..self.clone() }
    }
}

/// `TrafficTarget bookstore/buyers spec.rules[0] (access.yaml:12:3)`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        if !self.at.is_empty() {
            write!(f, " ({})", self.at)?;
        }
        Ok(())
    }
}

// === impl ServiceName, PodName ===

macro_rules! namespaced_name {
    ($name:ident, $what:literal) => {
        impl $name {
            pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, &'static str> {
                match text.split_once('/') {
                    Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                        Ok(Self::new(namespace, name))
                    }
                    _ => Err(concat!("a ", $what, " is written `namespace/name`")),
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

namespaced_name!(ServiceName, "service");
namespaced_name!(PodName, "pod");

fn str_is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}
