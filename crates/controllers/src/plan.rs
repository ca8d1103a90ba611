//! What controllers want done: values, so that tests read them and only the driver acts.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The actions of one computation, and when the next one is due if nothing changes before.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) due: Option<Timestamp>,
}

/// One write to the API, and what to record about it.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    /// The controller, as events name it.
    pub(crate) component: &'static str,
    /// The object for whose sake this is done: events are about it, and failures back off with it.
    pub(crate) regarding: ObjectReference,
    pub(crate) op: Op,
    /// The event when it succeeded.
    pub(crate) done: Option<Note>,
    /// The event when it failed; the error is appended.
    pub(crate) failed: Option<Note>,
}

/// An event before it has a time and a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(Target, Value),
    /// A JSON merge patch.
    Patch(Target, Value),
    /// A JSON merge patch of the status subresource.
    PatchStatus(Target, Value),
    Delete(Target, Deletion),
    /// Assigns a pod to a node.
    Bind {
        pod: Target,
        node: String,
    },
    /// Another operation, if the API confirms that none of these objects exists (any more).
    IfAbsent {
        owners: Vec<Target>,
        then: Box<Op>,
    },
    /// Removes the `kubernetes` finalizer of a namespace if the API confirms that nothing of these kinds is left in it.
    Finalize {
        namespace: Target,
        resources: Vec<ApiResource>,
    },
    /// Only records the event of `done`.
    Report,
}

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// Deleted afterwards.
    Background,
    /// Deleted before it.
    Foreground,
    /// Left behind.
    Orphan,
    /// As in the background, and without the grace period that a pod has.
    Now,
}

/// One object: where it is and, as a precondition, which incarnation and state of it is meant.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: ApiResource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn extend(&mut self, other: Plan) {
        self.actions.extend(other.actions);
        if let Some(at) = other.due {
            self.wake_at(at);
        }
    }

    /// Asks for another computation at this time at the latest.
    pub(crate) fn wake_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Adds an action on behalf of `regarding`.
    pub(crate) fn act<K: Resource<DynamicType = ()>>(
        &mut self,
        component: &'static str,
        regarding: &K,
        op: Op,
    ) -> &mut Action {
        self.actions.push(Action { component, regarding: regarding.object_ref(&()), op, done: None, failed: None });
        let last = self.actions.len() - 1;
        &mut self.actions[last]
    }

    /// Writes the status that `new` has and `old` has not; nothing when they are the same.
    pub(crate) fn status<K>(&mut self, component: &'static str, old: &K, new: &K)
    where
        K: Resource<DynamicType = ()> + Serialize + PartialEq,
    {
        if old != new {
            self.act(component, old, Op::patch_status(old, new));
        }
    }
}

// === impl Action ===

impl Action {
    pub(crate) fn done(&mut self, reason: &'static str, message: impl Into<String>) -> &mut Self {
        self.done = Some(Note { warning: false, reason, message: message.into() });
        self
    }

    pub(crate) fn warn(&mut self, reason: &'static str, message: impl Into<String>) -> &mut Self {
        self.done = Some(Note { warning: true, reason, message: message.into() });
        self
    }

    pub(crate) fn failed(&mut self, reason: &'static str, message: impl Into<String>) -> &mut Self {
        self.failed = Some(Note { warning: true, reason, message: message.into() });
        self
    }
}

// === impl Note ===

impl Note {
    /// The note of a failure, with what the API said.
    pub(crate) fn with_cause(mut self, cause: &str) -> Self {
        self.message = format!("{}: {cause}", self.message);
        self
    }
}

// === impl Op ===

impl Op {
    pub(crate) fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self::Create(Target::of(object), to_value(object))
    }

    /// Makes of `old`, if the API still has it in that state, what `new` is.
    pub(crate) fn patch<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Self {
        Self::Patch(Target::of(old), difference(old, new))
    }

    pub(crate) fn patch_status<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Self {
        Self::PatchStatus(Target::of(old), difference(old, new))
    }

    pub(crate) fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::Delete(Target::of(object), Deletion::Background)
    }

    /// The object that is written; none for a bare report.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Create(target, _) | Self::Patch(target, _) | Self::PatchStatus(target, _) => Some(target),
            Self::Delete(target, _) | Self::Bind { pod: target, .. } => Some(target),
            Self::Finalize { namespace, .. } => Some(namespace),
            Self::IfAbsent { then, .. } => then.target(),
            Self::Report => None,
        }
    }

    /// What the API said, with the generated part of a name left out, so that the same failure again is the same event.
    pub(crate) fn without_generated_name(&self, message: String) -> String {
        match self {
            Self::Create(target, object) => match object.pointer("/metadata/generateName").and_then(Value::as_str) {
                Some(prefix) => message.replace(&target.name, prefix),
                None => message,
            },
            _ => message,
        }
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Create(..) => "create",
            Self::Patch(..) => "patch",
            Self::PatchStatus(..) => "patch status",
            Self::Delete(..) => "delete",
            Self::Bind { .. } => "bind",
            Self::IfAbsent { then, .. } => then.verb(),
            Self::Finalize { .. } => "finalize",
            Self::Report => "report",
        }
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::from_meta(ApiResource::erase::<K>(&()), object.meta())
    }

    pub(crate) fn from_meta(resource: ApiResource, meta: &ObjectMeta) -> Self {
        Self {
            resource,
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        }
    }
}

impl From<Deletion> for kube::api::PropagationPolicy {
    fn from(deletion: Deletion) -> Self {
        match deletion {
            Deletion::Background | Deletion::Now => Self::Background,
            Deletion::Foreground => Self::Foreground,
            Deletion::Orphan => Self::Orphan,
        }
    }
}

/// The reference by which `owner` controls what it made.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A time as the API keeps it: whole seconds.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn to_value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("API types have string keys only, so they are JSON")
}

fn difference<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Value {
    let patch = merge_patch(&to_value(old), &to_value(new)).unwrap_or_else(|| json!({}));
    let version = json!({ "metadata": { "uid": old.meta().uid, "resourceVersion": old.meta().resource_version } });
    merged(version, patch)
}

/// The JSON merge patch (RFC 7396) that turns `old` into `new`; none when they are equal.
fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            None => drop(patch.insert(key.clone(), value.clone())),
            Some(before) => patch.extend(merge_patch(before, value).map(|inner| (key.clone(), inner))),
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    patch.extend(gone.map(|key| (key.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn merged(mut base: Value, over: Value) -> Value {
    match (&mut base, over) {
        (Value::Object(base_fields), Value::Object(fields)) => {
            for (key, value) in fields {
                let inner = base_fields.remove(&key).unwrap_or(Value::Null);
                base_fields.insert(key, merged(inner, value));
            }
            base
        }
        (_, over) => over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_of_two_generated_pods_has_the_same_message() {
        let mut pod = k8s_openapi::api::core::v1::Pod::default();
        pod.metadata.name = Some("web-x2x4z".to_owned());
        pod.metadata.generate_name = Some("web-".to_owned());
        let message = Op::create(&pod).without_generated_name("pods \"web-x2x4z\" is forbidden".to_owned());
        assert_eq!(message, "pods \"web-\" is forbidden");
    }

    #[test]
    fn a_merge_patch_names_only_what_differs_and_nulls_what_is_gone() {
        let old = json!({ "a": 1, "b": { "c": [1], "d": 2 }, "e": 3 });
        let new = json!({ "a": 1, "b": { "c": [1, 2], "d": 2 }, "f": 4 });
        assert_eq!(merge_patch(&old, &new), Some(json!({ "b": { "c": [1, 2] }, "f": 4, "e": null })));
        assert_eq!(merge_patch(&old, &old), None);
    }
}
