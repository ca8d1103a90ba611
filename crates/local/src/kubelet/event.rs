//! Events about pods, as `kubectl describe` and `kubectl get events` show them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};

/// So many different events are remembered to be counted instead of repeated.
const REMEMBERED: usize = 1024;

/// Writes events. One that is repeated is counted.
#[derive(Clone)]
pub struct Events {
    client: Client,
    node: Arc<str>,
    known: Arc<Mutex<BTreeMap<String, (String, i32)>>>,
}

/// Whether an event tells of something wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Normal,
    Warning,
}

impl Events {
    pub fn new(client: Client, node: &str) -> Self {
        Self { client, node: node.into(), known: Arc::default() }
    }

    /// Writes an event about `pod`, or about one of its containers. It is written behind the caller's back: one that
    /// cannot be written is logged.
    pub fn publish(&self, pod: &core::Pod, container: Option<&str>, kind: Kind, reason: &str, message: &str) {
        tracing::debug!(pod = pod.metadata.name, container, reason, message, "event");
        let about = reference(pod, container);
        let (events, reason, message) = (self.clone(), reason.to_owned(), message.to_owned());
        tokio::spawn(async move {
            if let Err(error) = events.write(about, kind, &reason, &message).await {
                tracing::debug!(%error, reason, message, "an event could not be written");
            }
        });
    }

    async fn write(
        &self,
        about: core::ObjectReference,
        kind: Kind,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api = Api::<core::Event>::namespaced(self.client.clone(), &namespace);
        let key = format!("{:?}/{:?}/{reason}/{message}", about.uid, about.field_path);
        let now = Time(Timestamp::now());
        let again = self.count(&key);
        if let Some((name, count)) = again {
            let patch = serde_json::json!({"count": count, "lastTimestamp": now});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                outcome => return outcome.map(drop),
            }
        }
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.0.as_nanosecond());
        let event = core::Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(if kind == Kind::Normal { "Normal" } else { "Warning" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(1024).collect()),
            source: Some(core::EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.to_string()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.to_string()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..core::Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        self.remember(key, name);
        Ok(())
    }

    /// The name of an event that was written before, and how often it has happened now.
    fn count(&self, key: &str) -> Option<(String, i32)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, count) = known.get_mut(key)?;
        *count += 1;
        Some((name.clone(), *count))
    }

    fn remember(&self, key: String, name: String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.pop_first();
        }
        known.insert(key, (name, 1));
    }
}

fn reference(pod: &core::Pod, container: Option<&str>) -> core::ObjectReference {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let list = container.map(|name| match init.clone().any(|init| init.name == name) {
        true => format!("spec.initContainers{{{name}}}"),
        false => format!("spec.containers{{{name}}}"),
    });
    core::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: list,
    }
}
