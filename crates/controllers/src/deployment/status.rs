//! The status of a Deployment, as `kubectl rollout status` and `kubectl wait` read it.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::super::conditions::{self, Condition};
use super::super::plan::{Op, Plan};
use super::super::replica_set::nonzero;
use super::{COMPONENT, Rollout, available, replicas, revision};

const PROGRESSING: &str = "Progressing";

/// Whether every replica is of the present template and available, and none is left of another.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.iter().all(|count| count.unwrap_or(0) == wanted)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

impl Rollout<'_> {
    /// The status that the ReplicaSets amount to, with the conditions known so far.
    pub(crate) fn status(&self) -> DeploymentStatus {
        let sum = |count: &dyn Fn(&ReplicaSet) -> i32| self.all().map(|set| count(set)).sum::<i32>();
        let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
        let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        let terminating = self.all().filter_map(|set| set.status.as_ref()?.terminating_replicas);
        let known = self.deployment.status.clone().unwrap_or_default();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(sum(&actual)),
            updated_replicas: nonzero(self.new.as_deref().map_or(0, actual)),
            ready_replicas: nonzero(sum(&ready)),
            available_replicas: nonzero(sum(&available)),
            unavailable_replicas: nonzero((sum(&replicas) - sum(&available)).max(0)),
            terminating_replicas: terminating.reduce(|one, other| one + other),
            collision_count: known.collision_count,
            conditions: known.conditions,
        }
    }

    /// Writes status and revision where they changed.
    pub(crate) fn report(&self, plan: &mut Plan) {
        let mut status = self.status();
        self.set_available(&mut status);
        if self.deployment.metadata.deletion_timestamp.is_none() {
            self.set_progress(&mut status, plan);
            self.set_replica_failure(&mut status);
        }
        let mut updated = self.deployment.clone();
        updated.status = Some(status);
        if let Some(revision) = self.new_revision() {
            updated.metadata.annotations.get_or_insert_default().insert(revision::REVISION.to_owned(), revision);
        }
        // Kubernetes takes the annotation along with the status, so that it makes no new generation; an API that does
        // not gets it by a write of its own.
        if updated.status != self.deployment.status {
            plan.act(COMPONENT, self.deployment, Op::patch_status(self.deployment, &updated));
        } else if updated != *self.deployment {
            plan.act(COMPONENT, self.deployment, Op::patch(self.deployment, &updated));
        }
    }

    /// The revision of the new ReplicaSet if the Deployment does not have it yet.
    fn new_revision(&self) -> Option<String> {
        let annotation =
            |annotations: &Option<BTreeMap<String, String>>| annotations.as_ref()?.get(revision::REVISION).cloned();
        let revision = annotation(&self.new.as_ref()?.metadata.annotations)?;
        (annotation(&self.deployment.metadata.annotations).as_ref() != Some(&revision)).then_some(revision)
    }

    fn set_available(&self, status: &mut DeploymentStatus) {
        let enough = status.available_replicas.unwrap_or(0) >= self.bounds.min_available();
        let (is, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let condition = DeploymentCondition::new("Available", is, reason, message, self.now);
        conditions::set(&mut status.conditions, condition);
    }

    fn set_progress(&self, status: &mut DeploymentStatus, plan: &mut Plan) {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        // The greatest number is the API's way to say that there is no deadline.
        let Some(deadline) = Some(spec.progress_deadline_seconds.unwrap_or(600)).filter(|seconds| *seconds != i32::MAX)
        else {
            return conditions::remove(&mut status.conditions, PROGRESSING);
        };
        let current = conditions::get(&status.conditions, PROGRESSING).cloned();
        let reason = current.as_ref().map_or("", Condition::reason);
        if spec.paused == Some(true) {
            if reason != "ProgressDeadlineExceeded" {
                self.progress(status, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
            }
            return;
        }
        if reason == "DeploymentPaused" {
            self.progress(status, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
        }
        let all_updated = status.replicas == status.updated_replicas;
        if reason == "NewReplicaSetAvailable" && all_updated && !self.is_new_revision() {
            return;
        }
        self.judge_progress(status, current.as_ref(), deadline, plan);
    }

    fn judge_progress(
        &self,
        status: &mut DeploymentStatus,
        current: Option<&DeploymentCondition>,
        deadline: i32,
        plan: &mut Plan,
    ) {
        let reason = current.map_or("", Condition::reason);
        let since = current.and_then(|condition| condition.last_update_time.as_ref()).map(|time| time.0);
        let deadline = since.and_then(|since| since.checked_add(SignedDuration::from_secs(deadline.into())).ok());
        if is_complete(self.deployment, status) {
            self.progress(
                status,
                "True",
                "NewReplicaSetAvailable",
                format!("{} has successfully progressed.", self.subject()),
            );
        } else if current.is_none() || self.is_new_revision() {
            let Some(new) = &self.new else { return };
            let name = new.metadata.name.as_deref().unwrap_or_default();
            let (reason, what) = if revision::is_reused(new) {
                ("FoundNewReplicaSet", "Found")
            } else {
                ("NewReplicaSetCreated", "Created")
            };
            self.progress(status, "True", reason, format!("{what} new replica set {name:?}"));
        } else if has_progressed(&self.deployment.status.clone().unwrap_or_default(), status) {
            self.note_progress(status, current);
        } else if reason != "ProgressDeadlineExceeded" && reason != "NewReplicaSetAvailable" {
            match deadline {
                Some(at) if at < self.now => {
                    let message = format!("{} has timed out progressing.", self.subject());
                    self.progress(status, "False", "ProgressDeadlineExceeded", message);
                }
                Some(at) => plan.wake_at(at.checked_add(SignedDuration::from_secs(1)).unwrap_or(at)),
                None => {}
            }
        }
    }

    /// Renews the time of the last progress, also when status and reason stay.
    fn note_progress(&self, status: &mut DeploymentStatus, current: Option<&DeploymentCondition>) {
        let message = format!("{} is progressing.", self.subject());
        let mut condition = DeploymentCondition::new(PROGRESSING, "True", "ReplicaSetUpdated", &message, self.now);
        if let Some(current) = current.filter(|current| current.status == "True") {
            condition.keep_transition(current);
        }
        conditions::replace(&mut status.conditions, condition);
    }

    fn progress(&self, status: &mut DeploymentStatus, is: &str, reason: &str, message: String) {
        let condition = DeploymentCondition::new(PROGRESSING, is, reason, &message, self.now);
        conditions::set(&mut status.conditions, condition);
    }

    /// Whether the new ReplicaSet has a revision that the Deployment has not been given yet.
    fn is_new_revision(&self) -> bool {
        self.new.as_ref().is_some_and(|new| revision::of(&new.metadata) > revision::of(&self.deployment.metadata))
    }

    fn subject(&self) -> String {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        match &self.new {
            Some(new) => format!("ReplicaSet {:?}", name(&new.metadata.name)),
            None => format!("Deployment {:?}", name(&self.deployment.metadata.name)),
        }
    }

    /// Takes over the failure of a ReplicaSet, the new one's first.
    fn set_replica_failure(&self, status: &mut DeploymentStatus) {
        let failure = |set: &ReplicaSet| conditions::get(&set.status.as_ref()?.conditions, "ReplicaFailure").cloned();
        let found = self.new.iter().chain(&self.old).find_map(|set| failure(set));
        match found {
            Some(found) => {
                let message = found.message.as_deref().unwrap_or_default();
                let at = found.last_transition_time.as_ref().map_or(self.now, |time| time.0);
                let condition = DeploymentCondition::new("ReplicaFailure", &found.status, found.reason(), message, at);
                conditions::set(&mut status.conditions, condition);
            }
            None => conditions::remove(&mut status.conditions, "ReplicaFailure"),
        }
    }
}

/// Whether replicas were updated, replaced or became ready since the status was written.
fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(after.updated_replicas) > count(before.updated_replicas)
        || old(after) < old(before)
        || count(after.ready_replicas) > count(before.ready_replicas)
        || count(after.available_replicas) > count(before.available_replicas)
}
