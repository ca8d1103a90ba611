//! The objects that a pod's environment and volumes are made from.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};

/// What a pod refers to, as last read. A name without a value refers to an object that does not exist.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sources {
    pub config_maps: BTreeMap<String, Option<core::ConfigMap>>,
    pub secrets: BTreeMap<String, Option<core::Secret>>,
}

/// Why a container cannot be given what its pod says: a reason for its status, and a sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(
        "{field}: the {kind} `{name}` does not exist in namespace `{namespace}`; create it, or set `optional: true`"
    )]
    MissingObject { field: String, kind: &'static str, namespace: String, name: String },
    #[error("{field}: the {kind} `{name}` has no key `{key}`; add it, or set `optional: true`")]
    MissingKey { field: String, kind: &'static str, name: String, key: String },
    #[error("{field}: {message}")]
    Invalid { field: String, message: String },
}

impl Sources {
    /// Reads every ConfigMap and Secret that the pod's containers and volumes name.
    pub(super) async fn load(client: &Client, pod: &core::Pod) -> Result<Self, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let (config_maps, secrets) = references(pod);
        let mut sources = Self::default();
        let api = Api::<core::ConfigMap>::namespaced(client.clone(), namespace);
        for name in config_maps {
            let found = api.get_opt(&name).await?;
            sources.config_maps.insert(name, found);
        }
        let api = Api::<core::Secret>::namespaced(client.clone(), namespace);
        for name in secrets {
            let found = api.get_opt(&name).await?;
            sources.secrets.insert(name, found);
        }
        Ok(sources)
    }

    /// The entries of a ConfigMap, text and binary alike; absent when it does not exist.
    pub(super) fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let mut entries = self.config_map_text(name)?;
        let map = self.config_maps.get(name)?.as_ref()?;
        entries.extend(map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())));
        Some(entries)
    }

    /// The entries of a ConfigMap that variables are made from, which binary ones are not, as in Kubernetes.
    pub(super) fn config_map_text(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let map = self.config_maps.get(name)?.as_ref()?;
        Some(map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes())).collect())
    }

    /// The entries of a Secret; absent when it does not exist.
    pub(super) fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret = self.secrets.get(name)?.as_ref()?;
        Some(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }
}

/// The names of the ConfigMaps and of the Secrets that a pod refers to.
fn references(pod: &core::Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let spec = pod.spec.clone().unwrap_or_default();
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
            secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
        }
        for source in container.env_from.iter().flatten() {
            config_maps.extend(source.config_map_ref.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret_ref.as_ref().map(|source| source.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    (config_maps, secrets)
}
