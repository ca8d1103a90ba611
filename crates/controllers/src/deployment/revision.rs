//! Revisions of a Deployment: its ReplicaSets, their names, templates and annotations.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::plan::controller_reference;
use super::super::pods;
use super::rolling::Bounds;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The revision history that an annotation keeps, in characters.
const HISTORY_LENGTH: usize = 2000;

/// The number of a revision; 0 when it has none.
pub(crate) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The `spec.replicas` for which a ReplicaSet was sized.
pub(crate) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED)?.parse().ok().filter(|count| *count >= 0)
}

/// The most pods that the Deployment could have when a ReplicaSet was sized.
pub(crate) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, MAX)?.parse().ok().filter(|count| *count >= 0)
}

/// Whether a ReplicaSet was that of the template before and has become it again.
pub(crate) fn is_reused(set: &ReplicaSet) -> bool {
    annotation(&set.metadata, HISTORY).is_some()
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the ReplicaSet's template is this one, but for the hash label.
pub(crate) fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    without_hash(own) == without_hash(template.clone())
}

fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH);
    }
    // The API adds this to stored templates and not to those of a request.
    meta.creation_timestamp = None;
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    template
}

/// The ReplicaSet of the Deployment's present template.
pub(crate) fn new_replica_set(
    deployment: &Deployment,
    old: &[Arc<ReplicaSet>],
    bounds: Bounds,
    size: i32,
) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = pods::hash(&without_hash(spec.template.clone()), collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(&mut set, deployment, old);
    annotate_sizes(&mut set, bounds);
    set
}

/// Copies the Deployment's annotations and raises the revision above all old ones.
pub(crate) fn annotate(set: &mut ReplicaSet, deployment: &Deployment, old: &[Arc<ReplicaSet>]) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let highest = old.iter().map(|set| of(&set.metadata)).max().unwrap_or(0);
    raise_revision(annotations, highest + 1);
}

fn raise_revision(annotations: &mut BTreeMap<String, String>, revision: i64) {
    let before = annotations.get(REVISION).cloned();
    if before.as_ref().is_some_and(|text| text.parse::<i64>().is_ok_and(|number| number >= revision)) {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let Some(before) = before else { return };
    let mut history: Vec<String> =
        annotations.get(HISTORY).map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default();
    history.push(before);
    while history.iter().map(|revision| revision.len() + 1).sum::<usize>() > HISTORY_LENGTH + 1 {
        history.remove(0);
    }
    annotations.insert(HISTORY.to_owned(), history.join(","));
}

/// Notes for which size of the Deployment a ReplicaSet was sized.
pub(crate) fn annotate_sizes(set: &mut ReplicaSet, bounds: Bounds) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), bounds.replicas.to_string());
    annotations.insert(MAX.to_owned(), (bounds.replicas + bounds.surge).to_string());
}
