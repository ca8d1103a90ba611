//! Workloads: how many of their pods are ready, and why the others are not.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod, ReplicationController};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::Value;

use crate::mesh;

/// The pods of one owner.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    /// Such as `Deployment/bookstore-v1`; a pod without owner is its own.
    pub(crate) name: String,
    pub(crate) ready: usize,
    /// How many there are, or are asked for where that is more.
    pub(crate) pods: usize,
    pub(crate) restarts: i32,
    /// Why a pod is not ready, or not even there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
}

/// What makes pods.
#[derive(Clone)]
struct Owner {
    kind: String,
    object: DynamicObject,
}

/// The workloads of all namespaces.
pub(crate) async fn workloads(client: &Client) -> anyhow::Result<Vec<Workload>> {
    let (pods, everything) = (Api::<Pod>::all(client.clone()), ListParams::default());
    let (pods, owners) =
        tokio::try_join!(pods.list(&everything), owners(client)).context("cannot list the workloads")?;
    let mut workloads = gather(&pods.items, &owners);
    if workloads.iter().any(Workload::is_unexplained) {
        let warnings: Api<Event> = Api::all(client.clone());
        let warnings = warnings.list(&ListParams::default().fields("type=Warning")).await;
        explain(&mut workloads, &warnings.context("cannot list the events")?.items);
    }
    Ok(workloads)
}

async fn owners(client: &Client) -> kube::Result<Vec<Owner>> {
    let kinds = [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<ReplicationController>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<DaemonSet>(&()),
        ApiResource::erase::<Job>(&()),
    ];
    let lists = kinds.iter().map(|kind| owners_of(client, kind));
    Ok(futures::future::try_join_all(lists).await?.concat())
}

async fn owners_of(client: &Client, kind: &ApiResource) -> kube::Result<Vec<Owner>> {
    let objects = Api::<DynamicObject>::all_with(client.clone(), kind).list(&ListParams::default()).await?;
    Ok(objects.into_iter().map(|object| Owner { kind: kind.kind.clone(), object }).collect())
}

/// The workloads that have pods or ask for some.
fn gather(pods: &[Pod], owners: &[Owner]) -> Vec<Workload> {
    let mut found = BTreeMap::<(String, String), Workload>::new();
    let mut workload = |namespace: Option<String>, name: String, gather: &dyn Fn(&mut Workload)| {
        let key = (namespace.unwrap_or_default(), name);
        gather(found.entry(key.clone()).or_insert_with(|| Workload::new(key)));
    };
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        workload(pod.namespace(), owner(pod), &|workload| workload.count(pod));
    }
    for owner in owners.iter().filter(|owner| owner.wanted() > 0 && !owner.is_of_deployment()) {
        let name = format!("{}/{}", owner.kind, owner.object.name_any());
        workload(owner.object.namespace(), name, &|workload| workload.ask(owner));
    }
    found.into_values().collect()
}

/// Gives each workload that lacks pods, and does not say why, the last warning about it.
fn explain(workloads: &mut [Workload], warnings: &[Event]) {
    for workload in workloads.iter_mut().filter(|workload| workload.is_unexplained()) {
        let about = warnings.iter().filter(|warning| is_about(warning, workload));
        let last = about.max_by_key(|warning| happened(warning)).and_then(|warning| warning.message.clone());
        workload.waiting = last.or(Some("not all of its pods are there yet".to_owned()));
    }
}

fn is_about(event: &Event, workload: &Workload) -> bool {
    let about = &event.involved_object;
    about.namespace.as_ref() == Some(&workload.namespace)
        && about.kind.as_deref() == Some(workload.kind())
        && about.name.as_deref() == workload.name.split('/').nth(1)
}

fn happened(event: &Event) -> impl Ord {
    event.last_timestamp.as_ref().map(|time| time.0).or(event.event_time.as_ref().map(|time| time.0))
}

fn is_over(pod: &Pod) -> bool {
    phase(pod) == "Succeeded" || pod.metadata.deletion_timestamp.is_some()
}

/// What made the pod: of a ReplicaSet, the Deployment that made it.
fn owner(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().first() else { return format!("Pod/{}", pod.name_any()) };
    let hash = pod.labels().get("pod-template-hash");
    match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')) {
        Some(deployment) => format!("Deployment/{deployment}"),
        None => format!("{}/{}", owner.kind, owner.name),
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// The first reason that a pod's status gives for not being ready.
fn why_waiting(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "not started yet".to_owned() };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let container = containers.filter(|container| !container.ready).find_map(why_not_ready);
    let conditions = status.conditions.iter().flatten().filter(|condition| condition.status != "True");
    let condition = conditions.filter_map(|condition| condition.message.clone()).find(|text| !text.is_empty());
    container.or(condition).unwrap_or_else(|| phase(pod).to_lowercase())
}

/// What a container's state says, and how it ended before: that it waits to be started again is the lesser news.
fn why_not_ready(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref().map(|state| (state.reason.clone(), state.message.clone()));
    let ended = state.terminated.as_ref().map(|end| (end.reason.clone(), Some(ending(end))));
    let (reason, message) = waiting.or(ended).unwrap_or_default();
    let now: Vec<String> = reason.into_iter().chain(message.filter(|text| !text.is_empty())).collect();
    let now = Some(now.join(": ")).filter(|text| !text.is_empty());
    let before = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(ending);
    let said = match (now, before) {
        (Some(now), Some(before)) if !now.contains(&before) => format!("{now} (before: {before})"),
        (None, Some(before)) => format!("runs again (before: {before})"),
        (now, _) => now?,
    };
    Some(format!("container {}: {said}", container.name))
}

/// How a container ended: its exit code and last word. What could not be started has no exit code of its own.
fn ending(end: &ContainerStateTerminated) -> String {
    let code = Some(format!("exit code {}", end.exit_code)).filter(|_| end.reason.as_deref() != Some("StartError"));
    // A last word may end with a line's end.
    let word = end.message.as_deref().map(|text| text.trim_end().to_owned()).filter(|text| !text.is_empty());
    code.into_iter().chain(word).collect::<Vec<_>>().join(": ")
}

// === impl Workload ===

impl Workload {
    fn new((namespace, name): (String, String)) -> Self {
        Self { namespace, name, ready: 0, pods: 0, restarts: 0, waiting: None }
    }

    fn count(&mut self, pod: &Pod) {
        self.pods += 1;
        self.restarts += restarts(pod);
        match mesh::is_ready(pod) {
            true => self.ready += 1,
            false => self.waiting = Some(why_waiting(pod)),
        }
    }

    /// Takes over what the owner of the pods asks for, and why it cannot have it where no pod tells more.
    fn ask(&mut self, owner: &Owner) {
        self.pods = self.pods.max(owner.wanted());
        self.waiting = self.waiting.take().or_else(|| owner.failure());
    }

    /// Such as `Deployment`.
    pub(super) fn kind(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Where a rollout cannot begin, the pods before it are ready.
    pub(super) fn is_ready(&self) -> bool {
        self.ready == self.pods && self.waiting.is_none()
    }

    fn is_unexplained(&self) -> bool {
        self.ready < self.pods && self.waiting.is_none()
    }
}

// === impl Owner ===

impl Owner {
    /// How many pods it asks for.
    fn wanted(&self) -> usize {
        let count = match self.kind.as_str() {
            "DaemonSet" => self.number("/status/desiredNumberScheduled").unwrap_or(0),
            "Job" => self.wanted_of_job(),
            _ => self.number("/spec/replicas").unwrap_or(1),
        };
        usize::try_from(count).unwrap_or(0)
    }

    /// Pods of a Job come and go by themselves: only before the first it is sure that some are missing.
    fn wanted_of_job(&self) -> i64 {
        let has_begun = ["active", "succeeded", "failed"]
            .iter()
            .any(|count| self.number(&format!("/status/{count}")).is_some_and(|count| count > 0));
        let is_suspended = self.object.data.pointer("/spec/suspend").is_some_and(|suspend| suspend == true);
        if has_begun || is_suspended {
            return 0;
        }
        let parallelism = self.number("/spec/parallelism").unwrap_or(1);
        self.number("/spec/completions").map_or(parallelism, |completions| completions.min(parallelism))
    }

    fn number(&self, pointer: &str) -> Option<i64> {
        self.object.data.pointer(pointer).and_then(Value::as_i64)
    }

    /// Whether its pods are a Deployment's.
    fn is_of_deployment(&self) -> bool {
        self.object.owner_references().iter().any(|owner| owner.kind == "Deployment")
    }

    /// Why pods cannot be made or removed, as the controllers of replicas say it; others write events only.
    fn failure(&self) -> Option<String> {
        let conditions = self.object.data.pointer("/status/conditions").and_then(Value::as_array)?;
        let is_failure = |condition: &&Value| condition["type"] == "ReplicaFailure" && condition["status"] == "True";
        conditions.iter().find(is_failure)?["message"].as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(kind: &str, spec: Value, status: Value) -> Owner {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status});
        Owner { kind: kind.to_owned(), object: serde_json::from_value(object).expect("an object") }
    }

    fn pod(kind: &str, ready: &str) -> Pod {
        let pod = json!({
            "metadata": {
                "name": "web-1", "namespace": "shop",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": ""}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "message": "its probe fails"}]},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    fn warning(kind: &str, at: &str, message: &str) -> Event {
        let event = json!({
            "metadata": {"name": "event"}, "type": "Warning", "message": message, "lastTimestamp": at,
            "involvedObject": {"kind": kind, "namespace": "shop", "name": "web"},
        });
        serde_json::from_value(event).expect("an event")
    }

    /// The only workload: ready and wanted pods, and what is said of the others.
    fn only(pods: &[Pod], owner: Owner, warnings: &[Event]) -> (usize, usize, Option<String>) {
        let mut workloads = gather(pods, &[owner]);
        explain(&mut workloads, warnings);
        let [workload] = workloads.try_into().expect("one workload");
        assert_eq!((workload.namespace.as_str(), workload.name.ends_with("/web")), ("shop", true));
        (workload.ready, workload.pods, workload.waiting)
    }

    fn refused() -> Value {
        json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "forbidden"}]})
    }

    #[test]
    fn a_workload_without_pods_is_listed_with_what_its_controller_says() {
        let forbidden = Some("forbidden".to_owned());
        assert_eq!(only(&[], owner("Deployment", json!({"replicas": 2}), refused()), &[]), (0, 2, forbidden.clone()));
        let warnings = [
            warning("DaemonSet", "2026-01-01T00:00:02Z", "forbidden"),
            warning("DaemonSet", "2026-01-01T00:00:01Z", "an earlier one"),
            warning("StatefulSet", "2026-01-01T00:00:03Z", "another's"),
        ];
        let status = json!({"desiredNumberScheduled": 1});
        assert_eq!(only(&[], owner("DaemonSet", json!({}), status), &warnings), (0, 1, forbidden));
        let (.., why) = only(&[], owner("Job", json!({"completions": 1}), Value::Null), &warnings);
        assert_eq!(why.as_deref(), Some("not all of its pods are there yet"));
    }

    #[test]
    fn what_a_pod_says_of_itself_comes_before_what_its_owner_says() {
        let replicas = || owner("ReplicaSet", json!({"replicas": 2}), refused());
        let (ready, pods, why) = only(&[pod("ReplicaSet", "False")], replicas(), &[]);
        assert_eq!((ready, pods, why.as_deref()), (0, 2, Some("its probe fails")));
        let (ready, pods, why) = only(&[pod("ReplicaSet", "True")], replicas(), &[]);
        assert_eq!((ready, pods, why.as_deref()), (1, 2, Some("forbidden")));
    }

    #[test]
    fn nothing_is_missing_of_what_is_complete_or_another_workloads() {
        let is_absent = |owner: Owner| gather(&[], &[owner]).is_empty();
        assert!(is_absent(owner("Deployment", json!({"replicas": 0}), json!({}))));
        assert!(is_absent(owner("Job", json!({"completions": 1}), json!({"succeeded": 1}))));
        assert!(is_absent(owner("Job", json!({"suspend": true}), json!({}))));
        let mut set = owner("ReplicaSet", json!({"replicas": 1}), refused());
        let reference = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": ""}]);
        set.object.metadata.owner_references = serde_json::from_value(reference).expect("a reference");
        assert!(is_absent(set));
        let complete = owner("StatefulSet", json!({"replicas": 1}), json!({}));
        assert_eq!(only(&[pod("StatefulSet", "True")], complete, &[]), (1, 1, None));
    }

    /// What is said of a pod whose container is so.
    fn said(container: Value) -> String {
        let mut status = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0});
        status.as_object_mut().expect("an object").extend(container.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": "never"}, "status": {"containerStatuses": [status]}});
        why_waiting(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn how_a_container_ended_is_said_while_it_waits_and_when_it_runs_again() {
        let end = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        assert_eq!(
            said(json!({"state": waits, "lastState": end})),
            "container a: CrashLoopBackOff: back-off 10s (before: exit code 3)"
        );
        let runs = json!({"running": {"startedAt": null}});
        assert_eq!(said(json!({"state": runs, "lastState": end})), "container a: runs again (before: exit code 3)");
        let refused = json!({"waiting": {"reason": "RunContainerError", "message": "no such program"}});
        let end = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such program"}});
        assert_eq!(
            said(json!({"state": refused, "lastState": end})),
            "container a: RunContainerError: no such program"
        );
    }

    #[test]
    fn a_last_word_with_a_lines_end_is_one_line() {
        let end = json!({"terminated": {"exitCode": 4, "reason": "Error", "message": "bye\n"}});
        assert_eq!(said(json!({"state": end})), "container a: Error: exit code 4: bye");
    }
}
