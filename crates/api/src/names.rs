//! The syntaxes of names, labels and annotations. Each function says what is wrong in Kubernetes' words.

use serde_json::{Map, Value};

use super::error::Cause;

type Syntax = Result<(), String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
     with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
     with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
     character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Bytes that pass `ends` first and last and `inner` between.
fn shape(text: &str, ends: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => ends(*only),
        [first, middle @ .., last] => ends(*first) && ends(*last) && middle.iter().all(|b| ends(*b) || inner(*b)),
    }
}

fn limit(text: &str, max: usize) -> Syntax {
    if text.len() > max { Err(format!("must be no more than {max} characters")) } else { Ok(()) }
}

fn when(fine: bool, otherwise: &str) -> Syntax {
    if fine { Ok(()) } else { Err(otherwise.to_owned()) }
}

pub(crate) fn dns_label(text: &str) -> Syntax {
    limit(text, 63)?;
    when(shape(text, lower, |b| b == b'-'), LABEL)
}

pub(crate) fn dns_subdomain(text: &str) -> Syntax {
    limit(text, 253)?;
    when(text.split('.').all(|part| shape(part, lower, |b| b == b'-')), SUBDOMAIN)
}

/// Names of Services.
pub(crate) fn dns_1035_label(text: &str) -> Syntax {
    limit(text, 63)?;
    when(text.starts_with(|c: char| c.is_ascii_lowercase()) && shape(text, lower, |b| b == b'-'), DNS_1035)
}

/// Names that only must be one segment of a path: those of RBAC objects.
pub(crate) fn path_segment(text: &str) -> Syntax {
    when(!matches!(text, "." | ".."), &format!("may not be '{text}'"))?;
    when(!text.contains(['/', '%']), "may not contain '/' or '%'")
}

/// A label's or annotation's key: `prefix/name`.
pub(crate) fn qualified_name(text: &str) -> Syntax {
    let name = match text.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            return Err(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS \
                        subdomain prefix and '/' (e.g. 'example.com/MyName')"
                    .to_owned(),
            );
        }
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|why| format!("prefix part {why}"))?;
            name
        }
        None => text,
    };
    when(!name.is_empty(), "name part must be non-empty")?;
    limit(name, 63).map_err(|why| format!("name part {why}"))?;
    when(shape(name, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.')), QUALIFIED)
}

pub(crate) fn label_value(text: &str) -> Syntax {
    limit(text, 63)?;
    when(text.is_empty() || shape(text, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.')), VALUE)
}

/// Names of ports that probes and target ports may refer to.
pub(crate) fn port_name(text: &str) -> Syntax {
    limit(text, 15)?;
    when(
        text.bytes().all(|b| lower(b) || b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    )?;
    when(text.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)")?;
    when(!text.contains("--"), "must not contain consecutive hyphens")?;
    when(!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen")
}

/// Keys of ConfigMaps and Secrets.
pub(crate) fn config_key(text: &str) -> Syntax {
    limit(text, 253)?;
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    when(
        fine && !matches!(text, "." | ".."),
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
        (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
    )
}

/// Checks a map of labels at `field`.
pub(crate) fn labels(labels: Option<&Map<String, Value>>, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.into_iter().flatten() {
        if let Err(why) = qualified_name(key) {
            causes.push(Cause::invalid(field, &Value::from(key.as_str()), &why));
        }
        if let Err(why) = label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, &why));
        }
    }
}

/// Checks a map of annotations at `field`: keys, and 256 KiB in all.
pub(crate) fn annotations(annotations: Option<&Map<String, Value>>, field: &str, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        if let Err(why) = qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid(field, &Value::from(key.as_str()), &why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        causes.push(Cause::too_long(field, 256 * 1024));
    }
}
