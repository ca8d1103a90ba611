#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use envoy_types::pb::google::rpc;
use heddle_policy::{Inbound, Mode, Piece, ProxyConfig, Service, ServiceName};

use super::*;
use crate::encode::Encoder;

fn config(services: &[(&str, &str)]) -> Arc<ProxyConfig> {
    let mut config = ProxyConfig::default();
    for (name, address) in services {
        let name = ServiceName::new("shop", *name);
        let addresses = vec![address.parse().unwrap()];
        config.insert(Piece::Service(Arc::new(Service { name, addresses, ports: Vec::new() })));
    }
    Arc::new(config)
}

/// By an encoder of its own: equal pieces are equal whoever encoded them.
fn encoded(config: &Arc<ProxyConfig>) -> Encoding {
    Encoder::default().encode(config)
}

fn subscription(known: HashMap<String, String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: TYPE_URL.to_owned(), initial_resource_versions: known, ..Default::default() }
}

fn answer(response: &DeltaDiscoveryResponse, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = refusal.map(|message| rpc::Status { message: message.to_owned(), ..Default::default() });
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        response_nonce: response.nonce.clone(),
        error_detail,
        ..Default::default()
    }
}

fn sent(delta: &mut Delta) -> DeltaDiscoveryResponse {
    match delta.next() {
        Next::Send(_, response) => response,
        other => panic!("{other:?}"),
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

/// A stream whose client has acknowledged `config`, and the versions it was told.
fn settled(config: &Arc<ProxyConfig>) -> (Delta, HashMap<String, String>) {
    let mut delta = Delta::subscribe(&subscription(HashMap::new())).unwrap();
    delta.aim(encoded(config));
    let response = sent(&mut delta);
    let known = response.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    assert!(matches!(delta.hear(&answer(&response, None)), Ok(Heard::Ack(_))));
    (delta, known)
}

#[test]
fn a_new_client_gets_everything_in_one_response() {
    let mut delta = Delta::subscribe(&subscription(HashMap::new())).unwrap();
    assert!(matches!(delta.next(), Next::Wait));
    delta.aim(encoded(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")])));
    let response = sent(&mut delta);
    assert_eq!(names(&response), ["inbound", "service/shop/a", "service/shop/b"]);
    let piece: Piece = serde_json::from_slice(&response.resources[1].resource.as_ref().unwrap().value).unwrap();
    assert!(matches!(piece, Piece::Service(service) if *service.name.name == *"a"));
}

#[test]
fn a_change_of_one_service_sends_that_one() {
    let (mut delta, _) = settled(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]));
    delta.aim(encoded(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.3")])));
    assert_eq!(names(&sent(&mut delta)), ["service/shop/b"]);
}

#[test]
fn what_is_gone_is_removed() {
    let (mut delta, _) = settled(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]));
    delta.aim(encoded(&config(&[("b", "10.0.0.2")])));
    let response = sent(&mut delta);
    assert_eq!((names(&response).len(), &response.removed_resources[..]), (0, &["service/shop/a".to_owned()][..]));
}

#[test]
fn the_same_configuration_again_sends_nothing() {
    let (mut delta, _) = settled(&config(&[("a", "10.0.0.1")]));
    delta.aim(encoded(&config(&[("a", "10.0.0.1")])));
    assert!(matches!(delta.next(), Next::UpToDate(_)));
}

#[test]
fn changes_while_a_response_is_unanswered_leave_as_one() {
    let mut delta = Delta::subscribe(&subscription(HashMap::new())).unwrap();
    delta.aim(encoded(&config(&[("a", "10.0.0.1")])));
    let first = sent(&mut delta);
    for last in 2..100 {
        delta.aim(encoded(&config(&[("a", &format!("10.0.0.{last}"))])));
        assert!(matches!(delta.next(), Next::Wait));
    }
    delta.hear(&answer(&first, None)).unwrap();
    let second = sent(&mut delta);
    assert_eq!(names(&second), ["service/shop/a"]);
    assert!(String::from_utf8_lossy(&second.resources[0].resource.as_ref().unwrap().value).contains("10.0.0.99"));
    delta.hear(&answer(&second, None)).unwrap();
    assert!(matches!(delta.next(), Next::UpToDate(_)));
}

#[test]
fn a_reconnected_client_gets_only_what_differs() {
    let (_, known) = settled(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]));
    let mut delta = Delta::subscribe(&subscription(known.clone())).unwrap();
    delta.aim(encoded(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.9")])));
    let response = sent(&mut delta);
    assert_eq!(names(&response), ["service/shop/b"]);
    assert_eq!(response.removed_resources, ["service/shop/c"]);

    let mut delta = Delta::subscribe(&subscription(known)).unwrap();
    delta.aim(encoded(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")])));
    assert!(matches!(delta.next(), Next::UpToDate(_)));
}

#[test]
fn a_refused_change_is_not_repeated_and_the_next_one_starts_from_what_the_client_has() {
    let (mut delta, _) = settled(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]));
    let bad = config(&[("a", "10.0.0.66"), ("b", "10.0.0.2")]);
    delta.aim(encoded(&bad));
    let response = sent(&mut delta);
    let heard = delta.hear(&answer(&response, Some("no"))).unwrap();
    assert!(matches!(heard, Heard::Nack(snapshot, message) if snapshot.config == bad && message == "no"));
    assert!(matches!(delta.next(), Next::Refused(snapshot) if snapshot.config == bad));
    // Taken back, and applied again.
    delta.aim(encoded(&config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")])));
    assert!(matches!(delta.next(), Next::UpToDate(_)));
    delta.aim(encoded(&bad));
    assert!(matches!(delta.next(), Next::Refused(snapshot) if snapshot.config == bad));

    delta.aim(encoded(&config(&[("a", "10.0.0.66"), ("b", "10.0.0.3")])));
    assert_eq!(names(&sent(&mut delta)), ["service/shop/a", "service/shop/b"]);
}

#[test]
fn an_answer_with_another_nonce_counts_for_nothing() {
    let mut delta = Delta::subscribe(&subscription(HashMap::new())).unwrap();
    delta.aim(encoded(&config(&[])));
    let mut response = sent(&mut delta);
    response.nonce = "777".to_owned();
    assert_eq!(delta.hear(&answer(&response, None)).unwrap(), Heard::Nothing);
    assert!(matches!(delta.next(), Next::Wait));
}

#[test]
fn other_types_and_names_are_refused() {
    let other = DeltaDiscoveryRequest { type_url: "type.example/Cluster".to_owned(), ..Default::default() };
    assert!(Delta::subscribe(&other).err().unwrap().message().contains("`type.example/Cluster` are not served"));
    let mut named = subscription(HashMap::new());
    named.resource_names_subscribe = vec!["*".to_owned(), "inbound".to_owned()];
    assert!(Delta::subscribe(&named).is_err());
    named.resource_names_subscribe = vec!["*".to_owned()];
    assert!(Delta::subscribe(&named).is_ok());
}

#[test]
fn the_revision_follows_the_content() {
    let revision = |config: &ProxyConfig| encoded(&Arc::new(config.clone())).snapshot.revision;
    let mut one = ProxyConfig::default();
    let before = revision(&one);
    assert_eq!(before, revision(&ProxyConfig::default()));
    one.inbound = Arc::new(Inbound { mode: Mode::Audit, ..Default::default() });
    assert_ne!(before, revision(&one));
    let with_services = [config(&[("a", "10.0.0.1")]), config(&[("a", "10.0.0.2")])];
    assert_ne!(revision(&with_services[0]), revision(&with_services[1]));
    assert_ne!(revision(&with_services[0]), before);
}

#[test]
fn proxies_of_one_mesh_share_what_is_common_and_differ_in_what_is_their_own() {
    let encoder = Encoder::default();
    let first = config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    let mut other = ProxyConfig::clone(&first);
    other.inbound = Arc::new(Inbound { mode: Mode::Audit, ..Default::default() });
    let has = Possession::Acknowledged(encoder.encode(&first));
    let (resources, removed) = has.difference(&encoder.encode(&Arc::new(other)));
    assert_eq!((resources.len(), &*resources[0].name, removed.len()), (1, "inbound", 0));

    let next = encoder.encode(&config(&[("b", "10.0.0.2"), ("c", "10.0.0.3")]));
    let (resources, removed) = has.difference(&next);
    assert_eq!((resources.len(), &*resources[0].name), (1, "service/shop/c"));
    assert_eq!(removed, ["service/shop/a"]);
}
