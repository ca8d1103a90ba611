//! ReplicaSet, and its elder ReplicationController: keep as many pods of one template as asked for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::core::Selector;

use super::adoption::{claim, selector};
use super::conditions::{self, Condition};
use super::plan::{Op, Plan};
use super::pods;
use super::world::World;

/// At most this many pods are created or deleted for one owner in one computation.
const BURST: usize = 500;

/// What the two kinds have in common.
struct Replicated<'a, O> {
    component: &'static str,
    owner: &'a O,
    selector: Selector,
    replicas: i32,
    min_ready_seconds: i32,
    template: PodTemplateSpec,
}

/// What a status counts.
struct Counts {
    replicas: i32,
    fully_labelled: Option<i32>,
    ready: Option<i32>,
    available: Option<i32>,
    terminating: i32,
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for set in world.replica_sets.iter() {
        replica_set(world, set, now, &mut plan);
    }
    for controller in world.replication_controllers.iter() {
        replication_controller(world, controller, now, &mut plan);
    }
    plan
}

fn replica_set(world: &World, set: &ReplicaSet, now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &set.spec else { return };
    let Some(selector) = selector(&spec.selector) else { return };
    let replicated = Replicated {
        component: "replicaset-controller",
        owner: set,
        selector,
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.clone().unwrap_or_default(),
    };
    let counts = replicated.keep(world, now, plan);
    let known = set.status.as_ref();
    let mut conditions = known.and_then(|status| status.conditions.clone());
    replicated.note_failure::<ReplicaSetCondition>(world, &counts, &mut conditions, now);
    let mut updated = set.clone();
    updated.status = Some(ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: counts.fully_labelled,
        ready_replicas: counts.ready,
        available_replicas: counts.available,
        // Once it was told it is told, even when it is none.
        terminating_replicas: nonzero(counts.terminating)
            .or(known.and_then(|status| status.terminating_replicas).map(|_| 0)),
        observed_generation: set.metadata.generation,
        conditions,
    });
    plan.status(replicated.component, set, &updated);
}

fn replication_controller(world: &World, controller: &ReplicationController, now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &controller.spec else { return };
    let labels = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
    let Some(selector) = selector(&labels) else { return };
    let replicated = Replicated {
        component: "replication-controller",
        owner: controller,
        selector,
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.clone().unwrap_or_default(),
    };
    let counts = replicated.keep(world, now, plan);
    let mut conditions = controller.status.as_ref().and_then(|status| status.conditions.clone());
    replicated.note_failure::<ReplicationControllerCondition>(world, &counts, &mut conditions, now);
    let mut updated = controller.clone();
    updated.status = Some(ReplicationControllerStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: counts.fully_labelled,
        ready_replicas: counts.ready,
        available_replicas: counts.available,
        observed_generation: controller.metadata.generation,
        conditions,
    });
    plan.status(replicated.component, controller, &updated);
}

// === impl Replicated ===

impl<O: Resource<DynamicType = ()>> Replicated<'_, O> {
    /// Creates or deletes what the number of pods is short of or over, and counts what there is.
    fn keep(&self, world: &World, now: Timestamp, plan: &mut Plan) -> Counts {
        let claimed = claim(self.component, self.owner, &self.selector, &world.pods, plan, pods::is_active);
        let (active, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|pod| pods::is_active(pod));
        if self.owner.meta().deletion_timestamp.is_none() {
            self.scale(&active, now, plan);
        }
        for pod in &active {
            let at = pods::available_at(pod, self.min_ready_seconds);
            at.filter(|at| *at > now).into_iter().for_each(|at| plan.wake_at(at));
        }
        let terminating = rest.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
        self.count(&active, terminating, now)
    }

    fn scale(&self, active: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
        let wanted = usize::try_from(self.replicas).unwrap_or(0);
        for nonce in 0..wanted.saturating_sub(active.len()).min(BURST) {
            let pod = pods::generate(self.owner, &self.template, now, nonce);
            let name = pod.metadata.name.clone().unwrap_or_default();
            plan.act(self.component, self.owner, Op::create(&pod))
                .done("SuccessfulCreate", format!("Created pod: {name}"))
                .failed("FailedCreate", "Error creating");
        }
        let mut surplus: Vec<&Arc<Pod>> = active.iter().collect();
        surplus.sort_by(|left, right| pods::by_usefulness(left, right));
        for pod in surplus.into_iter().take(active.len().saturating_sub(wanted).min(BURST)) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            plan.act(self.component, self.owner, Op::delete(&**pod))
                .done("SuccessfulDelete", format!("Deleted pod: {name}"))
                .failed("FailedDelete", "Error deleting");
        }
    }

    fn count(&self, active: &[Arc<Pod>], terminating: usize, now: Timestamp) -> Counts {
        let template = self.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let labelled = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            template.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        };
        let count = |matches: &dyn Fn(&Pod) -> bool| nonzero(active.iter().filter(|pod| matches(pod)).count() as i32);
        Counts {
            replicas: active.len() as i32,
            fully_labelled: count(&labelled),
            ready: count(&pods::is_ready),
            available: count(&|pod| pods::is_available(pod, self.min_ready_seconds, now)),
            terminating: terminating as i32,
        }
    }

    /// Says in the conditions why pods cannot be created or deleted.
    fn note_failure<C: Condition>(
        &self,
        world: &World,
        counts: &Counts,
        conditions: &mut Option<Vec<C>>,
        now: Timestamp,
    ) {
        match world.failures.get(self.owner.meta().uid.as_deref().unwrap_or_default()) {
            Some(error) if self.replicas != counts.replicas => {
                let reason = if self.replicas > counts.replicas { "FailedCreate" } else { "FailedDelete" };
                conditions::set(conditions, C::new("ReplicaFailure", "True", reason, error, now));
            }
            _ => conditions::remove(conditions, "ReplicaFailure"),
        }
    }
}

/// Counts that are zero are absent in the API.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::Cluster;

    #[test]
    fn a_replication_controller_keeps_its_pods() {
        let mut cluster = Cluster::new(
            "{apiVersion: v1, kind: ReplicationController, metadata: {name: old}, spec: {replicas: 2, selector: {app: old}, \
             template: {metadata: {labels: {app: old}}, spec: {containers: [{name: main, image: main}]}}}}",
        );
        cluster.converge();
        let status = cluster.get("replicationcontrollers/old", "/status");
        assert_eq!((&status["replicas"], &status["readyReplicas"]), (&json!(2), &json!(2)));
        let owner = cluster.pods()[0].metadata.owner_references.clone().unwrap().remove(0);
        assert_eq!((owner.kind.as_str(), owner.controller), ("ReplicationController", Some(true)));
    }
}
