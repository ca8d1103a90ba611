//! Paths as rules see them.

use std::borrow::Cow;

/// The path of a request target without its query, in the one form that rules are matched against (S6, S7):
/// percent-encoded unreserved characters are decoded, `.` and `..` segments are resolved and runs of `/` are one.
///
/// `None` when it is not a path that can be judged, because servers read it differently: not absolute, a malformed
/// escape, a `..` above the root, a dot segment with parameters (`/..;x/`), an encoded `/`, `\` or NUL, or a raw `\`,
/// `#`, space or control character.
///
/// Nothing is allocated for a path that is already in this form. `*` (of `OPTIONS *`) stands for itself.
pub fn normalize_path(target: &str) -> Option<Cow<'_, str>> {
    let path = target.split('?').next().unwrap_or_default();
    if path == "*" {
        return Some(Cow::Borrowed(path));
    }
    let unreadable = |byte: u8| byte <= b' ' || matches!(byte, b'\\' | b'#' | 0x7f);
    if !path.starts_with('/') || path.bytes().any(unreadable) {
        return None;
    }
    let decoded = match path.contains('%') {
        true => decode(path)?,
        false => Cow::Borrowed(path),
    };
    let mut segments = decoded[1..].split('/').peekable();
    let mut plain = true;
    while let Some(segment) = segments.next() {
        if segment.split(';').next().is_some_and(|name| matches!(name, "." | "..") && name != segment) {
            return None;
        }
        plain &= !matches!(segment, "." | "..") && (!segment.is_empty() || segments.peek().is_none());
    }
    if plain { Some(decoded) } else { resolve(&decoded).map(Cow::Owned) }
}

/// A target with its path in the form that rules are matched against, where it is not in that form because of dot
/// segments or runs of `/`: servers read those in more than one way, so that what was judged is what must go on. `None` for
/// a target that can go on as it is.
pub fn settled_path(target: &str) -> Option<String> {
    // What most targets do not have, an escaped dot included.
    let is_odd = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.' | b'%');
    let end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    if !path.as_bytes().windows(2).any(is_odd) {
        return None;
    }
    let decoded = decode(path)?;
    let is_settled = !decoded.contains("//") && !decoded.split('/').any(|segment| matches!(segment, "." | ".."));
    if is_settled { None } else { Some(normalize_path(path)?.into_owned() + query) }
}

/// Removes dot segments (RFC 3986, section 5.2.4) and empty ones; `None` for a `..` above the root.
fn resolve(path: &str) -> Option<String> {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            segment => segments.push(segment),
        }
    }
    let is_directory = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    let end = if is_directory && !segments.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", segments.join("/")))
}

/// Decodes what RFC 3986, section 2.3, calls unreserved; every other escape stays, in upper case.
fn decode(path: &str) -> Option<Cow<'_, str>> {
    let mut decoded = Cow::Borrowed("");
    let mut copied = 0;
    let mut at = 0;
    while let Some(offset) = path[at..].find('%') {
        at += offset;
        let escape = path.get(at..at + 3)?;
        let byte = escape_value(&escape.as_bytes()[1..])?;
        if matches!(byte, b'/' | b'\\' | 0) {
            return None;
        }
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || escape.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let decoded = decoded.to_mut();
            decoded.push_str(&path[copied..at]);
            match unreserved {
                true => decoded.push(char::from(byte)),
                false => decoded.push_str(&escape.to_ascii_uppercase()),
            }
            copied = at + 3;
        }
        at += 3;
    }
    if copied == 0 {
        return Some(Cow::Borrowed(path));
    }
    decoded.to_mut().push_str(&path[copied..]);
    Some(decoded)
}

fn escape_value(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}
