//! Applying objects to a Kubernetes API, in an order in which each finds what it needs.

use anyhow::Context;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{ApiCapabilities, ApiResource, Scope};
use kube::{Api, Client};
use serde_json::Value;

/// Who the API records as the owner of the fields.
const FIELD_MANAGER: &str = "heddle-up";

/// What `kubectl apply` compares with, so that it can go on where this left off.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies one object, server-side.
pub(crate) async fn apply(client: &Client, object: &Value) -> anyhow::Result<()> {
    let api = api_for(client, object).await?;
    let mut applied = object.clone();
    if let Some(metadata) = applied["metadata"].as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert(Value::Null);
        if annotations.is_null() || annotations.is_object() {
            annotations[LAST_APPLIED] = object.to_string().into();
        }
    }
    // A field that the API does not know is a mistake, not something to leave out.
    let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    api.patch(name(object), &params, &Patch::Apply(&applied)).await.with_context(|| describe(object))?;
    Ok(())
}

/// Deletes one object; that it is gone already is as good.
pub(crate) async fn delete(client: &Client, object: &Value) -> anyhow::Result<()> {
    let api = api_for(client, object).await?;
    match api.delete(name(object), &kube::api::DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| describe(object)),
    }
}

/// The object as the API has it.
pub(crate) async fn get(client: &Client, object: &Value) -> anyhow::Result<Option<DynamicObject>> {
    let api = api_for(client, object).await?;
    api.get_opt(name(object)).await.with_context(|| describe(object))
}

/// Where an object stands in the order of application: what others live in or refer to comes first.
pub(crate) fn rank(object: &Value) -> usize {
    const ORDER: [&str; 15] = [
        "CustomResourceDefinition",
        "Namespace",
        "MeshConfig",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Secret",
        "HTTPRouteGroup",
        "TCPRoute",
        "UDPRoute",
        "TrafficTarget",
        "Service",
    ];
    let kind = object["kind"].as_str().unwrap_or_default();
    ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len())
}

/// `TrafficSplit bookstore/bookstore`.
pub(crate) fn describe(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("object");
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{}", name(object)),
        None => format!("{kind} {}", name(object)),
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

async fn api_for(client: &Client, object: &Value) -> anyhow::Result<Api<DynamicObject>> {
    let (resource, capabilities) = resource(client, object).await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}

async fn resource(client: &Client, object: &Value) -> anyhow::Result<(ApiResource, ApiCapabilities)> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let kind = TypeMeta { api_version: text("apiVersion"), kind: text("kind") };
    let kind =
        GroupVersionKind::try_from(&kind).with_context(|| format!("{} has no valid apiVersion", describe(object)))?;
    kube::discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("the API serves no {} of {}", kind.kind, kind.api_version()))
}
