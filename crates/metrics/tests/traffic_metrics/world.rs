//! The world of a test: a shop of some objects, and what its proxies report.

use std::time::{Duration, Instant, SystemTime};

use heddle_metrics::{Form, Objects, Refusal, Request, Samples, answer};
use heddle_policy::telemetry::{Counts, Edge, Lost, Report, Side, Totals};
use heddle_policy::{PodName, ServiceName};
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) samples: Samples,
    pub(crate) now: Instant,
}

impl World {
    /// `shop` has the Deployment `web` of two pods behind the Service `web`, the Deployment `buyer` of one pod, and a
    /// split of `web` to `web-v1` and `web-v2`; `stock` has the StatefulSet `db` of one pod.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let mut world = Self { objects: Objects::default(), samples: Samples::new(now, SystemTime::now()), now };
        for object in objects() {
            world.objects.insert(&object);
        }
        world
    }

    /// Every proxy has begun, and reported that there was nothing yet.
    pub(crate) fn begun() -> Self {
        let mut world = Self::new();
        for pod in ["web-1", "web-2", "buyer-1"] {
            world.report(pod, Vec::new());
        }
        world.report_of("stock", "db-0", Vec::new());
        world
    }

    pub(crate) fn report(&mut self, pod: &str, edges: Vec<(Edge, Totals)>) {
        self.report_of("shop", pod, edges);
    }

    pub(crate) fn report_of(&mut self, namespace: &str, pod: &str, edges: Vec<(Edge, Totals)>) {
        let pod = PodName::new(namespace, pod);
        self.samples.add(&pod, report(edges), self.now);
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub(crate) fn ask(&self, path: &str) -> Result<Value, Refusal> {
        self.ask_in(Form::Object, path)
    }

    /// `path` is below the version v1alpha1.
    pub(crate) fn ask_in(&self, form: Form, path: &str) -> Result<Value, Refusal> {
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        let parameters = parameters.split('&').filter_map(|pair| pair.split_once('='));
        let parameters: Vec<(String, String)> =
            parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let path = format!("/apis/metrics.smi-spec.io/v1alpha1{path}");
        answer(&self.objects, &self.samples, &Request { path: &path, parameters: &parameters, form }, self.now)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask(path).unwrap_or_else(|refusal| panic!("{path}: {refusal}"))
    }
}

fn objects() -> Vec<Value> {
    let object = |version: &str, kind: &str, namespace: &str, name: &str| {
        json!({ "apiVersion": version, "kind": kind, "metadata": {
            "namespace": namespace, "name": name, "labels": { "app": name }, "creationTimestamp": "2026-01-02T03:04:05Z",
        } })
    };
    let owned = |mut object: Value, kind: &str, name: &str, app: &str| {
        object["metadata"]["ownerReferences"] = json!([{ "kind": kind, "name": name, "controller": true }]);
        object["metadata"]["labels"] = json!({ "app": app });
        object
    };
    let pod = |namespace: &str, name: &str, kind: &str, owner: &str, app: &str| {
        let mut pod = owned(object("v1", "Pod", namespace, name), kind, owner, app);
        pod["spec"] = json!({ "nodeName": "node-1" });
        pod
    };
    let service = |name: &str, app: &str| {
        let mut service = object("v1", "Service", "shop", name);
        service["spec"] = json!({ "selector": { "app": app } });
        service
    };
    let mut split = object("split.smi-spec.io/v1alpha4", "TrafficSplit", "shop", "web");
    split["spec"] = json!({
        "service": "WEB.shop.svc.cluster.local",
        "backends": [{ "service": "web-v1.shop.", "weight": 90 }, { "service": "Web-V2", "weight": 10 }],
    });
    vec![
        object("v1", "Namespace", "", "shop"),
        object("v1", "Namespace", "", "stock"),
        object("v1", "Node", "", "node-1"),
        object("apps/v1", "Deployment", "shop", "web"),
        object("apps/v1", "Deployment", "shop", "buyer"),
        owned(object("apps/v1", "ReplicaSet", "shop", "web-7f"), "Deployment", "web", "web"),
        owned(object("apps/v1", "ReplicaSet", "shop", "buyer-5d"), "Deployment", "buyer", "buyer"),
        pod("shop", "web-1", "ReplicaSet", "web-7f", "web"),
        pod("shop", "web-2", "ReplicaSet", "web-7f", "web"),
        pod("shop", "buyer-1", "ReplicaSet", "buyer-5d", "buyer"),
        object("apps/v1", "StatefulSet", "stock", "db"),
        pod("stock", "db-0", "StatefulSet", "db", "db"),
        service("web", "web"),
        service("web-v1", "web"),
        service("web-v2", "web"),
        split,
    ]
}

pub(crate) fn report(edges: Vec<(Edge, Totals)>) -> Report {
    let history = Vec::new().into();
    Report { instance: "one".into(), edges, open: Vec::new(), lost: Lost::default(), last: false, history }
}

/// What a server counted of one client's pod.
pub(crate) fn served(pod: &str, peer: &str) -> Edge {
    let peer_pod = Some(PodName::new("shop", peer));
    Edge { side: Side::Server, pod: PodName::new("shop", pod), peer: None, peer_pod, service: None, backend: None }
}

/// What a client counted of a pod that it reached by a Service, through a backend of its split.
pub(crate) fn sent(pod: &str, peer: &str, service: &str, backend: Option<&str>) -> Edge {
    Edge {
        side: Side::Client,
        pod: PodName::new("shop", pod),
        peer: None,
        peer_pod: Some(PodName::new("shop", peer)),
        service: Some(ServiceName::new("shop", service)),
        backend: backend.map(|name| ServiceName::new("shop", name)),
    }
}

/// Totals of requests, each of which took so many milliseconds.
pub(crate) fn totals(success: u64, failure: u64, denied: u64, millis: u64) -> Totals {
    let mut totals = Totals { requests: Counts { success, failure, denied }, ..Totals::default() };
    (0..success + failure).for_each(|_| totals.latency.record(millis * 1000));
    totals
}

/// The value of a measure in the document of one resource.
pub(crate) fn value<'a>(document: &'a Value, name: &str) -> &'a str {
    let metrics = document["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.and_then(|metric| metric["value"].as_str()).unwrap_or("absent")
}

/// Direction, side, other end and successes of every item.
pub(crate) fn edges(list: &Value) -> Vec<(String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let items = list["items"].as_array().expect("items");
    let edge = |item: &Value| {
        let edge = &item["edge"];
        let other = format!("{}/{}", text(&edge["resource"]["kind"]), text(&edge["resource"]["name"]));
        (text(&edge["direction"]), text(&edge["side"]), other, value(item, "success_count").to_owned())
    };
    items.iter().map(edge).collect()
}
