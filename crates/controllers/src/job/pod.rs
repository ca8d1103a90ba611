//! One pod of a Job: its finalizer, its index, its end.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::Resource;

use super::super::plan::{Op, Plan};
use super::super::pods;
use super::COMPONENT;

/// The value of `managedBy` that means this controller.
pub(crate) const MANAGER: &str = "kubernetes.io/job-controller";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

pub(crate) fn index(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// When a pod ended, as far as its status tells.
pub(crate) fn ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let terminated = status.container_statuses.iter().flatten().filter_map(|it| it.state.as_ref()?.terminated.as_ref());
    let finished = terminated.filter_map(|terminated| terminated.finished_at.as_ref()).map(|time| time.0).max();
    let not_ready = status.conditions.iter().flatten().find(|it| it.type_ == "Ready" && it.status == "False");
    let not_ready = || not_ready?.last_transition_time.as_ref().map(|time| time.0);
    finished.or_else(not_ready).or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
}

/// Lets go of a pod that is counted.
pub(crate) fn untrack<K: Resource<DynamicType = ()>>(regarding: &K, pod: &Pod, plan: &mut Plan) {
    let mut released = pod.clone();
    released.metadata.finalizers.iter_mut().for_each(|list| list.retain(|finalizer| finalizer != TRACKING));
    plan.act(COMPONENT, regarding, Op::patch(pod, &released));
}

/// A pod of the Job, for one index if the Job is indexed.
pub(crate) fn new(job: &Job, spec: &JobSpec, index: Option<u32>, now: Timestamp, nonce: usize) -> Pod {
    let mut pod = pods::generate(job, &spec.template, now, nonce);
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let Some(index) = index else { return pod };
    let host = format!("{}-{index}", job.metadata.name.as_deref().unwrap_or_default());
    let suffix = pod.metadata.name.as_deref().and_then(|name| name.rsplit_once('-')).map_or("", |(_, suffix)| suffix);
    pod.metadata.name = Some(format!("{host}-{suffix}"));
    pod.metadata.generate_name = Some(format!("{host}-"));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(host);
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    pod
}

/// `JOB_COMPLETION_INDEX` for a container, unless the template sets it.
fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..Default::default() };
    env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from: Some(source) });
}
