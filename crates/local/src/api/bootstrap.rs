//! The objects every cluster has from the start.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::server::Server;
use super::store::{Expect, Key, StoreError};
use super::strategy;

/// Namespaces that always exist.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing.
pub(crate) async fn run(server: &Arc<Server>) -> Answer<()> {
    for name in NAMESPACES {
        create(server, "", "namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await?;
    }
    Ok(())
}

/// Creates a built-in object unless it exists.
async fn create(server: &Arc<Server>, group: &str, plural: &str, mut value: Value) -> Answer<()> {
    let registry = server.registry();
    let resource =
        registry.builtin_type(group, plural).ok_or_else(|| Failure::internal(format!("no type {plural}")))?;
    strategy::before_create(&resource, &mut value, &registry);
    let key = Key {
        kind: resource.storage(),
        namespace: super::object::namespace(&value).to_owned(),
        name: super::object::name(&value).to_owned(),
    };
    match server.store.put(key, value, Expect::Absent).await {
        Ok(_) | Err(StoreError::Exists) => Ok(()),
        Err(other) => Err(Failure::internal(other)),
    }
}
