//! Which kinds the API serves that can be listed, watched and deleted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResource};
use kube::core::ApiResource;
use kube::{Client, Error};

use super::world::resource_key;

/// A kind that the API serves.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
}

/// Kinds by [`resource_key`], each in the version that its group prefers.
///
/// A group version whose discovery fails, as that of an aggregated API that is down, keeps the kinds it had.
///
/// # Errors
/// When the API does not even answer for its list of groups.
pub(crate) async fn resources(client: &Client, known: Vec<Kind>) -> Result<BTreeMap<String, Kind>, Error> {
    let mut found = BTreeMap::new();
    let core = client.list_core_api_resources("v1").await?;
    add(&mut found, "", "v1", core.resources);
    for group in client.list_api_groups().await?.groups {
        for version in versions(&group) {
            match client.list_api_group_resources(&format!("{}/{version}", group.name)).await {
                Ok(list) => add(&mut found, &group.name, &version, list.resources),
                Err(error) => {
                    tracing::debug!(group = group.name, version, %error, "a group's kinds cannot be discovered");
                    let here = |it: &&Kind| it.resource.group == group.name && it.resource.version == version;
                    for kind in known.iter().filter(here) {
                        found.entry(resource_key(&kind.resource)).or_insert_with(|| kind.clone());
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The versions of a group, the preferred one first.
fn versions(group: &APIGroup) -> Vec<String> {
    let preferred = group.preferred_version.iter().map(|version| version.version.clone());
    let all = preferred.chain(group.versions.iter().map(|version| version.version.clone()));
    let mut versions = Vec::new();
    all.for_each(|version| {
        if !versions.contains(&version) {
            versions.push(version)
        }
    });
    versions
}

fn add(found: &mut BTreeMap<String, Kind>, group: &str, version: &str, resources: Vec<APIResource>) {
    for resource in resources {
        let able = ["list", "watch", "delete"].iter().all(|verb| resource.verbs.iter().any(|it| it == verb));
        // Events are many, own nothing and are owned by nothing; subresources have a slash.
        if !able || resource.kind == "Event" || resource.name.contains('/') {
            continue;
        }
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let namespaced = resource.namespaced;
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: resource.kind,
            plural: resource.name,
        };
        found.entry(resource_key(&resource)).or_insert(Kind { resource, namespaced });
    }
}
