//! Kubernetes events: what happened to an object, told once and counted after.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};

use crate::FIELD_MANAGER;
use crate::status::truncated;

/// What is told of an object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Note {
    pub severity: Severity,
    /// One word in CamelCase.
    pub reason: String,
    /// What was done that found it, such as `Compile`.
    pub action: &'static str,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Severity {
    Normal,
    Warning,
}

/// Writes events. Equal ones become a series; more than the rate allows are dropped and counted.
pub struct Recorder {
    client: Client,
    /// The process that reports, such as its pod's name.
    instance: String,
    told: HashMap<(String, Note), Told>,
    tokens: f64,
    refilled: Instant,
    dropped: u64,
}

struct Told {
    event: String,
    count: i32,
    at: Instant,
}

/// How long after the last of them an equal event continues a series.
const SERIES: Duration = Duration::from_secs(360);

/// Events at once, and per second after.
const BURST: f64 = 100.0;
const RATE: f64 = 5.0;

/// The longest note that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

// === impl Recorder ===

impl Recorder {
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, told: HashMap::new(), tokens: BURST, refilled: Instant::now(), dropped: 0 }
    }

    /// Events dropped for their rate since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Tells `note` of the object `about`, in its namespace; in `default` for a cluster-scoped object.
    pub async fn record(&mut self, about: &ObjectReference, note: Note) -> kube::Result<()> {
        if !self.take_token() {
            self.dropped += 1;
            return Ok(());
        }
        self.told.retain(|_, told| told.at.elapsed() < SERIES);
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = (about.uid.clone().unwrap_or_default(), note);
        if let Some(told) = self.told.get_mut(&key) {
            told.count = told.count.saturating_add(1);
            told.at = Instant::now();
            let series = EventSeries { count: told.count, last_observed_time: MicroTime(Timestamp::now()) };
            let patch = serde_json::json!({ "series": series });
            match events.patch(&told.event, &PatchParams::default(), &Patch::Merge(patch)).await {
                // The event was pruned; the next lines tell it anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => return patched.map(drop),
            }
        }
        let event = self.event(about, namespace, &key.1);
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        self.told.insert(key, Told { event: name, count: 1, at: Instant::now() });
        Ok(())
    }

    fn event(&self, about: &ObjectReference, namespace: String, note: &Note) -> Event {
        let now = Timestamp::now();
        let object = about.name.as_deref().unwrap_or("heddle");
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some(note.action.to_owned()),
            reason: Some(note.reason.clone()),
            note: Some(truncated(&note.text, NOTE_MAX).to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(format!("heddle.dev/{FIELD_MANAGER}")),
            reporting_instance: Some(truncated(&self.instance, 128).to_owned()),
            type_: Some(format!("{:?}", note.severity)),
            ..Event::default()
        }
    }

    fn take_token(&mut self) -> bool {
        let now = Instant::now();
        self.tokens = (self.tokens + RATE * (now - self.refilled).as_secs_f64()).min(BURST);
        self.refilled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}
