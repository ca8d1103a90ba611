//! The loop against the embedded API: what a user does through one client, the controllers answer through another.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::plan::Plan;
use super::*;

/// Runs `story` beside the controllers on a fresh API.
async fn with_controllers<F: Future<Output = ()>>(story: impl FnOnce(Client) -> F) {
    with_controllers_through(|client| client, story).await;
}

/// The same with controllers that reach the API by a way of their own.
async fn with_controllers_through<F: Future<Output = ()>>(
    way: impl FnOnce(Client) -> Client,
    story: impl FnOnce(Client) -> F,
) {
    let api = heddle_api::Api::open(heddle_api::Config::default()).await.unwrap();
    let settings = Settings { root_ca: Some("PEM".to_owned()) };
    tokio::select! {
        never = run(way(api.client()), settings) => match never {},
        () = story(api.client()) => {}
    }
}

/// A client whose requests get no answer where `hangs` says so, as behind a webhook that does not answer.
fn hanging(client: Client, hangs: fn(&http::Request<Body>) -> bool) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        async move {
            if hangs(&request) {
                std::future::pending::<()>().await;
            }
            client.send(request).await
        }
    });
    Client::new(service, "default")
}

async fn create<K>(client: &Client, object: Value) -> K
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let resource = ApiResource::erase::<K>(&());
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await.unwrap().try_parse().unwrap()
}

/// Waits until an object is as the condition says.
async fn until<K>(api: &Api<K>, name: &str, condition: impl Condition<K>)
where
    K: Clone + std::fmt::Debug + Send + DeserializeOwned + Resource + 'static,
{
    await_condition(api.clone(), name, condition).await.unwrap();
}

/// Waits until the list of a kind is as the condition says, and returns it.
async fn until_list<K>(api: &Api<K>, holds: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Clone + std::fmt::Debug + Send + DeserializeOwned + Resource + 'static,
{
    let mut changes = Box::pin(watcher(api.clone(), watcher::Config::default()));
    loop {
        let items = api.list(&ListParams::default()).await.unwrap().items;
        if holds(&items) {
            return items;
        }
        changes.next().await;
    }
}

async fn make_ready(pods: &Api<Pod>, name: &str) {
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let status = json!({ "status": { "phase": "Running", "podIP": "10.244.0.9", "conditions": [ready] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": "v1", "command": ["web"] }] },
            },
        },
    })
}

async fn shop(client: &Client) {
    create::<Namespace>(client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }))
        .await;
}

#[tokio::test]
async fn a_deployment_becomes_scheduled_pods_endpoints_status_and_events() {
    with_controllers(|client| async move {
        create::<Node>(&client, json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node" } })).await;
        shop(&client).await;
        create::<Deployment>(&client, web()).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        create::<Service>(&client, service).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("node"));
        let made = until_list(&pods, |pods| pods.len() == 2 && pods.iter().all(bound)).await;
        for pod in &made {
            make_ready(&pods, pod.metadata.name.as_deref().unwrap()).await;
        }
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
        until(&deployments, "web", conditions::is_deployment_completed()).await;
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "shop");
        let ready = |slice: &EndpointSlice| {
            slice.endpoints.iter().filter(|it| it.conditions.as_ref().unwrap().ready == Some(true)).count()
        };
        until_list(&slices, |slices| slices.iter().map(ready).sum::<usize>() == 2).await;
        let events: Api<Event> = Api::namespaced(client.clone(), "shop");
        let is = |event: &Event, reason: &str| event.reason.as_deref() == Some(reason);
        until_list(&events, |all| {
            ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"]
                .iter()
                .all(|reason| all.iter().any(|it| is(it, reason)))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn pods_that_cannot_be_made_hold_up_nothing_else() {
    let creates_pods =
        |request: &http::Request<Body>| request.method() == "POST" && request.uri().path().ends_with("/pods");
    with_controllers_through(
        |client| hanging(client, creates_pods),
        |client| async move {
            shop(&client).await;
            let mut late = web();
            create::<Deployment>(&client, web()).await;
            let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "shop");
            until_list(&sets, |sets| sets.len() == 1).await;
            late["metadata"]["name"] = json!("late");
            create::<Deployment>(&client, late).await;
            until_list(&sets, |sets| sets.len() == 2).await;
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
            });
            create::<Service>(&client, service).await;
            let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "shop");
            until_list(&slices, |slices| !slices.is_empty()).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_request_without_an_answer_is_given_up() {
    let api = heddle_api::Api::open(heddle_api::Config::default()).await.unwrap();
    let map: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": "a", "namespace": "default" } })).unwrap();
    let mut plan = Plan::default();
    plan.act("test", &map, Op::create(&map));
    let (_, result) = act(hanging(api.client(), |_| true), plan.actions.remove(0), Duration::ZERO).await;
    assert!(result.unwrap_err().to_string().contains("did not answer within 0 s"));
}

#[tokio::test]
async fn a_namespace_gets_its_defaults_and_ends_with_all_it_contains() {
    with_controllers(|client| async move {
        shop(&client).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
        until(&accounts, "default", |account: Option<&ServiceAccount>| account.is_some()).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
        until(&maps, "kube-root-ca.crt", |map: Option<&ConfigMap>| map.is_some()).await;
        create::<Deployment>(&client, web()).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        until_list(&pods, |pods| pods.len() == 2).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let deleted = namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
        let uid = deleted.left().unwrap().metadata.uid.unwrap();
        for pod in until_list(&pods, |pods| pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())).await {
            // What a kubelet does once the containers have ended; pods that were on no node are gone already.
            let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
            let _ = pods.delete(pod.metadata.name.as_deref().unwrap(), &now).await;
        }
        until(&namespaces, "shop", conditions::is_deleted(&uid)).await;
    })
    .await;
}

#[tokio::test]
async fn objects_of_any_kind_go_with_their_owner() {
    with_controllers(|client| async move {
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner", "namespace": "default" } });
        let owner: ConfigMap = create(&client, map).await;
        let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "dependent", "namespace": "default", "ownerReferences": [reference] },
        });
        let dependent: Secret = create(&client, secret).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        maps.delete("owner", &DeleteParams::background()).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
        until(&secrets, "dependent", conditions::is_deleted(dependent.metadata.uid.as_deref().unwrap())).await;
    })
    .await;
}

#[tokio::test]
async fn a_job_counts_its_pods_and_lets_go_of_them() {
    with_controllers(|client| async move {
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once", "namespace": "default" },
            "spec": { "template": { "spec": {
                "restartPolicy": "Never", "containers": [{ "name": "once", "image": "once" }],
            } } },
        });
        create::<Job>(&client, job).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let made = until_list(&pods, |pods| pods.len() == 1).await;
        let ended = json!({ "status": { "phase": "Succeeded" } });
        let name = made[0].metadata.name.as_deref().unwrap();
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(ended)).await.unwrap();
        let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
        until(&jobs, "once", conditions::is_job_completed()).await;
        until(&pods, name, |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.finalizers.is_none())).await;
        assert_eq!(jobs.get("once").await.unwrap().status.unwrap().succeeded, Some(1));
    })
    .await;
}
