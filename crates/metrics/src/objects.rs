//! The objects of a cluster, as far as measures are asked of them: names, labels, and which pods they contain.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use heddle_policy::PodName;
use serde_json::Value;

use crate::Kind;
use crate::samples::LONGEST_WINDOW;
use crate::selector::Labels;

/// Everything that can be measured. Objects that went are remembered for as long as their traffic is: a Deployment's
/// traffic includes that of pods which a rollout has replaced.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    kinds: BTreeMap<Kind, BTreeMap<Name, Object>>,
    /// What went, in that order.
    gone: VecDeque<(Instant, Kind, Name)>,
}

/// Namespace and name; the namespace is empty for cluster-scoped kinds.
pub(crate) type Name = (Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) labels: Labels,
    /// RFC 3339.
    pub(crate) created: Option<Arc<str>>,
    /// The controller that made it, when that is measured too.
    owner: Option<(Kind, Arc<str>)>,
    pub(crate) detail: Detail,
    /// When it was deleted.
    gone: Option<Instant>,
}

/// What only some kinds have.
#[derive(Clone, Debug)]
pub(crate) enum Detail {
    None,
    Pod {
        /// Empty while it has none.
        node: Arc<str>,
        /// Whether all its containers have ended for good.
        is_over: bool,
    },
    /// Of a Service: the labels of its pods. Without any it selects none.
    Selector(Labels),
    Split(Split),
}

#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// The root Service, by its bare name (T22).
    pub(crate) apex: Arc<str>,
    /// Bare names and weights.
    pub(crate) backends: Vec<(Arc<str>, u64)>,
}

impl Objects {
    /// Puts an object in its place; one of a kind that is not measured changes nothing.
    pub fn insert(&mut self, object: &Value) {
        if let Some((kind, name)) = identify(object) {
            self.kinds.entry(kind).or_default().insert(name, Object::of(kind, object));
        }
    }

    /// Notes that an object went. Only its kind, namespace and name need to be there.
    pub fn remove(&mut self, object: &Value, now: Instant) {
        let Some((kind, name)) = identify(object) else { return };
        if let Some(object) = self.kinds.get_mut(&kind).and_then(|objects| objects.get_mut(&name)) {
            object.gone = Some(now);
            self.gone.push_back((now, kind, name));
        }
        self.forget(now);
    }

    /// Lets go of what went so long ago that no window reaches back to it.
    fn forget(&mut self, now: Instant) {
        let is_old = |gone: &(Instant, Kind, Name)| now.saturating_duration_since(gone.0) > 2 * LONGEST_WINDOW;
        while let Some((at, kind, name)) = self.gone.pop_front_if(|gone| is_old(gone)) {
            let objects = self.kinds.entry(kind).or_default();
            // An object that came back under the name stays.
            if objects.get(&name).is_some_and(|object| object.gone == Some(at)) {
                objects.remove(&name);
            }
        }
    }

    /// The objects of a kind that there are, by namespace and name.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Object)> {
        self.kinds.get(&kind).into_iter().flatten().filter(|(_, object)| object.gone.is_none())
    }

    fn get(&self, kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Object> {
        self.kinds.get(&kind)?.get(&(namespace.clone(), name.clone()))
    }

    /// Whether a pod is there, and has not ended.
    pub(crate) fn has_running_pod(&self, pod: &PodName) -> bool {
        let pod = self.get(Kind::Pod, &pod.namespace, &pod.name).filter(|pod| pod.gone.is_none());
        pod.is_some_and(|pod| matches!(pod.detail, Detail::Pod { is_over: false, .. }))
    }

    /// The object of `kind` that contains a pod: its namespace, node, the pod itself, or one of the controllers above it
    /// (M3). Pods of Services are found by [`Objects::services_of_pods`]; a split has none.
    pub(crate) fn container(&self, kind: Kind, pod: &PodName) -> Option<Name> {
        let none: Arc<str> = Arc::default();
        match kind {
            Kind::Namespace => Some((none, pod.namespace.clone())),
            Kind::Pod => Some((pod.namespace.clone(), pod.name.clone())),
            Kind::Node => match &self.get(Kind::Pod, &pod.namespace, &pod.name)?.detail {
                Detail::Pod { node, .. } if !node.is_empty() => Some((none, node.clone())),
                _ => None,
            },
            Kind::Service | Kind::TrafficSplit => None,
            _ => {
                let mut owners = self.owners(pod);
                owners.find(|owner| owner.0 == kind).map(|(_, name)| (pod.namespace.clone(), name))
            }
        }
    }

    /// The outermost known controller of a pod; the pod itself when it has none.
    pub(crate) fn workload(&self, pod: &PodName) -> (Kind, Name) {
        let (kind, name) = self.owners(pod).last().unwrap_or((Kind::Pod, pod.name.clone()));
        (kind, (pod.namespace.clone(), name))
    }

    /// The controllers of a pod, from the inside out.
    fn owners(&self, pod: &PodName) -> impl Iterator<Item = (Kind, Arc<str>)> {
        let namespace = &pod.namespace;
        let owner = |kind: Kind, name: &Arc<str>| self.get(kind, namespace, name)?.owner.clone();
        let first = match self.get(Kind::Pod, namespace, &pod.name) {
            Some(pod) => pod.owner.clone(),
            None => self.replica_set_of(pod),
        };
        // A chain is two long at most; the bound is against objects that own each other.
        std::iter::successors(first, move |(kind, name)| owner(*kind, name)).take(4)
    }

    /// The ReplicaSet of a pod that was gone before it could be seen here: such pods are named after it.
    fn replica_set_of(&self, pod: &PodName) -> Option<(Kind, Arc<str>)> {
        let name: Arc<str> = pod.name.rsplit_once('-')?.0.into();
        self.get(Kind::ReplicaSet, &pod.namespace, &name).map(|_| (Kind::ReplicaSet, name.clone()))
    }

    /// Every pod with the numbers of those of `services` that select it.
    pub(crate) fn services_of_pods<'a>(
        &'a self,
        services: impl Iterator<Item = (&'a Name, &'a Object)>,
    ) -> HashMap<PodName, Vec<usize>> {
        let mut by_namespace: HashMap<&str, Vec<(usize, &Labels)>> = HashMap::new();
        for (number, ((namespace, _), service)) in services.enumerate() {
            if let Detail::Selector(selector) = &service.detail
                && !selector.is_empty()
            {
                by_namespace.entry(namespace).or_default().push((number, selector));
            }
        }
        let mut found: HashMap<PodName, Vec<usize>> = HashMap::new();
        for ((namespace, name), pod) in self.kinds.get(&Kind::Pod).into_iter().flatten() {
            let selects = |selector: &Labels| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
            let services = by_namespace.get(&**namespace).into_iter().flatten();
            let numbers: Vec<usize> =
                services.filter(|(_, selector)| selects(selector)).map(|(number, _)| *number).collect();
            if !numbers.is_empty() {
                found.insert(PodName::new(namespace.clone(), name.clone()), numbers);
            }
        }
        found
    }
}

fn identify(object: &Value) -> Option<(Kind, Name)> {
    let kind = Kind::of_name(object["kind"].as_str()?)?;
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    // Other groups have kinds of the same names.
    if group(object["apiVersion"].as_str()?) != group(kind.api_version()) {
        return None;
    }
    let meta = &object["metadata"];
    let namespace = if kind.is_namespaced() { text(&meta["namespace"]) } else { Arc::default() };
    Some((kind, (namespace, text(&meta["name"]))))
}

impl Object {
    fn of(kind: Kind, object: &Value) -> Self {
        let (meta, spec) = (&object["metadata"], &object["spec"]);
        let owners = meta["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.into_iter().find(|owner| owner["controller"] == true);
        let owner = owner.and_then(|owner| Some((Kind::of_name(owner["kind"].as_str()?)?, text(&owner["name"]))));
        Self {
            labels: labels(&meta["labels"]),
            created: meta["creationTimestamp"].as_str().map(Arc::from),
            owner,
            detail: match kind {
                Kind::Pod => Detail::Pod {
                    node: text(&spec["nodeName"]),
                    is_over: matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
                },
                Kind::Service => Detail::Selector(labels(&spec["selector"])),
                Kind::TrafficSplit => Detail::Split(Split::of(spec, &text(&meta["namespace"]))),
                _ => Detail::None,
            },
            gone: None,
        }
    }
}

impl Split {
    fn of(spec: &Value, namespace: &str) -> Self {
        let bare = |name: &Value| bare(name.as_str().unwrap_or_default(), namespace);
        let backends = spec["backends"].as_array().into_iter().flatten();
        let backend = |backend: &Value| (bare(&backend["service"]), backend["weight"].as_u64().unwrap_or_default());
        Self { apex: bare(&spec["service"]), backends: backends.map(backend).collect() }
    }
}

/// The name of a Service that a split writes in any DNS form (T1, T22): nothing where it is one of another namespace.
fn bare(name: &str, namespace: &str) -> Arc<str> {
    let name = name.to_ascii_lowercase();
    let (name, domain) = name.split_once('.').unwrap_or((&name, ""));
    if ["", namespace].contains(&domain.split('.').next().unwrap_or_default()) { name.into() } else { "".into() }
}

fn text(value: &Value) -> Arc<str> {
    value.as_str().unwrap_or_default().into()
}

fn labels(value: &Value) -> Labels {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((Arc::from(&**key), Arc::from(value.as_str()?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t22_a_split_names_services_of_its_own_namespace_in_any_form() {
        for name in ["web", "WEB", "web.", "web.shop", "web.shop.svc", "Web.shop.svc.cluster.local."] {
            assert_eq!(&*bare(name, "shop"), "web", "{name}");
        }
        for name in ["web.stock", "web.stock.svc", "web.shop-2"] {
            assert_eq!(&*bare(name, "shop"), "", "{name}");
        }
    }
}
