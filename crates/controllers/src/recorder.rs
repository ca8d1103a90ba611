//! Events as Kubernetes' own controllers record them: the same event again raises the count of the first.
//!
//! They are written beside the controllers' work, in their order, and never waited for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::mpsc;

use super::plan::{Note, time};

/// Events that are remembered for counting. The API forgets events itself after an hour.
const REMEMBERED: usize = 4096;

/// Events that wait to be written. What comes on top is lost.
const WAITING: usize = 1024;

/// How long the write of an event may take.
const LONGEST: Duration = Duration::from_secs(10);

/// Takes events.
pub(crate) struct Recorder {
    waiting: mpsc::Sender<Happening>,
}

/// Something to record an event about.
struct Happening {
    component: &'static str,
    about: ObjectReference,
    note: Note,
    at: Timestamp,
}

/// Writes events.
struct Writer {
    client: Client,
    recorded: HashMap<Same, Recorded>,
}

/// What makes two events the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    component: &'static str,
    reason: &'static str,
    message: String,
}

#[derive(Clone)]
struct Recorded {
    name: String,
    count: i32,
}

/// A recorder, and the work of writing what it is given.
pub(crate) fn start(client: Client) -> (Recorder, impl Future<Output = Infallible>) {
    let (waiting, mut given) = mpsc::channel::<Happening>(WAITING);
    let writing = async move {
        let mut writer = Writer { client, recorded: HashMap::new() };
        while let Some(happening) = given.recv().await {
            if tokio::time::timeout(LONGEST, writer.write(&happening)).await.is_err() {
                tracing::debug!(reason = happening.note.reason, "event not recorded in time");
            }
        }
        std::future::pending().await
    };
    (Recorder { waiting }, writing)
}

// === impl Recorder ===

impl Recorder {
    /// Records an event, unless too many wait: an event is never worth failing for.
    pub(crate) fn record(&self, component: &'static str, about: &ObjectReference, note: Note) {
        let happening = Happening { component, about: about.clone(), note, at: Timestamp::now() };
        if let Err(error) = self.waiting.try_send(happening) {
            tracing::debug!(component, %error, "event not recorded");
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Writes an event. A failure is logged and no more.
    async fn write(&mut self, happening: &Happening) {
        let Happening { component, about, note, at } = happening;
        let same = Same { uid: about.uid.clone(), component, reason: note.reason, message: note.message.clone() };
        // Events about cluster-scoped objects live in the namespace `default`.
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let result = match self.recorded.get_mut(&same) {
            Some(known) => match again(&api, known, *at).await {
                Err(Error::Api(status)) if status.is_not_found() => self.first(&api, same, about, note, *at).await,
                result => result,
            },
            None => self.first(&api, same, about, note, *at).await,
        };
        if let Err(error) = result {
            let object = about.name.as_deref();
            tracing::debug!(reason = note.reason, message = note.message, object, %error, "event not recorded");
        }
    }

    async fn first(
        &mut self,
        api: &Api<Event>,
        same: Same,
        about: &ObjectReference,
        note: &Note,
        now: Timestamp,
    ) -> Result<(), Error> {
        let event = event(same.component, about, note, now);
        let created = api.create(&PostParams::default(), &event).await?;
        if self.recorded.len() >= REMEMBERED {
            self.recorded.clear();
        }
        self.recorded.insert(same, Recorded { name: created.metadata.name.unwrap_or_default(), count: 1 });
        Ok(())
    }
}

async fn again(api: &Api<Event>, known: &mut Recorded, now: Timestamp) -> Result<(), Error> {
    let patch = json!({ "count": known.count + 1, "lastTimestamp": time(now) });
    api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    known.count += 1;
    Ok(())
}

fn event(component: &str, about: &ObjectReference, note: &Note, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond())),
            namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..Default::default()
        },
        involved_object: about.clone(),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.chars().take(1024).collect()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(time(now)),
        last_timestamp: Some(time(now)),
        count: Some(1),
        ..Default::default()
    }
}
