//! Requests to documents: the paths of the API, and what each of them answers.

use std::time::Instant;

use heddle_smi::metrics::{GROUP, VERSIONS};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::render::{Frame, is_list};
use crate::{Kind, Objects, Query, Refusal, Samples, Scope, discovery, measure, openapi, table};

/// A GET.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Without the query.
    pub path: &'a str,
    /// The parameters of the query, decoded.
    pub parameters: &'a [(String, String)],
    pub form: Form,
}

/// How the answer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// The documents of SMI.
    #[default]
    Object,
    /// A `meta.k8s.io/v1` Table, as `kubectl get` asks for it.
    Table,
}

/// What a request is about, as Kubernetes' authorization names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    pub version: String,
    pub verb: &'static str,
    pub resource: String,
    /// `edges`, or empty.
    pub subresource: &'static str,
    pub namespace: String,
    pub name: String,
}

/// Stands in a path for every name, as in Kubernetes' API of custom metrics. No object can be called so.
const EVERY: &str = "*";

/// A path below `/apis/metrics.smi-spec.io`.
enum Place {
    Group,
    Resources(&'static str),
    Ask(&'static str, Kind, Scope),
}

/// Answers a request.
///
/// # Errors
///
/// There is nothing of the name that is asked for, or the request is not understood.
pub fn answer(objects: &Objects, samples: &Samples, request: &Request<'_>, now: Instant) -> Result<Value, Refusal> {
    if let Some(document) = openapi::document(request.path) {
        return Ok(document);
    }
    let (version, kind, scope) = match place(request.path)? {
        Place::Group => return Ok(discovery::group()),
        Place::Resources(version) => return Ok(discovery::resources(version)),
        Place::Ask(version, kind, scope) => (version, kind, scope),
    };
    let query = Query::new(kind, scope).with_parameters(request.parameters)?;
    let measured = measure(objects, samples, &query, now)?;
    if request.form == Form::Table {
        return Ok(table::table(&query, &measured, request.path));
    }
    let stamp = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let frame = Frame { version, path: request.path, now: &stamp };
    match measured.rows.first() {
        Some(row) if !is_list(&query) => Ok(json!(frame.one(row, &measured))),
        _ => Ok(json!(frame.list(&query, &measured))),
    }
}

/// What somebody who sends this request must be allowed to; `None` for what everybody may read, who has been
/// authenticated: discovery.
///
/// The API server reads `namespaces/NAME/edges` as a list of a resource `edges` in that namespace, and so it is here.
/// Who asks for the edges of [`EVERY`] resource needs the right to those of any: one that is bound to names is not enough.
///
/// # Errors
///
/// There is no such path.
pub fn attributes(path: &str) -> Result<Option<Attributes>, Refusal> {
    if openapi::document(path).is_some() {
        return Ok(None);
    }
    let Place::Ask(version, kind, scope) = place(path)? else { return Ok(None) };
    let of = |verb, resource: &str, subresource, namespace: String, name: String| {
        Some(Attributes {
            version: version.to_owned(),
            verb,
            resource: resource.to_owned(),
            subresource,
            namespace,
            name,
        })
    };
    let or_every = |name: Option<String>| name.unwrap_or_else(|| EVERY.to_owned());
    Ok(match scope {
        Scope::List { namespace } => of("list", kind.plural(), "", namespace.unwrap_or_default(), String::new()),
        Scope::Edges { name, .. } if kind == Kind::Namespace => of("list", "edges", "", or_every(name), String::new()),
        Scope::One { name, .. } if kind == Kind::Namespace => of("get", kind.plural(), "", name.clone(), name),
        Scope::One { namespace, name } => of("get", kind.plural(), "", namespace, name),
        Scope::Edges { namespace, name } => {
            of("get", kind.plural(), "edges", namespace.unwrap_or_default(), or_every(name))
        }
    })
}

fn place(path: &str) -> Result<Place, Refusal> {
    let nothing = || Refusal::not_found("the server could not find the requested resource");
    let rest = path.strip_prefix("/apis/").and_then(|path| path.strip_prefix(GROUP)).ok_or_else(nothing)?;
    let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
    let Some((version, segments)) = segments.split_first() else { return Ok(Place::Group) };
    let version = VERSIONS.into_iter().find(|known| known == version).ok_or_else(nothing)?;
    let kind = |plural: &str, is_namespaced: bool| {
        let kind = Kind::of_plural(plural).filter(|kind| kind.is_namespaced() == is_namespaced);
        kind.ok_or_else(|| Refusal::not_found(format!("there are no measures of `{plural}` here")))
    };
    let owned = |text: &str| text.to_owned();
    let unless_every = |name: &str| (name != EVERY).then(|| owned(name));
    let (kind, scope) = match *segments {
        [] => return Ok(Place::Resources(version)),
        [plural] => (Kind::of_plural(plural).ok_or_else(nothing)?, Scope::List { namespace: None }),
        ["namespaces", namespace, plural] if plural != "edges" => {
            (kind(plural, true)?, Scope::List { namespace: Some(owned(namespace)) })
        }
        ["namespaces", namespace, plural, name] => {
            (kind(plural, true)?, Scope::One { namespace: owned(namespace), name: owned(name) })
        }
        ["namespaces", namespace, plural, name, "edges"] => {
            (kind(plural, true)?, Scope::Edges { namespace: Some(owned(namespace)), name: unless_every(name) })
        }
        [plural, name] => (kind(plural, false)?, Scope::One { namespace: String::new(), name: owned(name) }),
        [plural, EVERY, "edges"] => {
            (Kind::of_plural(plural).ok_or_else(nothing)?, Scope::Edges { namespace: None, name: None })
        }
        [plural, name, "edges"] => (kind(plural, false)?, Scope::Edges { namespace: None, name: Some(owned(name)) }),
        _ => return Err(nothing()),
    };
    Ok(Place::Ask(version, kind, scope))
}
