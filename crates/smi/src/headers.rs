//! The headers of an HTTP match, which SMI has written in two shapes: an object, and an array of objects.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Regular expressions by header name. No two names differ only in case.
///
/// Read from an object (`{user-agent: .*}`, the specification since 2021) and from an array of objects
/// (`[{user-agent: .*}]`, the Go SDK and what was built on it); written as an array, which every client understands.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Headers(BTreeMap<String, String>);

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
}

// === impl Headers ===

impl Headers {
    /// # Errors
    ///
    /// When two names differ only in case.
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

    /// Name and regular expression, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// # Errors
    ///
    /// When there is a header of this name already.
    pub fn insert(&mut self, name: String, value: String) -> Result<(), InvalidHeaders> {
        if self.get(&name).is_some() {
            return Err(InvalidHeaders::Duplicate(name));
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Reads both shapes.
    pub(crate) fn from_value(value: &Value) -> Result<Self, InvalidHeaders> {
        let mut headers = Self::default();
        match value {
            Value::Null => {}
            Value::Object(_) => headers.extend(value)?,
            Value::Array(items) => {
                for item in items {
                    if item.as_object().is_some_and(serde_json::Map::is_empty) {
                        return Err(InvalidHeaders::Empty);
                    }
                    headers.extend(item)?;
                }
            }
            _ => return Err(InvalidHeaders::Shape),
        }
        Ok(headers)
    }

    pub(crate) fn to_value(&self) -> Value {
        self.iter().map(|(name, value)| serde_json::json!({ name: value })).collect()
    }

    fn extend(&mut self, object: &Value) -> Result<(), InvalidHeaders> {
        for (name, value) in object.as_object().ok_or(InvalidHeaders::Shape)? {
            let value = value.as_str().ok_or_else(|| InvalidHeaders::Value(name.clone()))?;
            self.insert(name.clone(), value.to_owned())?;
        }
        Ok(())
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
