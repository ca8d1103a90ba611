//! Counts the ended pods of a Job, each exactly once.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::super::pods;
use super::super::replica_set::nonzero;
use super::indexes::Indexes;
use super::pod;

/// Pods noted in one write of the status.
const UNCOUNTED: usize = 500;

/// The counts of a Job as they are to be written.
pub(crate) struct Count {
    succeeded: i32,
    failed: i32,
    /// Ended pods by uid that are noted and still have, or may still have, the finalizer.
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    /// The completed indexes of an indexed Job.
    indexes: Option<Indexes>,
    /// What of this the API has already.
    stored: Stored,
}

struct Stored {
    uids: Vec<String>,
    indexes: Option<Indexes>,
    /// The number of indexes.
    completions: u32,
}

// === impl Count ===

impl Count {
    /// Counts from the status and the pods. In a Job that fails, every pod that does not succeed failed.
    pub(crate) fn of(job: &Job, pods: &[Arc<Pod>], failing: bool) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let spec = job.spec.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
        let noted_succeeded = uncounted.succeeded.unwrap_or_default();
        let noted_failed = uncounted.failed.unwrap_or_default();
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let indexes = indexed.then(|| Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default()));
        let mut count = Self {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            uncounted_succeeded: Vec::new(),
            uncounted_failed: Vec::new(),
            indexes: indexes.clone(),
            stored: Stored {
                uids: noted_succeeded.iter().chain(&noted_failed).cloned().collect(),
                indexes,
                completions: u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0),
            },
        };
        count.settle(noted_succeeded, noted_failed, pods);
        let only_failed = spec.pod_replacement_policy.as_deref() == Some("Failed");
        for pod in pods.iter().filter(|pod| pod::is_tracked(pod)) {
            count.note(pod, only_failed && !failing);
        }
        count
    }

    /// Moves the noted pods that have lost their finalizer into the counts.
    fn settle(&mut self, succeeded: Vec<String>, failed: Vec<String>, pods: &[Arc<Pod>]) {
        let held = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && pod::is_tracked(pod));
        let (held_succeeded, gone): (Vec<_>, Vec<_>) = succeeded.into_iter().partition(|uid| held(uid));
        self.succeeded += gone.len() as i32;
        self.uncounted_succeeded = held_succeeded;
        let (held_failed, gone): (Vec<_>, Vec<_>) = failed.into_iter().partition(|uid| held(uid));
        self.failed += gone.len() as i32;
        self.uncounted_failed = held_failed;
    }

    /// Notes a pod that has ended.
    fn note(&mut self, pod: &Pod, only_failed: bool) {
        let Some(uid) = &pod.metadata.uid else { return };
        let full = self.uncounted_succeeded.len() + self.uncounted_failed.len() >= UNCOUNTED;
        if full || self.stored.uids.contains(uid) {
            return;
        }
        let ended_early = pods::is_terminating(pod) && !only_failed;
        match (pods::phase(pod), &mut self.indexes) {
            ("Succeeded", Some(indexes)) => {
                let index = pod::index(pod).filter(|index| *index < self.stored.completions);
                index.into_iter().for_each(|index| indexes.insert(index));
            }
            ("Succeeded", None) => self.uncounted_succeeded.push(uid.clone()),
            (phase, _) if phase == "Failed" || ended_early => self.uncounted_failed.push(uid.clone()),
            _ => {}
        }
    }

    /// The pods that the API has noted, so that their finalizer can go.
    pub(crate) fn counted<'p>(&self, pods: &'p [Arc<Pod>]) -> impl Iterator<Item = &'p Pod> {
        let uids = self.stored.uids.clone();
        let (indexes, completions) = (self.stored.indexes.clone(), self.stored.completions);
        pods.iter().map(|pod| &**pod).filter(move |pod| {
            let noted = pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid));
            let in_indexes = |indexes: &Indexes| {
                let index = pod::index(pod).filter(|index| *index < completions);
                pods::phase(pod) == "Succeeded" && index.is_none_or(|index| indexes.contains(index))
            };
            pod::is_tracked(pod) && (noted || indexes.as_ref().is_some_and(in_indexes))
        })
    }

    pub(crate) fn succeeded(&self) -> i32 {
        match &self.indexes {
            Some(indexes) => indexes.len(),
            None => self.succeeded + self.uncounted_succeeded.len() as i32,
        }
    }

    pub(crate) fn failed(&self) -> i32 {
        self.failed + self.uncounted_failed.len() as i32
    }

    pub(crate) fn indexes(&self) -> Option<&Indexes> {
        self.indexes.as_ref()
    }

    /// The status of the Job with these counts.
    pub(crate) fn status(&self, job: &Job) -> JobStatus {
        let known = job.status.clone().unwrap_or_default();
        let some = |uids: &Vec<String>| Some(uids.clone()).filter(|uids| !uids.is_empty());
        JobStatus {
            succeeded: nonzero(if self.indexes.is_some() { self.succeeded() } else { self.succeeded }),
            failed: nonzero(self.failed),
            completed_indexes: self.indexes.as_ref().map(Indexes::to_string).filter(|text| !text.is_empty()),
            uncounted_terminated_pods: Some(UncountedTerminatedPods {
                succeeded: some(&self.uncounted_succeeded),
                failed: some(&self.uncounted_failed),
            }),
            ..known
        }
    }
}
