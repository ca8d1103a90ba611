//! The embedded API through a client in this process.

use futures::{StreamExt, TryStreamExt};
use heddle_api::{Api, Config};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

async fn client() -> Client {
    Api::open(Config::default()).await.expect("an API in memory").client()
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the type")
}

fn config_map(name: &str, data: Value) -> ConfigMap {
    typed(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": data}))
}

fn status(error: &kube::Error) -> (u16, &str) {
    match error {
        kube::Error::Api(status) => (status.code, &status.reason),
        other => panic!("not a Status: {other}"),
    }
}

#[tokio::test]
async fn objects_are_created_read_replaced_and_deleted() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client().await, "default");
    let created = maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.expect("created");
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());

    let again = maps.create(&PostParams::default(), &config_map("a", json!({}))).await.expect_err("exists");
    assert_eq!(status(&again), (409, "AlreadyExists"));

    let mut changed = created.clone();
    changed.data = Some([("k".to_owned(), "2".to_owned())].into());
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.expect("replaced");
    assert_ne!(replaced.resource_version(), created.resource_version());
    let stale = maps.replace("a", &PostParams::default(), &created).await.expect_err("stale");
    assert_eq!(status(&stale), (409, "Conflict"));

    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    let gone = maps.get("a").await.expect_err("gone");
    assert_eq!(status(&gone), (404, "NotFound"));
    assert!(gone.to_string().contains("configmaps \"a\" not found"), "{gone}");
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_revision() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client().await, "default");
    let created = maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.expect("created");
    let patch = Patch::Merge(json!({"data": {"k": "1"}}));
    let same = maps.patch("a", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(same.resource_version(), created.resource_version());
}

#[tokio::test]
async fn lists_select_by_label_and_field_and_come_in_pieces() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client().await, "default");
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
    }
    let names =
        |list: kube::core::ObjectList<ConfigMap>| list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let some = maps.list(&ListParams::default().labels("app in (a,c)")).await.expect("a list");
    assert_eq!(names(some), ["a", "c"]);
    let one = maps.list(&ListParams::default().fields("metadata.name=b")).await.expect("a list");
    assert_eq!(names(one), ["b"]);
    let first = maps.list(&ListParams::default().limit(2)).await.expect("a list");
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    let token = first.metadata.continue_.clone().expect("a token");
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("a list");
    assert_eq!((names(first), names(rest)), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
    let bad = maps.list(&ListParams::default().fields("spec.nothing=b")).await.expect_err("refused");
    assert_eq!(status(&bad), (400, "BadRequest"));
}

#[tokio::test]
async fn a_watch_sees_objects_come_change_and_go_as_its_selector_says() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client().await, "default");
    let now = maps.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a revision");
    let mut watch = maps.watch(&WatchParams::default().labels("app=a"), &now).await.expect("a watch").boxed();
    maps.create(&PostParams::default(), &config_map("other", json!({}))).await.expect("created");
    maps.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"x": "y"}}))).await.expect("patched");
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"app": "b"}}})))
        .await
        .expect("patched");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match watch.try_next().await.expect("an event").expect("more") {
            WatchEvent::Added(o) => format!("+{}", o.name_any()),
            WatchEvent::Modified(o) => format!("~{}", o.name_any()),
            WatchEvent::Deleted(o) => format!("-{}", o.name_any()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["+a", "~a", "-a"]);
}

#[tokio::test]
async fn an_object_with_a_finalizer_stays_until_the_finalizer_goes() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client().await, "default");
    let held: ConfigMap = typed(json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}}));
    maps.create(&PostParams::default(), &held).await.expect("created");
    let left = maps.delete("a", &DeleteParams::default()).await.expect("deleted").left().expect("still there");
    assert!(left.metadata.deletion_timestamp.is_some());
    let freed = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &freed).await.expect("patched");
    assert_eq!(status(&maps.get("a").await.expect_err("gone")), (404, "NotFound"));
}

#[tokio::test]
async fn a_running_pod_is_given_its_grace_and_the_kubelet_ends_it() {
    let client = client().await;
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client.clone(), "kube-system");
    accounts.create(&PostParams::default(), &typed(json!({"metadata": {"name": "default"}}))).await.expect("created");
    let pods: kube::Api<Pod> = kube::Api::namespaced(client.clone(), "kube-system");
    let pod: Pod = typed(
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}),
    );
    let created = pods.create(&PostParams::default(), &pod).await.expect("created");
    assert_eq!(created.status.and_then(|s| s.phase).as_deref(), Some("Pending"));
    let left = pods.delete("p", &DeleteParams::default()).await.expect("deleted").left().expect("a pod");
    assert_eq!(left.metadata.deletion_grace_period_seconds, Some(30));
    assert!(pods.get("p").await.is_ok());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("ended");
    assert!(pods.get("p").await.is_err());
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let deployments: kube::Api<Deployment> = kube::Api::namespaced(client().await, "default");
    let deployment: Deployment = typed(json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 9},
    }));
    let created = deployments.create(&PostParams::default(), &deployment).await.expect("created");
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.status.and_then(|s| s.replicas), None);
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}, "status": {"replicas": 2}}));
    let after = deployments.patch_status("d", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!((after.spec.and_then(|s| s.replicas), after.metadata.generation), (Some(2), Some(1)));
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}, "status": {"replicas": 7}}));
    let after = deployments.patch("d", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!((after.status.and_then(|s| s.replicas), after.metadata.generation), (Some(2), Some(2)));
    let scaled =
        deployments.patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await;
    assert_eq!(scaled.expect("scaled").spec.and_then(|s| s.replicas), Some(1));
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_missing_or_going_away() {
    let client = client().await;
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), "nowhere");
    let missing = maps.create(&PostParams::default(), &config_map("a", json!({}))).await.expect_err("refused");
    assert_eq!(status(&missing), (404, "NotFound"));
    let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
    let namespace: Namespace = typed(json!({"metadata": {"name": "nowhere"}}));
    namespaces.create(&PostParams::default(), &namespace).await.expect("created");
    let left = namespaces.delete("nowhere", &DeleteParams::default()).await.expect("deleted").left().expect("stays");
    assert_eq!(left.status.and_then(|s| s.phase).as_deref(), Some("Terminating"));
    let going = maps.create(&PostParams::default(), &config_map("a", json!({}))).await.expect_err("refused");
    assert_eq!(status(&going), (403, "Forbidden"));
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let client = client().await;
    let core: kube::Api<Event> = kube::Api::namespaced(client.clone(), "default");
    let event: Event = typed(json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started", "message": "hello", "type": "Normal",
    }));
    core.create(&PostParams::default(), &event).await.expect("created");
    let new: kube::Api<k8s_openapi::api::events::v1::Event> = kube::Api::namespaced(client, "default");
    let seen = new.get("e").await.expect("the event");
    assert_eq!((seen.note.as_deref(), seen.regarding.and_then(|r| r.name).as_deref()), (Some("hello"), Some("p")));
}

#[tokio::test]
async fn discovery_names_every_type() {
    let discovery = kube::Discovery::new(client().await).run().await.expect("discovery");
    let (deployment, _) = discovery
        .groups()
        .flat_map(|g| g.recommended_resources())
        .find(|(r, _)| r.kind == "Deployment")
        .expect("deployments");
    assert_eq!((deployment.api_version.as_str(), deployment.plural.as_str()), ("apps/v1", "deployments"));
    assert!(discovery.has_group("discovery.k8s.io"));
}

#[tokio::test]
async fn the_state_directory_keeps_objects_and_is_opened_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { state_dir: Some(dir.path().to_owned()) };
    let api = Api::open(config.clone()).await.expect("an API");
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api.client(), "default");
    let created = maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.expect("created");
    let second = Api::open(config.clone()).await.err().expect("refused");
    assert!(second.to_string().contains("another `heddle up`"), "{second}");
    drop((maps, api));
    let api = loop {
        // The first API ends when its background task has seen that it is gone.
        match Api::open(config.clone()).await {
            Ok(api) => break api,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api.client(), "default");
    assert_eq!(maps.get("a").await.expect("kept").uid(), created.uid());
}

#[tokio::test]
async fn a_pod_waits_for_the_account_of_its_new_namespace() {
    let client = client().await;
    let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
    namespaces.create(&PostParams::default(), &typed(json!({"metadata": {"name": "new"}}))).await.expect("created");
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client.clone(), "new");
    let pods: kube::Api<Pod> = kube::Api::namespaced(client, "new");
    let pod: Pod = typed(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let account: ServiceAccount = typed(json!({"metadata": {"name": "default"}}));
    let params = PostParams::default();
    let (pod, account) = tokio::join!(biased; pods.create(&params, &pod), accounts.create(&params, &account));
    account.expect("created");
    assert_eq!(pod.expect("created").spec.and_then(|spec| spec.service_account_name).as_deref(), Some("default"));
}
