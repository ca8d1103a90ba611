//! The OpenAPI definitions of the built-in types: k8s-openapi's schemas with the merge extensions put in.

use std::sync::LazyLock;

use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, policy::v1 as policy,
    rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::merge_keys::{ATOMIC_MAPS, ATOMIC_TYPES, MERGE_ROWS, MergeRow};

/// Schemas by name. References among them read `#/components/schemas/NAME`.
pub(crate) type Definitions = Map<String, Value>;

/// How a reference to a definition begins.
pub(crate) const REFERENCE: &str = "#/components/schemas/";

static BUILTIN: LazyLock<Definitions> = LazyLock::new(generate);

/// The definitions of all built-in types, made once.
pub(crate) fn builtin() -> &'static Definitions {
    &BUILTIN
}

macro_rules! register {
    ($generator:expr, $($kind:ty),+ $(,)?) => { $( let _ = $generator.subschema_for::<$kind>(); )+ };
}

fn generate() -> Definitions {
    let mut generator = SchemaSettings::openapi3().into_generator();
    register_core(&mut generator);
    register_groups(&mut generator);
    let mut definitions = generator.take_definitions(false);
    add_merge_extensions(&mut definitions);
    definitions
}

fn register_core(generator: &mut SchemaGenerator) {
    register!(
        generator,
        core::Binding,
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::LimitRange,
        core::Namespace,
        core::Node,
        core::PersistentVolume,
        core::PersistentVolumeClaim,
        core::Pod,
        core::PodTemplate,
        core::ReplicationController,
        core::ResourceQuota,
        core::Secret,
        core::Service,
        core::ServiceAccount,
        meta::Status,
        meta::DeleteOptions,
    );
}

fn register_groups(generator: &mut SchemaGenerator) {
    register!(
        generator,
        admissionregistration::MutatingWebhookConfiguration,
        admissionregistration::ValidatingWebhookConfiguration,
        apiextensions::CustomResourceDefinition,
        apiregistration::APIService,
        apps::ControllerRevision,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::StatefulSet,
        authentication::SelfSubjectReview,
        authentication::TokenRequest,
        authentication::TokenReview,
        authorization::LocalSubjectAccessReview,
        authorization::SelfSubjectAccessReview,
        authorization::SelfSubjectRulesReview,
        authorization::SubjectAccessReview,
        autoscaling::HorizontalPodAutoscaler,
        autoscaling_v1::HorizontalPodAutoscaler,
        autoscaling_v1::Scale,
        batch::CronJob,
        batch::Job,
        certificates::CertificateSigningRequest,
        coordination::Lease,
        discovery::EndpointSlice,
        events::Event,
        networking::Ingress,
        networking::IngressClass,
        networking::NetworkPolicy,
        policy::Eviction,
        policy::PodDisruptionBudget,
        rbac::ClusterRole,
        rbac::ClusterRoleBinding,
        rbac::Role,
        rbac::RoleBinding,
        scheduling::PriorityClass,
        storage::StorageClass,
    );
}

fn add_merge_extensions(definitions: &mut Definitions) {
    for name in ATOMIC_TYPES {
        if let Some(definition) = definitions.get_mut(&format!("io.k8s.{name}")) {
            definition["x-kubernetes-map-type"] = json!("atomic");
        }
    }
    for (definition, field) in ATOMIC_MAPS {
        if let Some(property) = property(definitions, definition, field) {
            property["x-kubernetes-map-type"] = json!("atomic");
        }
    }
    for row in MERGE_ROWS {
        if let Some(property) = property(definitions, row.definition, row.field) {
            extend(property, row);
        }
    }
}

fn property<'a>(definitions: &'a mut Definitions, definition: &str, field: &str) -> Option<&'a mut Value> {
    definitions.get_mut(&format!("io.k8s.{definition}"))?.pointer_mut(&format!("/properties/{field}"))
}

fn extend(property: &mut Value, row: &MergeRow) {
    if row.set {
        property["x-kubernetes-list-type"] = json!("set");
    }
    if !row.map_keys.is_empty() {
        property["x-kubernetes-list-type"] = json!("map");
        property["x-kubernetes-list-map-keys"] = json!(row.map_keys);
    }
    if !row.merge_key.is_empty() {
        property["x-kubernetes-patch-merge-key"] = json!(row.merge_key);
    }
    if !row.strategy.is_empty() {
        property["x-kubernetes-patch-strategy"] = json!(row.strategy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Registry, SchemaSource};

    #[test]
    fn every_built_in_type_has_a_definition() {
        for resource in Registry::builtin().iter() {
            let SchemaSource::Builtin(name) = &resource.schema else { continue };
            assert!(builtin().contains_key(name), "{name}");
        }
    }

    #[test]
    fn every_merge_row_that_names_a_known_type_names_a_known_field() {
        for row in MERGE_ROWS {
            let Some(definition) = builtin().get(&format!("io.k8s.{}", row.definition)) else { continue };
            assert!(definition["properties"].get(row.field).is_some(), "{}.{}", row.definition, row.field);
        }
    }
}
