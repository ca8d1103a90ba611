//! What controllers ask of pods, and how they make them.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::conditions;
use super::plan::controller_reference;

/// The characters of generated names: no vowels, and nothing that reads like something else.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it counts as a replica: it neither has ended nor is being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub(crate) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = &pod.status.as_ref()?.conditions;
    conditions::get(conditions, "Ready").filter(|condition| condition.status == "True")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

/// When a ready pod counts as available: `minReadySeconds` after it became ready.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let since = ready_condition(pod)?.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    since.checked_add(SignedDuration::from_secs(min_ready_seconds.max(0).into())).ok()
}

pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    match min_ready_seconds {
        0 => is_ready(pod),
        seconds => available_at(pod, seconds).is_some_and(|at| at <= now),
    }
}

/// A pod as the template says, controlled by `owner`.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(owner: &O, template: &PodTemplateSpec, name: String) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// As [`from_template`], with a name of the owner's and five characters, which `nonce` tells apart.
pub(crate) fn generate<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    now: Timestamp,
    nonce: usize,
) -> Pod {
    let prefix = name_prefix(owner.meta().name.as_deref().unwrap_or_default());
    let name = format!("{prefix}{}", suffix((owner.meta().uid.as_deref(), now.as_nanosecond(), nonce)));
    let mut pod = from_template(owner, template, name);
    pod.metadata.generate_name = Some(prefix);
    pod
}

/// What a generated name begins with; cut so that the name stays within the 63 characters of a host name.
fn name_prefix(owner: &str) -> String {
    format!("{}-", owner.chars().take(57).collect::<String>())
}

/// Five characters that a seed determines.
pub(crate) fn suffix(seed: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let mut rest = hasher.finish();
    let mut text = String::new();
    for _ in 0..5 {
        text.push(char::from(ALPHABET[(rest % ALPHABET.len() as u64) as usize]));
        rest /= ALPHABET.len() as u64;
    }
    text
}

/// The hash of a value as it appears in names and labels.
pub(crate) fn hash(value: &impl serde::Serialize, collisions: Option<i32>) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    let salt = collisions.map_or(Vec::new(), |count| count.to_le_bytes().to_vec());
    let fnv =
        json.bytes().chain(salt).fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    fnv.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The order in which replicas are given up: the least useful first.
pub(crate) fn by_usefulness(left: &Pod, right: &Pod) -> Ordering {
    let assigned = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let progress = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |pod: &Pod| -> i32 {
        let text =
            pod.metadata.annotations.as_ref().and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let ready_since = |pod: &Pod| ready_condition(pod).and_then(|condition| condition.last_transition_time.clone());
    let key = |pod: &Pod| (assigned(pod), progress(pod), is_ready(pod), cost(pod));
    key(left)
        .cmp(&key(right))
        .then_with(|| ready_since(right).cmp(&ready_since(left)))
        .then_with(|| restarts(right).cmp(&restarts(left)))
        .then_with(|| right.metadata.creation_timestamp.cmp(&left.metadata.creation_timestamp))
        .then_with(|| left.metadata.uid.cmp(&right.metadata.uid))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|container| container.restart_count).max().unwrap_or(0)
}
