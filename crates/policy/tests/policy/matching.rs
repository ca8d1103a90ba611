//! Group S: which requests a match means.

use std::borrow::Cow;

use heddle_policy::{HeaderPattern, PathPattern, Request, normalize_path, settled_path};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{get, http_match, request};

fn path_matches(pattern: &str, path: &str) -> bool {
    PathPattern::new(pattern).unwrap().is_match(path.as_bytes())
}

fn header_matches(pattern: &str, value: &str) -> bool {
    HeaderPattern::new(pattern).unwrap().is_match(value.as_bytes())
}

/// Whether a match with only these `headers` fits a request that carries `sent`.
fn headers_match(headers: Value, sent: &[(&str, &str)]) -> bool {
    let request = Request { method: "GET", path: "/", authority: "bookstore:14001", headers: sent };
    http_match(json!({"headers": headers})).is_match(&request)
}

#[test]
fn s3_absent_path_and_methods_mean_any() {
    let any = http_match(json!({}));
    assert!(any.is_match(&get("/")) && any.is_match(&request("PROPFIND", "/any/thing")));
}

#[test]
fn s4_a_path_is_anchored_at_its_start_only() {
    assert!(path_matches("/metrics", "/metrics"));
    assert!(path_matches("/metrics", "/metrics/x"));
    assert!(path_matches("/metrics", "/metricsfoo"));
    assert!(!path_matches("/metrics", "/v1/metrics"));
    assert!(!path_matches("counter", "/incrementcounter"));
    assert!(!path_matches("/metrics$", "/metricsfoo"));
}

#[test]
fn s5_alternatives_are_anchored_together() {
    assert!(path_matches("/a|/b", "/b/x"));
    assert!(!path_matches("/a|/b", "/x/b"));
    assert!(!header_matches("a|b", "ax"));
    assert!(!header_matches("a|b", "xb"));
}

#[test]
fn s5_a_pattern_cannot_reach_its_anchors() {
    assert!(PathPattern::new("/a)|(/b").is_err(), "unbalanced groups");
    assert!(!path_matches("(?m)^/b", "/a\n/b"), "multi-line mode");
    assert!(!header_matches("(?m)a$", "a\nb"), "multi-line mode");
    assert!(path_matches("(?x) /books # what buyers ask for", "/books"), "a comment at the end");
    assert!(!header_matches("(?x) in # sider", "insider"), "a comment at the end");
    assert!(path_matches("(?i)/books", "/BOOKS"), "a flag stays");
}

#[test]
fn s6_the_query_is_not_part_of_the_path() {
    assert_eq!(normalize_path("/books?id=/../1").as_deref(), Some("/books"));
    assert_eq!(normalize_path("?x"), None);
}

#[test]
fn s7_paths_are_normalised() {
    let cases = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a///b", "/a/b"),
        ("/a/./b/.", "/a/b/"),
        ("/a/x/../b", "/a/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/%61dmin", "/admin"),
        ("/a/%2e%2e/x", "/x"),
        ("/a%20b%c3%a9", "/a%20b%C3%A9"),
        ("/%252e", "/%252e"),
        ("/.well-known/x..y", "/.well-known/x..y"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("*", "*"),
    ];
    for (target, expected) in cases {
        assert_eq!(normalize_path(target).as_deref(), Some(expected), "{target}");
    }
}

#[test]
fn s7_what_servers_read_differently_is_refused() {
    let targets = [
        "",
        "a",
        "/%2e%2E/x",
        "http://h/a",
        "/..",
        "/a/../..",
        "/%",
        "/%4",
        "/%zz",
        "/%+1",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00b",
        "/..;/admin",
        "/a/.;x/b",
        "/%2e.;/b",
        "/a#b",
        "/a b",
        "/a\tb",
        "/a\r\nb",
        "/%é",
    ];
    for target in targets {
        assert_eq!(normalize_path(target), None, "{target}");
    }
}

#[test]
fn s7_nothing_is_allocated_for_a_path_in_normal_form() {
    for path in ["/", "/a/b/", "/.well-known/x", "/a%20b", "/a;v=1"] {
        assert!(matches!(normalize_path(path), Some(Cow::Borrowed(_))), "{path}");
    }
}

proptest! {
    #[test]
    fn s7_normalising_is_idempotent_and_leaves_no_dots(target in "/[a./%;2eEfF\\\\?#-]{0,24}") {
        if let Some(path) = normalize_path(&target) {
            let again = normalize_path(&path);
            prop_assert_eq!(again.as_deref(), Some(&*path));
            prop_assert!(!path.contains("//") && !path.split('/').any(|segment| segment == ".." || segment == "."));
        }
    }

    #[test]
    fn s19_no_pattern_panics(pattern in ".{0,40}", value in prop::collection::vec(any::<u8>(), 0..40)) {
        if let (Ok(path), Ok(header)) = (PathPattern::new(&pattern), HeaderPattern::new(&pattern)) {
            path.is_match(&value);
            header.is_match(&value);
        }
    }
}

#[test]
fn s8_methods_are_listed_or_any() {
    let get_or_head = http_match(json!({"methods": ["GET", "HEAD"]}));
    assert!(get_or_head.is_match(&request("HEAD", "/")));
    assert!(!get_or_head.is_match(&request("POST", "/")));
    assert!(!get_or_head.is_match(&request("get", "/")), "methods have case");
    assert!(!get_or_head.is_match(&request("PROPFIND", "/")));
    assert!(http_match(json!({"methods": []})).is_match(&request("PROPFIND", "/")));
}

#[test]
fn s9_a_header_matches_as_a_whole_and_its_name_without_case() {
    let firefox = json!([{"name": "user-agent", "value": ".*Firefox.*"}]);
    assert!(headers_match(firefox.clone(), &[("User-Agent", "Mozilla/5.0 Firefox/145")]));
    assert!(!headers_match(firefox, &[]));
    assert!(!header_matches("true", "not true"));
    assert!(header_matches("^(.*?;)?(type=insider)(;.*)?$", "a=b;type=insider;c=d"));
    assert!(!headers_match(json!([{"name": "x", "value": ".*"}]), &[]), "an absent header");
}

#[test]
fn s10_headers_are_anded() {
    let both = json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]);
    assert!(headers_match(both.clone(), &[("a", "1"), ("b", "2")]));
    assert!(!headers_match(both, &[("a", "1")]));
}

#[test]
fn s11_path_method_and_headers_are_anded() {
    let all = http_match(json!({"path": "/x", "methods": ["PUT"], "headers": [{"name": "a", "value": "1"}]}));
    let ask = |method, path, value: &'static str| {
        all.is_match(&Request { method, path, authority: "", headers: &[("a", value)] })
    };
    assert!(ask("PUT", "/x", "1"));
    assert!(!ask("GET", "/x", "1") && !ask("PUT", "/y", "1") && !ask("PUT", "/x", "2"));
}

#[test]
fn s12_several_values_are_joined() {
    let joined = json!([{"name": "a", "value": "1,2"}]);
    assert!(headers_match(joined, &[("a", "1"), ("A", "2")]));
}

#[test]
fn s13_host_is_the_authority() {
    for name in ["host", ":authority"] {
        assert!(headers_match(json!([{"name": name, "value": "bookstore(:.*)?"}]), &[]));
        assert!(!headers_match(json!([{"name": name, "value": "other"}]), &[("host", "other")]));
    }
    let nowhere = Request { authority: "", ..get("/") };
    assert!(!http_match(json!({"headers": [{"name": "host", "value": ".*"}]})).is_match(&nowhere));
}

#[test]
fn s19_what_is_not_linear_or_too_large_is_refused() {
    for pattern in ["(", "a(?=b)", r"(a)\1", "[z-a]", "a{1000}{1000}", &"a".repeat(5000)] {
        assert!(PathPattern::new(pattern).is_err() && HeaderPattern::new(pattern).is_err(), "{pattern}");
    }
    let error = PathPattern::new(r"\w{1000}").unwrap_err().to_string();
    assert_eq!(error, "the pattern compiles to more than 262144 bytes");
}

#[test]
fn s7_a_path_that_servers_read_differently_goes_on_as_it_was_judged() {
    for (target, settled) in [
        ("//public/admin?a=//b", "/public/admin?a=//b"),
        ("/admin/../public/x", "/public/x"),
        ("/admin/%2e%2E/public", "/public"),
        ("/./a/.?q", "/a/?q"),
    ] {
        assert_eq!(settled_path(target).as_deref(), Some(settled), "{target}");
        assert_eq!(normalize_path(target).as_deref(), settled.split('?').next(), "{target}");
    }
    for target in ["/a/%62", "/.well-known/x", "/a/..b/", "/", "*", "/a?b=/../c", "/%c3"] {
        assert_eq!(settled_path(target), None, "{target} goes on as it is");
    }
}
