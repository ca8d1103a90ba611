//! The snapshot that controllers compute from: every object that the API holds, as far as the watches have told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde::de::DeserializeOwned;

/// Where an object lives among those of its kind; the namespace of a cluster-scoped object is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// All objects of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Table<K> {
    resource: ApiResource,
    objects: BTreeMap<Key, Arc<K>>,
}

/// The metadata of all objects of a kind that no controller reads further than that.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) objects: BTreeMap<Key, Arc<ObjectMeta>>,
}

macro_rules! world {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// Every object of the API: typed where a controller reads it, else its metadata.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct World {
            $($(#[$doc])* pub(crate) $field: Table<$kind>,)*
            /// Metadata of the kinds that have no table, by [`resource_key`].
            pub(crate) others: BTreeMap<String, Other>,
            /// The kinds of the API, by [`resource_key`].
            pub(crate) served: BTreeSet<String>,
            /// Why the last action of those whose failure is reported failed, by the uid of the object it was for.
            pub(crate) failures: BTreeMap<String, String>,
            /// Whether every watched kind has been listed: only then is "there is no such object" worth anything.
            pub(crate) complete: bool,
        }

        impl World {
            /// The kinds that have a table.
            pub(crate) fn typed() -> Vec<ApiResource> {
                vec![$(ApiResource::erase::<$kind>(&())),*]
            }

            /// Takes in an object as the API returned it, unless a newer state of it is known.
            ///
            /// # Errors
            /// When the object does not have its kind's shape; the world is then unchanged.
            pub(crate) fn apply(&mut self, resource: &ApiResource, object: DynamicObject) -> Result<(), serde_json::Error> {
                $(if self.$field.is_of(resource) {
                    self.$field.insert(parse(object)?);
                    return Ok(());
                })*
                self.others.get_mut(&resource_key(resource)).into_iter().for_each(|other| other.insert(object.metadata.clone()));
                Ok(())
            }

            /// Forgets an object, unless another one took its name.
            pub(crate) fn remove(&mut self, resource: &ApiResource, gone: &ObjectMeta) {
                $(if self.$field.is_of(resource) {
                    return self.$field.remove(gone);
                })*
                self.others.get_mut(&resource_key(resource)).into_iter().for_each(|other| other.remove(gone));
            }

            /// Takes an object as being deleted before a watch says so.
            pub(crate) fn mark_deleted(&mut self, resource: &ApiResource, key: &Key, now: &Time) {
                $(if self.$field.is_of(resource) {
                    return self.$field.mark_deleted(key, now);
                })*
                let other = self.others.get_mut(&resource_key(resource));
                other.into_iter().for_each(|other| other.mark_deleted(key, now));
            }

            /// The metadata of all objects of a kind.
            pub(crate) fn metadata_of(&self, resource: &ApiResource) -> Vec<&ObjectMeta> {
                $(if self.$field.is_of(resource) {
                    return self.$field.iter().map(|object| object.meta()).collect();
                })*
                let other = self.others.get(&resource_key(resource));
                other.into_iter().flat_map(|other| other.objects.values()).map(|meta| &**meta).collect()
            }

            /// The metadata that is known of an object.
            pub(crate) fn metadata(&self, resource: &ApiResource, key: &Key) -> Option<&ObjectMeta> {
                $(if self.$field.is_of(resource) {
                    return self.$field.objects.get(key).map(|object| object.meta());
                })*
                self.others.get(&resource_key(resource))?.objects.get(key).map(|meta| &**meta)
            }

            /// Every object with its kind.
            pub(crate) fn objects(&self) -> Vec<(&ApiResource, &ObjectMeta)> {
                let mut all = Vec::new();
                $(all.extend(self.$field.iter().map(|object| (&self.$field.resource, object.meta())));)*
                for other in self.others.values() {
                    all.extend(other.objects.values().map(|meta| (&other.resource, &**meta)));
                }
                all
            }
        }
    };
}

world! {
    namespaces: Namespace,
    nodes: Node,
    pods: Pod,
    services: Service,
    endpoints: Endpoints,
    endpoint_slices: EndpointSlice,
    service_accounts: ServiceAccount,
    config_maps: ConfigMap,
    persistent_volume_claims: PersistentVolumeClaim,
    deployments: Deployment,
    replica_sets: ReplicaSet,
    replication_controllers: ReplicationController,
    stateful_sets: StatefulSet,
    daemon_sets: DaemonSet,
    controller_revisions: ControllerRevision,
    jobs: Job,
    cron_jobs: CronJob,
    pod_disruption_budgets: PodDisruptionBudget,
}

/// What tells two kinds apart whatever their version: plural and group.
pub(crate) fn resource_key(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

fn parse<K: DeserializeOwned>(object: DynamicObject) -> Result<K, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(object)?)
}

// === impl World ===

impl World {
    /// Notes that the API serves this kind.
    pub(crate) fn serve(&mut self, resource: &ApiResource, namespaced: bool) {
        let key = resource_key(resource);
        if !Self::typed().iter().any(|typed| resource_key(typed) == key) {
            let empty = || Other { resource: resource.clone(), namespaced, objects: BTreeMap::new() };
            self.others.entry(key.clone()).or_insert_with(empty);
        }
        self.served.insert(key);
    }

    /// A kind of the API by group and name, and whether its objects are in namespaces.
    pub(crate) fn kind(&self, group: &str, kind: &str) -> Option<(ApiResource, bool)> {
        let is_it = |resource: &ApiResource| resource.group == group && resource.kind == kind;
        let other = || {
            let other = self.others.values().find(|other| is_it(&other.resource))?;
            Some((other.resource.clone(), other.namespaced))
        };
        let typed = Self::typed().into_iter().find(is_it).filter(|typed| self.served.contains(&resource_key(typed)));
        typed.map(|typed| (typed, !matches!(kind, "Namespace" | "Node"))).or_else(other)
    }

    /// Makes the objects of one kind exactly these, as after a new list.
    pub(crate) fn replace(&mut self, resource: &ApiResource, listed: Vec<DynamicObject>) -> Vec<serde_json::Error> {
        let names: BTreeSet<Key> = listed.iter().map(|object| Key::of(&object.metadata)).collect();
        let known = self.metadata_of(resource).into_iter();
        let gone: Vec<ObjectMeta> = known.filter(|meta| !names.contains(&Key::of(meta))).cloned().collect();
        for meta in gone {
            self.remove(resource, &meta);
        }
        listed.into_iter().filter_map(|object| self.apply(resource, object).err()).collect()
    }

    /// Forgets a kind that the API no longer serves.
    pub(crate) fn forget(&mut self, resource: &ApiResource) {
        self.replace(resource, Vec::new());
        self.others.remove(&resource_key(resource));
        self.served.remove(&resource_key(resource));
    }
}

// === impl Other ===

impl Other {
    fn insert(&mut self, meta: ObjectMeta) {
        let key = Key::of(&meta);
        if self.objects.get(&key).is_none_or(|known| is_newer(&meta, known)) {
            self.objects.insert(key, Arc::new(meta));
        }
    }

    fn remove(&mut self, gone: &ObjectMeta) {
        let key = Key::of(gone);
        if self.objects.get(&key).is_some_and(|known| known.uid == gone.uid) {
            self.objects.remove(&key);
        }
    }

    fn mark_deleted(&mut self, key: &Key, now: &Time) {
        if let Some(meta) = self.objects.get_mut(key) {
            Arc::make_mut(meta).deletion_timestamp.get_or_insert_with(|| now.clone());
        }
    }
}

// === impl Table ===

impl<K: Resource<DynamicType = ()>> Default for Table<K> {
    fn default() -> Self {
        Self { resource: ApiResource::erase::<K>(&()), objects: BTreeMap::new() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Table<K> {
    fn is_of(&self, resource: &ApiResource) -> bool {
        self.resource.plural == resource.plural && self.resource.group == resource.group
    }

    fn mark_deleted(&mut self, key: &Key, now: &Time) {
        if let Some(object) = self.objects.get_mut(key) {
            Arc::make_mut(object).meta_mut().deletion_timestamp.get_or_insert_with(|| now.clone());
        }
    }

    pub(crate) fn insert(&mut self, object: K) {
        let key = Key::of(object.meta());
        if self.objects.get(&key).is_none_or(|known| is_newer(object.meta(), known.meta())) {
            self.objects.insert(key, Arc::new(object));
        }
    }

    fn remove(&mut self, gone: &ObjectMeta) {
        let key = Key::of(gone);
        if self.objects.get(&key).is_some_and(|known| known.meta().uid == gone.uid) {
            self.objects.remove(&key);
        }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&Key { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// The objects of one namespace, by name.
    pub(crate) fn within(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let first = Key { namespace: namespace.to_owned(), name: String::new() };
        let namespace = namespace.to_owned();
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// The objects of one namespace whose controller has this uid.
    pub(crate) fn controlled_by(&self, owner: &ObjectMeta) -> impl Iterator<Item = &Arc<K>> {
        let uid = owner.uid.clone();
        self.within(owner.namespace.as_deref().unwrap_or_default())
            .filter(move |object| controller_uid(object.meta()).is_some_and(|owner| Some(owner) == uid.as_deref()))
    }
}

// === impl Key ===

impl Key {
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

/// The uid of the object that controls this one.
pub(crate) fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// Whether the first was written after the second. Resource versions of one kind are comparable numbers.
fn is_newer(meta: &ObjectMeta, known: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    match (version(meta), version(known)) {
        (Some(new), Some(old)) => new > old,
        _ => true,
    }
}
