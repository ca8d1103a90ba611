//! The headers of an HTTP match, which SMI has written in two shapes: an object, and an array of objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Invalid, InvalidReason, path};

/// The number of headers that a match may have. Every request is compared with each of them.
const HEADERS_LIMIT: usize = 64;

/// Regular expressions by header name. No two names differ only in case.
///
/// Read from an object (`{user-agent: .*}`, the specification since 2021) and from an array of objects
/// (`[{user-agent: .*}]`, the Go SDK and what was built on it); written as an array, which every client understands.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Headers(BTreeMap<String, Header>);

/// One header, whose key is its name in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Header {
    /// As it is written.
    name: String,
    value: String,
}

/// Why a value is not [`Headers`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidHeaders {
    #[error("headers are an object of names and regular expressions, or an array of such objects")]
    Shape,
    #[error("the header `{0}` needs a string")]
    Value(String),
    #[error("the header `{0}` is given twice, and one request has one value of it")]
    Duplicate(String),
    #[error("an entry of `headers` is empty")]
    Empty,
    #[error("a match has at most {HEADERS_LIMIT} headers")]
    TooMany,
}

// === impl Headers ===

impl Headers {
    /// # Errors
    ///
    /// When two names differ only in case, and when there are too many.
    pub fn new<N: Into<String>, V: Into<String>>(
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, InvalidHeaders> {
        let mut all = Self::default();
        for (name, value) in headers {
            all.insert(name.into(), value.into())?;
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and regular expression, by name without case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().map(|header| (header.name.as_str(), header.value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_ascii_lowercase()).map(|header| header.value.as_str())
    }

    /// # Errors
    ///
    /// When there is a header of this name already, or there are as many as a match may have.
    pub fn insert(&mut self, name: String, value: String) -> Result<(), InvalidHeaders> {
        if self.0.len() >= HEADERS_LIMIT {
            return Err(InvalidHeaders::TooMany);
        }
        match self.0.entry(name.to_ascii_lowercase()) {
            Entry::Occupied(_) => Err(InvalidHeaders::Duplicate(name)),
            Entry::Vacant(place) => {
                place.insert(Header { name, value });
                Ok(())
            }
        }
    }

    /// Reads both shapes. `field` is the path of the value.
    pub(crate) fn from_value(value: &Value, field: &str) -> Result<Self, Invalid> {
        let mut headers = Self::default();
        match value {
            Value::Null => {}
            Value::Object(_) => headers.extend(value, field)?,
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let field = path::item(field, index);
                    if item.as_object().is_some_and(serde_json::Map::is_empty) {
                        return Err(InvalidHeaders::Empty.at(field));
                    }
                    headers.extend(item, &field)?;
                }
            }
            _ => return Err(InvalidHeaders::Shape.at(field)),
        }
        Ok(headers)
    }

    /// The path of a header in a value of either shape that [`Headers::from_value`] reads.
    pub(crate) fn field(value: &Value, field: &str, name: &str) -> String {
        let items = value.as_array().into_iter().flatten();
        match items.enumerate().find(|(_, item)| item.get(name).is_some()) {
            Some((index, _)) => path::key(&path::item(field, index), name),
            None => path::key(field, name),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        self.iter().map(|(name, value)| serde_json::json!({ name: value })).collect()
    }

    fn extend(&mut self, object: &Value, field: &str) -> Result<(), Invalid> {
        for (name, value) in object.as_object().ok_or_else(|| InvalidHeaders::Shape.at(field))? {
            let at = |error: InvalidHeaders| error.at(path::key(field, name));
            // A null is no absent header: it would cost the match a restriction.
            let Some(text) = value.as_str() else {
                let invalid = at(InvalidHeaders::Value(name.clone())).unquoted(value);
                return Err(if value.is_null() { invalid.hint("`.*` stands for any value") } else { invalid });
            };
            self.insert(name.clone(), text.to_owned()).map_err(at)?;
        }
        Ok(())
    }
}

// === impl InvalidHeaders ===

impl InvalidHeaders {
    fn at(self, field: impl Into<String>) -> Invalid {
        let reason = match self {
            Self::Duplicate(_) => InvalidReason::Duplicate,
            _ => InvalidReason::Value,
        };
        let invalid = Invalid::new(field, reason, self.to_string());
        match self {
            Self::Shape => invalid.hint("write `headers: {user-agent: \".*Firefox.*\"}`"),
            Self::Value(_) => invalid,
            Self::Duplicate(_) => invalid.hint("remove one of them: names that differ in case are the same"),
            Self::Empty => invalid.hint("write a name and a regular expression into it, or remove it"),
            Self::TooMany => invalid.hint("compare with fewer of them"),
        }
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?, "").map_err(D::Error::custom)
    }
}
