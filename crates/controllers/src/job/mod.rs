//! Job: runs pods until enough of them succeeded or too many failed.
//!
//! Every pod carries a finalizer until it is counted, so that none is lost or counted twice: an ended pod is first
//! noted in the status by its uid, then loses the finalizer, then becomes a part of the count.

mod counting;
mod indexes;
mod pod;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::adoption::{claim, selector};
use super::conditions::{self, Condition};
use super::plan::{Deletion, Op, Plan, Target, time};
use super::pods;
use super::world::{World, controller_uid};
use counting::Count;

const COMPONENT: &str = "job-controller";

/// Pods created or deleted for one Job in one computation.
const BURST: usize = 500;

/// The delay after a failed pod; it doubles with every failure in a row up to [`LONGEST_DELAY`].
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(10);

/// How a Job ended or is about to.
struct Verdict {
    complete: bool,
    reason: String,
    message: String,
}

/// A Job that has not ended, with its pods.
struct Run<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    count: Count,
    now: Timestamp,
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for job in world.jobs.iter() {
        if job.spec.as_ref().is_some_and(|spec| spec.managed_by.as_deref().is_some_and(|by| by != pod::MANAGER)) {
            continue;
        }
        if finished(job).is_some() {
            expire(job, now, &mut plan);
        } else if let Some(run) = Run::observe(world, job, now, &mut plan) {
            run.reconcile(&mut plan);
        }
    }
    release_counted(world, &mut plan);
    plan
}

/// The condition by which a Job has ended.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|it| it.status == "True" && matches!(it.type_.as_str(), "Complete" | "Failed"))
}

/// Deletes an ended Job when its time is over.
fn expire(job: &Job, now: Timestamp, plan: &mut Plan) {
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let ended = finished(job).and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let Some((ttl, ended)) = ttl.zip(ended) else { return };
    let at = ended.checked_add(SignedDuration::from_secs(ttl.into())).unwrap_or(Timestamp::MAX);
    if at > now {
        plan.wake_at(at);
    } else if job.metadata.deletion_timestamp.is_none() {
        plan.act("ttl-after-finished-controller", job, Op::Delete(Target::of(job), Deletion::Foreground));
    }
}

/// Takes the finalizer from pods whose Job ended, is being deleted or is gone: nobody counts them any more.
fn release_counted(world: &World, plan: &mut Plan) {
    for pod in world.pods.iter().filter(|pod| pod::is_tracked(pod)) {
        let owner = controller_uid(&pod.metadata);
        let mut jobs = world.jobs.within(pod.metadata.namespace.as_deref().unwrap_or_default());
        let job = jobs.find(|job| job.metadata.uid.as_deref() == owner);
        let over = |job: &Arc<Job>| finished(job).is_some() || job.metadata.deletion_timestamp.is_some();
        if job.map_or(world.complete, over) {
            pod::untrack(&**pod, pod, plan);
        }
    }
}

// === impl Run ===

impl<'a> Run<'a> {
    fn observe(world: &World, job: &'a Job, now: Timestamp, plan: &mut Plan) -> Option<Self> {
        let spec = job.spec.as_ref()?;
        let pods = match spec.selector.as_ref().and_then(selector) {
            Some(selector) => claim(COMPONENT, job, &selector, &world.pods, plan, |_| true),
            None => world.pods.controlled_by(&job.metadata).cloned().collect(),
        };
        let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let failing = conditions::get(&job.status.clone().unwrap_or_default().conditions, "FailureTarget").is_some();
        let count = Count::of(job, &pods, failing);
        Some(Self { job, spec, pods, active, count, now })
    }

    fn reconcile(&self, plan: &mut Plan) {
        if self.job.metadata.deletion_timestamp.is_some() {
            return;
        }
        self.count.counted(&self.pods).for_each(|pod| pod::untrack(self.job, pod, plan));
        let failure = self.failure(plan);
        if failure.is_some() {
            self.delete(self.active.iter(), plan);
        } else {
            self.manage(plan);
        }
        let success = || self.is_complete().then(Verdict::complete);
        self.report(failure.or_else(success), plan);
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// How many successes are asked for; none when the first one is enough.
    fn completions(&self) -> Option<i32> {
        // The API fills in one completion when neither number is given.
        self.spec.completions.or_else(|| self.spec.parallelism.is_none().then_some(1))
    }

    fn is_complete(&self) -> bool {
        let enough = match self.completions() {
            None => self.count.succeeded() > 0,
            Some(completions) => self.count.succeeded() >= completions,
        };
        enough && self.active.is_empty()
    }

    fn failure(&self, plan: &mut Plan) -> Option<Verdict> {
        let status = self.job.status.clone().unwrap_or_default();
        if let Some(target) = conditions::get(&status.conditions, "FailureTarget") {
            return Some(Verdict::failed(target.reason(), target.message.as_deref().unwrap_or_default()));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.count.failed() > limit || self.restarts_exceed(limit) {
            return Some(Verdict::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let seconds = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended())?;
        let deadline = status.start_time?.0.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        if deadline > self.now {
            plan.wake_at(deadline);
            return None;
        }
        Some(Verdict::failed("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    /// Whether containers that restart in place did so too often.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let statuses = self.active.iter().filter_map(|pod| pod.status.as_ref());
        let lists = statuses.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
        let restarts: i32 = lists.flatten().flatten().map(|container| container.restart_count).sum();
        policy == Some("OnFailure") && restarts > 0 && restarts >= limit
    }

    /// Has as many pods active as the Job wants now.
    fn manage(&self, plan: &mut Plan) {
        let active = self.active.len() as i32;
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.completions() {
            _ if self.is_suspended() => 0,
            None if self.count.succeeded() > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.count.succeeded()).clamp(0, parallelism),
        };
        let mut surplus: Vec<_> = self.active.iter().collect();
        surplus.sort_by(|left, right| pods::by_usefulness(left, right));
        self.delete(surplus.into_iter().take(usize::try_from(active - wanted).unwrap_or(0)), plan);
        let waiting =
            if self.spec.pod_replacement_policy.as_deref() == Some("Failed") { self.terminating() } else { 0 };
        let missing = usize::try_from(wanted - active - waiting).unwrap_or(0).min(BURST);
        if missing == 0 {
            return;
        }
        match self.delayed_until() {
            Some(at) if at > self.now => plan.wake_at(at),
            _ => self.create(missing, plan),
        }
    }

    fn create(&self, missing: usize, plan: &mut Plan) {
        let indexes: Vec<Option<u32>> = match self.count.indexes() {
            None => vec![None; missing],
            Some(done) => {
                let taken =
                    |index: &u32| done.contains(*index) || self.active.iter().any(|it| pod::index(it) == Some(*index));
                let all = 0..u32::try_from(self.completions().unwrap_or(0)).unwrap_or(0);
                all.filter(|index| !taken(index)).take(missing).map(Some).collect()
            }
        };
        for (nonce, index) in indexes.into_iter().enumerate() {
            let pod = pod::new(self.job, self.spec, index, self.now, nonce);
            let name = pod.metadata.name.clone().unwrap_or_default();
            plan.act(COMPONENT, self.job, Op::create(&pod))
                .done("SuccessfulCreate", format!("Created pod: {name}"))
                .failed("FailedCreate", "Error creating");
        }
    }

    fn delete<'p>(&self, pods: impl Iterator<Item = &'p Arc<Pod>>, plan: &mut Plan) {
        for pod in pods.take(BURST) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            plan.act(COMPONENT, self.job, Op::delete(&**pod))
                .done("SuccessfulDelete", format!("Deleted pod: {name}"))
                .failed("FailedDelete", "Error deleting");
        }
    }

    /// When the next pod may be created after the failures since the last success.
    fn delayed_until(&self) -> Option<Timestamp> {
        let last_success =
            self.pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| pod::ended(pod)).max();
        let failures = self.pods.iter().filter(|pod| pods::phase(pod) == "Failed").filter_map(|pod| pod::ended(pod));
        let failures: Vec<_> = failures.filter(|at| last_success.is_none_or(|success| *at > success)).collect();
        let doublings = u32::try_from(failures.len().checked_sub(1)?).unwrap_or(u32::MAX).min(16);
        let delay = FIRST_DELAY.checked_mul(1 << doublings).unwrap_or(LONGEST_DELAY).min(LONGEST_DELAY);
        failures.iter().max()?.checked_add(delay).ok()
    }

    fn terminating(&self) -> i32 {
        self.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count() as i32
    }

    fn report(&self, verdict: Option<Verdict>, plan: &mut Plan) {
        let mut status = self.count.status(self.job);
        status.active = super::replica_set::nonzero(self.active.len() as i32);
        status.ready = Some(self.active.iter().filter(|pod| pods::is_ready(pod)).count() as i32);
        status.terminating = Some(self.terminating());
        if status.start_time.is_none() && !self.is_suspended() {
            status.start_time = Some(time(self.now));
        }
        let mut event = self.set_suspended(&mut status);
        if let Some(verdict) = verdict {
            event = self.conclude(&mut status, &verdict).or(event);
        }
        let mut updated = self.job.clone();
        updated.status = Some(status);
        if updated != *self.job {
            let action = plan.act(COMPONENT, self.job, Op::patch_status(self.job, &updated));
            if let Some((warning, reason, message)) = event {
                if warning {
                    action.warn(reason, message)
                } else {
                    action.done(reason, message)
                };
            }
        }
    }

    fn set_suspended(&self, status: &mut JobStatus) -> Option<(bool, &'static str, String)> {
        let known = conditions::get(&status.conditions, "Suspended").map(|it| it.status == "True");
        match (self.is_suspended(), known) {
            (true, None | Some(false)) => {
                conditions::set(
                    &mut status.conditions,
                    JobCondition::new("Suspended", "True", "JobSuspended", "Job suspended", self.now),
                );
                status.start_time = None;
                Some((false, "Suspended", "Job suspended".to_owned()))
            }
            (false, Some(true)) => {
                conditions::set(
                    &mut status.conditions,
                    JobCondition::new("Suspended", "False", "JobResumed", "Job resumed", self.now),
                );
                status.start_time = Some(time(self.now));
                Some((false, "Resumed", "Job resumed".to_owned()))
            }
            _ => None,
        }
    }

    /// Announces the end of the Job and, once every pod has ended and is counted, makes it.
    fn conclude(&self, status: &mut JobStatus, verdict: &Verdict) -> Option<(bool, &'static str, String)> {
        let (before, end) =
            if verdict.complete { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        let condition = |kind| JobCondition::new(kind, "True", &verdict.reason, &verdict.message, self.now);
        conditions::set(&mut status.conditions, condition(before));
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let counted = uncounted.is_none_or(|it| it.succeeded.is_none() && it.failed.is_none());
        if !counted || !self.active.is_empty() || self.terminating() > 0 {
            return None;
        }
        conditions::set(&mut status.conditions, condition(end));
        if verdict.complete {
            status.completion_time = Some(time(self.now));
            return Some((false, "Completed", "Job completed".to_owned()));
        }
        let reason = if verdict.reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
        Some((true, reason, verdict.message.clone()))
    }
}

// === impl Verdict ===

impl Verdict {
    fn complete() -> Self {
        let message = "Reached expected number of succeeded pods".to_owned();
        Self { complete: true, reason: "CompletionsReached".to_owned(), message }
    }

    fn failed(reason: &str, message: &str) -> Self {
        Self { complete: false, reason: reason.to_owned(), message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests;
