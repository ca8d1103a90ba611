//! ReplicaSet: keeps as many pods of one template as asked for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::adoption::{claim, selector};
use super::conditions::{self, Condition};
use super::plan::{Op, Plan};
use super::pods;
use super::world::World;

const COMPONENT: &str = "replicaset-controller";

/// At most this many pods are created or deleted for one ReplicaSet in one computation.
const BURST: usize = 500;

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for set in world.replica_sets.iter() {
        reconcile_one(world, set, now, &mut plan);
    }
    plan
}

fn reconcile_one(world: &World, set: &ReplicaSet, now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &set.spec else { return };
    let Some(selector) = selector(&spec.selector) else { return };
    let claimed = claim(COMPONENT, set, &selector, &world.pods, plan, pods::is_active);
    let (active, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|pod| pods::is_active(pod));
    let terminating = rest.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    if set.metadata.deletion_timestamp.is_none() {
        scale(set, &active, now, plan);
    }
    let mut updated = set.clone();
    updated.status = Some(status(world, set, &active, terminating, now));
    plan.status(COMPONENT, set, &updated);
    for pod in &active {
        let at = pods::available_at(pod, spec.min_ready_seconds.unwrap_or(0));
        at.filter(|at| *at > now).into_iter().for_each(|at| plan.wake_at(at));
    }
}

fn scale(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &set.spec else { return };
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let template = spec.template.clone().unwrap_or_default();
    for nonce in 0..wanted.saturating_sub(active.len()).min(BURST) {
        let pod = pods::generate(set, &template, now, nonce);
        let name = pod.metadata.name.clone().unwrap_or_default();
        plan.act(COMPONENT, set, Op::create(&pod))
            .done("SuccessfulCreate", format!("Created pod: {name}"))
            .failed("FailedCreate", "Error creating");
    }
    let mut surplus: Vec<&Arc<Pod>> = active.iter().collect();
    surplus.sort_by(|left, right| pods::by_usefulness(left, right));
    for pod in surplus.into_iter().take(active.len().saturating_sub(wanted).min(BURST)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        plan.act(COMPONENT, set, Op::delete(&**pod))
            .done("SuccessfulDelete", format!("Deleted pod: {name}"))
            .failed("FailedDelete", "Error deleting");
    }
}

fn status(
    world: &World,
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let template =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let count = |matches: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| matches(pod)).count() as i32;
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let mut status = ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: nonzero(count(&labelled)),
        ready_replicas: nonzero(count(&pods::is_ready)),
        available_replicas: nonzero(count(&|pod| pods::is_available(pod, min_ready, now))),
        terminating_replicas: set.status.as_ref().and_then(|status| status.terminating_replicas),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    if status.terminating_replicas.is_some() || terminating > 0 {
        status.terminating_replicas = Some(terminating as i32);
    }
    let wanted = spec.replicas.unwrap_or(1);
    match world.failures.get(set.metadata.uid.as_deref().unwrap_or_default()) {
        Some(error) if wanted != status.replicas => {
            let reason = if wanted > status.replicas { "FailedCreate" } else { "FailedDelete" };
            let failure = ReplicaSetCondition::new("ReplicaFailure", "True", reason, error, now);
            conditions::set(&mut status.conditions, failure);
        }
        _ => conditions::remove(&mut status.conditions, "ReplicaFailure"),
    }
    status
}

/// Counts that are zero are absent in the API.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
