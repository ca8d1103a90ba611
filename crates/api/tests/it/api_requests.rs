//! Requests that kubectl sends, answered as a Kubernetes API server answers them: with its status and its words.

use heddle_api::{Api, Config};
use kube::Client;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";

async fn client() -> Client {
    Api::open(Config::default()).await.expect("an API in memory").client()
}

/// The answer, or the status and message of the refusal.
async fn ask(client: &Client, method: &str, path: &str, kind: &str, body: &str) -> Result<Value, (u16, String)> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(body.as_bytes().to_vec()).expect("a request");
    client.request::<Value>(request).await.map_err(|error| match error {
        kube::Error::Api(status) => (status.code, status.message),
        other => panic!("not a Status: {other}"),
    })
}

async fn assert_refused(client: &Client, (method, path, kind, body): (&str, &str, &str, &str), code: u16, words: &str) {
    let (found, message) = ask(client, method, path, kind, body).await.expect_err("it is refused");
    assert!(found == code && message.contains(words), "{method} {path} {body}: {found} {message}");
}

async fn with_map() -> Client {
    let client = client().await;
    ask(&client, "POST", MAPS, JSON, r#"{"metadata": {"name": "a"}, "data": {"k": "1"}}"#).await.expect("created");
    client
}

#[tokio::test]
async fn a_revision_that_is_yet_to_come_is_waited_for_elsewhere() {
    let client = with_map().await;
    for path in [format!("{MAPS}/a?resourceVersion=99999999"), format!("{MAPS}?resourceVersion=99999999")] {
        assert_refused(&client, ("GET", &path, JSON, ""), 504, "Too large resource version: 99999999").await;
    }
}

#[tokio::test]
async fn only_delete_options_say_how_to_delete_and_a_dry_run_deletes_nothing() {
    let client = with_map().await;
    let path = format!("{MAPS}/a");
    for (body, words) in [
        (r#"{"kind": "Pod", "apiVersion": "v1"}"#, "no kind \"Pod\""),
        (r#"{"gracePeriodSeconds": "x"}"#, "gracePeriodSeconds"),
        ("[]", "object"),
        ("garbage", "json"),
    ] {
        assert_refused(&client, ("DELETE", &path, JSON, body), 400, words).await;
    }
    let dry = r#"{"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}"#;
    ask(&client, "DELETE", &path, JSON, dry).await.expect("it could be deleted");
    ask(&client, "DELETE", MAPS, JSON, dry).await.expect("they could be deleted");
    ask(&client, "GET", &path, JSON, "").await.expect("it is still there");
    assert_refused(&client, ("DELETE", &path, JSON, r#"{"dryRun": ["Some"]}"#), 422, "supported values: \"All\"").await;
    ask(&client, "DELETE", &path, JSON, r#"{"kind": "DeleteOptions", "apiVersion": "v1"}"#).await.expect("deleted");
    assert_refused(&client, ("GET", &path, JSON, ""), 404, "not found").await;
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused_in_strict_mode() {
    let client = client().await;
    let body = r#"{"metadata": {"name": "b", "name": "b"}, "data": {"a": "1", "a": "2"}}"#;
    let words = "strict decoding error: duplicate field \"metadata.name\", duplicate field \"data.a\"";
    assert_refused(&client, ("POST", &format!("{MAPS}?fieldValidation=Strict"), JSON, body), 400, words).await;
    let kept = ask(&client, "POST", MAPS, JSON, body).await.expect("created, with a warning");
    assert_eq!(kept["data"]["a"], "2");
}

#[tokio::test]
async fn a_patch_that_makes_no_object_of_the_type_is_invalid() {
    let client = with_map().await;
    let (path, strict) = (format!("{MAPS}/a"), format!("{MAPS}/a?fieldValidation=Strict"));
    let strategic = "application/strategic-merge-patch+json";
    for (path, kind, body, code, words) in [
        (&path, MERGE_PATCH, r#"{"data": 5}"#, 422, "patch: Invalid value"),
        (&path, MERGE_PATCH, r#"{"kind": "Pod"}"#, 422, "kind"),
        (&path, MERGE_PATCH, r#"{"apiVersion": "apps/v1"}"#, 422, "apiVersion"),
        (&strict, MERGE_PATCH, r#"{"foo": 1}"#, 422, "unknown field \"foo\""),
        (&strict, strategic, r#"{"foo": 1}"#, 422, "unknown field \"foo\""),
        (&path, MERGE_PATCH, "[]", 400, "object"),
        (&path, MERGE_PATCH, "{", 400, "JSON"),
        (&path, MERGE_PATCH, r#"{"metadata": {"name": "z"}}"#, 400, "does not match the name on the URL"),
        (&path, MERGE_PATCH, r#"{"metadata": {"namespace": "z"}}"#, 400, "does not match the namespace sent"),
        (&path, JSON_PATCH, r#"[{"op": "replace", "path": "/data", "value": 5}]"#, 422, "patch: Invalid value"),
        (&path, JSON_PATCH, r#"[{"op": "remove", "path": "/data/z"}]"#, 422, "the server rejected our request"),
        (&path, JSON_PATCH, r#"[{"op": "test", "path": "/data/k", "value": "2"}]"#, 422, "the server rejected"),
    ] {
        assert_refused(&client, ("PATCH", path, kind, body), code, words).await;
    }
    let forced = format!("{path}?force=true");
    assert_refused(&client, ("PATCH", &forced, MERGE_PATCH, "{}"), 422, "force: Forbidden").await;
    let replace = r#"[{"op": "replace", "path": "/data/new", "value": "2"}]"#;
    let patched = ask(&client, "PATCH", &path, JSON_PATCH, replace).await.expect("a member that is not there is added");
    assert_eq!(patched["data"], json!({"k": "1", "new": "2"}));
}

#[tokio::test]
async fn a_scale_without_a_number_scales_nothing() {
    let client = client().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    ask(&client, "POST", deployments, JSON, &deployment.to_string()).await.expect("created");
    let (scale, body) = (format!("{deployments}/d/scale"), r#"{"spec": {"replicas": "x"}}"#);
    assert_refused(&client, ("PATCH", &scale, MERGE_PATCH, body), 422, "replicas").await;
    assert_refused(&client, ("PUT", &scale, JSON, body), 400, "replicas").await;
    let after = ask(&client, "GET", &scale, JSON, "").await.expect("a scale");
    assert_eq!(after["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_pod_is_given_its_node_by_a_binding_alone() {
    let client = client().await;
    let pods = "/api/v1/namespaces/kube-system/pods";
    let account = r#"{"metadata": {"name": "default"}}"#;
    ask(&client, "POST", "/api/v1/namespaces/kube-system/serviceaccounts", JSON, account).await.expect("created");
    let pod = r#"{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
    let mut pod = ask(&client, "POST", pods, JSON, pod).await.expect("created");
    pod["spec"]["nodeName"] = json!("n");
    let path = format!("{pods}/p");
    let words = "pod updates may not change fields other than";
    assert_refused(&client, ("PUT", &path, JSON, &pod.to_string()), 422, words).await;
    assert_refused(&client, ("PATCH", &path, MERGE_PATCH, r#"{"spec": {"nodeName": "n"}}"#), 422, words).await;
    let binding = r#"{"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}"#;
    ask(&client, "POST", &format!("{path}/binding"), JSON, binding).await.expect("bound");
    let bound = ask(&client, "GET", &path, JSON, "").await.expect("a pod");
    assert_eq!(bound["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn autoscalers_are_served_in_both_versions() {
    let client = client().await;
    let at = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let spec =
        json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 3});
    let mut with_target = spec.clone();
    with_target["targetCPUUtilizationPercentage"] = json!(50);
    for (name, spec) in [("a", &with_target), ("plain", &spec)] {
        let body = json!({"metadata": {"name": name}, "spec": spec}).to_string();
        ask(&client, "POST", &at("v1"), JSON, &body).await.expect("created");
    }
    let newer = ask(&client, "GET", &format!("{}/a", at("v2")), JSON, "").await.expect("the same in v2");
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    let cpu = json!({"name": "cpu", "target": {"averageUtilization": 50, "type": "Utilization"}});
    assert_eq!(newer["spec"]["metrics"], json!([{"type": "Resource", "resource": cpu}]));
    let plain = ask(&client, "GET", &format!("{}/plain", at("v1")), JSON, "").await.expect("an autoscaler");
    assert_eq!(
        (&plain["spec"]["minReplicas"], &plain["spec"]["targetCPUUtilizationPercentage"]),
        (&json!(1), &json!(80))
    );
    let patch = r#"{"spec": {"targetCPUUtilizationPercentage": 60}}"#;
    ask(&client, "PATCH", &format!("{}/a", at("v1")), MERGE_PATCH, patch).await.expect("patched");
    let newer = ask(&client, "GET", &format!("{}/a", at("v2")), JSON, "").await.expect("the same in v2");
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let list = ask(&client, "GET", &at("v1"), JSON, "").await.expect("a list");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    let wrong =
        json!({"metadata": {"name": "w"}, "spec": {"scaleTargetRef": spec["scaleTargetRef"], "maxReplicas": 0}});
    assert_refused(&client, ("POST", &at("v1"), JSON, &wrong.to_string()), 422, "must be greater than 0").await;
    let group = ask(&client, "GET", "/apis/autoscaling", JSON, "").await.expect("the group");
    assert_eq!(group["preferredVersion"]["version"], "v2");
}
