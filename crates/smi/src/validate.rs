//! What a schema cannot say of a resource. Works on the newest version; the fields it names are of that version.

use regex::bytes::RegexBuilder;

use crate::{
    HttpMatch, HttpRouteGroup, IdentityBinding, Invalid, InvalidReason, Resource, SubjectKind, TrafficTarget, path,
};

/// The length a regular expression may have, in bytes.
const PATTERN_LENGTH_LIMIT: usize = 4096;
/// The size a regular expression may compile to, in bytes. This and the other limit are those of the data plane.
const PATTERN_SIZE_LIMIT: usize = 256 * 1024;

/// What was found: mistakes that make the resource void, and others.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) errors: Vec<Invalid>,
    pub(crate) warnings: Vec<Invalid>,
}

/// Checks a resource, and normalises its SPIFFE IDs.
pub(crate) fn validate(resource: &mut Resource, found: &mut Found) {
    match resource {
        Resource::TrafficTarget(target) => traffic_target(target, found),
        Resource::IdentityBinding(binding) => identity_binding(binding, found),
        Resource::HttpRouteGroup(group) => http_route_group(group, found),
        Resource::MeshConfig(config) => {
            if config.metadata.name.as_deref() != Some(crate::MESH_CONFIG_NAME) {
                let message = "the one MeshConfig that counts is named `default`";
                let invalid = Invalid::new("metadata.name", InvalidReason::Value, message);
                found.errors.push(invalid.hint("rename it to `default`"));
            }
        }
        Resource::TcpRoute(_) | Resource::UdpRoute(_) | Resource::TrafficSplit(_) => {}
    }
}

fn traffic_target(target: &TrafficTarget, found: &mut Found) {
    found.errors.extend(target.port().err());
    // The schemas of v1alpha3 and v1alpha4 refuse empty lists; those of older versions let them be (A13).
    for (field, empty) in
        [("spec.rules", target.spec.rules.is_empty()), ("spec.sources", target.spec.sources.is_empty())]
    {
        if empty {
            let message = "is empty, so the target grants nothing";
            let invalid = Invalid::new(field, InvalidReason::Required, message);
            found.warnings.push(invalid.hint("write an item with `kind` and `name`"));
        }
    }
    for (index, source) in target.spec.sources.iter().enumerate() {
        if let SubjectKind::Other(kind) = &source.kind {
            let field = path::key(&path::item("spec.sources", index), "kind");
            let message = format!("`{kind}` names no identity, so this source is granted nothing");
            let invalid = Invalid::new(field, InvalidReason::NotSupported, message);
            found.warnings.push(invalid.hint("supported: ServiceAccount, IdentityBinding"));
        }
    }
}

fn identity_binding(binding: &mut IdentityBinding, found: &mut Found) {
    let schemes = &mut binding.spec.schemes;
    if schemes.pod_label_selector.is_some() && schemes.service_account.is_some() {
        for (field, other) in [("podLabelSelector", "serviceAccount"), ("serviceAccount", "podLabelSelector")] {
            let field = path::key("spec.schemes", field);
            let invalid = Invalid::new(field, InvalidReason::Forbidden, format!("excludes {other}"));
            found.errors.push(invalid.hint("write two IdentityBindings, and name both where either may be"));
        }
    }
    for (index, id) in schemes.spiffe_identities.iter_mut().enumerate() {
        let field = path::item("spec.schemes.spiffeIdentities", index);
        if !id.contains("://") {
            *id = format!("spiffe://{id}");
            let message = format!("has no scheme and is read as `{id}`");
            found.warnings.push(Invalid::new(&field, InvalidReason::Value, message).hint("write the scheme"));
        }
        if let Err((message, hint)) = check_spiffe_id(id) {
            found.errors.push(Invalid::new(field, InvalidReason::Value, message).hint(hint));
        }
    }
}

/// By the SPIFFE ID specification, section 2. The error is what is wrong and what to do about it.
fn check_spiffe_id(id: &str) -> Result<(), (String, &'static str)> {
    let rest = id
        .strip_prefix("spiffe://")
        .ok_or_else(|| (format!("`{id}` does not start with spiffe://"), "write `spiffe://<trust domain>/<path>`"))?;
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(in_domain) {
        return Err((format!("`{domain}` is no trust domain"), "write 1 to 255 of a-z, 0-9, `.`, `-` and `_`"));
    }
    let in_segment = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(in_segment);
    match path {
        Some(path) if !path.split('/').all(segment) => Err((
            format!("`/{path}` is no path of a SPIFFE ID"),
            "write segments of a-z, A-Z, 0-9, `.`, `-` and `_`, none of them empty, `.` or `..`",
        )),
        _ => Ok(()),
    }
}

fn http_route_group(group: &HttpRouteGroup, found: &mut Found) {
    if group.spec.matches.is_empty() {
        let message = "is empty, so no request belongs to the group";
        let invalid = Invalid::new("spec.matches", InvalidReason::Required, message);
        found.warnings.push(invalid.hint("write an item with `name`; one that has nothing else is any request"));
    }
    for (index, rule) in group.spec.matches.iter().enumerate() {
        http_match(rule, &path::item("spec.matches", index), found);
    }
}

pub(crate) fn http_match(rule: &HttpMatch, field: &str, found: &mut Found) {
    if let Some(pattern) = &rule.path_regex {
        let field = path::key(field, "pathRegex");
        match check_pattern(pattern) {
            Err((message, hint)) => {
                found.errors.push(Invalid::new(field, InvalidReason::Value, message).hint(hint));
            }
            Ok(()) if pattern.starts_with(|first: char| first.is_ascii_alphanumeric()) => {
                let message = "matches from the start of the path, and every path starts with `/`";
                found
                    .warnings
                    .push(Invalid::new(field, InvalidReason::Value, message).hint(format!("write `/{pattern}`")));
            }
            Ok(()) => {}
        }
    }
    for (name, pattern) in rule.headers.iter() {
        let field = path::key(&path::key(field, "headers"), name);
        if !is_header_name(name) {
            let invalid = Invalid::new(field, InvalidReason::Value, format!("`{name}` is no header name"));
            found.errors.push(invalid.hint("write a name such as `user-agent`: letters, digits and `-`"));
        } else if let Err((message, hint)) = check_pattern(pattern) {
            found.errors.push(Invalid::new(field, InvalidReason::Value, message).hint(hint));
        }
    }
}

/// A token of RFC 9110, or the pseudo-header `:authority` (S13).
fn is_header_name(name: &str) -> bool {
    let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    name == ":authority" || (!name.is_empty() && name.bytes().all(in_token))
}

/// Whether a pattern can be compiled, alone: the data plane puts its anchors around what was parsed, not around the text.
/// The error is what is wrong and what to do about it.
fn check_pattern(pattern: &str) -> Result<(), (String, &'static str)> {
    if pattern.len() > PATTERN_LENGTH_LIMIT {
        return Err((format!("is longer than {PATTERN_LENGTH_LIMIT} bytes"), "divide it among several matches"));
    }
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE_LIMIT).dfa_size_limit(PATTERN_SIZE_LIMIT).build();
    compiled.map(drop).map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            (format!("compiles to more than {limit} bytes"), "repeat fewer times: write `+` in stead of `{1,1000}`")
        }
        error => {
            let text = error.to_string();
            let why = last_line(&text);
            (format!("is not a regular expression: {why}"), pattern_hint(why))
        }
    })
}

/// What to do about what the parser of patterns says. `regex` has no codes for it.
fn pattern_hint(why: &str) -> &'static str {
    let hints = [
        ("unclosed group", r"close it with `)`, or write `\(` for the character"),
        ("unopened group", r"open it with `(`, or write `\)` for the character"),
        ("unclosed character class", r"close it with `]`, or write `\[` for the character"),
        ("repetition operator", r"`.*` is any text; write `\*`, `\+` or `\?` for the character"),
        ("repetition quantifier", r"write such as `{1,3}`, or `\{` for the character"),
        ("look-around", "say what the text is, not what it is not: name the paths or values that are meant"),
        ("backreferences", "write the alternatives out: `a=a|b=b`"),
        ("escape", "write the character without `\\`"),
    ];
    let found = hints.into_iter().find(|(start, _)| why.contains(start));
    found.map_or("the syntax is that of RE2 and of Rust's `regex`", |(_, hint)| hint)
}

/// The parser's message draws the pattern over several lines, and says what is wrong in the last.
fn last_line(message: &str) -> &str {
    message.lines().last().map_or(message, |line| line.trim_start_matches("error: "))
}
