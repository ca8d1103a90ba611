//! Control plane and proxies in one process: the real server and the real client, over TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::sync::Arc;
use std::time::Duration;

use heddle_policy::{Mode, Peer, PodName, ProxyConfig};
use heddle_xds::{Nack, Refused};
use tonic::Code;
use world::{Raw, World, config, edge, id, report, until, web};

#[tokio::test]
async fn a_proxy_gets_its_configuration_and_every_change_of_it() {
    let world = World::new().await;
    let mut proxy = world.proxy("web");
    world.set("web", config(&[("a", "10.0.0.1")]));
    until(&mut proxy.config, |config| **config == *world::config(&[("a", "10.0.0.1")])).await;
    world.set("web", config(&[("b", "10.0.0.2")]));
    until(&mut proxy.config, |config| **config == *world::config(&[("b", "10.0.0.2")])).await;
}

#[tokio::test]
async fn what_a_proxy_acknowledged_is_the_very_configuration() {
    let world = World::new().await;
    let _proxy = world.proxy("web");
    let newest = config(&[("a", "10.0.0.1")]);
    world.set("web", newest.clone());
    let acked = |config: &Arc<ProxyConfig>| {
        let config = config.clone();
        move |proxies: &heddle_xds::Proxies| {
            let acked = proxies.get(&web()).and_then(|proxy| proxy.acked.as_ref());
            acked.is_some_and(|acked| Arc::ptr_eq(&acked.config, &config))
        }
    };
    until(&mut world.proxies(), acked(&newest)).await;
    // Compiled again with the same result: nothing to send, and acknowledged all the same.
    let again = config(&[("a", "10.0.0.1")]);
    world.set("web", again.clone());
    until(&mut world.proxies(), acked(&again)).await;
}

#[tokio::test]
async fn a_change_of_one_service_sends_one_resource() {
    let world = World::new().await;
    world.set("web", config(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]));
    let mut raw = Raw::connect(&world, "token-of-web").await.unwrap();
    assert_eq!(raw.next().await.0, ["inbound", "service/shop/a", "service/shop/b"]);
    raw.ack().await;
    world.set("web", config(&[("a", "10.0.0.1"), ("b", "10.0.0.3")]));
    assert_eq!(raw.next().await, (vec!["service/shop/b".to_owned()], vec![]));
}

#[tokio::test]
async fn a_reconnection_sends_only_what_differs() {
    let world = World::new().await;
    world.set("web", config(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]));
    let mut first = Raw::connect(&world, "token-of-web").await.unwrap();
    first.next().await;
    first.ack().await;
    let known = first.versions.clone();
    drop(first);
    world.set("web", config(&[("a", "10.0.0.1"), ("b", "10.0.0.9")]));
    let mut second = Raw::connect_knowing(&world, "token-of-web", known).await.unwrap();
    assert_eq!(second.next().await, (vec!["service/shop/b".to_owned()], vec!["service/shop/c".to_owned()]));
}

#[tokio::test]
async fn a_refused_configuration_is_seen_by_the_server_and_the_last_good_one_stays() {
    let world = World::new().await;
    let mut proxy = world.proxy_with("web", |config| match config.inbound.mode {
        Mode::Permissive => Err("permissive is not for this proxy".to_owned()),
        _ => Ok(()),
    });
    let good = config(&[("a", "10.0.0.1")]);
    world.set("web", good.clone());
    until(&mut proxy.config, |config| **config == *good).await;

    let mut bad = ProxyConfig::clone(&config(&[("a", "10.0.0.66")]));
    bad.inbound = Arc::new(heddle_policy::Inbound { mode: Mode::Permissive, ..Default::default() });
    world.set("web", Arc::new(bad));
    let mut proxies = world.proxies();
    until(&mut proxies, |proxies| proxies.get(&web()).is_some_and(|proxy| proxy.last_nack.is_some())).await;
    let state = proxies.borrow()[&web()].clone();
    let Nack { message, revision, .. } = state.last_nack.unwrap();
    assert_eq!(message, "permissive is not for this proxy");
    assert_eq!((revision, state.acked.unwrap().config), (state.sent.unwrap().revision, good.clone()));
    assert_eq!(**proxy.config.borrow(), *good);

    let better = config(&[("a", "10.0.0.67")]);
    world.set("web", better.clone());
    until(&mut proxy.config, |config| **config == *better).await;
}

#[tokio::test]
async fn a_proxy_gets_a_certificate_of_its_own_and_the_next_one_in_time() {
    let mut world = World::new().await;
    world.restart(|backend| backend.ttl = Duration::from_secs(3)).await;
    let proxy = world.proxy("web");
    let mut credentials = proxy.store.subscribe();
    until(&mut credentials, Option::is_some).await;
    let first = credentials.borrow_and_update().clone().unwrap();
    assert_eq!(*first.svid.peer(), Peer { identity: Some(id("web")), pod: Some(web()) });
    assert_eq!(first.bundle, *world.authority().bundle());

    credentials.changed().await.unwrap();
    let second = credentials.borrow().clone().unwrap();
    assert_ne!(first.svid.chain(), second.svid.chain());
}

#[tokio::test]
async fn calls_without_a_good_token_are_refused() {
    let world = World::new().await;
    for token in ["token-of-nobody", ""] {
        let status = Raw::connect(&world, token).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    let status = Raw::connect(&world, "token-of-nobody").await.err().unwrap();
    assert_eq!(status.message(), Refused::Unauthenticated("there is no such token".to_owned()).to_string());
}

#[tokio::test]
async fn a_token_is_read_again_for_every_connection() {
    let world = World::new().await;
    world.set("web", config(&[("a", "10.0.0.1")]));
    let mut proxy = world.proxy("nobody");
    // The first attempts are refused; the kubelet then writes another token.
    world.refusals(2).await;
    proxy.write_token("token-of-web");
    until(&mut proxy.config, |config| config.services.len() == 1).await;
}

#[tokio::test]
async fn reports_arrive_under_the_name_of_the_tokens_pod() {
    let mut world = World::new().await;
    let proxy = world.proxy("web");
    proxy.reports.send_replace(Some(Arc::new(report(edge("web"), 7))));
    let (pod, received) = world.next_report().await;
    assert_eq!((pod, received), (web(), report(edge("web"), 7)));
}

#[tokio::test]
async fn a_report_of_another_pods_traffic_is_refused() {
    let world = World::new().await;
    let status = world::send_report(&world, "token-of-web", &report(edge("db"), 7)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "the report counts for pod `shop/db-1`, and its sender is `shop/web-1`");
}

#[tokio::test]
async fn without_the_control_plane_nothing_changes_and_its_return_is_noticed() {
    let mut world = World::new().await;
    let good = config(&[("a", "10.0.0.1")]);
    world.set("web", good.clone());
    let mut proxy = world.proxy("web");
    proxy.reports.send_replace(Some(Arc::new(report(edge("web"), 7))));
    until(&mut proxy.config, |config| **config == *good).await;
    until(&mut proxy.store.subscribe(), Option::is_some).await;
    assert_eq!(world.next_report().await.1, report(edge("web"), 7));

    world.stop().await;
    assert_eq!(**proxy.config.borrow(), *good);
    assert!(proxy.store.current().is_some());

    // It comes back elsewhere, with other news; the last report arrives again.
    world.restart(|_| {}).await;
    let news = config(&[("b", "10.0.0.2")]);
    world.set("web", news.clone());
    until(&mut proxy.config, |config| **config == *news).await;
    assert_eq!(world.next_report().await.1, report(edge("web"), 7));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_disconnected() {
    let world = World::new().await;
    world.set("web", config(&[]));
    let mut raw = Raw::connect(&world, "token-of-web").await.unwrap();
    raw.next().await;
    assert!(world.proxies().borrow().contains_key(&web()));
    world.forget("web");
    assert_eq!(raw.end().await.message(), "this pod is no longer in the mesh");
    until(&mut world.proxies(), |proxies| !proxies.contains_key(&web())).await;
}

#[tokio::test]
async fn a_second_stream_of_a_pod_has_its_status() {
    let world = World::new().await;
    world.set("web", config(&[]));
    let mut old = Raw::connect(&world, "token-of-web").await.unwrap();
    old.next().await;
    let mut new = Raw::connect(&world, "token-of-web").await.unwrap();
    new.next().await;
    new.ack().await;
    let acked = |proxies: &heddle_xds::Proxies| proxies.get(&web()).is_some_and(|proxy| proxy.acked.is_some());
    until(&mut world.proxies(), acked).await;
    // The end of the old one takes nothing away.
    old.close().await;
    assert!(acked(&world.proxies().borrow()));
    assert_eq!(world.proxies().borrow().keys().collect::<Vec<_>>(), [&PodName::new("shop", "web-1")]);
}
