//! A cluster in memory for tests: the [`World`] itself, with plans carried out on it as an API would, and a kubelet
//! that obeys the test.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::driver::Settings;
use super::plan::{Deletion, Note, Op, Target};
use super::world::{World, resource_key};

pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) now: Timestamp,
    /// Every event so far: `reason: message`.
    pub(crate) events: Vec<String>,
    settings: Settings,
    /// The full objects, of which the world has typed ones.
    objects: Vec<(ApiResource, DynamicObject)>,
    version: u64,
}

impl Cluster {
    /// A cluster with the namespace `default` and a node, to which objects are applied as YAML documents.
    pub(crate) fn new(manifests: &str) -> Self {
        let mut world = World { complete: true, ..World::default() };
        World::typed().iter().for_each(|resource| world.serve(resource, true));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let settings = Settings { root_ca: Some("PEM".to_owned()) };
        let mut cluster = Self { world, now, events: Vec::new(), settings, objects: Vec::new(), version: 0 };
        cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: default}}");
        cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: node}}");
        cluster.apply(manifests);
        cluster
    }

    /// Creates objects, or gives those that exist a new content and generation.
    pub(crate) fn apply(&mut self, manifests: &str) {
        for document in manifests.split("\n---\n").filter(|text| !text.trim().is_empty()) {
            let mut value: Value = serde_saphyr::from_str(document).unwrap();
            let resource = self.resource(&value);
            if value["kind"] != "Namespace" && value["kind"] != "Node" && value["metadata"]["namespace"].is_null() {
                value["metadata"]["namespace"] = json!("default");
            }
            let target = target(resource, &value);
            match self.position(&target) {
                Some(_) => self.patch(&target, &value),
                None => self.create(&target, value),
            }
        }
    }

    /// Computes and acts until there is nothing to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200 {
            // As with a real clock, no two computations have the same time.
            self.now += SignedDuration::from_micros(1);
            let plan = super::reconcile(&self.world, &self.settings, self.now);
            let actions: Vec<_> = plan.actions.into_iter().filter(|action| !self.is_outdated(&action.op)).collect();
            let mut changed = false;
            for action in actions {
                if self.is_outdated(&action.op) {
                    continue;
                }
                changed |= !matches!(action.op, Op::Report);
                self.execute(&action.op);
                self.events.extend(action.done.map(|Note { reason, message, .. }| format!("{reason}: {message}")));
            }
            if !changed {
                return;
            }
        }
        panic!("the controllers do not come to rest");
    }

    /// Lets time pass, and the controllers see it.
    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.settle();
    }

    /// The kubelet: starts every pod that has not been, makes it ready, and ends those that are being deleted.
    pub(crate) fn run_pods(&mut self) {
        for pod in self.pods() {
            let name = pod.metadata.name.clone().unwrap();
            let held = pod.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
            if pod.metadata.deletion_timestamp.is_some() && !held {
                self.delete(&Target::of(&pod));
            } else if pod.metadata.deletion_timestamp.is_some() && !super::pods::is_terminal(&pod) {
                self.set_pod(&name, "Failed", false);
            } else if super::pods::phase(&pod) == "Pending" {
                self.set_pod(&name, "Running", true);
            }
        }
        self.settle();
    }

    /// Runs pods and controllers until no pod changes any more.
    pub(crate) fn converge(&mut self) {
        self.settle();
        for _ in 0..100 {
            let before = self.version;
            self.run_pods();
            if self.version == before {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    pub(crate) fn set_pod(&mut self, name: &str, phase: &str, ready: bool) {
        let ip = format!("10.244.0.{}", 2 + self.version % 250);
        let condition = json!({
            "type": "Ready",
            "status": if ready { "True" } else { "False" },
            "lastTransitionTime": super::plan::time(self.now),
        });
        let status = json!({ "status": { "phase": phase, "podIP": ip, "conditions": [condition] } });
        let pod = self.pods().into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
        self.patch(&Target::of(&pod), &status);
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.world.pods.iter().map(|pod| Pod::clone(pod)).collect()
    }

    /// A field of an object, as `kubectl get KIND/NAME -o jsonpath` has it; null when there is none.
    pub(crate) fn get(&self, path: &str, pointer: &str) -> Value {
        let (plural, name) = path.split_once('/').unwrap();
        let found = self
            .objects
            .iter()
            .find(|(resource, object)| resource.plural == plural && object.metadata.name.as_deref() == Some(name));
        let value = found.map(|(_, object)| serde_json::to_value(object).unwrap()).unwrap_or_default();
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    pub(crate) fn names(&self, plural: &str) -> Vec<String> {
        let of_kind = self.objects.iter().filter(|(resource, _)| resource.plural == plural);
        of_kind.map(|(_, object)| object.metadata.name.clone().unwrap()).collect()
    }

    fn resource(&self, value: &Value) -> ApiResource {
        let (api_version, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.world.kind(group, kind).unwrap_or_else(|| panic!("no kind {kind} in group {group:?}")).0
    }

    /// As `kubectl delete`, with the API's part of the policy.
    pub(crate) fn request_deletion(&mut self, path: &str, finalizer: Option<&str>) {
        let (plural, name) = path.split_once('/').unwrap();
        let found = self
            .objects
            .iter_mut()
            .find(|(resource, object)| resource.plural == plural && object.metadata.name.as_deref() == Some(name));
        let (resource, object) = found.unwrap();
        let finalizers = object.metadata.finalizers.get_or_insert_default();
        finalizers.extend(finalizer.map(str::to_owned));
        let target = Target::from_meta(resource.clone(), &object.metadata);
        self.delete_gracefully(&target);
    }

    fn position(&self, target: &Target) -> Option<usize> {
        let key = resource_key(&target.resource);
        self.objects.iter().position(|(resource, object)| {
            resource_key(resource) == key
                && object.metadata.name.as_ref() == Some(&target.name)
                && object.metadata.namespace == target.namespace
        })
    }

    fn is_outdated(&self, op: &Op) -> bool {
        let Some(target) = op.target() else { return false };
        let known = self.position(target).map(|at| &self.objects[at].1.metadata);
        match (&target.resource_version, known) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(version), Some(known)) => known.resource_version.as_ref() != Some(version),
        }
    }

    fn execute(&mut self, op: &Op) {
        match op {
            Op::Create(target, value) => self.create(target, value.clone()),
            Op::Patch(target, patch) | Op::PatchStatus(target, patch) => self.patch(target, patch),
            Op::Delete(target, Deletion::Now) => self.delete(target),
            Op::Delete(target, deletion) => {
                let at = self.position(target).filter(|_| *deletion == Deletion::Foreground);
                let meta =
                    at.map(|at| &mut self.objects[at].1.metadata).filter(|meta| meta.deletion_timestamp.is_none());
                meta.into_iter()
                    .for_each(|meta| meta.finalizers.get_or_insert_default().push("foregroundDeletion".into()));
                self.delete_gracefully(target);
            }
            Op::Bind { pod, node } => self.patch(pod, &json!({ "spec": { "nodeName": node } })),
            Op::IfAbsent { then, .. } => self.execute(then),
            Op::Finalize { namespace, .. } => self.delete(namespace),
            Op::Report => {}
        }
    }

    fn create(&mut self, target: &Target, mut value: Value) {
        assert!(self.position(target).is_none(), "{} exists already", target.name);
        self.version += 1;
        value["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        value["metadata"]["generation"] = json!(1);
        value["metadata"]["creationTimestamp"] = json!(super::plan::time(self.now));
        if target.resource.kind == "Namespace" {
            value["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        self.objects.push((target.resource.clone(), serde_json::from_value(value).unwrap()));
        self.publish(self.objects.len() - 1);
    }

    fn patch(&mut self, target: &Target, patch: &Value) {
        let Some(at) = self.position(target) else { return };
        let before = serde_json::to_value(&self.objects[at].1).unwrap();
        let mut value = before.clone();
        json_patch::merge(&mut value, patch);
        if value == before {
            panic!("a patch of {} that changes nothing: {patch}", target.name);
        }
        if value["spec"] != before["spec"] {
            value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap() + 1);
        }
        self.objects[at].1 = serde_json::from_value(value).unwrap();
        let meta = &self.objects[at].1.metadata;
        // A pod goes when the kubelet says so, anything else with its last finalizer.
        let may_go = target.resource.kind != "Pod" && meta.deletion_timestamp.is_some();
        if may_go && meta.finalizers.as_ref().is_none_or(Vec::is_empty) {
            return self.delete(target);
        }
        self.version += 1;
        self.publish(at);
    }

    /// Pods and objects with finalizers stay for a while, all else goes at once.
    fn delete_gracefully(&mut self, target: &Target) {
        let Some(at) = self.position(target) else { return };
        let meta = &mut self.objects[at].1.metadata;
        let finalizers = meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if !finalizers && !matches!(target.resource.kind.as_str(), "Pod" | "Namespace") {
            return self.delete(target);
        }
        meta.deletion_timestamp.get_or_insert(super::plan::time(self.now));
        self.version += 1;
        self.publish(at);
    }

    fn delete(&mut self, target: &Target) {
        let Some(at) = self.position(target) else { return };
        let (resource, object) = self.objects.remove(at);
        self.version += 1;
        self.world.remove(&resource, &object.metadata);
    }

    fn publish(&mut self, at: usize) {
        let (resource, object) = &mut self.objects[at];
        object.metadata.resource_version = Some(self.version.to_string());
        self.world.apply(resource, object.clone()).unwrap();
    }
}

fn target(resource: ApiResource, value: &Value) -> Target {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (namespace, name) = (text(&value["metadata"]["namespace"]), text(&value["metadata"]["name"]).unwrap());
    Target { resource, namespace, name, uid: None, resource_version: None }
}
