//! What passes through the mesh: the reports of proxies, and the objects that the traffic belongs to.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Instant, SystemTime};

use futures::StreamExt;
use heddle_cluster::{Change, WORKLOAD_KINDS, watch};
use heddle_metrics::{LONGEST_WINDOW, Loss, Objects, Refusal, Request, Samples, answer, losses};
use heddle_policy::PodName;
use heddle_policy::telemetry::Report;
use kube::Client;
use serde_json::Value;

/// Shared by those who fill it and those who ask.
#[derive(Clone)]
pub(crate) struct Traffic(Arc<RwLock<State>>);

struct State {
    objects: Objects,
    samples: Samples,
}

impl Traffic {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Arc::new(RwLock::new(State {
            objects: Objects::default(),
            samples: Samples::new(now, SystemTime::now()),
        })))
    }

    pub(crate) fn answer(&self, request: &Request<'_>) -> Result<Value, Refusal> {
        let state = self.read();
        answer(&state.objects, &state.samples, request, Instant::now())
    }

    /// What is missing of the time that can be asked for.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let state = self.read();
        losses(&state.objects, &state.samples, LONGEST_WINDOW, Instant::now())
    }

    pub(crate) fn report(&self, pod: &PodName, report: Report) {
        self.write(|state| state.samples.add(pod, report, Instant::now()));
    }

    pub(crate) fn insert(&self, object: &Value) {
        self.write(|state| state.objects.insert(object));
    }

    pub(crate) fn remove(&self, object: &Value) {
        self.write(|state| {
            let now = Instant::now();
            state.objects.remove(object, now);
            if object["kind"] == "Pod" {
                let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                state.samples.end(&PodName::new(name("namespace"), name("name")), now);
            }
        });
    }

    /// Follows the objects that contain pods, for ever. The kinds that policy is made of come from elsewhere.
    pub(crate) async fn follow(self, client: Client) {
        let mut events = watch(&client, &WORKLOAD_KINDS);
        while let Some(event) = events.next().await {
            for change in &event.changes {
                match change {
                    Change::Applied(object) => self.insert(object),
                    Change::Deleted(object) => self.remove(object),
                }
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // What it guards is whole after every step, so a panic elsewhere does not spoil it.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
