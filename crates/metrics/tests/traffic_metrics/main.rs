//! What is answered, by what was reported: the items of group M.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aggregation;
mod missing;
mod world;

use heddle_metrics::{Form, attributes};
use heddle_policy::telemetry::Totals;
use heddle_policy::{PodName, Reason};
use serde_json::json;
use world::{World, edges, report, sent, served, totals, value};

#[test]
fn m1_discovery_names_every_resource_with_get_and_list() {
    let world = World::new();
    let list = world.get("/");
    assert_eq!(
        (&list["kind"], &list["groupVersion"]),
        (&json!("APIResourceList"), &json!("metrics.smi-spec.io/v1alpha1"))
    );
    let resources = list["resources"].as_array().unwrap();
    let pods = resources.iter().find(|resource| resource["name"] == "pods").unwrap();
    assert_eq!(
        *pods,
        json!({ "name": "pods", "singularName": "pod", "namespaced": true, "kind": "TrafficMetrics", "verbs": ["get", "list"] })
    );
    assert_eq!(resources.len(), 22, "eleven resources and their edges");
}

#[test]
fn m1_in_the_preferred_version_each_resource_has_a_kind_by_which_kubectl_finds_it() {
    let world = World::new();
    let ask = |path: &str| {
        let request = heddle_metrics::Request { path, parameters: &[], form: Form::Object };
        heddle_metrics::answer(&world.objects, &world.samples, &request, world.now).unwrap()
    };
    let group = ask("/apis/metrics.smi-spec.io");
    assert_eq!(group["preferredVersion"]["version"], "v1alpha2");
    let list = ask("/apis/metrics.smi-spec.io/v1alpha2");
    let kinds: std::collections::BTreeSet<_> =
        list["resources"].as_array().unwrap().iter().map(|resource| resource["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    let document = ask("/apis/metrics.smi-spec.io/v1alpha2/namespaces/shop/pods/web-1");
    assert!(kinds.contains(document["kind"].as_str().unwrap()), "{document}");
}

#[test]
fn m3_a_resource_has_the_traffic_of_its_pods() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(5, 1, 2, 10))]);
    world.report("web-2", vec![(served("web-2", "buyer-1"), totals(7, 0, 0, 10))]);
    for path in [
        "/namespaces/shop",
        "/nodes/node-1",
        "/namespaces/shop/services/web",
        "/namespaces/shop/deployments/web",
        "/namespaces/shop/replicasets/web-7f",
    ] {
        let document = world.get(path);
        let counts = ["success_count", "failure_count", "denied_count"].map(|name| value(&document, name));
        assert_eq!(counts, ["12", "1", "2"], "{path}");
    }
    assert_eq!(value(&world.get("/namespaces/shop/pods/web-1"), "success_count"), "5");
    assert_eq!(value(&world.get("/namespaces/shop/deployments/buyer"), "success_count"), "0");
}

#[test]
fn m2_m3_whatever_owns_pods_has_their_traffic() {
    for (version, kind, plural) in [
        ("v1", "ReplicationController", "replicationcontrollers"),
        ("apps/v1", "DaemonSet", "daemonsets"),
        ("apps/v1", "StatefulSet", "statefulsets"),
        ("batch/v1", "Job", "jobs"),
    ] {
        let mut world = World::begun();
        let metadata = json!({ "namespace": "shop", "name": "owner" });
        world.objects.insert(&json!({ "apiVersion": version, "kind": kind, "metadata": metadata }));
        let owners = json!([{ "kind": kind, "name": "owner", "controller": true }]);
        let metadata = json!({ "namespace": "shop", "name": "owned", "ownerReferences": owners });
        world.objects.insert(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {} }));
        world.report("owned", Vec::new());
        world.report("owned", vec![(served("owned", "buyer-1"), totals(3, 1, 0, 10))]);
        let document = world.get(&format!("/namespaces/shop/{plural}/owner"));
        assert_eq!(["success_count", "failure_count"].map(|name| value(&document, name)), ["3", "1"], "{kind}");
        let edges = edges(&world.get(&format!("/namespaces/shop/{plural}/owner/edges")));
        assert_eq!(edges, [("from".into(), "server".into(), "Deployment/buyer".into(), "3".into())], "{kind}");
    }
}

#[test]
fn m4_a_list_names_its_kind_and_namespace() {
    let world = World::begun();
    let list = world.get("/namespaces/shop/deployments");
    assert_eq!(list["resource"], json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop" }));
    assert_eq!(list["metadata"]["selfLink"], "/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/deployments");
    assert_eq!(
        list["items"][1]["metadata"]["selfLink"],
        "/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/deployments/web"
    );
    assert_eq!(world.get("/pods")["items"].as_array().unwrap().len(), 4);
    assert_eq!(world.get("/pods")["resource"], json!({ "apiVersion": "v1", "kind": "Pod" }));
}

#[test]
fn m5_a_label_selector_chooses_the_items_and_not_their_traffic() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(5, 0, 0, 10))]);
    let list = world.get("/namespaces/shop/pods?labelSelector=app=web");
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["web-1", "web-2"]);
    assert_eq!(list["selector"], json!({ "matchLabels": { "app": "web" } }));
    assert_eq!(value(&list["items"][0], "success_count"), "5");
}

#[test]
fn m6_m7_edges_are_those_with_traffic_each_measured_by_the_resource_itself() {
    let mut world = World::begun();
    world.report("buyer-1", vec![(sent("buyer-1", "web-1", "web", None), totals(4, 0, 0, 10))]);
    world.report(
        "web-1",
        vec![(served("web-1", "buyer-1"), totals(4, 0, 0, 9)), (sent("web-1", "db-0", "db", None), Totals::default())],
    );
    let list = world.get("/namespaces/shop/deployments/web/edges");
    assert_eq!(edges(&list), [("from".into(), "server".into(), "Deployment/buyer".into(), "4".into())]);
    assert_eq!(
        list["resource"],
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "web" })
    );
    assert_eq!(list["items"][0]["metadata"]["selfLink"], list["metadata"]["selfLink"]);
    let list = world.get("/namespaces/shop/deployments/buyer/edges");
    assert_eq!(edges(&list), [("to".into(), "client".into(), "Deployment/web".into(), "4".into())]);
    let list = world.get("/namespaces/shop/pods/buyer-1/edges?side=server");
    assert_eq!(edges(&list), [("to".into(), "server".into(), "Pod/web-1".into(), "4".into())]);
    assert_eq!(edges(&world.get("/namespaces/stock/edges")), []);
    let list = world.get("/namespaces/shop/services/web/edges?side=client");
    assert_eq!(edges(&list), [("from".into(), "client".into(), "Deployment/buyer".into(), "4".into())]);
}

#[test]
fn m6_one_question_is_of_the_edges_of_every_resource_of_a_kind() {
    let mut world = World::begun();
    let mut to_db = sent("web-1", "db-0", "db", None);
    to_db.peer_pod = Some(PodName::new("stock", "db-0"));
    world.report("buyer-1", vec![(sent("buyer-1", "web-1", "web", None), totals(4, 0, 0, 10))]);
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(4, 0, 0, 9)), (to_db, totals(2, 0, 0, 9))]);
    let items = |path: &str| world.get(path)["items"].as_array().unwrap().clone();
    let of_each = ["/namespaces/shop/deployments/buyer/edges", "/namespaces/shop/deployments/web/edges"].map(items);
    let all = world.get("/deployments/*/edges");
    assert_eq!(all["items"], json!(of_each.concat()), "just what is told of each");
    assert_eq!(all["resource"], json!({ "apiVersion": "apps/v1", "kind": "Deployment" }));
    assert_eq!(items("/namespaces/shop/deployments/*/edges").len(), 3);
    assert_eq!(items("/namespaces/stock/deployments/*/edges").len(), 0);
    assert_eq!(items("/deployments/*/edges?direction=from").len(), 1);
    assert_eq!(items("/deployments/*/edges?labelSelector=app=buyer").len(), 1);
    assert_eq!(items("/deployments/*/edges?fieldSelector=metadata.name=web").len(), 2);
    let ends = [("to".into(), "client".into(), "Namespace/shop".into(), "4".into())];
    assert_eq!(edges(&world.get("/namespaces/*/edges?direction=to"))[..1], ends);
}

#[test]
fn m7_an_end_of_another_kind_is_its_workload_and_one_outside_is_said_to_be() {
    let mut world = World::begun();
    let mut to_db = sent("buyer-1", "db-0", "db", None);
    to_db.peer_pod = Some(PodName::new("stock", "db-0"));
    let outside = heddle_policy::telemetry::Edge { peer_pod: None, service: None, ..to_db.clone() };
    let refused = heddle_policy::telemetry::Edge { peer_pod: None, ..to_db.clone() };
    world.report(
        "buyer-1",
        vec![(to_db, totals(1, 0, 0, 1)), (outside, totals(2, 0, 0, 1)), (refused, totals(0, 3, 0, 1))],
    );
    let found: Vec<_> =
        edges(&world.get("/namespaces/shop/deployments/buyer/edges")).into_iter().map(|edge| edge.2).collect();
    assert_eq!(found, ["Outside/-", "StatefulSet/db", "Service/db"]);
}

#[test]
fn m8_direction_and_side_choose_who_sent_and_who_measured() {
    let mut world = World::begun();
    world.report("buyer-1", vec![(sent("buyer-1", "web-1", "web", None), totals(4, 1, 0, 10))]);
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(3, 0, 0, 9))]);
    for (resource, parameters, edge, success) in [
        ("web", "", json!({ "direction": "from", "side": "server", "resource": {} }), "3"),
        ("web", "?side=client", json!({ "direction": "from", "side": "client", "resource": {} }), "4"),
        ("buyer", "?direction=to", json!({ "direction": "to", "side": "client", "resource": {} }), "4"),
        ("buyer", "?direction=to&side=server", json!({ "direction": "to", "side": "server", "resource": {} }), "3"),
        ("buyer", "", json!({ "direction": "from", "side": "server", "resource": {} }), "0"),
    ] {
        let document = world.get(&format!("/namespaces/shop/deployments/{resource}{parameters}"));
        assert_eq!((&document["edge"], value(&document, "success_count")), (&edge, success), "{resource}{parameters}");
        assert_eq!(document["backend"], json!(null));
    }
}

#[test]
fn m9_a_split_has_a_measure_for_each_backend() {
    let mut world = World::begun();
    world.report(
        "buyer-1",
        vec![
            (sent("buyer-1", "web-1", "web", Some("web-v1")), totals(9, 0, 0, 10)),
            (sent("buyer-1", "web-1", "web-v1", None), totals(100, 0, 0, 10)),
        ],
    );
    let list = world.get("/namespaces/shop/trafficsplits/web");
    assert_eq!(list["kind"], "TrafficMetricsList");
    let items = list["items"].as_array().unwrap();
    let backends: Vec<_> = items.iter().map(|item| (&item["backend"], value(item, "success_count"))).collect();
    let backend = |name: &str, weight: u64| json!({ "apex": "web", "name": name, "weight": weight });
    assert_eq!(backends, [(&backend("web-v1", 90), "9"), (&backend("web-v2", 10), "0")]);
    assert_eq!(items[0]["edge"], json!({ "direction": "from", "side": "client", "resource": {} }));
    let clients = edges(&world.get("/namespaces/shop/trafficsplits/web/edges"));
    assert_eq!(clients, [("from".into(), "client".into(), "Deployment/buyer".into(), "9".into())]);
    assert_eq!(world.ask("/namespaces/shop/trafficsplits/web?side=server").unwrap_err().code, 400);
}

#[test]
fn m9_clients_measure_the_service_they_meant_and_the_backend_they_got() {
    let mut world = World::begun();
    world.report("buyer-1", vec![(sent("buyer-1", "web-1", "web", Some("web-v2")), totals(9, 0, 0, 10))]);
    let success = |service: &str| {
        let document = world.get(&format!("/namespaces/shop/services/{service}?side=client"));
        value(&document, "success_count").to_owned()
    };
    assert_eq!(["web", "web-v1", "web-v2"].map(success), ["9", "0", "9"]);
}

#[test]
fn m10_edges_have_a_permission_of_their_own() {
    let asked = |path: &str| {
        let attributes = attributes(&format!("/apis/metrics.smi-spec.io/{path}")).unwrap().unwrap();
        let resource = match attributes.subresource {
            "" => attributes.resource.clone(),
            sub => format!("{}/{sub}", attributes.resource),
        };
        (attributes.verb, resource, attributes.namespace, attributes.name)
    };
    let expected =
        |verb, resource: &str, namespace: &str, name: &str| (verb, resource.into(), namespace.into(), name.into());
    assert_eq!(asked("v1alpha1/namespaces/shop/pods/web-1"), expected("get", "pods", "shop", "web-1"));
    assert_eq!(asked("v1alpha1/namespaces/shop/pods/web-1/edges"), expected("get", "pods/edges", "shop", "web-1"));
    assert_eq!(asked("v1alpha2/namespaces/shop/pods"), expected("list", "pods", "shop", ""));
    assert_eq!(asked("v1alpha1/pods"), expected("list", "pods", "", ""));
    assert_eq!(asked("v1alpha1/namespaces/shop"), expected("get", "namespaces", "shop", "shop"));
    assert_eq!(asked("v1alpha1/namespaces/shop/edges"), expected("list", "edges", "shop", ""));
    assert_eq!(asked("v1alpha1/nodes/a/edges"), expected("get", "nodes/edges", "", "a"));
    assert_eq!(asked("v1alpha1/namespaces/shop/pods/*/edges"), expected("get", "pods/edges", "shop", "*"));
    assert_eq!(asked("v1alpha1/pods/*/edges"), expected("get", "pods/edges", "", "*"));
    assert_eq!(asked("v1alpha1/namespaces/*/edges"), expected("list", "edges", "*", ""));
    assert_eq!(attributes("/apis/metrics.smi-spec.io/v1alpha1").unwrap(), None);
    assert_eq!(attributes("/apis/metrics.smi-spec.io/v9/pods").unwrap_err().code, 404);
}

#[test]
fn m10_a_field_selector_never_leaves_the_namespace_that_was_authorised() {
    let world = World::begun();
    let names = |path: &str| {
        let items = world.get(path)["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("/namespaces/shop/pods?fieldSelector=metadata.namespace=shop"), ["buyer-1", "web-1", "web-2"]);
    assert_eq!(names("/namespaces/shop/pods?fieldSelector=metadata.namespace=stock"), [""; 0]);
    assert_eq!(names("/pods?fieldSelector=metadata.namespace=stock"), ["db-0"]);
    let two = "/pods?fieldSelector=metadata.namespace=shop,metadata.namespace=stock";
    assert_eq!(world.ask(two).unwrap_err().code, 400);
}

#[test]
fn m11_latencies_are_milliseconds() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(100, 0, 0, 64))]);
    let document = world.get("/namespaces/shop/deployments/web");
    let names: Vec<_> =
        document["metrics"].as_array().unwrap().iter().map(|metric| (&metric["name"], &metric["unit"])).collect();
    let (ms, none) = (json!("ms"), json!(null));
    let name = |name: &str| json!(name);
    assert_eq!(
        names,
        [
            (&name("p99_response_latency"), &ms),
            (&name("p90_response_latency"), &ms),
            (&name("p50_response_latency"), &ms),
            (&name("success_count"), &none),
            (&name("failure_count"), &none),
            (&name("denied_count"), &none),
        ]
    );
    assert_eq!(value(&document, "p99_response_latency"), "64256m", "within a hundredth of 64 ms");
}

#[test]
fn m13_a_window_counts_what_was_reported_within_it() {
    let mut world = World::begun();
    for second in 1..=100 {
        world.pass(1);
        world.report("web-1", vec![(served("web-1", "buyer-1"), totals(second * 5, 0, 0, 1))]);
    }
    let asked = |window: &str| {
        let document = world.get(&format!("/namespaces/shop/deployments/web?t={window}"));
        (value(&document, "success_count").to_owned(), document["window"].as_str().unwrap().to_owned())
    };
    assert_eq!(asked("30s"), ("150".into(), "30s".into()));
    assert_eq!(asked("1m"), ("300".into(), "1m0s".into()));
    // Longer windows begin with a slot of ten seconds; the document says how long they really are.
    assert_eq!(asked("65s"), ("355".into(), "1m11s".into()));
    assert_eq!(asked("10m").0, "500");
    assert_eq!(world.ask("/pods?t=soon").unwrap_err().code, 400);
}

#[test]
fn m14_no_traffic_is_zeros_and_no_object_is_not_found() {
    let world = World::new();
    let document = world.get("/namespaces/shop/deployments/web");
    let values: Vec<_> = document["metrics"].as_array().unwrap().iter().map(|metric| &metric["value"]).collect();
    assert_eq!(values, ["0"; 6]);
    let refusal = world.ask("/namespaces/shop/deployments/nothing").unwrap_err();
    let status = refusal.status();
    assert_eq!(
        (&status["kind"], &status["code"], &status["reason"]),
        (&json!("Status"), &json!(404), &json!("NotFound"))
    );
    assert_eq!(status["message"], "deployments.metrics.smi-spec.io \"nothing\" not found");
    for path in ["/namespaces/shop/deployments/nothing/edges", "/endpoints", "/namespaces/shop/nodes", "/pods/web-1"] {
        assert_eq!(world.ask(path).unwrap_err().code, 404, "{path}");
    }
}

#[test]
fn a_document_is_that_of_the_specification() {
    let world = World::begun();
    let mut document = world.get("/namespaces/shop/deployments/web");
    assert!(document["timestamp"].as_str().unwrap().ends_with('Z'));
    document["timestamp"] = json!("now");
    document["metrics"] = json!([]);
    assert_eq!(
        document,
        json!({
            "apiVersion": "metrics.smi-spec.io/v1alpha1",
            "kind": "TrafficMetrics",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "selfLink": "/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/deployments/web",
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "timestamp": "now",
            "window": "30s",
            "resource": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "web" },
            "edge": { "direction": "from", "side": "server", "resource": {} },
            "backend": null,
            "metrics": [],
        })
    );
}

#[test]
fn a_table_has_a_row_for_each_item() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(27, 3, 1, 64))]);
    let table = world.ask_in(Form::Table, "/namespaces/shop/pods?labelSelector=app=web").unwrap();
    let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Success", "RPS", "Denied", "P50", "P90", "P99", "Window"]);
    assert_eq!(table["rows"][0]["cells"], json!(["web-1", "90.00%", "1.0", 1, "64.3ms", "64.3ms", "64.3ms", "30s"]));
    assert_eq!(table["rows"][1]["cells"], json!(["web-2", "-", "0.0", 0, "-", "-", "-", "30s"]));
    assert_eq!(table["rows"][0]["object"]["metadata"]["namespace"], "shop");
    let table = world.ask_in(Form::Table, "/namespaces/shop/pods/web-1/edges").unwrap();
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], ["web-1", "from", "shop/Pod/buyer-1"]);
}

#[test]
fn what_is_not_zero_beside_the_five_is_told() {
    let mut world = World::begun();
    let mut counted = totals(1, 0, 2, 1);
    counted.connections.success = 4;
    counted.would_deny = 3;
    counted.reasons = vec![(Reason::NoTarget, 2)];
    world.report("web-1", vec![(served("web-1", "buyer-1"), counted)]);
    let document = world.get("/namespaces/shop/pods/web-1");
    for (name, count) in [
        ("success_count", "5"),
        ("connection_count", "4"),
        ("would_deny_count", "3"),
        ("reason_count/no-target", "2"),
        ("lost_time", "absent"),
    ] {
        assert_eq!(value(&document, name), count, "{name}");
    }
}

#[test]
fn a_connection_that_is_never_closed_is_an_edge_without_counts() {
    let mut world = World::begun();
    let pod = PodName::new("shop", "web-1");
    let says = |world: &mut World, open: u64| {
        let edge = served("web-1", "buyer-1");
        let open = vec![(edge.clone(), open)];
        let report = heddle_policy::telemetry::Report { open, ..report(vec![(edge, Default::default())]) };
        world.samples.add(&pod, report, world.now);
    };
    says(&mut world, 3);
    // However long ago that was.
    world.pass(900);
    let edges = world.get("/namespaces/shop/deployments/web/edges");
    assert_eq!(edges["items"].as_array().unwrap().len(), 1, "{edges}");
    let edge = &edges["items"][0];
    assert_eq!(edge["edge"]["resource"]["name"], "buyer");
    assert_eq!((value(edge, "open_connection_count"), value(edge, "success_count")), ("3", "0"));
    assert_eq!(value(&world.get("/namespaces/shop/pods/web-1"), "open_connection_count"), "3");
    says(&mut world, 0);
    assert_eq!(world.get("/namespaces/shop/deployments/web/edges")["items"], json!([]));
    says(&mut world, 1);
    world.samples.end(&pod, world.now);
    assert_eq!(world.get("/namespaces/shop/deployments/web/edges")["items"], json!([]), "it went with its pod");
}

#[test]
fn a_pod_that_a_rollout_replaced_still_counts_for_its_deployment() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(5, 0, 0, 1))]);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": "web-1" } });
    world.objects.remove(&pod, world.now);
    assert_eq!(world.ask("/namespaces/shop/pods/web-1").unwrap_err().code, 404);
    assert_eq!(value(&world.get("/namespaces/shop/deployments/web"), "success_count"), "5");
    assert_eq!(value(&world.get("/namespaces/shop/services/web"), "success_count"), "5");
}

#[test]
fn openapi_describes_both_versions() {
    let world = World::new();
    let ask = |path: &str| {
        let request = heddle_metrics::Request { path, parameters: &[], form: Form::Object };
        heddle_metrics::answer(&world.objects, &world.samples, &request, world.now).unwrap()
    };
    let index = ask("/openapi/v3");
    for version in ["v1alpha1", "v1alpha2"] {
        let path = format!("apis/metrics.smi-spec.io/{version}");
        let document = ask(index["paths"][&path]["serverRelativeURL"].as_str().unwrap());
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(schemas.contains_key(&format!("io.smi-spec.metrics.{version}.TrafficMetricsList")));
        assert!(document["paths"][format!("/{path}/namespaces/{{namespace}}/pods/{{name}}/edges")].is_object());
    }
    assert_eq!(ask("/openapi/v2")["definitions"].as_object().unwrap().len(), 4);
}
