//! A whole control plane in one process: against the embedded Kubernetes API, with proxies' clients connected to it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod https;
mod world;

use heddle_control::view;
use heddle_policy::{Mode, ProxyConfig};
use serde_json::{Value, json};
use world::{World, account, condition, group, namespace, pod, service, target};

/// The origins of what the inbound half of a configuration grants.
fn grants(config: &ProxyConfig) -> Vec<String> {
    config.inbound.authorizations.iter().map(|grant| grant.origin.name.to_string()).collect()
}

async fn shop() -> World {
    let world = World::new().await;
    world.create(namespace("shop")).await;
    for object in
        [account("web"), account("buyer"), service("web"), pod("web", "10.244.0.2"), pod("buyer", "10.244.0.3")]
    {
        world.create(object).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_a_proxy_is_told_every_change_of_policy() {
    let mut world = shop().await;
    world.start().await;
    let mut web = world.proxy("web").await;
    web.until(|config| config.settings.is_some()).await;
    assert_eq!(grants(&web.now()), [""; 0]);

    world.create(group("reads")).await;
    world.create(target("buyers", "reads")).await;
    web.until(|config| grants(config) == ["buyers"]).await;
    assert!(web.now().services.keys().any(|name| name.to_string() == "shop/web"));

    world.delete(&target("buyers", "reads")).await;
    web.until(|config| grants(config).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_certified_as_its_pod() {
    let mut world = shop().await;
    world.start().await;
    let web = world.proxy("web").await;
    let peer = web.certified().await;
    assert_eq!(peer.identity.unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(peer.pod.unwrap().to_string(), "shop/web");
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_a_missing_route_is_a_condition_and_an_event_until_it_appears() {
    let mut world = shop().await;
    world.create(target("buyers", "reads")).await;
    world.start().await;
    let buyers = target("buyers", "reads");
    world.until(&buyers, |target| condition(target, "ResolvedRefs") == ("False", "RefNotFound")).await;
    let event = world.event_about("buyers").await;
    assert_eq!((event["reason"].as_str(), event["type"].as_str()), (Some("RefNotFound"), Some("Warning")));
    assert!(event["note"].as_str().unwrap().starts_with("spec.rules[0]"), "{event}");

    world.create(group("reads")).await;
    let told = world.until(&buyers, |target| condition(target, "ResolvedRefs").0 == "True").await;
    assert_eq!(told["status"]["conditions"][0]["observedGeneration"], told["metadata"]["generation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_proxy_is_seen_on_the_resource_that_caused_it() {
    let mut world = shop().await;
    world.start().await;
    let refuse = |config: &ProxyConfig| match grants(config).is_empty() {
        true => Ok(()),
        false => Err("no grants, please".to_owned()),
    };
    let web = world.proxy_that("web", refuse).await;
    web.clone().until(|config| config.settings.is_some()).await;
    world.create(group("reads")).await;
    let buyers = target("buyers", "reads");
    world.create(buyers.clone()).await;
    let told = world.until(&buyers, |target| condition(target, "Programmed") == ("False", "Rejected")).await;
    let conditions = told["status"]["conditions"].as_array().unwrap();
    let programmed = conditions.iter().find(|condition| condition["type"] == "Programmed").unwrap();
    assert_eq!(programmed["message"], "the proxy of shop/web refused it: no grants, please");
    assert_eq!(grants(&web.now()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_control_plane_goes_on_where_it_was() {
    let mut world = shop().await;
    world.create(group("reads")).await;
    world.create(target("buyers", "reads")).await;
    world.start().await;
    let mut web = world.proxy("web").await;
    web.until(|config| grants(config) == ["buyers"]).await;
    let root = world.trust_bundle().await;

    world.stop().await;
    assert_eq!(grants(&web.now()), ["buyers"]);
    world.create(target("more", "reads")).await;
    world.start().await;
    web.until(|config| grants(config) == ["buyers", "more"]).await;
    assert_eq!(world.trust_bundle().await, root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_with_its_field_and_a_doubtful_one_warned_of() {
    let mut world = shop().await;
    world.start().await;
    let review = |object: Value| json!({ "request": { "uid": "7", "operation": "CREATE", "object": object } });

    let mut bad = target("buyers", "reads");
    bad["spec"]["rules"] = json!([]);
    let answer = world.post("/validate", &review(bad)).await;
    assert_eq!((answer["response"]["uid"].as_str(), &answer["response"]["allowed"]), (Some("7"), &json!(false)));
    assert_eq!(answer["response"]["status"]["details"]["causes"][0]["field"], "spec.rules");

    let answer = world.post("/validate", &review(target("buyers", "reads"))).await;
    assert_eq!(answer["response"]["allowed"], true);
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("spec.rules[0]"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_older_versions_are_converted_or_refused_by_name() {
    let mut world = shop().await;
    world.start().await;
    let split = |weight: Value| {
        json!({
            "apiVersion": "split.smi-spec.io/v1alpha1",
            "kind": "TrafficSplit",
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": { "service": "web", "backends": [{ "service": "web-v1", "weight": weight }] },
        })
    };
    let review = |objects: Vec<Value>| {
        let request = json!({ "uid": "8", "desiredAPIVersion": "split.smi-spec.io/v1alpha4", "objects": objects });
        json!({ "request": request })
    };
    let answer = world.post("/convert", &review(vec![split(json!("500m"))])).await;
    assert_eq!(answer["response"]["result"]["status"], "Success");
    assert_eq!(answer["response"]["convertedObjects"][0]["apiVersion"], "split.smi-spec.io/v1alpha4");

    let answer = world.post("/convert", &review(vec![split(json!("500m")), split(json!("a lot"))])).await;
    assert_eq!(answer["response"]["result"]["status"], "Failure");
    let message = answer["response"]["result"]["message"].as_str().unwrap();
    assert!(message.contains("TrafficSplit shop/web: "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_api_answers_the_api_server_and_nobody_else() {
    let mut world = shop().await;
    world
        .create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "lenient", "labels": { "heddle.dev/mode": "audit" },
    } }))
        .await;
    world.start().await;
    let mut web = world.proxy("web").await;
    web.until(|config| config.settings.is_some()).await;

    let path = |document: &str| format!("/apis/{}/{document}", view::API_VERSION);
    assert_eq!(world.get_as(None, &path("proxies")).await.0, 401);
    assert_eq!(world.get_as(Some("somebody"), &path("proxies")).await.0, 401);

    let (status, document) = world.get_as(Some("front-proxy-client"), &path("proxies/web.shop")).await;
    assert_eq!(status, 200, "{document}");
    let proxy: view::Proxy = serde_json::from_value(document).unwrap();
    assert!(proxy.connected);
    assert_eq!(proxy.identity.unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/web");

    let (_, document) = world.get_as(Some("front-proxy-client"), &path("status/mesh")).await;
    let status: view::MeshStatus = serde_json::from_value(document).unwrap();
    let lenient = status.namespaces.iter().find(|namespace| namespace.name == "lenient").unwrap();
    assert_eq!((status.mode.mode, lenient.mode.mode), (Mode::Enforce, Mode::Audit));
    assert_eq!(&*lenient.mode.origin.as_ref().unwrap().field, "metadata.labels[heddle.dev/mode]");
    assert_eq!((status.proxies.expected, status.proxies.connected), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_itself_and_repairs_what_others_change() {
    let mut world = shop().await;
    world.start().await;
    let webhooks = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "heddle-control" },
    });
    let registered = |object: &Value| object["webhooks"][0]["clientConfig"]["caBundle"].is_string();
    world.until(&webhooks, registered).await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "trafficsplits.split.smi-spec.io" },
    });
    let converts = |object: &Value| object["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"].is_string();
    world.until(&crd, converts).await;

    world.delete(&webhooks).await;
    world.until(&webhooks, registered).await;
}
