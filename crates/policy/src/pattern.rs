//! Regular expressions of users: linear time, bounded size, anchored as SMI says.

use std::fmt;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, Look};
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
    /// The anchors are put around the parsed expression, not around its text: a text that closes a group it did not
    /// open, sets a flag or ends in a comment cannot reach them (S5).
    fn new(text: &str, to_the_end: bool) -> Result<Self, InvalidPattern> {
        if text.len() > LENGTH_LIMIT {
            return Err(InvalidPattern(format!("the pattern is longer than {LENGTH_LIMIT} bytes")));
        }
        let mut parser = ParserBuilder::new().utf8(false).build();
        let parsed = parser.parse(text).map_err(|error| InvalidPattern(error.to_string()))?;
        // `Start` and `End` are of the whole value, unlike a `^` or `$` under `(?m)`.
        let mut parts = vec![Hir::look(Look::Start), parsed];
        if to_the_end {
            parts.push(Hir::look(Look::End));
        }
        let limits =
            Regex::config().utf8_empty(false).nfa_size_limit(Some(SIZE_LIMIT)).hybrid_cache_capacity(SIZE_LIMIT);
        let regex = Regex::builder().configure(limits).build_from_hir(&Hir::concat(parts)).map_err(|error| {
            InvalidPattern(match error.size_limit() {
                Some(limit) => format!("the pattern compiles to more than {limit} bytes"),
                None => error.to_string(),
            })
        })?;
        Ok(Self { text: text.into(), regex })
    }
}

macro_rules! pattern {
    ($name:ident, $to_the_end:literal) => {
        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidPattern> {
                Anchored::new(text, $to_the_end).map(Self)
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

pattern!(PathPattern, false);
pattern!(HeaderPattern, true);
