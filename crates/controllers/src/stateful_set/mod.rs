//! StatefulSet: pods with stable names, created, updated and deleted in the order of their ordinals.

mod pod;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::adoption::{claim, selector};
use super::history::{self, History, POD_REVISION};
use super::plan::{Op, Plan};
use super::pods;
use super::replica_set::nonzero;
use super::world::World;

const COMPONENT: &str = "statefulset-controller";

/// A StatefulSet, its pods by ordinal and its revisions.
struct Replicas<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    world: &'a World,
    history: History,
    /// The name of the revision that was complete last.
    current: String,
    /// The ordinals that there should be; each with its pod if there is one.
    wanted: Vec<(i32, Option<Arc<Pod>>)>,
    /// Pods of other ordinals, the highest first.
    condemned: Vec<Arc<Pod>>,
    now: Timestamp,
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for set in world.stateful_sets.iter() {
        let Some(replicas) = Replicas::observe(world, set, now, &mut plan) else { continue };
        if set.metadata.deletion_timestamp.is_none() {
            replicas.step(&mut plan);
        }
        replicas.report(&mut plan);
    }
    plan
}

// === impl Replicas ===

impl<'a> Replicas<'a> {
    fn observe(world: &'a World, set: &'a StatefulSet, now: Timestamp, plan: &mut Plan) -> Option<Self> {
        let spec = set.spec.as_ref()?;
        let status = set.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0);
        let history = history::observe(COMPONENT, set, &spec.selector, &spec.template, world, collisions, plan)?;
        let member = |pod: &Pod| pod::ordinal(set, pod).is_some();
        let mut pods = claim(COMPONENT, set, &selector(&spec.selector)?, &world.pods, plan, member);
        pods.retain(|pod| member(pod));
        let known = |name: &String| history.all.iter().any(|revision| history::name(revision) == name);
        let current =
            status.current_revision.filter(known).unwrap_or_else(|| history::name(&history.update).to_owned());
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let range = start..start.saturating_add(spec.replicas.unwrap_or(1));
        let of = |ordinal: i32| pods.iter().find(|pod| pod::ordinal(set, pod) == Some(ordinal)).cloned();
        let wanted = range.clone().map(|ordinal| (ordinal, of(ordinal))).collect();
        let beyond = |pod: &Arc<Pod>| pod::ordinal(set, pod).is_some_and(|ordinal| !range.contains(&ordinal));
        let mut condemned: Vec<_> = pods.iter().filter(|pod| beyond(pod)).cloned().collect();
        condemned.sort_by_key(|pod| std::cmp::Reverse(pod::ordinal(set, pod)));
        Some(Self { set, spec, world, history, current, wanted, condemned, now })
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running" && pods::is_available(pod, self.min_ready(), self.now)
    }

    /// Whether a pod holds up what comes after it in the order.
    fn is_healthy(&self, pod: &Pod) -> bool {
        !pods::is_terminating(pod) && self.is_available(pod)
    }

    /// Creates, then gives up, then updates pods; in order, nothing goes on while an earlier pod is not available.
    fn step(&self, plan: &mut Plan) {
        if self.fill(plan) && self.shrink(plan) && self.spec_strategy() != "OnDelete" {
            self.update(plan);
        }
    }

    fn spec_strategy(&self) -> &str {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy.unwrap_or("RollingUpdate")
    }

    /// Creates missing pods and replaces ended ones; whether to go on.
    fn fill(&self, plan: &mut Plan) -> bool {
        let mut settled = true;
        for (ordinal, pod) in &self.wanted {
            let ready = match pod {
                None => self.create(*ordinal, plan),
                Some(pod) if pods::is_terminal(pod) => self.delete(pod, plan),
                Some(pod) => self.is_healthy(pod),
            };
            settled &= ready;
            if self.is_ordered() && !ready {
                return false;
            }
        }
        settled || !self.is_ordered()
    }

    /// Gives up pods beyond the wanted ordinals; whether to go on.
    fn shrink(&self, plan: &mut Plan) -> bool {
        let unhealthy = |pod: &&Arc<Pod>| !self.is_healthy(pod);
        let first_unhealthy = self.condemned.iter().rev().find(unhealthy).cloned();
        for pod in &self.condemned {
            let is_first = first_unhealthy.as_ref().is_some_and(|first| Arc::ptr_eq(first, pod));
            let blocked = pods::is_terminating(pod) || !(self.is_available(pod) || is_first);
            if self.is_ordered() && blocked {
                return false;
            }
            self.delete(pod, plan);
            if self.is_ordered() {
                return false;
            }
        }
        self.condemned.is_empty() || !self.is_ordered()
    }

    /// Replaces the highest pod of an old revision once all above it are available.
    fn update(&self, plan: &mut Plan) {
        let partition = usize::try_from(self.partition().unwrap_or(0)).unwrap_or(0);
        for (_, pod) in self.wanted.iter().skip(partition).rev() {
            let Some(pod) = pod else { return };
            if revision(pod) != history::name(&self.history.update) && !pods::is_terminating(pod) {
                self.delete(pod, plan);
                return;
            }
            if !self.is_healthy(pod) {
                return;
            }
        }
    }

    fn partition(&self) -> Option<i32> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
    }

    /// Whether a new pod of this ordinal still belongs to the revision before the update.
    fn is_before_update(&self, ordinal: i32) -> bool {
        let start = self.wanted.first().map_or(0, |(first, _)| *first);
        let current = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        match self.partition() {
            _ if self.spec_strategy() == "OnDelete" => false,
            Some(partition) if partition > 0 => ordinal < start + partition,
            _ => ordinal < start + current,
        }
    }

    fn create(&self, ordinal: i32, plan: &mut Plan) -> bool {
        let old = self.history.all.iter().find(|revision| history::name(revision) == self.current);
        let old = old.filter(|_| self.is_before_update(ordinal));
        let (template, revision): (PodTemplateSpec, &str) = match old.and_then(|it| history::template(it)) {
            Some(template) => (template, &self.current),
            None => (self.spec.template.clone(), history::name(&self.history.update)),
        };
        let pod = pod::new(self.set, self.spec, &template, revision, ordinal);
        let (name, set) =
            (pod.metadata.name.clone().unwrap_or_default(), self.set.metadata.name.clone().unwrap_or_default());
        for claim in pod::missing_claims(self.world, self.set, self.spec, &name, ordinal) {
            let claim_name = claim.metadata.name.clone().unwrap_or_default();
            let what = format!("create Claim {claim_name} Pod {name} in StatefulSet {set}");
            plan.act(COMPONENT, self.set, Op::create(&claim))
                .done("SuccessfulCreate", format!("{what} success"))
                .failed("FailedCreate", format!("{what} failed error"));
        }
        plan.act(COMPONENT, self.set, Op::create(&pod))
            .done("SuccessfulCreate", format!("create Pod {name} in StatefulSet {set} successful"))
            .failed("FailedCreate", format!("create Pod {name} in StatefulSet {set} failed error"));
        false
    }

    /// Deletes a pod unless it is being deleted; it is never ready after that.
    fn delete(&self, pod: &Arc<Pod>, plan: &mut Plan) -> bool {
        if !pods::is_terminating(pod) {
            let (name, set) =
                (pod.metadata.name.clone().unwrap_or_default(), self.set.metadata.name.clone().unwrap_or_default());
            plan.act(COMPONENT, self.set, Op::delete(&**pod))
                .done("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {set} successful"))
                .failed("FailedDelete", format!("delete Pod {name} in StatefulSet {set} failed error"));
        }
        false
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.wanted.iter().filter_map(|(_, pod)| pod.as_ref()).chain(&self.condemned)
    }

    fn report(&self, plan: &mut Plan) {
        let mut updated = self.set.clone();
        updated.status = Some(self.status());
        plan.status(COMPONENT, self.set, &updated);
        let ready = self.all().filter_map(|pod| pods::available_at(pod, self.min_ready()));
        ready.filter(|at| *at > self.now).for_each(|at| plan.wake_at(at));
        let status = updated.status.unwrap_or_default();
        let mut used: BTreeSet<&str> = self.all().map(|pod| revision(pod)).collect();
        used.extend(status.current_revision.as_deref());
        used.insert(history::name(&self.history.update));
        self.history.truncate(COMPONENT, self.set, &used, self.spec.revision_history_limit, plan);
    }

    fn status(&self) -> StatefulSetStatus {
        let count = |matches: &dyn Fn(&Pod) -> bool| self.all().filter(|pod| matches(pod)).count() as i32;
        let of = |name: &str| count(&|pod| !pods::is_terminating(pod) && revision(pod) == name);
        let update = history::name(&self.history.update).to_owned();
        let ready = count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
        let (replicas, updated) = (count(&|_| true), of(&update));
        let wanted = self.spec.replicas.unwrap_or(1);
        let complete =
            self.spec_strategy() == "RollingUpdate" && [replicas, updated, ready].iter().all(|it| *it == wanted);
        let current = if complete { update.clone() } else { self.current.clone() };
        let known = self.set.status.clone().unwrap_or_default();
        StatefulSetStatus {
            replicas,
            ready_replicas: nonzero(ready),
            // The one count that the API has even when it is zero.
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: nonzero(of(&current)),
            updated_replicas: nonzero(updated),
            current_revision: Some(current),
            update_revision: Some(update),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.history.collisions),
            conditions: known.conditions,
        }
    }
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_REVISION)).map_or("", String::as_str)
}

#[cfg(test)]
mod tests;
