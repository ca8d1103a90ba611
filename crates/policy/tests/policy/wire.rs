//! The forms in which configuration travels.

use heddle_policy::{Piece, PodName, ProxyConfig, Reason, ServiceName, SpiffeId};
use serde_json::json;

fn config() -> ProxyConfig {
    serde_json::from_value(json!({
        "settings": {"pod": "shop/web-1", "identity": "spiffe://cluster.local/ns/shop/sa/web", "clusterDomain": "cluster.local"},
        "inbound": {"mode": "audit", "ports": [{"port": 80, "protocol": "http"}]},
        "services": [{"name": "shop/api", "addresses": ["10.96.0.7"], "ports": [{"port": 80}]}],
        "pods": [{"address": "10.244.0.9:0", "pod": "shop/lone"}],
    }))
    .unwrap()
}

#[test]
fn a_configuration_is_its_pieces() {
    let config = config();
    let names: Vec<String> = config.pieces().map(|(name, _)| name).collect();
    assert_eq!(names, ["settings", "inbound", "service/shop/api", "pod/shop/lone"]);
    let mut rebuilt = ProxyConfig::default();
    for (_, piece) in config.pieces() {
        let wire = serde_json::to_string(&piece).unwrap();
        rebuilt.insert(serde_json::from_str::<Piece>(&wire).unwrap());
    }
    assert_eq!(rebuilt, config);
    names.iter().for_each(|name| rebuilt.remove(name));
    assert_eq!(rebuilt, ProxyConfig::default());
}

#[test]
fn removing_an_unknown_piece_changes_nothing() {
    let mut config = config();
    for name in ["", "service", "service/", "service/api", "service/shop/api/x", "pod/shop/other", "x/y"] {
        config.remove(name);
    }
    assert_eq!(config, self::config());
}

/// Clients and dashboards read these: none may change, and the wire says the same as the header.
#[test]
fn reasons_have_stable_codes_and_statuses() {
    let expected = "no-identity 403, no-target 403, source-not-allowed 403, port-not-allowed 403, route-not-allowed 403, \
                    not-http 403, split-all-zero 503, no-endpoint 503, connect-failed 502, peer-identity 502, \
                    upstream-reset 502, upstream-timeout 504, not-http2 502, bad-request 400, head-too-large 431, \
                    request-timeout 408, overloaded 503, given-up 499";
    for pair in expected.split(", ") {
        let (code, status) = pair.split_once(' ').unwrap();
        let reason: Reason = serde_json::from_value(json!(code)).unwrap();
        assert_eq!((reason.code(), reason.status().to_string().as_str()), (code, status));
    }
}

#[test]
fn an_unknown_field_is_refused() {
    assert!(serde_json::from_value::<ProxyConfig>(json!({"inbound": {"mode": "enforce", "allow": true}})).is_err());
}

#[test]
fn names_are_read_strictly() {
    for text in ["", "a", "/", "a/", "/b", "a/b/c"] {
        assert!(
            ServiceName::try_from(text.to_owned()).is_err() && PodName::try_from(text.to_owned()).is_err(),
            "{text}"
        );
    }
    for text in [
        "",
        "cluster.local/ns/a",
        "spiffe://",
        "spiffe://A/x",
        "spiffe://a/",
        "spiffe://a//b",
        "spiffe://a/../b",
        "spiffe://a/é",
    ] {
        assert!(text.parse::<SpiffeId>().is_err(), "{text}");
    }
}

#[test]
fn a_spiffe_id_names_its_service_account() {
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    assert_eq!((id.trust_domain(), id.service_account()), ("cluster.local", Some(("shop", "web"))));
    let other: SpiffeId = "spiffe://cluster.local/web/shop".parse().unwrap();
    assert_eq!(other.service_account(), None);
}
