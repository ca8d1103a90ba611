//! CronJob: makes a Job at every time of its schedule and keeps a few of those that ended.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;

use super::job::finished;
use super::plan::{Op, Plan, controller_reference, time};
use super::schedule::{Schedule, zone};
use super::world::World;

const COMPONENT: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// More missed times than this are worth a warning: a clock, or the control plane, was away for long.
const MANY: usize = 100;

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for cron in world.cron_jobs.iter() {
        let Some(spec) = &cron.spec else { continue };
        let mut jobs: Vec<&Arc<Job>> = world.jobs.controlled_by(&cron.metadata).collect();
        jobs.sort_by_key(|job| (job.metadata.creation_timestamp.clone(), job.metadata.name.clone()));
        report(cron, &jobs, &mut plan);
        if cron.metadata.deletion_timestamp.is_none() {
            keep_history(cron, spec, &jobs, &mut plan);
            start(cron, spec, &jobs, now, &mut plan);
        }
    }
    plan
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

fn is_running(job: &Job) -> bool {
    finished(job).is_none()
}

/// The time for which a Job was made.
fn scheduled(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(SCHEDULED)?.parse().ok()
}

/// The last time for which a Job was made.
fn last_scheduled(cron: &CronJob, jobs: &[&Arc<Job>]) -> Option<Timestamp> {
    let known = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    jobs.iter().filter_map(|job| scheduled(job)).chain(known).max()
}

fn report(cron: &CronJob, jobs: &[&Arc<Job>], plan: &mut Plan) {
    let mut updated = cron.clone();
    let status = updated.status.get_or_insert_default();
    for known in status.active.iter().flatten() {
        let found = jobs.iter().find(|job| job.metadata.uid == known.uid);
        let name = known.name.as_deref().unwrap_or_default();
        if let Some(condition) = found.and_then(|job| finished(job)) {
            let message = format!("Saw completed job: {name}, condition: {}", condition.type_);
            plan.act(COMPONENT, cron, Op::Report).done("SawCompletedJob", message);
        } else if found.is_none() {
            plan.act(COMPONENT, cron, Op::Report).done("MissingJob", format!("Active job went missing: {name}"));
        }
    }
    let active = jobs.iter().filter(|job| is_running(job));
    let references: Vec<_> = active
        .map(|job| {
            let mut reference = job.object_ref(&());
            reference.resource_version = job.metadata.resource_version.clone();
            let known = status.active.iter().flatten().find(|known| known.uid == reference.uid);
            known.cloned().unwrap_or(reference)
        })
        .collect();
    status.active = Some(references).filter(|active| !active.is_empty());
    status.last_schedule_time = last_scheduled(cron, jobs).map(time);
    let completed = jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone());
    status.last_successful_time = completed.chain(status.last_successful_time.clone()).max_by_key(|time: &Time| time.0);
    if cron.status.is_none() && *status == Default::default() {
        return;
    }
    plan.status(COMPONENT, cron, &updated);
}

/// Deletes the oldest ended Jobs beyond those that are kept.
fn keep_history(cron: &CronJob, spec: &CronJobSpec, jobs: &[&Arc<Job>], plan: &mut Plan) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (kind, limit) in limits {
        let is_kind = |job: &&&Arc<Job>| finished(job).is_some_and(|condition| condition.type_ == kind);
        let alive = jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none());
        let ended: Vec<_> = alive.filter(is_kind).collect();
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        ended.into_iter().take(surplus).for_each(|job| delete(cron, job, plan));
    }
}

fn delete(cron: &CronJob, job: &Job, plan: &mut Plan) {
    if job.metadata.deletion_timestamp.is_none() {
        plan.act(COMPONENT, cron, Op::delete(job))
            .done("SuccessfulDelete", format!("Deleted job {}", name(job)))
            .failed("FailedDelete", "Deleted job");
    }
}

fn start(cron: &CronJob, spec: &CronJobSpec, jobs: &[&Arc<Job>], now: Timestamp, plan: &mut Plan) {
    let schedule = match schedule(spec) {
        Ok(schedule) => schedule,
        Err((reason, message)) => {
            plan.act(COMPONENT, cron, Op::Report).warn(reason, message);
            return;
        }
    };
    if spec.suspend == Some(true) {
        return;
    }
    if let Some(next) = schedule.next(now) {
        plan.wake_at(next);
    }
    let Some((at, many)) = schedule.last(earliest(cron, spec, jobs, now), now, MANY) else { return };
    if many {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.act(COMPONENT, cron, Op::Report).warn("TooManyMissedTimes", message);
    }
    let running: Vec<_> = jobs.iter().filter(|job| is_running(job)).collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.act(COMPONENT, cron, Op::Report).done("JobAlreadyActive", message);
        }
        Some("Replace") if running.iter().any(|job| job.metadata.deletion_timestamp.is_none()) => {
            // The new one is made once these are being deleted.
            running.iter().for_each(|job| delete(cron, job, plan));
        }
        _ => create(cron, spec, at, plan),
    }
}

/// The schedule, or the reason and message of the event that says why there is none.
fn schedule(spec: &CronJobSpec) -> Result<Schedule, (&'static str, String)> {
    if let Some(name) = spec.time_zone.as_deref() {
        zone(name).map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))?;
    }
    let unparseable = |error| ("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule));
    Schedule::parse(&spec.schedule, spec.time_zone.as_deref()).map_err(unparseable)
}

/// The time after which the schedule counts: that of the last Job, unless it is longer ago than a start may be late.
fn earliest(cron: &CronJob, spec: &CronJobSpec, jobs: &[&Arc<Job>], now: Timestamp) -> Timestamp {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let bound = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
    last_scheduled(cron, jobs).unwrap_or(created).max(bound.unwrap_or(Timestamp::MIN))
}

fn create(cron: &CronJob, spec: &CronJobSpec, at: Timestamp, plan: &mut Plan) {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let name = format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60);
    let mut annotations = meta.annotations.unwrap_or_default();
    let zone = spec.time_zone.as_deref().and_then(|name| zone(name).ok()).unwrap_or(jiff::tz::TimeZone::UTC);
    let text =
        if spec.time_zone.is_some() { at.display_with_offset(zone.to_offset(at)).to_string() } else { at.to_string() };
    annotations.insert(SCHEDULED.to_owned(), text);
    let job = Job {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    };
    plan.act(COMPONENT, cron, Op::create(&job))
        .done("SuccessfulCreate", format!("Created job {name}"))
        .failed("FailedCreate", "Error creating job");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::Cluster;

    fn cron(more: &str) -> String {
        format!(
            "apiVersion: batch/v1
kind: CronJob
metadata: {{ name: tick }}
spec:
  schedule: '*/5 * * * *'
  {more}
  jobTemplate:
    spec:
      template:
        metadata: {{ labels: {{ app: tick }} }}
        spec: {{ restartPolicy: Never, containers: [{{ name: tick, image: tick }}] }}
"
        )
    }

    fn finish(cluster: &mut Cluster, phase: &str) {
        for pod in cluster.pods().into_iter().filter(|pod| !super::super::pods::is_terminal(pod)) {
            cluster.set_pod(&pod.metadata.name.unwrap(), phase, false);
        }
        cluster.settle();
    }

    #[test]
    fn a_job_is_made_at_each_time_and_named_after_it() {
        let mut cluster = Cluster::new(&cron(""));
        cluster.settle();
        assert_eq!(cluster.names("jobs").len(), 0);
        cluster.pass(300);
        assert_eq!(cluster.names("jobs"), ["tick-29453765"]);
        let made =
            cluster.get("jobs/tick-29453765", "/metadata/annotations/batch.kubernetes.io~1cronjob-scheduled-timestamp");
        assert_eq!(made, json!("2026-01-01T00:05:00Z"));
        assert_eq!(cluster.get("cronjobs/tick", "/status/lastScheduleTime"), json!("2026-01-01T00:05:00Z"));
        assert_eq!(cluster.get("cronjobs/tick", "/status/active/0/name"), json!("tick-29453765"));
        finish(&mut cluster, "Succeeded");
        assert_eq!(cluster.get("cronjobs/tick", "/status/active"), json!(null));
        assert!(
            cluster
                .events
                .contains(&"SawCompletedJob: Saw completed job: tick-29453765, condition: Complete".to_owned())
        );
        cluster.pass(10);
        assert_eq!(cluster.names("jobs").len(), 1);
    }

    #[test]
    fn only_so_many_ended_jobs_are_kept() {
        let mut cluster = Cluster::new(&cron("successfulJobsHistoryLimit: 2"));
        for _ in 0..4 {
            cluster.pass(300);
            finish(&mut cluster, "Succeeded");
        }
        cluster.converge();
        assert_eq!(cluster.names("jobs"), ["tick-29453775", "tick-29453780"]);
    }

    #[test]
    fn forbid_waits_for_the_running_job_and_replace_ends_it() {
        let mut cluster = Cluster::new(&cron("concurrencyPolicy: Forbid"));
        cluster.pass(300);
        cluster.pass(300);
        assert_eq!(cluster.names("jobs"), ["tick-29453765"]);
        assert!(cluster.events.iter().any(|event| event.starts_with("JobAlreadyActive")));
        let mut cluster = Cluster::new(&cron("concurrencyPolicy: Replace"));
        cluster.pass(300);
        cluster.pass(300);
        cluster.converge();
        assert_eq!(cluster.names("jobs"), ["tick-29453770"]);
    }

    #[test]
    fn a_suspended_cron_job_and_one_past_its_starting_deadline_make_no_job() {
        let mut cluster = Cluster::new(&cron("suspend: true"));
        cluster.pass(300);
        assert_eq!(cluster.names("jobs").len(), 0);
        let mut cluster = Cluster::new(&cron("startingDeadlineSeconds: 20"));
        cluster.pass(330);
        assert_eq!(cluster.names("jobs").len(), 0);
        cluster.pass(280);
        assert_eq!(cluster.names("jobs").len(), 1);
    }

    #[test]
    fn a_schedule_that_cannot_be_read_is_reported() {
        let mut cluster = Cluster::new(&cron("").replace("*/5", "x"));
        cluster.settle();
        assert!(cluster.events[0].starts_with("UnparseableSchedule: unparseable schedule: \"x * * * *\""));
    }
}
