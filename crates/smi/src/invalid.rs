//! What is wrong with a resource: the field, the reason, and what to do.

use std::fmt;

use serde_json::Value;

/// Something wrong with one field of a resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub struct Invalid {
    /// The field as Kubernetes writes it, in the version the resource was written in: `spec.rules[0].name`,
    /// `metadata.annotations[example.com/key]`. Empty for the resource as a whole.
    pub field: String,
    pub reason: InvalidReason,
    /// A sentence without full stop, which does not repeat the field.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The kinds of mistakes. All but the last three are those of Kubernetes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum InvalidReason {
    /// A field that must be there is not, or is empty.
    Required,
    /// A value of another type.
    Type,
    /// A value of the right type that cannot be.
    Value,
    /// A value outside a list of known ones.
    NotSupported,
    Duplicate,
    /// A field that may not be there, given the others.
    Forbidden,
    UnknownField,
    UnknownVersion,
    UnknownKind,
}

// === impl Invalid ===

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, reason: InvalidReason, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// For a `value` that should be a text, and that YAML reads as another thing because it is not in quotes. What it is
    /// read as is said, and not to be written: `010` is 8, and `y` is true.
    pub(crate) fn unquoted(self, value: &Value) -> Self {
        match value {
            Value::Number(_) | Value::Bool(_) => {
                self.hint(format!("write it in quotes: without them YAML reads it as {value}"))
            }
            _ => self,
        }
    }
}

/// `spec.backends[0].weight: must be at least 0 (hint)`.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

// === impl InvalidReason ===

impl InvalidReason {
    /// The `reason` of a cause in a Kubernetes `Status`.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Type => "FieldValueTypeInvalid",
            Self::Value | Self::UnknownField => "FieldValueInvalid",
            Self::NotSupported | Self::UnknownVersion | Self::UnknownKind => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}
