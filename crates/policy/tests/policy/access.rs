//! Groups A and I: who may do what.

use heddle_policy::{Decision, GRPC_HEALTH_CHECK, Inbound, Mode, Peer, PodName, Reason, Verdict};
use proptest::prelude::*;
use serde_json::json;

use crate::{PORT, authorization, get, identity, inbound, peer, request, rule};

fn reason(decision: Decision<'_>) -> Option<Reason> {
    match decision.verdict {
        Verdict::Allowed(_) => None,
        Verdict::Denied(denied) => Some(denied.reason),
    }
}

/// Why a GET of `path` by `source` is refused; `None` when it is allowed.
fn refusal(inbound: &Inbound, source: &str, path: &str) -> Option<Reason> {
    reason(inbound.decide_request(&peer(source), PORT, &get(path)))
}

fn books() -> serde_json::Value {
    json!({"http": [rule("books", json!({"path": "/books", "methods": ["GET"]}))]})
}

#[test]
fn a1_without_targets_everything_is_denied() {
    let inbound = Inbound::default();
    let decision = inbound.decide_request(&peer("bookbuyer/bookbuyer"), PORT, &get("/"));
    assert!(!decision.admitted);
    assert_eq!(reason(decision), Some(Reason::NoTarget));
    assert_eq!(reason(inbound.decide_connection(&peer("bookbuyer/bookbuyer"), PORT)), Some(Reason::NoTarget));
}

#[test]
fn a2_permission_is_the_union_of_targets() {
    let one = authorization("one", &["a/a"], json!({"http": [rule("x", json!({"path": "/x"}))]}));
    let two = authorization("two", &["a/a"], json!({"http": [rule("y", json!({"path": "/y"}))]}));
    let both = inbound("enforce", &[one, two]);
    assert_eq!(refusal(&both, "a/a", "/x"), None);
    assert_eq!(refusal(&both, "a/a", "/y"), None);
    assert_eq!(refusal(&both, "a/a", "/z"), Some(Reason::RouteNotAllowed));
}

proptest! {
    #[test]
    fn a2_adding_a_target_never_removes_access(
        targets in prop::collection::vec((0..3usize, prop::option::of(0..3usize), prop::option::of(0..3u16)), 1..6),
        source in 0..3usize, path in 0..3usize, port in 0..3u16,
    ) {
        let (sources, paths) = (["a/a", "b/b", "c/c"], ["/x", "/y", "/z"]);
        let list: Vec<_> = targets.iter().map(|&(source, path, port)| {
            let mut layers = json!({});
            if let Some(path) = path { layers["http"] = json!([rule("m", json!({"path": paths[path]}))]); }
            if let Some(port) = port { layers["tcp"] = json!({"only": [port]}); }
            authorization("target", &[sources[source]], layers)
        }).collect();
        let ask = |count: usize| {
            let inbound = inbound("enforce", &list[..count]);
            let request = inbound.decide_request(&peer(sources[source]), port, &get(paths[path])).admitted;
            (request, inbound.decide_connection(&peer(sources[source]), port).admitted)
        };
        let (before, after) = (ask(list.len() - 1), ask(list.len()));
        prop_assert!(before.0 <= after.0 && before.1 <= after.1);
    }
}

#[test]
fn a3_a_source_with_a_matching_route_is_allowed_by_that_match() {
    let inbound = inbound("enforce", &[authorization("buyers", &["bookbuyer/bookbuyer"], books())]);
    let decision = inbound.decide_request(&peer("bookbuyer/bookbuyer"), PORT, &get("/books-bought"));
    let Verdict::Allowed(origin) = decision.verdict else { panic!("{decision:?}") };
    assert_eq!(origin.to_string(), "HTTPRouteGroup bookstore/books");
    assert!(decision.admitted);
}

#[test]
fn a4_another_source_is_denied_even_on_that_route() {
    let inbound = inbound("enforce", &[authorization("buyers", &["bookbuyer/bookbuyer"], books())]);
    assert_eq!(refusal(&inbound, "bookthief/bookthief", "/books-bought"), Some(Reason::SourceNotAllowed));
}

#[test]
fn a4_the_nearest_rule_is_the_one_that_would_allow_another_source() {
    let metrics = json!({"http": [rule("metrics", json!({"path": "/metrics"}))]});
    let list = [authorization("a-scraper", &["mon/prometheus"], metrics), authorization("buyers", &["b/b"], books())];
    let inbound = inbound("enforce", &list);
    let decision = inbound.decide_request(&peer("bookthief/bookthief"), PORT, &get("/books"));
    let Verdict::Denied(denied) = decision.verdict else { panic!("{decision:?}") };
    assert_eq!(denied.nearest.unwrap().to_string(), "TrafficTarget bookstore/buyers");
}

#[test]
fn a5_a_source_on_an_unlisted_route_is_denied_and_told_the_nearest_target() {
    let tcp = authorization("db", &["b/b"], json!({"tcp": {"only": [1]}}));
    let inbound = inbound("enforce", &[tcp, authorization("buyers", &["b/b"], books())]);
    let decision = inbound.decide_request(&peer("b/b"), PORT, &get("/admin"));
    let Verdict::Denied(denied) = decision.verdict else { panic!("{decision:?}") };
    assert_eq!(denied.reason, Reason::RouteNotAllowed);
    assert_eq!(denied.nearest.unwrap().to_string(), "TrafficTarget bookstore/buyers");
}

#[test]
fn a8_an_unresolved_layer_allows_nothing() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], json!({"http": []}))]);
    assert_eq!(refusal(&inbound, "a/a", "/"), Some(Reason::RouteNotAllowed));
}

#[test]
fn a9_an_unresolved_tcp_layer_closes_the_http_layer_too() {
    let layers = json!({"tcp": {"only": []}, "http": [rule("all", json!({}))]});
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], layers)]);
    assert_eq!(refusal(&inbound, "a/a", "/"), Some(Reason::PortNotAllowed));
}

#[test]
fn a11_plaintext_has_no_identity_and_is_denied() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], json!({"tcp": "all"}))]);
    assert_eq!(reason(inbound.decide_request(&Peer::default(), PORT, &get("/"))), Some(Reason::NoIdentity));
    assert_eq!(reason(inbound.decide_connection(&Peer::default(), PORT)), Some(Reason::NoIdentity));
}

#[test]
fn a15_tcp_routes_limit_ports() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], json!({"tcp": {"only": [5432]}}))]);
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), 5432)), None);
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), 5433)), Some(Reason::PortNotAllowed));
}

#[test]
fn a16_layers_are_anded() {
    let layers = json!({"tcp": {"only": [8080]}, "http": [rule("metrics", json!({"path": "/metrics"}))]});
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], layers)]);
    let ask = |port, path| reason(inbound.decide_request(&peer("a/a"), port, &get(path)));
    assert_eq!(ask(8080, "/metrics"), None);
    assert_eq!(ask(8080, "/api"), Some(Reason::RouteNotAllowed));
    assert_eq!(ask(9090, "/metrics"), Some(Reason::PortNotAllowed));
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), 8080)), Some(Reason::NotHttp));
}

#[test]
fn a17_a_tcp_route_alone_opens_the_port_to_http() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], json!({"tcp": {"only": [PORT]}}))]);
    assert_eq!(refusal(&inbound, "a/a", "/anything"), None);
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), PORT)), None);
}

#[test]
fn a18_http_routes_alone_refuse_raw_tcp() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], books())]);
    assert_eq!(refusal(&inbound, "a/a", "/books"), None);
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), PORT)), Some(Reason::NotHttp));
}

#[test]
fn a18_http_routes_alone_open_no_port_that_is_declared_to_speak_something_else() {
    let mut inbound = inbound("enforce", &[authorization("t", &["a/a"], books())]);
    let declared = json!([{"port": 8080, "protocol": "http"}, {"port": 11211, "protocol": "tcp"}]);
    inbound.ports = serde_json::from_value(declared).unwrap();
    assert_eq!(reason(inbound.decide_request(&peer("a/a"), 8080, &get("/books"))), None);
    assert_eq!(reason(inbound.decide_request(&peer("a/a"), 11211, &get("/books"))), Some(Reason::PortNotAllowed));
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), 11211)), Some(Reason::PortNotAllowed));
    let both = json!({"tcp": {"only": [11211]}, "http": books()["http"]});
    let inbound = heddle_policy::Inbound {
        authorizations: self::inbound("enforce", &[authorization("t", &["a/a"], both)]).authorizations,
        ..inbound
    };
    assert_eq!(reason(inbound.decide_request(&peer("a/a"), 11211, &get("/books"))), None, "a TCPRoute names it");
}

#[test]
fn a19_udp_routes_open_no_tcp_port() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], json!({"udp": {"only": [8301]}}))]);
    assert_eq!(reason(inbound.decide_connection(&peer("a/a"), 8301)), Some(Reason::PortNotAllowed));
    assert_eq!(reason(inbound.decide_request(&peer("a/a"), 8301, &get("/"))), Some(Reason::PortNotAllowed));
}

#[test]
fn a20_path_and_method_decide_per_source() {
    let api = json!({"http": [rule("api", json!({"path": "/api"}))]});
    let metrics = json!({"http": [rule("metrics", json!({"path": "/metrics", "methods": ["GET"]}))]});
    let list =
        [authorization("api", &["w/website", "p/payments"], api), authorization("metrics", &["m/prometheus"], metrics)];
    let inbound = inbound("enforce", &list);
    let allowed = |source, method, path| inbound.decide_request(&peer(source), PORT, &request(method, path)).admitted;
    for method in ["GET", "POST", "DELETE"] {
        assert!(allowed("w/website", method, "/api") && allowed("p/payments", method, "/api"));
        assert!(!allowed("m/prometheus", method, "/api") && !allowed("w/website", method, "/metrics"));
    }
    assert!(allowed("m/prometheus", "GET", "/metrics"));
    assert!(!allowed("m/prometheus", "POST", "/metrics"));
}

#[test]
fn a21_targets_keep_their_own_routes_apart() {
    let first = authorization("one", &["a/a"], json!({"http": [rule("x", json!({"path": "/x"}))]}));
    let second = authorization("two", &["b/b"], json!({"http": [rule("y", json!({"path": "/y"}))]}));
    let inbound = inbound("enforce", &[first, second]);
    assert_eq!(refusal(&inbound, "a/a", "/y"), Some(Reason::RouteNotAllowed));
    assert_eq!(refusal(&inbound, "b/b", "/x"), Some(Reason::RouteNotAllowed));
}

#[test]
fn a22_the_same_account_of_another_namespace_is_another_identity() {
    let inbound = inbound("enforce", &[authorization("t", &["one/buyer"], json!({"tcp": "all"}))]);
    assert_eq!(refusal(&inbound, "one/buyer", "/"), None);
    assert_eq!(refusal(&inbound, "two/buyer", "/"), Some(Reason::SourceNotAllowed));
}

#[test]
fn a31_a_denial_is_403() {
    let denials = [
        Reason::NoIdentity,
        Reason::NoTarget,
        Reason::SourceNotAllowed,
        Reason::PortNotAllowed,
        Reason::RouteNotAllowed,
        Reason::NotHttp,
    ];
    assert!(denials.iter().all(|reason| reason.status() == 403));
    assert_eq!(serde_json::to_value(denials[4]).unwrap(), denials[4].code());
}

#[test]
fn a32_http_without_any_target_is_answered_403() {
    let answer = reason(Inbound::default().decide_request(&peer("a/a"), PORT, &get("/"))).map(Reason::status);
    assert_eq!(answer, Some(403));
}

#[test]
fn a33_options_is_a_method_like_others() {
    let inbound = inbound("enforce", &[authorization("t", &["a/a"], books())]);
    let preflight = inbound.decide_request(&peer("a/a"), PORT, &request("OPTIONS", "/books"));
    assert_eq!(reason(preflight), Some(Reason::RouteNotAllowed));
}

#[test]
fn a34_only_a_declared_probe_from_the_node_needs_no_identity() {
    let inbound: Inbound = serde_json::from_value(json!({
        "mode": "enforce",
        "probes": [{"port": 8080, "path": "/healthz"}, {"port": 9000}, {"port": 8443, "tls": true},
            {"port": 9090, "path": GRPC_HEALTH_CHECK}],
        "nodeAddresses": ["10.244.0.1"],
    }))
    .unwrap();
    let (node, other) = ("10.244.0.1".parse().unwrap(), "10.244.0.9".parse().unwrap());
    let get = |path: &'static str| Some(("GET", path));
    assert!(inbound.is_probe(node, 8080, get("/healthz")));
    assert!(inbound.is_probe(node, 9000, None));
    assert!(!inbound.is_probe(other, 8080, get("/healthz")), "another address");
    assert!(!inbound.is_probe(node, 8080, get("/healthz/secret")), "a longer path");
    assert!(!inbound.is_probe(node, 8080, Some(("POST", "/healthz"))), "another method");
    assert!(inbound.is_probe(node, 9090, Some(("POST", GRPC_HEALTH_CHECK))));
    assert!(!inbound.is_probe(node, 9090, get(GRPC_HEALTH_CHECK)), "another method than that of gRPC");
    assert!(!inbound.is_probe(node, 8081, get("/healthz")), "another port");
    assert!(!inbound.is_probe(node, 8080, None), "a connection to an HTTP probe's port");
    assert!(!inbound.is_probe(node, 9000, get("/")), "a request to a TCP probe's port");
    assert!(inbound.is_tls_probe(node, 8443) && !inbound.is_tls_probe(other, 8443));
    assert!(!inbound.is_tls_probe(node, 9000), "a probe that only connects");
}

#[test]
fn a36_one_identity_needs_a_target_like_any_other() {
    let inbound = inbound("enforce", &[authorization("t", &["a/other"], json!({"tcp": "all"}))]);
    assert_eq!(refusal(&inbound, "a/a", "/"), Some(Reason::SourceNotAllowed));
}

#[test]
fn audit_and_permissive_admit_and_record_what_enforce_would_say() {
    for (mode, admitted) in [("enforce", false), ("audit", true), ("permissive", true)] {
        let inbound = inbound(mode, &[authorization("t", &["a/a"], books())]);
        let decision = inbound.decide_request(&peer("b/b"), PORT, &get("/books"));
        assert_eq!((decision.admitted, reason(decision)), (admitted, Some(Reason::SourceNotAllowed)), "{mode}");
        let plaintext = inbound.decide_connection(&Peer::default(), PORT);
        assert_eq!((plaintext.admitted, reason(plaintext)), (admitted, Some(Reason::NoIdentity)), "{mode}");
    }
    assert_eq!(Mode::default(), Mode::Enforce);
}

#[test]
fn i8_a_selected_source_needs_the_pod_in_its_certificate() {
    let mut target = authorization("t", &["a/shared"], json!({"tcp": "all"}));
    target["sources"][0]["pods"] = json!(["a/blue-1"]);
    let inbound = inbound("enforce", &[target]);
    let ask = |pod: Option<&str>| {
        let pod = pod.map(|pod| PodName::new("a", pod));
        inbound.decide_connection(&Peer { identity: Some(identity("a", "shared")), pod }, PORT).admitted
    };
    assert!(ask(Some("blue-1")));
    assert!(!ask(Some("green-1")));
    assert!(!ask(None), "a certificate without a pod");
}

#[test]
fn explain_gives_every_opinion_and_agrees_with_the_verdict() {
    let list = [
        authorization("scraper", &["mon/prometheus"], json!({"tcp": "all"})),
        authorization("admin", &["b/b"], json!({"http": [rule("admin", json!({"path": "/admin"}))]})),
        authorization("buyers", &["b/b"], books()),
    ];
    let inbound = inbound("enforce", &list);
    let explained = inbound.explain_request(&peer("b/b"), PORT, &get("/books"));
    let judgements: Vec<_> = explained
        .iter()
        .map(|opinion| (&*opinion.authorization.origin.name, opinion.source.is_some(), opinion.judgement.err()))
        .collect();
    let expected = [
        ("scraper", false, Some(Reason::SourceNotAllowed)),
        ("admin", true, Some(Reason::RouteNotAllowed)),
        ("buyers", true, None),
    ];
    assert_eq!(judgements, expected);
    assert!(inbound.decide_request(&peer("b/b"), PORT, &get("/books")).admitted);
    assert!(inbound.explain_connection(&peer("b/b"), PORT).iter().all(|opinion| opinion.judgement.is_err()));
}
