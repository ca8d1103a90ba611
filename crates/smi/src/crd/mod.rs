//! The CustomResourceDefinitions: every kind with all its versions served, and the newest stored.

mod absent;
mod build;
mod schemas;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps, ServiceReference, WebhookClientConfig,
    WebhookConversion,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use absent::absent;

use crate::{Kind, Version};

/// The schemas that values are checked against, without metadata and status.
static SCHEMAS: LazyLock<BTreeMap<(Kind, Version), JSONSchemaProps>> = LazyLock::new(|| {
    let versions = Kind::ALL.into_iter().flat_map(|kind| kind.versions().iter().map(move |version| (kind, *version)));
    versions.map(|(kind, version)| ((kind, version), schemas::schema(kind, version))).collect()
});

static METADATA: LazyLock<JSONSchemaProps> = LazyLock::new(schemas::metadata);

/// The shape of a kind in a version; `None` when the kind has no such version.
pub(crate) fn schema(kind: Kind, version: Version) -> Option<&'static JSONSchemaProps> {
    SCHEMAS.get(&(kind, version))
}

/// The shape of an object's metadata.
pub(crate) fn metadata() -> &'static JSONSchemaProps {
    &METADATA
}

/// The CustomResourceDefinition of every kind.
///
/// Kinds of several versions are converted by the webhook that `conversion` reaches, which answers with
/// [`convert`](crate::convert). Without it an API server refuses the older versions: it never falls back to passing
/// objects on with fields dropped.
pub fn crds(conversion: &WebhookClientConfig) -> Vec<CustomResourceDefinition> {
    Kind::ALL.into_iter().map(|kind| crd(kind, conversion)).collect()
}

/// The conversion webhook where Heddle's own control plane serves it: path `/convert` of the Service
/// `heddle-system/heddle-control`, port 443. The certificate authority is left to whoever installs.
pub fn heddle_conversion() -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            namespace: "heddle-system".to_owned(),
            name: "heddle-control".to_owned(),
            path: Some("/convert".to_owned()),
            port: Some(443),
        }),
        ..WebhookClientConfig::default()
    }
}

fn crd(kind: Kind, conversion: &WebhookClientConfig) -> CustomResourceDefinition {
    let names = kind.names();
    CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{}.{}", names.plural, names.group)), ..ObjectMeta::default() },
        spec: CustomResourceDefinitionSpec {
            group: names.group.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: names.kind.to_owned(),
                list_kind: Some(format!("{}List", names.kind)),
                plural: names.plural.to_owned(),
                singular: Some(names.singular.to_owned()),
                short_names: Some(vec![names.short.to_owned()]),
                categories: Some(vec!["smi".to_owned()]),
            },
            scope: if names.namespaced { "Namespaced" } else { "Cluster" }.to_owned(),
            versions: kind.versions().iter().map(|version| served(kind, *version)).collect(),
            conversion: (kind.versions().len() > 1).then(|| by_webhook(conversion)),
            ..CustomResourceDefinitionSpec::default()
        },
        ..CustomResourceDefinition::default()
    }
}

fn by_webhook(client_config: &WebhookClientConfig) -> CustomResourceConversion {
    CustomResourceConversion {
        strategy: "Webhook".to_owned(),
        webhook: Some(WebhookConversion {
            client_config: Some(client_config.clone()),
            conversion_review_versions: vec!["v1".to_owned()],
        }),
    }
}

fn served(kind: Kind, version: Version) -> CustomResourceDefinitionVersion {
    let mut schema = schemas::schema(kind, version);
    schemas::bear_what_is_stored(kind, &mut schema);
    absent::refuse(kind, version, &mut schema);
    CustomResourceDefinitionVersion {
        name: version.to_string(),
        served: true,
        storage: version == kind.hub(),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema) }),
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
            ..CustomResourceSubresources::default()
        }),
        additional_printer_columns: Some(columns(kind, version)),
        ..CustomResourceDefinitionVersion::default()
    }
}

fn columns(kind: Kind, version: Version) -> Vec<CustomResourceColumnDefinition> {
    let column = |name: &str, path: &str, type_: &str| CustomResourceColumnDefinition {
        name: name.to_owned(),
        json_path: path.to_owned(),
        type_: type_.to_owned(),
        ..CustomResourceColumnDefinition::default()
    };
    let own = match kind {
        Kind::TrafficTarget if version == Version::V1Alpha1 => Some(("Destination", ".destination.name")),
        Kind::TrafficTarget => Some(("Destination", ".spec.destination.name")),
        Kind::TrafficSplit => Some(("Service", ".spec.service")),
        Kind::MeshConfig => Some(("Mode", ".spec.mode")),
        _ => None,
    };
    let own = own.map(|(name, path)| column(name, path, "string"));
    let accepted = column("Accepted", r#".status.conditions[?(@.type=="Accepted")].status"#, "string");
    own.into_iter().chain([accepted, column("Age", ".metadata.creationTimestamp", "date")]).collect()
}
