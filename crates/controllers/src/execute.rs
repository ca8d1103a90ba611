//! Carries out one operation through the API.

use jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::{Client, Error, Resource, ResourceExt};
use serde_json::{Value, json};

use super::plan::{Deletion, Op, Target};

/// What became of an operation.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The object as the API has it now.
    Written(Box<DynamicObject>),
    /// The API accepted the deletion; the object may stay until its finalizers are gone.
    Deleted,
    /// Nothing was done: the object is gone, or not in the state that the operation was computed from.
    Stale,
    /// Nothing was to be written.
    Nothing,
}

/// # Errors
/// Whatever the API refuses but stale state, which is an outcome.
pub(crate) async fn execute(client: &Client, op: &Op) -> Result<Outcome, Error> {
    match attempt(client, op).await {
        Err(Error::Api(status)) if status.is_conflict() && !status.is_already_exists() => Ok(Outcome::Stale),
        Err(Error::Api(status)) if status.is_not_found() && !matches!(op, Op::Create(..)) => Ok(Outcome::Stale),
        result => result,
    }
}

async fn attempt(client: &Client, op: &Op) -> Result<Outcome, Error> {
    let merge = PatchParams::default();
    match op {
        Op::Create(target, object) => {
            let object = serde_json::from_value(object.clone()).map_err(Error::SerdeError)?;
            api(client, target).create(&PostParams::default(), &object).await.map(written)
        }
        Op::Patch(target, patch) => {
            api(client, target).patch(&target.name, &merge, &Patch::Merge(patch)).await.map(written)
        }
        Op::PatchStatus(target, patch) => {
            api(client, target).patch_status(&target.name, &merge, &Patch::Merge(patch)).await.map(written)
        }
        Op::Delete(target, deletion) => delete(client, target, *deletion).await,
        Op::Bind { pod, node } => bind(client, pod, node).await,
        Op::IfAbsent { owners, then } => {
            for owner in owners {
                if exists(client, owner).await? {
                    return Ok(Outcome::Stale);
                }
            }
            Box::pin(attempt(client, then)).await
        }
        Op::Finalize { namespace, resources } => finalize(client, namespace, resources).await,
        Op::Report => Ok(Outcome::Nothing),
    }
}

fn written(object: DynamicObject) -> Outcome {
    Outcome::Written(Box::new(object))
}

fn api(client: &Client, target: &Target) -> Api<DynamicObject> {
    match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &target.resource),
        None => Api::all_with(client.clone(), &target.resource),
    }
}

async fn delete(client: &Client, target: &Target, deletion: Deletion) -> Result<Outcome, Error> {
    let preconditions = Preconditions { uid: target.uid.clone(), resource_version: None };
    let params = DeleteParams {
        propagation_policy: Some(deletion.into()),
        preconditions: Some(preconditions),
        grace_period_seconds: (deletion == Deletion::Now).then_some(0),
        ..Default::default()
    };
    api(client, target).delete(&target.name, &params).await.map(|_| Outcome::Deleted)
}

async fn bind(client: &Client, pod: &Target, node: &str) -> Result<Outcome, Error> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let _: Value = api(client, pod).create_subresource("binding", &pod.name, &PostParams::default(), &binding).await?;
    api(client, pod).get(&pod.name).await.map(written)
}

/// Whether the object, or one of its name if the target has no uid, exists, whatever the watches said.
async fn exists(client: &Client, target: &Target) -> Result<bool, Error> {
    let found = api(client, target).get_metadata_opt(&target.name).await?;
    Ok(found.is_some_and(|found| target.uid.is_none() || found.metadata.uid == target.uid))
}

/// The last step of a namespace's deletion. Watches of different kinds are not ordered, so the API is asked once more.
async fn finalize(client: &Client, namespace: &Target, resources: &[ApiResource]) -> Result<Outcome, Error> {
    for resource in resources {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace.name, resource);
        let all = ListParams::default();
        if let Err(error) = api.delete_collection(&DeleteParams::background(), &all).await {
            tracing::debug!(kind = resource.kind, %error, "a collection cannot be deleted at once");
        }
        match api.list_metadata(&all.limit(1)).await {
            Ok(left) if !left.items.is_empty() => return Ok(Outcome::Stale),
            Ok(_) => {}
            // The kind went away since it was discovered, and with it its objects.
            Err(Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let api = api(client, namespace);
    let mut object = api.get(&namespace.name).await?;
    if object.uid() != namespace.uid {
        return Ok(Outcome::Stale);
    }
    let finalizers = object.data.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut);
    finalizers.into_iter().for_each(|list| list.retain(|finalizer| finalizer != "kubernetes"));
    let body = serde_json::to_vec(&object).map_err(Error::SerdeError)?;
    let url = DynamicObject::url_path(&namespace.resource, None);
    let request = Request::new(url).replace_subresource("finalize", &namespace.name, &PostParams::default(), body);
    client.request(request.map_err(Error::BuildRequest)?).await.map(|_: DynamicObject| Outcome::Deleted)
}

/// A delay that doubles with every failure in a row.
pub(crate) fn backoff(failures: u32, now: Timestamp) -> Timestamp {
    const FIRST: i64 = 20;
    const LONGEST: i64 = 30_000;
    let millis = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST);
    now.checked_add(jiff::SignedDuration::from_millis(millis)).unwrap_or(now)
}
