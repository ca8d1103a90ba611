//! Status conditions, which Kubernetes has under several types of the same shape.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{PodCondition, ReplicationControllerCondition};

use super::plan::time;

/// What every condition has.
pub(crate) trait Condition: Sized {
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn new(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self;
    /// Keeps the time of the last change of status.
    fn keep_transition(&mut self, from: &Self);
}

macro_rules! condition {
    ($type:ident $(, $extra:ident)* $(; ..$rest:expr)?) => {
        impl Condition for $type {
            fn kind(&self) -> &str {
                &self.type_
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or_default()
            }
            fn new(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self {
                Self {
                    type_: kind.to_owned(),
                    status: status.to_owned(),
                    reason: (!reason.is_empty()).then(|| reason.to_owned()),
                    message: (!message.is_empty()).then(|| message.to_owned()),
                    last_transition_time: Some(time(now)),
                    $($extra: Some(time(now)),)*
                    $(..$rest)?
                }
            }
            fn keep_transition(&mut self, from: &Self) {
                self.last_transition_time = from.last_transition_time.clone();
            }
        }
    };
}

condition!(DeploymentCondition, last_update_time);
condition!(ReplicaSetCondition);
condition!(ReplicationControllerCondition);
condition!(JobCondition, last_probe_time);
condition!(PodCondition; ..Default::default());

pub(crate) fn get<'a, C: Condition>(conditions: &'a Option<Vec<C>>, kind: &str) -> Option<&'a C> {
    conditions.iter().flatten().find(|condition| condition.kind() == kind)
}

/// Sets a condition; one that has this status and reason already stays as it is.
pub(crate) fn set<C: Condition>(conditions: &mut Option<Vec<C>>, mut condition: C) {
    if let Some(known) = get(conditions, condition.kind()) {
        if known.status() == condition.status() && known.reason() == condition.reason() {
            return;
        }
        if known.status() == condition.status() {
            condition.keep_transition(known);
        }
    }
    replace(conditions, condition);
}

/// Puts a condition in place of the one of its type.
pub(crate) fn replace<C: Condition>(conditions: &mut Option<Vec<C>>, condition: C) {
    remove(conditions, condition.kind());
    conditions.get_or_insert_default().push(condition);
}

pub(crate) fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, kind: &str) {
    if let Some(list) = conditions {
        list.retain(|condition| condition.kind() != kind);
    }
    if conditions.as_ref().is_some_and(Vec::is_empty) {
        *conditions = None;
    }
}
