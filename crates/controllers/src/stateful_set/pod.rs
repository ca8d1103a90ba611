//! One pod of a StatefulSet: its identity and its claims.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::history::POD_REVISION;
use super::super::plan::controller_reference;
use super::super::pods;
use super::super::world::World;

/// The ordinal of a pod by its name; none if the name is not of this StatefulSet.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?.strip_prefix('-')?;
    rest.parse().ok().filter(|number: &i32| number.to_string() == rest)
}

/// The pod of an ordinal: named, labelled and found in DNS by it, with its own claims.
pub(crate) fn new(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default());
    let mut pod = pods::from_template(set, template, name.clone());
    pod.metadata.generate_name = set.metadata.name.as_ref().map(|name| format!("{name}-"));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
    labels.insert(POD_REVISION.to_owned(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name.clone());
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let claims = spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.as_deref());
    let volumes = pod_spec.volumes.get_or_insert_default();
    for claim in claims {
        volumes.retain(|volume| volume.name != claim);
        let source = PersistentVolumeClaimVolumeSource { claim_name: format!("{claim}-{name}"), read_only: None };
        volumes.push(Volume { name: claim.to_owned(), persistent_volume_claim: Some(source), ..Default::default() });
    }
    pod_spec.volumes = pod_spec.volumes.take().filter(|volumes| !volumes.is_empty());
    pod
}

/// The claims of a pod that are not there yet. They outlive the pod, and the StatefulSet unless it says otherwise.
pub(crate) fn missing_claims(
    world: &World,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pod: &str,
    ordinal: i32,
) -> Vec<PersistentVolumeClaim> {
    let retention = spec.persistent_volume_claim_retention_policy.as_ref();
    let deleted = retention.and_then(|policy| policy.when_deleted.as_deref()) == Some("Delete");
    let named = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        let mut labels = claim.metadata.labels.take().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
        claim.metadata = ObjectMeta {
            name: Some(format!("{}-{pod}", template.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: claim.metadata.annotations,
            owner_references: deleted.then(|| vec![controller_reference(set)]),
            ..Default::default()
        };
        claim.status = None;
        claim
    };
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let claims = spec.volume_claim_templates.iter().flatten().map(named);
    let is_missing = |claim: &PersistentVolumeClaim| {
        world.persistent_volume_claims.get(namespace, claim.metadata.name.as_deref().unwrap_or_default()).is_none()
    };
    claims.filter(is_missing).collect()
}
