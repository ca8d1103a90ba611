//! Paths as rules see them.

use std::borrow::Cow;

/// The path of a request target without its query, in the one form that rules are matched against (S6, S7):
/// percent-encoded unreserved characters are decoded, `.` and `..` segments are resolved and runs of `/` are one.
/// `None` when it is not a path that can be judged: not absolute, a malformed escape, a `..` above the root, or an
/// encoded `/`, `\` or NUL, which servers read differently.
///
/// Nothing is allocated for a path that is already in this form. `*` (of `OPTIONS *`) stands for itself.
pub fn normalize_path(target: &str) -> Option<Cow<'_, str>> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if path == "*" {
        return Some(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return None;
    }
    let plain = !path.contains('%') && !path.contains("//") && !path.contains("/.") && !path.contains('\\');
    if plain {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            segment => segments.push(segment),
        }
    }
    let is_directory = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    let end = if is_directory && !segments.is_empty() { "/" } else { "" };
    Some(Cow::Owned(format!("/{}{end}", segments.join("/"))))
}

/// Decodes what RFC 3986, section 2.3, calls unreserved; every other escape stays, in upper case.
fn decode(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).filter(|escape| escape.starts_with('%'))?;
        let byte = u8::from_str_radix(&escape[1..], 16).ok().filter(|_| !escape.contains('+'))?;
        match byte {
            b'/' | b'\\' | 0 => return None,
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => decoded.push(char::from(byte)),
            _ => decoded.push_str(&escape.to_ascii_uppercase()),
        }
        rest = &rest[at + 3..];
    }
    decoded.push_str(rest);
    Some(decoded)
}
