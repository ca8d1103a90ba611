//! The world of a test: an API server, objects in it, a control plane, proxies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use heddle_api::User;
use heddle_control::{Args, Listeners};
use heddle_identity::Store;
use heddle_policy::{Peer, ProxyConfig};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::https::FrontProxy;

pub(crate) struct World {
    client: Client,
    /// With the rights that the manifests give, and no others.
    control_client: Client,
    pub(crate) webhook: Option<SocketAddr>,
    pub(crate) front_proxy: FrontProxy,
    /// Where proxies find the control plane.
    xds: Arc<Mutex<SocketAddr>>,
    files: TempDir,
    control: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

/// A proxy's client. Clones see the same.
#[derive(Clone)]
pub(crate) struct Proxy {
    config: watch::Receiver<Arc<ProxyConfig>>,
    store: Store,
    /// Ends the client when the last clone is gone.
    _running: Arc<Running>,
}

struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// Only ends a test that would hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// An API server with the SMI kinds and what a control plane needs.
    pub(crate) async fn new() -> Self {
        let api = heddle_api::Api::open(heddle_api::Config::default()).await.unwrap();
        let world = Self {
            client: api.client(),
            control_client: api.client_as(control_plane()),
            webhook: None,
            front_proxy: FrontProxy::new(),
            xds: Arc::new(Mutex::new("127.0.0.1:9".parse().unwrap())),
            files: tempfile::tempdir().unwrap(),
            control: None,
        };
        for crd in heddle_smi::crds(&heddle_smi::heddle_conversion()) {
            world.create(serde_json::to_value(crd).unwrap()).await;
        }
        for object in heddle_control::manifests("/usr/bin/heddle") {
            world.create(object).await;
        }
        world.apply(&world.front_proxy.config_map()).await;
        world
    }

    /// Starts a control plane and waits until proxies can trust it.
    pub(crate) async fn start(&mut self) {
        let args = Cli::parse_from(["control", "--listen", "127.0.0.1", "--name", "heddle-control-1"]).args;
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { xds: bind().await, webhook: bind().await, health: bind().await };
        *self.xds.lock().unwrap() = listeners.xds.local_addr().unwrap();
        self.webhook = Some(listeners.webhook.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap_or(()) };
        let client = self.control_client.clone();
        let control = tokio::spawn(heddle_control::serve(args, listeners, client, shutdown));
        self.control = Some((stop, control));
        let bundle = self.trust_bundle().await;
        std::fs::write(self.ca_file(), bundle).unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        let (stop, control) = self.control.take().unwrap();
        stop.send(()).unwrap();
        control.await.unwrap().unwrap();
    }

    /// The mesh's roots, once they are published.
    pub(crate) async fn trust_bundle(&self) -> String {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "namespace": "heddle-system", "name": "heddle-trust-bundle" },
        });
        let map = self.until(&map, |map| map["data"]["ca.crt"].is_string()).await;
        map["data"]["ca.crt"].as_str().unwrap().to_owned()
    }

    fn ca_file(&self) -> PathBuf {
        self.files.path().join("ca.crt")
    }

    // === objects ===

    pub(crate) async fn create(&self, object: Value) {
        let (status, parsed) = (object["status"].clone(), serde_json::from_value(object.clone()).unwrap());
        let api = self.api(&object);
        let created = api.create(&PostParams::default(), &parsed).await;
        created.unwrap_or_else(|error| panic!("{error}: {object}"));
        if object["kind"] == "Pod" {
            let name = object["metadata"]["name"].as_str().unwrap();
            let patch = kube::api::Patch::Merge(json!({ "status": status }));
            api.patch_status(name, &Default::default(), &patch).await.unwrap();
        }
    }

    pub(crate) async fn apply(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = kube::api::PatchParams::apply("test").force();
        self.api(object).patch(name, &params, &kube::api::Patch::Apply(object)).await.unwrap();
    }

    pub(crate) async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.api(object).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Whether RBAC lets a user do this in the namespace `shop`. A resource is named `<plural>.<group>`.
    pub(crate) async fn may(&self, user: &str, verb: &str, resource: &str) -> bool {
        let (resource, group) = resource.split_once('.').unwrap();
        let attributes = json!({ "namespace": "shop", "verb": verb, "group": group, "resource": resource });
        let review = json!({ "spec": { "user": user, "resourceAttributes": attributes } });
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &serde_json::from_value(review).unwrap()).await.unwrap();
        answer.status.unwrap().allowed
    }

    /// Waits until the object with this name is as wanted.
    pub(crate) async fn until(&self, object: &Value, is_it: impl Fn(&Value) -> bool) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.first(object, |found| found["metadata"]["name"] == name && is_it(found)).await
    }

    pub(crate) async fn event_about(&self, name: &str) -> Value {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "namespace": "shop" },
        });
        self.first(&event, |event| event["regarding"]["name"] == name).await
    }

    /// The first object of this one's kind and namespace that is as wanted.
    async fn first(&self, object: &Value, is_it: impl Fn(&Value) -> bool) -> Value {
        let objects = watcher(self.api(object), watcher::Config::default());
        let objects = objects.filter_map(async |event| match event.ok()? {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => serde_json::to_value(object).ok(),
            _ => None,
        });
        let mut found = std::pin::pin!(objects.filter(|object| std::future::ready(is_it(object))));
        tokio::time::timeout(LIMIT, found.next()).await.unwrap_or_else(|_| panic!("never: {object}")).unwrap()
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    // === proxies ===

    /// A token of the ServiceAccount `shop/<name>` for the pod of that name.
    async fn token(&self, name: &str) -> String {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "shop");
        let uid = pods.get(name).await.unwrap().metadata.uid;
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name.into()),
            uid,
        };
        let audiences = vec!["heddle".to_owned()];
        let spec = TokenRequestSpec { audiences, bound_object_ref: Some(bound), expiration_seconds: None };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "shop");
        let issued = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
        issued.status.unwrap().token
    }

    /// The proxy of the pod `shop/<name>`.
    pub(crate) async fn proxy(&self, name: &str) -> Proxy {
        self.proxy_that(name, |_| Ok(())).await
    }

    pub(crate) async fn proxy_that(
        &self,
        name: &str,
        validate: impl Fn(&ProxyConfig) -> Result<(), String> + Send + Sync + 'static,
    ) -> Proxy {
        let token_file = self.files.path().join(name);
        std::fs::write(&token_file, self.token(name).await).unwrap();
        let (xds, store) = (self.xds.clone(), Store::empty());
        let (config, configs) = watch::channel(Arc::default());
        let client = heddle_xds::Client {
            dial: Arc::new(move || {
                let address = *xds.lock().unwrap();
                Box::pin(tokio::net::TcpStream::connect(address))
            }),
            ca_file: self.ca_file(),
            token_file,
            store: store.clone(),
            config,
            validate: Arc::new(validate),
            reports: watch::channel(None).1,
        };
        let running = Arc::new(Running(tokio::spawn(client.run())));
        Proxy { config: configs, store, _running: running }
    }
}

impl Proxy {
    pub(crate) async fn until(&mut self, is_it: impl Fn(&ProxyConfig) -> bool) {
        let wait = self.config.wait_for(|config| is_it(config));
        let found = tokio::time::timeout(LIMIT, wait).await.is_ok();
        assert!(found, "never; it has {:#?}", self.now());
    }

    pub(crate) fn now(&self) -> Arc<ProxyConfig> {
        self.config.borrow().clone()
    }

    /// What its certificate proves.
    pub(crate) async fn certified(&self) -> Peer {
        let mut credentials = self.store.subscribe();
        let wait = credentials.wait_for(Option::is_some);
        let credentials = tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap().clone().unwrap();
        credentials.svid.peer().clone()
    }
}

/// The control plane's ServiceAccount.
fn control_plane() -> User {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:heddle-system", "system:authenticated"];
    User {
        name: "system:serviceaccount:heddle-system:heddle-control".into(),
        groups: groups.map(String::from).to_vec(),
        ..User::default()
    }
}

// === objects ===

/// Status and reason of a condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    let text = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    (text("status"), text("reason"))
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

pub(crate) fn account(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "shop", "name": name } })
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

/// A pod that runs as the ServiceAccount of its name.
pub(crate) fn pod(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "labels": { "app": name } },
        "spec": { "serviceAccountName": name, "containers": [{ "name": "main", "image": "none" }] },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

pub(crate) fn group(name: &str) -> Value {
    json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "matches": [{ "name": "all", "pathRegex": "/", "methods": ["GET"] }] },
    })
}

/// Lets `buyer` do what the group says at `web`.
pub(crate) fn target(name: &str, group: &str) -> Value {
    json!({
        "apiVersion": "access.smi-spec.io/v1alpha4",
        "kind": "TrafficTarget",
        "metadata": { "namespace": "shop", "name": name },
        "spec": {
            "destination": { "kind": "ServiceAccount", "name": "web", "namespace": "shop" },
            "rules": [{ "kind": "HTTPRouteGroup", "name": group }],
            "sources": [{ "kind": "ServiceAccount", "name": "buyer", "namespace": "shop" }],
        },
    })
}
