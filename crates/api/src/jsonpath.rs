//! The JSON paths of printer columns: fields, indexes, wildcards, and filters on equality.

use serde_json::Value;

/// What the path finds first. Paths this does not understand find nothing.
pub(crate) fn first(object: &Value, path: &str) -> Option<Value> {
    let found = all(object, path);
    found.into_iter().next().filter(|v| !v.is_null()).cloned()
}

fn all<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut found = vec![object];
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inside) => match closing(inside) {
                Some(end) => (Step::bracket(&inside[..end]), &inside[end + 1..]),
                None => return Vec::new(),
            },
            None => {
                let rest = rest.strip_prefix('.').unwrap_or(rest);
                let end = field_end(rest);
                (Some(Step::Field(rest[..end].replace("\\.", "."))), &rest[end..])
            }
        };
        let Some(step) = step else { return Vec::new() };
        found = found.into_iter().flat_map(|value| step.take(value)).collect();
        rest = after;
    }
    found
}

/// Where the bracket closes, past brackets in quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Where a field's name ends; `\.` is part of it.
fn field_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    (0..bytes.len())
        .find(|&at| matches!(bytes[at], b'.' | b'[') && (at == 0 || bytes[at - 1] != b'\\'))
        .unwrap_or(bytes.len())
}

enum Step {
    Field(String),
    Index(i64),
    All,
    /// `?(@.field=="value")`
    Equal {
        path: String,
        value: String,
    },
}

impl Step {
    fn bracket(inside: &str) -> Option<Self> {
        let inside = inside.trim();
        if inside == "*" {
            return Some(Step::All);
        }
        if let Ok(index) = inside.parse() {
            return Some(Step::Index(index));
        }
        if let Some(filter) = inside.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
            let (path, value) = filter.split_once("==")?;
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            return Some(Step::Equal { path: path.trim().strip_prefix('@')?.to_owned(), value });
        }
        let quoted = inside.trim_matches(['"', '\'']);
        (quoted.len() + 2 == inside.len()).then(|| Step::Field(quoted.to_owned()))
    }

    fn take<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let at = if *index < 0 { items.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Step::All => value.as_array().into_iter().flatten().collect(),
            Step::Equal { path, value: wanted } => {
                let equals = |item: &&Value| {
                    first(item, path)
                        .is_some_and(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned) == *wanted)
                };
                value.as_array().into_iter().flatten().filter(equals).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns_find_values() {
        let object = json!({
            "spec": {"rules": [{"name": "a"}, {"name": "b"}]}, "metadata": {"labels": {"x.y/z": "1"}},
            "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        assert_eq!(first(&object, ".spec.rules[1].name"), Some(json!("b")));
        assert_eq!(first(&object, ".spec.rules[*].name"), Some(json!("a")));
        assert_eq!(first(&object, r#".status.conditions[?(@.type=="Ready")].status"#), Some(json!("True")));
        assert_eq!(first(&object, r".metadata.labels.x\.y/z"), Some(json!("1")));
        assert_eq!(first(&object, ".metadata.labels['x.y/z']"), Some(json!("1")));
        assert_eq!(first(&object, ".spec.missing"), None);
        assert_eq!(first(&object, ".spec[unclosed"), None);
    }
}
