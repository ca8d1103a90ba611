//! The garbage collector: what becomes of objects whose owners are gone or going.
//!
//! An object without a living owner is deleted; an owner with the finalizer `foregroundDeletion` waits for the
//! dependents that block it; one with the finalizer `orphan` leaves its dependents behind.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::plan::{Action, Deletion, Op, Plan, Target};
use super::world::World;

const COMPONENT: &str = "garbage-collector-controller";
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

type Object<'a> = (&'a ApiResource, &'a ObjectMeta);

/// All objects as a graph of owners and dependents.
struct Graph<'a> {
    world: &'a World,
    by_uid: HashMap<&'a str, Object<'a>>,
    /// Dependents by the uid of an owner.
    dependents: HashMap<&'a str, Vec<Object<'a>>>,
}

/// What an owner reference amounts to.
#[derive(PartialEq, Eq)]
enum Owner {
    /// It lives, or will have gone before its dependents are looked at.
    Solid,
    /// It waits for its dependents to be deleted.
    Waiting,
    /// No such object is known.
    Dangling,
    /// Its kind is not served, so nothing can be said of it.
    Unknown,
}

pub(crate) fn reconcile(world: &World) -> Plan {
    let graph = Graph::of(world);
    let mut plan = Plan::default();
    for (resource, meta) in world.objects() {
        if meta.deletion_timestamp.is_some() {
            graph.finish((resource, meta), &mut plan);
        }
        if meta.deletion_timestamp.is_none() && meta.owner_references.as_ref().is_some_and(|owners| !owners.is_empty())
        {
            graph.collect((resource, meta), &mut plan);
        }
    }
    plan
}

// === impl Graph ===

impl<'a> Graph<'a> {
    fn of(world: &'a World) -> Self {
        let mut graph = Self { world, by_uid: HashMap::new(), dependents: HashMap::new() };
        for (resource, meta) in world.objects() {
            graph.by_uid.extend(meta.uid.as_deref().map(|uid| (uid, (resource, meta))));
            for owner in meta.owner_references.iter().flatten() {
                graph.dependents.entry(&owner.uid).or_default().push((resource, meta));
            }
        }
        graph
    }

    fn dependents_of(&self, meta: &ObjectMeta) -> &[Object<'a>] {
        let uid = meta.uid.as_deref().unwrap_or_default();
        self.dependents.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Does what the finalizers of a deleted object stand for.
    fn finish(&self, object: Object<'_>, plan: &mut Plan) {
        let (_, meta) = object;
        if has_finalizer(meta, ORPHAN) {
            let dependents = self.dependents_of(meta);
            for dependent in dependents {
                act(plan, object, disown(*dependent, &[meta.uid.as_deref().unwrap_or_default()]));
            }
            if dependents.is_empty() && self.world.complete {
                act(plan, object, without_finalizer(object, ORPHAN));
            }
        } else if has_finalizer(meta, FOREGROUND) {
            let blocking = self.dependents_of(meta).iter().any(|(_, dependent)| blocks(dependent, meta));
            if !blocking && self.world.complete {
                act(plan, object, without_finalizer(object, FOREGROUND));
            }
        }
    }

    /// Deletes an object whose owners are gone or going, or takes the dangling references from one that has others.
    fn collect(&self, object: Object<'_>, plan: &mut Plan) {
        let (resource, meta) = object;
        let of_state = |state: Owner| -> Vec<&OwnerReference> {
            meta.owner_references.iter().flatten().filter(|owner| self.judge(owner, meta) == state).collect()
        };
        let (waiting, dangling) = (of_state(Owner::Waiting), of_state(Owner::Dangling));
        if !of_state(Owner::Unknown).is_empty() || (waiting.is_empty() && dangling.is_empty()) {
            return;
        }
        let owners = dangling.iter().filter_map(|owner| self.target(owner, meta)).collect();
        let target = Target::from_meta(resource.clone(), meta);
        let then = if !of_state(Owner::Solid).is_empty() {
            let gone: Vec<&str> = waiting.iter().chain(&dangling).map(|owner| owner.uid.as_str()).collect();
            disown(object, &gone)
        } else if !waiting.is_empty() && !self.dependents_of(meta).is_empty() {
            Op::Delete(target, Deletion::Foreground)
        } else {
            Op::Delete(target, own_policy(meta))
        };
        act(plan, object, Op::IfAbsent { owners, then: Box::new(then) });
    }

    fn judge(&self, owner: &OwnerReference, dependent: &ObjectMeta) -> Owner {
        let known = self.by_uid.get(owner.uid.as_str());
        match known.filter(|(_, meta)| meta.namespace.is_none() || meta.namespace == dependent.namespace) {
            Some((_, meta)) if meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
            None if self.target(owner, dependent).is_some() => Owner::Dangling,
            None => Owner::Unknown,
        }
    }

    /// Where the API would have an owner, if it serves its kind.
    fn target(&self, owner: &OwnerReference, dependent: &ObjectMeta) -> Option<Target> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let (resource, namespaced) = self.world.kind(group, &owner.kind)?;
        Some(Target {
            resource,
            namespace: dependent.namespace.clone().filter(|_| namespaced),
            name: owner.name.clone(),
            uid: Some(owner.uid.clone()),
            resource_version: None,
        })
    }
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

fn blocks(dependent: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let mut owners = dependent.owner_references.iter().flatten();
    owners.any(|it| Some(&it.uid) == owner.uid.as_ref() && it.block_owner_deletion == Some(true))
}

/// The policy that an object's own finalizers ask for.
fn own_policy(meta: &ObjectMeta) -> Deletion {
    if has_finalizer(meta, ORPHAN) {
        Deletion::Orphan
    } else if has_finalizer(meta, FOREGROUND) {
        Deletion::Foreground
    } else {
        Deletion::Background
    }
}

/// Takes the references to these owners from an object.
fn disown((resource, meta): Object<'_>, uids: &[&str]) -> Op {
    let left = meta.owner_references.iter().flatten().filter(|owner| !uids.contains(&owner.uid.as_str()));
    patch(resource, meta, "ownerReferences", json!(left.collect::<Vec<_>>()))
}

fn without_finalizer((resource, meta): Object<'_>, name: &str) -> Op {
    let left = meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != name);
    patch(resource, meta, "finalizers", json!(left.collect::<Vec<_>>()))
}

fn patch(resource: &ApiResource, meta: &ObjectMeta, field: &str, value: Value) -> Op {
    let mut patch = json!({ "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version } });
    patch["metadata"][field] = value;
    Op::Patch(Target::from_meta(resource.clone(), meta), patch)
}

fn act(plan: &mut Plan, (resource, meta): Object<'_>, op: Op) {
    let regarding = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..Default::default()
    };
    plan.actions.push(Action { component: COMPONENT, regarding, op, done: None, failed: None });
}
