//! What the control plane knows of the cluster: the resources, and what is written back on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use heddle_cluster::{Change, Event, Kind, State, conditions_of};
use heddle_compile::ResourceSet;
use heddle_policy::{Mode, Origin, PodName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::targets::Targets;
use crate::traffic::Traffic;
use crate::view::{ModeStatus, Unreadable};

/// Everything read, and how well.
pub(crate) struct World {
    pub(crate) resources: Resources,
    pub(crate) modes: Modes,
    /// Shared with the health end.
    pub(crate) targets: Targets,
    /// Shared with those who write back.
    pub(crate) ledger: Ledger,
    /// Shared with those who measure.
    pub(crate) traffic: Traffic,
    states: BTreeMap<Kind, State>,
    /// The kinds whose first list is not there yet.
    awaited: BTreeSet<Kind>,
}

/// The resources, as they are now. Compilation and admission read them, and only the loop writes: a set that is shared by
/// pointer would be copied for every change.
#[derive(Clone, Default)]
pub(crate) struct Resources(Arc<RwLock<ResourceSet>>);

/// What is known of single objects, beside what they mean.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<RwLock<HashMap<Key, Entry>>>);

/// Names an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Arc<str>,
    /// Empty for a cluster-scoped object.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// Which version of the object this is, as `at` says it of what is made of the object.
    pub(crate) version: Arc<str>,
    /// Those that the API server has.
    pub(crate) conditions: Vec<Condition>,
    /// Of a pod, the name of its ServiceAccount.
    pub(crate) service_account: String,
    /// All of an object but its status, in short; absent when the object says nothing by which to tell.
    print: Option<Value>,
}

/// The modes of the mesh and its namespaces.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Modes {
    mesh: Option<(Mode, Origin)>,
    pub(crate) trust_domain: Option<String>,
    namespaces: BTreeMap<String, Option<(Mode, Origin)>>,
}

/// What an event changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changed {
    /// What the mesh is made of.
    pub(crate) resources: bool,
    /// What is written on objects, or how well they can be read.
    pub(crate) notes: bool,
}

// === impl World ===

impl World {
    /// Of a cluster in which these kinds are to be read.
    pub(crate) fn new(kinds: &[Kind], traffic: Traffic) -> Self {
        Self {
            resources: Resources::default(),
            modes: Modes::default(),
            targets: Targets::default(),
            ledger: Ledger::default(),
            traffic,
            states: BTreeMap::new(),
            awaited: kinds.iter().copied().collect(),
        }
    }

    /// Whether everything has been listed once, or is known to be missing: a mesh made before would be wrong.
    pub(crate) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// The kinds still awaited.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &'static str> {
        self.awaited.iter().map(|kind| kind.kind)
    }

    /// The kinds that cannot be read, and why.
    pub(crate) fn unreadable(&self) -> Vec<Unreadable> {
        let reason = |state: &State| match state {
            State::Synced => None,
            State::Missing => Some("its CustomResourceDefinition is not installed".to_owned()),
            State::Failing(reason) => Some(reason.clone()),
        };
        let states = self.states.iter();
        states
            .filter_map(|(kind, state)| Some(Unreadable { kind: kind.kind.to_owned(), reason: reason(state)? }))
            .collect()
    }

    pub(crate) fn apply(&mut self, event: Event) -> Changed {
        let mut changed = Changed::default();
        for change in &event.changes {
            let one = match change {
                Change::Applied(object) => self.insert(event.kind, object),
                Change::Deleted(object) => self.remove(object),
            };
            changed.resources |= one.resources;
            changed.notes |= one.notes;
        }
        if event.state == State::Synced || event.state == State::Missing {
            // The first list makes a mesh possible, even when it is empty.
            changed.resources |= self.awaited.remove(&event.kind);
        }
        changed.notes |= self.states.insert(event.kind, event.state.clone()).as_ref() != Some(&event.state);
        changed
    }

    fn insert(&mut self, kind: Kind, object: &Value) -> Changed {
        self.targets.insert(object);
        self.traffic.insert(object);
        let entry = Entry::of(kind, object);
        let before = self.ledger.insert(Key::of(object), entry.clone());
        let same = before.as_ref().is_some_and(|before| before.print.is_some() && before.print == entry.print);
        if same {
            // Somebody wrote a status; most often it was this control plane, and the ledger knew.
            return Changed { resources: false, notes: before.as_ref() != Some(&entry) };
        }
        self.modes.insert(object);
        self.resources.write().insert(object, version_of(object));
        Changed { resources: true, notes: true }
    }

    fn remove(&mut self, object: &Value) -> Changed {
        self.traffic.remove(object);
        self.ledger.remove(&Key::of(object));
        self.targets.remove(object);
        self.modes.remove(object);
        self.resources.write().remove(object);
        Changed { resources: true, notes: true }
    }
}

/// Which version of the object this is. The generation counts the changes of what is asked for; the resourceVersion
/// also changes when a status is written, and after it every rule would seem to be new.
fn version_of(object: &Value) -> Arc<str> {
    let meta = &object["metadata"];
    match (meta["generation"].as_i64(), meta["resourceVersion"].as_str()) {
        (Some(generation), _) => format!("generation {generation}").into(),
        (None, Some(version)) => format!("resourceVersion {version}").into(),
        (None, None) => Arc::default(),
    }
}

// === impl Resources ===

impl Resources {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ResourceSet> {
        // A set is whole after every step, so a panic elsewhere does not spoil it.
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, ResourceSet> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(key).cloned()
    }

    /// Notes what has been written on an object; not when another object has taken its name since.
    pub(crate) fn note(&self, key: &Key, uid: &str, conditions: Vec<Condition>) {
        let mut entries = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(entry) = entries.get_mut(key).filter(|entry| entry.uid == uid) {
            entry.conditions = conditions;
        }
    }

    fn insert(&self, key: Key, entry: Entry) -> Option<Entry> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key, entry)
    }

    fn remove(&self, key: &Key) {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(key);
    }
}

// === impl Key, Entry ===

impl Key {
    pub(crate) fn of(object: &Value) -> Self {
        let text = |value: &Value| Arc::from(value.as_str().unwrap_or_default());
        let meta = &object["metadata"];
        Self { kind: text(&object["kind"]), namespace: text(&meta["namespace"]), name: text(&meta["name"]) }
    }

    pub(crate) fn of_pod(pod: &PodName) -> Self {
        Self { kind: "Pod".into(), namespace: pod.namespace.clone(), name: pod.name.clone() }
    }
}

impl From<&Origin> for Key {
    fn from(origin: &Origin) -> Self {
        Self { kind: origin.kind.clone(), namespace: origin.namespace.clone(), name: origin.name.clone() }
    }
}

impl Entry {
    fn of(kind: Kind, object: &Value) -> Self {
        let meta = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let generation = meta["generation"].as_i64();
        let service_account = match text(&object["spec"]["serviceAccountName"]) {
            account if account.is_empty() => "default".to_owned(),
            account => account,
        };
        // Only where the generation covers all that is asked for does it stand for the object.
        let print = generation
            .filter(|_| kind.is_custom())
            .map(|generation| json!([meta["uid"], generation, meta["labels"], meta["annotations"]]));
        Self {
            uid: text(&meta["uid"]),
            generation: generation.unwrap_or_default(),
            version: version_of(object),
            conditions: if kind.is_custom() { conditions_of(object) } else { Vec::new() },
            service_account: if kind.kind == "Pod" { service_account } else { String::new() },
            print,
        }
    }
}

// === impl Modes ===

impl Modes {
    /// The mode of namespaces that set none.
    pub(crate) fn of_mesh(&self) -> ModeStatus {
        status(self.mesh.as_ref())
    }

    /// Every namespace and its mode, with what set it.
    pub(crate) fn of_namespaces(&self) -> impl Iterator<Item = (&String, ModeStatus)> {
        self.namespaces.iter().map(|(name, own)| (name, status(own.as_ref().or(self.mesh.as_ref()))))
    }

    fn insert(&mut self, object: &Value) {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        match object["kind"].as_str() {
            Some("Namespace") => {
                let field = format!("metadata.labels[{}]", heddle_smi::MODE_LABEL);
                let own = set_mode(&meta["labels"][heddle_smi::MODE_LABEL], object, &field);
                self.namespaces.insert(name.to_owned(), own);
            }
            Some("MeshConfig") if name == heddle_smi::MESH_CONFIG_NAME => {
                self.mesh = set_mode(&object["spec"]["mode"], object, "spec.mode");
                self.trust_domain = object["spec"]["trustDomain"].as_str().map(str::to_owned);
            }
            _ => {}
        }
    }

    fn remove(&mut self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match object["kind"].as_str() {
            Some("Namespace") => drop(self.namespaces.remove(name)),
            Some("MeshConfig") if name == heddle_smi::MESH_CONFIG_NAME => {
                (self.mesh, self.trust_domain) = (None, None);
            }
            _ => {}
        }
    }
}

/// A text that is no mode enforces, as in the compiler.
fn set_mode(value: &Value, object: &Value, field: &str) -> Option<(Mode, Origin)> {
    value.as_str()?;
    let mode = serde_json::from_value(value.clone()).unwrap_or_default();
    let Key { kind, namespace, name } = Key::of(object);
    Some((mode, Origin { kind, namespace, name, field: field.into(), at: version_of(object) }))
}

fn status(set: Option<&(Mode, Origin)>) -> ModeStatus {
    let (mode, origin) = set.cloned().map_or((Mode::default(), None), |(mode, origin)| (mode, Some(origin)));
    ModeStatus { mode, origin }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: Kind = Kind::new("split.smi-spec.io", "v1alpha4", "TrafficSplit", "trafficsplits");
    const NAMESPACE: Kind = Kind::new("", "v1", "Namespace", "namespaces");

    fn world(kinds: &[Kind]) -> World {
        World::new(kinds, Traffic::new(std::time::Instant::now()))
    }

    fn split(generation: i64, version: &str, status: Value) -> Value {
        json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "1", "generation": generation, "resourceVersion": version,
            },
            "spec": { "service": "web", "backends": [{ "service": "web-v1", "weight": 1 }] },
            "status": status,
        })
    }

    fn applied(kind: Kind, object: Value) -> Event {
        Event { kind, changes: vec![Change::Applied(object)], state: State::Synced }
    }

    #[test]
    fn nothing_is_complete_before_every_first_list() {
        let mut world = world(&[SPLIT, NAMESPACE]);
        world.apply(Event { kind: NAMESPACE, changes: Vec::new(), state: State::Synced });
        assert!(!world.is_complete());
        let changed = world.apply(Event { kind: SPLIT, changes: Vec::new(), state: State::Missing });
        assert!(world.is_complete() && changed.resources);
    }

    #[test]
    fn a_kind_that_cannot_be_read_holds_the_first_mesh_back() {
        let mut world = world(&[SPLIT]);
        world.apply(Event { kind: SPLIT, changes: Vec::new(), state: State::Failing("forbidden".into()) });
        assert!(!world.is_complete());
        assert_eq!(world.unreadable()[0].reason, "forbidden");
    }

    #[test]
    fn status_is_never_an_input() {
        let mut world = world(&[SPLIT]);
        assert!(world.apply(applied(SPLIT, split(1, "10", Value::Null))).resources);
        let changed = world.apply(applied(SPLIT, split(1, "11", json!({ "conditions": [] }))));
        assert!(!changed.resources);
        assert!(world.apply(applied(SPLIT, split(2, "12", Value::Null))).resources);
    }

    #[test]
    fn a_namespace_has_the_mode_of_its_label_and_else_that_of_the_mesh() {
        let mut world = world(&[]);
        let label = |mode: &str| json!({ heddle_smi::MODE_LABEL: mode });
        let namespace = |name: &str, labels: Value| json!({ "kind": "Namespace", "metadata": { "name": name, "labels": labels, "resourceVersion": "7" } });
        world.apply(applied(NAMESPACE, namespace("own", label("permissive"))));
        world.apply(applied(NAMESPACE, namespace("odd", label("lenient"))));
        world.apply(applied(NAMESPACE, namespace("none", Value::Null)));
        let modes: Vec<_> = world.modes.of_namespaces().map(|(name, status)| (name.as_str(), status.mode)).collect();
        assert_eq!(modes, [("none", Mode::Enforce), ("odd", Mode::Enforce), ("own", Mode::Permissive)]);
    }
}
