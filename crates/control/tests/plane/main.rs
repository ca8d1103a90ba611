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

    let route = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "UDPRoute",
        "metadata": { "namespace": "shop", "name": "dns" },
        "spec": { "matches": { "ports": [53] } },
    });
    let answer = world.post("/validate", &review(route)).await;
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("the route is kept"), "{warning}");
}

/// As from a version that lets it be, or while the control plane was away.
#[tokio::test(flavor = "multi_thread")]
async fn a13_a_stored_target_without_rules_grants_nothing_and_its_status_says_so() {
    let mut world = shop().await;
    let mut stored = target("buyers", "reads");
    stored["spec"]["rules"] = json!([]);
    world.create(stored.clone()).await;
    world.create(group("reads")).await;
    world.create(target("readers", "reads")).await;
    world.start().await;
    world.until(&stored, |target| condition(target, "Accepted") == ("False", "Invalid")).await;
    let mut web = world.proxy("web").await;
    web.until(|config| !grants(config).is_empty()).await;
    assert_eq!(grants(&web.now()), ["readers"]);

    stored["metadata"]["labels"] = json!({ "team": "shop" });
    world.apply(&stored).await;
}

/// It may have been stored before a rule was there, or while the control plane was away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_and_not_valid_can_be_labelled_and_deleted_and_nothing_else() {
    let mut world = shop().await;
    world.start().await;
    let mut stored = target("buyers", "reads");
    stored["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    stored["spec"]["rules"] = json!([]);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut object = stored.clone();
        change(&mut object);
        json!({ "request": { "uid": "7", "operation": "UPDATE", "object": object, "oldObject": stored } })
    };
    let labelled = changed(&|object| object["metadata"]["labels"] = json!({ "team": "shop" }));
    let told = changed(&|object| object["status"] = json!({ "conditions": [] }));
    let deleted = changed(&|object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["finalizers"] = json!([]);
    });
    for review in [labelled, told, deleted] {
        let answer = &world.post("/validate", &review).await["response"];
        assert_eq!(answer["allowed"], true, "{answer}");
        assert!(answer["warnings"][0].as_str().unwrap().starts_with("spec.rules: "), "{answer}");
    }

    let widened = changed(&|object| object["spec"]["sources"][0]["name"] = json!("anybody"));
    let port = "conversion.heddle.dev/destination-port";
    let limited = changed(&|object| object["metadata"]["annotations"] = json!({ port: "80" }));
    for review in [widened, limited] {
        let answer = &world.post("/validate", &review).await["response"];
        assert_eq!((&answer["allowed"], &answer["status"]["reason"]), (&json!(false), &json!("Invalid")));
    }
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

    let (status, document) = world.get_as(Some("front-proxy-client"), &path("destinations/web.shop")).await;
    assert_eq!(status, 200);
    let destination: view::Destination = serde_json::from_value(document).unwrap();
    assert_eq!((destination.service.to_string(), destination.endpoints.len()), ("shop/web".to_owned(), 0));
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

/// Lets a user do some things in the namespace `shop`.
fn rights(user: &str, resources: &[&str], verbs: &[&str]) -> [Value; 2] {
    let object = |kind: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": { "namespace": "shop", "name": user },
        })
    };
    let (mut role, mut binding) = (object("Role"), object("RoleBinding"));
    role["rules"] = json!([{ "apiGroups": ["metrics.smi-spec.io"], "resources": resources, "verbs": verbs }]);
    binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user });
    binding["subjects"] = json!([{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }]);
    [role, binding]
}

#[tokio::test(flavor = "multi_thread")]
async fn m10_kubernetes_decides_who_reads_metrics_and_edges_can_be_granted_alone() {
    let mut world = shop().await;
    let mut of_one_pod = rights("friend", &["pods/edges"], &["get"]);
    of_one_pod[0]["rules"][0]["resourceNames"] = json!(["web"]);
    let of_pods = [rights("drawer", &["pods/edges"], &["get"]), rights("reader", &["pods"], &["get", "list"])];
    for object in of_pods.into_iter().flatten().chain(of_one_pod) {
        world.create(object).await;
    }
    world.start().await;
    let mut web = world.proxy("web").await;
    web.until(|config| config.settings.is_some()).await;
    let version = "/apis/metrics.smi-spec.io/v1alpha1";
    for (user, path, status) in [
        ("drawer", "/namespaces/shop/pods/web/edges", 200),
        // Who may not read the edges of each may not read those of all.
        ("drawer", "/namespaces/shop/pods/*/edges", 200),
        ("drawer", "/pods/*/edges", 403),
        ("drawer", "/namespaces/shop/deployments/*/edges", 403),
        ("friend", "/namespaces/shop/pods/web/edges", 200),
        ("friend", "/namespaces/shop/pods/buyer/edges", 403),
        ("friend", "/namespaces/shop/pods/*/edges", 403),
        ("reader", "/namespaces/shop/pods/*/edges", 403),
        ("drawer", "/namespaces/shop/pods/web", 403),
        ("drawer", "/namespaces/shop/pods", 403),
        ("reader", "/namespaces/shop/pods/web/edges", 403),
        ("reader", "/namespaces/shop/pods/web", 200),
        ("reader", "/namespaces/shop/pods", 200),
        ("reader", "/pods", 403),
        ("reader", "/namespaces/shop/services/web", 403),
        ("stranger", "/namespaces/shop/pods/web", 403),
        // Discovery is for everybody whom the API server knows.
        ("stranger", "", 200),
    ] {
        let (found, document) = world.get_for(user, &format!("{version}{path}")).await;
        assert_eq!(found, status, "{user} {path}: {document}");
    }
    let (_, refused) = world.get_for("stranger", &format!("{version}/namespaces/shop/pods/web/edges")).await;
    assert_eq!((&refused["kind"], &refused["reason"]), (&json!("Status"), &json!("Forbidden")));
    let (status, _) = world.get_for("stranger", &format!("/apis/{}/proxies", view::API_VERSION)).await;
    assert_eq!(status, 403);
    let (status, _) = world.get_as(None, &format!("{version}/pods")).await;
    assert_eq!(status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a30_editors_split_traffic_and_administrators_alone_grant_access() {
    let world = shop().await;
    for role in ["view", "edit", "admin"] {
        let [_, mut binding] = rights(role, &[], &[]);
        binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
        world.create(binding).await;
    }
    for (user, verb, resource, expected) in [
        ("view", "list", "traffictargets.access.smi-spec.io", true),
        ("view", "update", "trafficsplits.split.smi-spec.io", false),
        ("edit", "update", "trafficsplits.split.smi-spec.io", true),
        ("edit", "create", "traffictargets.access.smi-spec.io", false),
        // To widen the routes of a TrafficTarget is to grant access.
        ("edit", "update", "httproutegroups.specs.smi-spec.io", false),
        ("edit", "create", "identitybindings.access.smi-spec.io", false),
        ("admin", "create", "traffictargets.access.smi-spec.io", true),
        ("admin", "update", "httproutegroups.specs.smi-spec.io", true),
        ("admin", "create", "identitybindings.access.smi-spec.io", true),
        ("admin", "update", "meshconfigs.heddle.dev", false),
    ] {
        assert_eq!(world.may(user, verb, resource).await, expected, "{user} {verb} {resource}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m14_what_is_asked_for_wrongly_is_answered_with_a_status() {
    let mut world = shop().await;
    world.start().await;
    let mut web = world.proxy("web").await;
    web.until(|config| config.settings.is_some()).await;
    for (path, code, reason) in [
        ("/namespaces/shop/pods/web?t=soon", 400, "BadRequest"),
        ("/namespaces/shop/pods/nobody", 404, "NotFound"),
        ("/namespaces/shop/pods?watch=true", 405, "MethodNotAllowed"),
        ("/gateways", 404, "NotFound"),
    ] {
        let path = format!("/apis/metrics.smi-spec.io/v1alpha2{path}");
        let (status, document) = world.get_as(Some("front-proxy-client"), &path).await;
        assert_eq!((status, document["reason"].as_str()), (code, Some(reason)), "{path}: {document}");
    }
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
