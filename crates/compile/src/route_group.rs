//! HTTPRouteGroups to matches with compiled patterns.

use std::sync::Arc;

use heddle_policy::{HeaderMatch, HeaderPattern, HttpMatch, InvalidPattern, Origin, PathPattern};
use heddle_smi as smi;

use crate::facts::{Fact, RouteGroup};
use crate::{Problem, ProblemReason};

/// Compiles the patterns of a group. A valid group has none that does not compile; if one does not after all, its
/// match matches nothing (S19).
pub(crate) fn route_group(group: &smi::HttpRouteGroup, fact: &Fact<RouteGroup>) -> (Option<RouteGroup>, Vec<Problem>) {
    let mut matches = Vec::with_capacity(group.spec.matches.len());
    let mut problems = Vec::new();
    for (number, spec) in group.spec.matches.iter().enumerate() {
        let origin = fact.at(&format!("spec.matches[{number}]"));
        problems.extend(longer_paths(spec, &origin));
        match http_match(spec, &origin) {
            Ok(http_match) => matches.push((Arc::from(spec.name.as_str()), Arc::new(http_match))),
            Err(error) => {
                let message = format!("the match `{}` matches nothing: {error}", spec.name);
                problems.push(Problem::error(origin, ProblemReason::Invalid, message));
            }
        }
    }
    (Some(RouteGroup { matches }), problems)
}

fn http_match(spec: &smi::HttpMatch, origin: &Origin) -> Result<HttpMatch, InvalidPattern> {
    let any_method = spec.methods.iter().any(|method| method == "*");
    let methods = spec.methods.iter().filter(|_| !any_method).map(|method| Arc::from(method.as_str())).collect();
    let header = |(name, value): (&str, &str)| {
        Ok(HeaderMatch { name: name.to_ascii_lowercase().into(), value: HeaderPattern::new(value)? })
    };
    Ok(HttpMatch {
        origin: origin.clone(),
        path: spec.path_regex.as_deref().map(PathPattern::new).transpose()?,
        methods,
        headers: spec.headers.iter().map(header).collect::<Result<_, _>>()?,
    })
}

/// A pattern that is a whole path in its author's eyes, such as `/metrics`, also matches `/metricsfoo` (S4).
fn longer_paths(spec: &smi::HttpMatch, origin: &Origin) -> Option<Problem> {
    let pattern = spec.path_regex.as_deref()?;
    let is_plain = pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte));
    (is_plain && pattern.ends_with(|last: char| last.is_ascii_alphanumeric())).then(|| {
        let message =
            format!("`{pattern}` is anchored at its start only: it matches `{pattern}x` and `{pattern}/x`, too");
        let origin = origin.field(format!("{}.pathRegex", origin.field));
        Problem::note(origin, ProblemReason::LongerPaths, message)
            .hint(format!("write `{pattern}$` for this path alone, `{pattern}(/|$)` for it and what is below it"))
    })
}
