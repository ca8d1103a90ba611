//! Regular expressions of users: linear time, bounded size, anchored as SMI says.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// The compiled size one pattern may have, in bytes.
const SIZE_LIMIT: usize = 256 * 1024;
/// The length one pattern may have, in bytes.
const LENGTH_LIMIT: usize = 4096;

/// A `pathRegex`: anchored at the start only (S4, S5).
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(Anchored);

/// A header's regex: it matches the whole value (S9).
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderPattern(Anchored);

/// Why a text is not a pattern: the message of the regex parser, or the limit that was passed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPattern(String);

#[derive(Clone)]
struct Anchored {
    text: Arc<str>,
    regex: Regex,
}

impl Anchored {
    fn new(text: &str, anchored: &str) -> Result<Self, InvalidPattern> {
        if text.len() > LENGTH_LIMIT {
            return Err(InvalidPattern(format!("the pattern is longer than {LENGTH_LIMIT} bytes")));
        }
        // The text alone first: `a)(b` must not become valid by the group put around it.
        let compile = |text: &str| {
            RegexBuilder::new(text).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build().map_err(|error| {
                match error {
                    regex::Error::CompiledTooBig(limit) => {
                        InvalidPattern(format!("the pattern compiles to more than {limit} bytes"))
                    }
                    error => InvalidPattern(error.to_string()),
                }
            })
        };
        compile(text)?;
        Ok(Self { text: text.into(), regex: compile(anchored)? })
    }
}

macro_rules! pattern {
    ($name:ident, $format:literal) => {
        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidPattern> {
                Anchored::new(text, &format!($format, text)).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0.text
            }

            pub fn is_match(&self, value: &[u8]) -> bool {
                self.0.regex.is_match(value)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.text == other.0.text
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0.text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidPattern;

            fn try_from(text: String) -> Result<Self, InvalidPattern> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(pattern: $name) -> Self {
                pattern.0.text.as_ref().into()
            }
        }
    };
}

// `\A` and `\z` rather than `^` and `$`: a `(?m)` in the pattern must not loosen the anchors.
pattern!(PathPattern, r"\A(?:{})");
pattern!(HeaderPattern, r"\A(?:{})\z");
