//! Deployment: rolls pods from one template to the next by sizing ReplicaSets, one for each template.

mod revision;
mod rolling;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::adoption::{claim, selector};
use super::plan::{Op, Plan};
use super::pods;
use super::world::World;
use rolling::Sized;
pub(crate) use rolling::scaled;

const COMPONENT: &str = "deployment-controller";

/// A Deployment with its ReplicaSets, the new one being that of the present template.
struct Rollout<'a> {
    world: &'a World,
    deployment: &'a Deployment,
    bounds: rolling::Bounds,
    new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    old: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for deployment in world.deployments.iter() {
        if let Some(rollout) = Rollout::observe(world, deployment, now, &mut plan) {
            rollout.reconcile(&mut plan);
        }
    }
    plan
}

// === impl Rollout ===

impl<'a> Rollout<'a> {
    fn observe(world: &'a World, deployment: &'a Deployment, now: Timestamp, plan: &mut Plan) -> Option<Self> {
        let spec = deployment.spec.as_ref()?;
        let selector = selector(&spec.selector)?;
        if selector.selects_all() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            plan.act(COMPONENT, deployment, Op::Report).warn("SelectingAll", message);
            return None;
        }
        let mut sets = claim(COMPONENT, deployment, &selector, &world.replica_sets, plan, |_| true);
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        let new = sets.iter().position(|set| revision::is_of_template(set, &spec.template)).map(|at| sets.remove(at));
        Some(Self { world, deployment, bounds: rolling::Bounds::of(spec), new, old: sets, now })
    }

    fn reconcile(mut self, plan: &mut Plan) {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let paused = spec.paused == Some(true);
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.report(plan);
        }
        self.annotate_new(plan);
        if paused || self.is_scaling() {
            self.resize(rolling::proportional(&self.sized(), self.bounds), plan);
            if paused {
                self.clean_up(plan);
            }
            return self.report(plan);
        }
        if self.bounds.recreate {
            self.recreate(plan);
        } else {
            self.roll(plan);
        }
        if status::is_complete(self.deployment, &self.status()) {
            self.clean_up(plan);
        }
        self.report(plan);
    }

    fn roll(&mut self, plan: &mut Plan) {
        if self.new.is_none() {
            return self.create_new(plan);
        }
        self.resize(rolling::step(&self.sized(), self.bounds), plan);
    }

    fn recreate(&mut self, plan: &mut Plan) {
        let active = self.old.iter().any(|set| replicas(set) > 0);
        if active {
            let sizes = self.sized().into_iter().map(|set| Sized { size: if set.new { set.size } else { 0 }, ..set });
            return self.resize(sizes.collect(), plan);
        }
        if self.old_pods_remain() {
            return;
        }
        if self.new.is_none() {
            return self.create_new(plan);
        }
        let replicas = self.bounds.replicas;
        let sizes =
            self.sized().into_iter().map(|set| Sized { size: if set.new { replicas } else { set.size }, ..set });
        self.resize(sizes.collect(), plan);
    }

    /// Whether a pod of another template still runs, if only to its end.
    fn old_pods_remain(&self) -> bool {
        self.old.iter().flat_map(|set| self.world.pods.controlled_by(&set.metadata)).any(|pod| !pods::is_terminal(pod))
    }

    /// Whether `spec.replicas` changed since the ReplicaSets were sized.
    fn is_scaling(&self) -> bool {
        let active = self.all().filter(|set| replicas(set) > 0);
        active.filter_map(|set| revision::desired(set)).any(|desired| desired != self.bounds.replicas)
    }

    fn create_new(&self, plan: &mut Plan) {
        let size = rolling::initial(&self.sized(), self.bounds);
        let set = revision::new_replica_set(self.deployment, &self.old, self.bounds, size);
        let name = set.metadata.name.clone().unwrap_or_default();
        if self.world.replica_sets.get(set.metadata.namespace.as_deref().unwrap_or_default(), &name).is_some() {
            return self.avoid(plan);
        }
        let action = plan.act(COMPONENT, self.deployment, Op::create(&set));
        action.failed("ReplicaSetCreateError", format!("Failed to create new replica set {name:?}"));
        if size > 0 {
            action.done("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {size}"));
        }
    }

    /// Another ReplicaSet has the name that ours would get: the count that goes into the hash is raised.
    fn avoid(&self, plan: &mut Plan) {
        let mut updated = self.deployment.clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        plan.status(COMPONENT, self.deployment, &updated);
    }

    /// Keeps the annotations of the new ReplicaSet as the Deployment's and gives it the highest revision.
    fn annotate_new(&mut self, plan: &mut Plan) {
        let Some(new) = &self.new else { return };
        let mut updated = ReplicaSet::clone(new);
        revision::annotate(&mut updated, self.deployment, &self.old);
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if let Some(spec) =
            updated.spec.as_mut().filter(|spec| spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0))
        {
            spec.min_ready_seconds = min_ready;
        }
        if updated != **new {
            plan.act(COMPONENT, self.deployment, Op::patch(&**new, &updated));
        }
    }

    /// Gives each ReplicaSet its size.
    fn resize(&self, sizes: Vec<Sized>, plan: &mut Plan) {
        for Sized { set, size, .. } in sizes {
            let before = replicas(&set);
            let mut updated = ReplicaSet::clone(&set);
            updated.spec.get_or_insert_default().replicas = Some(size);
            let scaling = self.is_scaling();
            if size != before || (scaling && size > 0) {
                revision::annotate_sizes(&mut updated, self.bounds);
            }
            if updated == *set {
                continue;
            }
            let action = plan.act(COMPONENT, self.deployment, Op::patch(&*set, &updated));
            if size != before {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let direction = if size > before { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
                action.done("ScalingReplicaSet", message);
            }
        }
    }

    /// Deletes the oldest emptied ReplicaSets beyond the history that is kept.
    fn clean_up(&self, plan: &mut Plan) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut alive: Vec<_> = self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        alive.sort_by_key(|set| revision::of(&set.metadata));
        let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for set in alive.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation >= set.metadata.generation;
            if status.replicas == 0 && replicas(set) == 0 && observed {
                plan.act(COMPONENT, self.deployment, Op::delete(&**set));
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn sized(&self) -> Vec<Sized> {
        let is_new = |set: &Arc<ReplicaSet>| self.new.as_ref().is_some_and(|new| Arc::ptr_eq(new, set));
        self.all().map(|set| Sized { set: set.clone(), new: is_new(set), size: replicas(set) }).collect()
    }
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

/// The size that a ReplicaSet is asked to have.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

#[cfg(test)]
mod tests;
