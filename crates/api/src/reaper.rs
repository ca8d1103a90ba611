//! Removes the objects of a CustomResourceDefinition that is being deleted, then lets the definition go.

use std::sync::Arc;

use serde_json::Value;

use super::object::{self, metadata};
use super::server::Server;
use super::store::{Expect, Object};
use super::{CRDS, crd};

/// Held by every definition until its objects are gone.
pub(crate) const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Runs until the server is dropped; wakes on every change of the store.
pub(crate) async fn run(server: std::sync::Weak<Server>) {
    let Some(mut changed) = server.upgrade().map(|s| s.store.subscribe()) else { return };
    loop {
        changed.mark_unchanged();
        let Some(server) = server.upgrade() else { return };
        let (definitions, _) = server.store.list(CRDS, None);
        for definition in definitions.iter().filter(|d| object::is_deleting(&d.value)) {
            reap(&server, definition).await;
        }
        drop(server);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Every failure here is a race with another writer, whose change wakes the reaper again.
async fn reap(server: &Arc<Server>, definition: &Arc<Object>) {
    let Some(resource) = crd::resources(&definition.value).into_iter().next() else { return };
    let (objects, _) = server.store.list(&resource.storage(), None);
    for object in &objects {
        remove(server, object).await;
    }
    let (left, _) = server.store.list(&resource.storage(), None);
    if !left.is_empty() {
        return;
    }
    let mut value = definition.value.clone();
    if let Some(finalizers) = metadata(&mut value).get_mut("finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|f| f != CRD_FINALIZER);
    }
    let key = definition.key.clone();
    let done = if object::finalizers(&value).is_empty() {
        server.store.remove(key, definition.revision).await.map(drop)
    } else {
        server.store.put(key, value, Expect::Revision(definition.revision)).await.map(drop)
    };
    if let Err(error) = done {
        tracing::debug!(crd = definition.key.name, %error, "the definition changed while its objects were removed");
    }
    server.refresh_registry();
}

async fn remove(server: &Arc<Server>, object: &Arc<Object>) {
    let held = !object::finalizers(&object.value).is_empty();
    let done = match (held, object::is_deleting(&object.value)) {
        (true, true) => return,
        (true, false) => {
            let mut value = object.value.clone();
            metadata(&mut value).insert("deletionTimestamp".to_owned(), object::now().into());
            metadata(&mut value).insert("deletionGracePeriodSeconds".to_owned(), 0.into());
            server.store.put(object.key.clone(), value, Expect::Revision(object.revision)).await.map(drop)
        }
        (false, _) => server.store.remove(object.key.clone(), object.revision).await.map(drop),
    };
    if let Err(error) = done {
        tracing::debug!(kind = object.key.kind, name = object.key.name, %error, "not removed yet");
    }
}
