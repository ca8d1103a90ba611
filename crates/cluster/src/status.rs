//! Conditions, and writing them to an object's status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{FIELD_MANAGER, Kind};

/// A condition as it should be; when it became so is found out by comparing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// Such as `Accepted`.
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word in CamelCase.
    pub reason: String,
    pub message: String,
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The object is gone, or its kind has no status subresource (C2); the API server answers both alike.
    #[error("there is no such object, or its kind has no status")]
    NoStatus,
    #[error("the API server refused: {0}")]
    Refused(#[from] kube::Error),
}

/// The longest message that the API server takes for a condition, in bytes.
const MESSAGE_MAX: usize = 32_768;

/// The conditions in an object's status.
pub fn conditions_of(object: &Value) -> Vec<Condition> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().filter_map(|condition| serde_json::from_value(condition).ok()).collect()
}

/// What the conditions should be, given those that an object has; `None` when it has them already.
///
/// The time of the last transition stays when a condition's status does.
pub fn merge_conditions(current: &[Condition], drafts: &[Draft], generation: i64) -> Option<Vec<Condition>> {
    // Kubernetes keeps times in seconds.
    let now = Timestamp::now();
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let merged: Vec<_> = drafts.iter().map(|draft| merge_condition(current, draft, generation, &now)).collect();
    (!merged.iter().all(|condition| current.contains(condition))).then_some(merged)
}

fn merge_condition(current: &[Condition], draft: &Draft, generation: i64, now: &Time) -> Condition {
    let before = current.iter().find(|condition| condition.type_ == draft.type_ && condition.status == draft.status);
    Condition {
        type_: draft.type_.clone(),
        status: draft.status.clone(),
        reason: draft.reason.clone(),
        message: truncated(&draft.message, MESSAGE_MAX).to_owned(),
        observed_generation: Some(generation),
        last_transition_time: before.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
    }
}

/// Applies `conditions` to the status of an object.
pub async fn write_status(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
    conditions: &[Condition],
) -> Result<(), StatusError> {
    let status = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "name": name },
        "status": { "conditions": conditions },
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match kind.api(client, namespace).patch_status(name, &params, &Patch::Apply(&status)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Err(StatusError::NoStatus),
        written => Ok(written.map(drop)?),
    }
}

/// The start of a text, of at most `max` bytes.
pub(crate) fn truncated(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(status: &str, message: &str) -> Draft {
        Draft { type_: "Accepted".into(), status: status.into(), reason: "Valid".into(), message: message.into() }
    }

    fn long_ago(mut conditions: Vec<Condition>) -> Vec<Condition> {
        conditions.iter_mut().for_each(|condition| condition.last_transition_time = Time(Timestamp::UNIX_EPOCH));
        conditions
    }

    #[test]
    fn conditions_that_are_there_are_not_written_again() {
        let first = merge_conditions(&[], &[draft("True", "")], 1).unwrap();
        assert_eq!(merge_conditions(&first, &[draft("True", "")], 1), None);
    }

    #[test]
    fn a_new_message_keeps_the_time_of_the_transition() {
        let old = long_ago(merge_conditions(&[], &[draft("True", "")], 1).unwrap());
        let new = merge_conditions(&old, &[draft("True", "more")], 1).unwrap();
        assert_eq!(new[0].last_transition_time, old[0].last_transition_time);
    }

    #[test]
    fn a_new_status_is_a_transition() {
        let old = long_ago(merge_conditions(&[], &[draft("True", "")], 1).unwrap());
        let new = merge_conditions(&old, &[draft("False", "")], 1).unwrap();
        assert_ne!(new[0].last_transition_time, old[0].last_transition_time);
    }

    #[test]
    fn a_new_generation_is_observed() {
        let old = merge_conditions(&[], &[draft("True", "")], 1).unwrap();
        let new = merge_conditions(&old, &[draft("True", "")], 2).unwrap();
        assert_eq!(new[0].observed_generation, Some(2));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(truncated("aéb", 2), "a");
        assert_eq!(truncated("aéb", 3), "aé");
        assert_eq!(truncated("aéb", 4), "aéb");
    }
}
