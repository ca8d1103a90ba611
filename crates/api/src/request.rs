//! What a request asks for, read from its method, path and query.

use http::Method;

use super::error::{Answer, Failure};

/// A request in the terms that authorization and handlers use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Kubernetes' verb: get, list, watch, create, update, patch, delete, deletecollection; for other paths the method.
    pub verb: String,
    /// The path as sent.
    pub path: String,
    /// Set when the path is that of a resource.
    pub resource: Option<Place>,
}

/// A place among the resources. Names are empty where the path has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource, for proxies.
    pub rest: String,
}

/// The query's parameters, decoded. The last of several of one name counts, except for `command`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Answer<Self> {
        let pairs = query.unwrap_or_default();
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(
            &format!("/?{pairs}").parse().map_err(|_| Failure::bad_request("the query is not a URI query"))?,
        );
        Ok(Query(pairs.map_err(|e| Failure::bad_request(format!("the query cannot be read: {e}")))?.0))
    }

    /// The value of `name`, or "".
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(n, v)| n == name && matches!(v.as_str(), "" | "1" | "true" | "True" | "t"))
    }

    pub(crate) fn number(&self, name: &str) -> Answer<Option<u64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Failure::bad_request(format!("{name}: not a number: {text:?}"))),
        }
    }
}

impl Target {
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let found = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => Some(("", *version, rest)),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => Some((*group, *version, rest)),
            _ => None,
        };
        let Some((group, version, rest)) = found else {
            return Target { verb: method.as_str().to_lowercase(), path: path.to_owned(), resource: None };
        };
        let (watch_prefix, rest) = without_watch(rest);
        let place = place(group, version, rest);
        let verb = verb(method, &place, query, watch_prefix);
        let resource = Some(place);
        Target { verb, path: path.to_owned(), resource }
    }
}

fn decoded(segment: &str) -> String {
    percent_decoded(segment)
}

/// `%41` becomes `A`; what is not valid UTF-8 afterwards is replaced.
fn percent_decoded(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether the segments after group and version begin with the old `watch/`, and what follows it. Only there it is a
/// prefix: further on it is a name like any other.
fn without_watch<'a, 'b>(segments: &'a [&'b str]) -> (bool, &'a [&'b str]) {
    match segments {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        all => (false, all),
    }
}

/// The place that the segments after group, version and the old prefix name.
fn place(group: &str, version: &str, segments: &[&str]) -> Place {
    let mut place = Place { group: group.to_owned(), version: version.to_owned(), ..Place::default() };
    let rest = match segments {
        ["namespaces", namespace, subresource @ ("status" | "finalize")] => {
            (place.plural, place.subresource) = ("namespaces".to_owned(), (*subresource).to_owned());
            (place.name, place.namespace) = ((*namespace).to_owned(), (*namespace).to_owned());
            return place;
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
            place.namespace = (*namespace).to_owned();
            rest
        }
        all => all,
    };
    let part = |at: usize| rest.get(at).map(|s| (*s).to_owned()).unwrap_or_default();
    (place.plural, place.name, place.subresource) = (part(0), part(1), part(2));
    place.rest = rest.get(3..).unwrap_or_default().join("/");
    // In every group: that is how Kubernetes reads the path.
    if place.plural == "namespaces" {
        place.namespace.clone_from(&place.name);
    }
    place
}

fn verb(method: &Method, place: &Place, query: &Query, watch_prefix: bool) -> String {
    let verb = match (method.as_str(), place.name.is_empty()) {
        ("GET" | "HEAD", _) if (watch_prefix || query.flag("watch")) && place.subresource.is_empty() => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "",
    };
    verb.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str) -> (String, Place) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(Some(query)).expect("a query");
        let target = Target::parse(&method.parse().expect("a method"), path, &query);
        (target.verb, target.resource.unwrap_or_default())
    }

    #[test]
    fn paths_name_places() {
        let (verb, place) = target("GET", "/apis/apps/v1/namespaces/shop/deployments/web/scale");
        assert_eq!(verb, "get");
        assert_eq!(
            (place.namespace.as_str(), place.name.as_str(), place.subresource.as_str()),
            ("shop", "web", "scale")
        );
        let (verb, place) = target("GET", "/api/v1/pods?watch=true");
        assert_eq!((verb.as_str(), place.plural.as_str()), ("watch", "pods"));
        let (verb, place) = target("PUT", "/api/v1/namespaces/shop/finalize");
        assert_eq!((verb.as_str(), place.plural.as_str(), place.name.as_str()), ("update", "namespaces", "shop"));
        let (verb, place) = target("DELETE", "/api/v1/namespaces/shop/pods");
        assert_eq!((verb.as_str(), place.namespace.as_str()), ("deletecollection", "shop"));
        let (verb, place) = target("GET", "/api/v1/watch/namespaces/shop/pods/a%2Db");
        assert_eq!((verb.as_str(), place.name.as_str()), ("watch", "a-b"));
        assert_eq!(target("GET", "/healthz").0, "get");
    }

    #[test]
    fn only_the_prefix_makes_a_watch() {
        for (path, verb) in [
            ("/api/v1/namespaces/watch", "get"),
            ("/api/v1/namespaces/watch/pods", "list"),
            ("/api/v1/namespaces/shop/pods/watch", "get"),
            ("/apis/apps/v1/namespaces/watch/deployments/web", "get"),
            ("/apis/apps/v1/watch/deployments", "watch"),
            ("/api/v1/watch/namespaces/watch/pods", "watch"),
        ] {
            assert_eq!(target("GET", path).0, verb, "{path}");
        }
    }
}
