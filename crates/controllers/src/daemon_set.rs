//! DaemonSet: one pod on every node that fits, which here is one node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use super::adoption::{claim, selector};
use super::deployment::scaled;
use super::history::{self, History, POD_REVISION};
use super::plan::{Op, Plan};
use super::pods;
use super::replica_set::nonzero;
use super::scheduler;
use super::world::World;

const COMPONENT: &str = "daemonset-controller";

/// Taints that daemons put up with: they are what the cluster itself runs on.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// A DaemonSet with its pods by the node that each is for.
struct Daemons<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    history: History,
    nodes: Vec<&'a Node>,
    /// Of each node the oldest first.
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    now: Timestamp,
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for set in world.daemon_sets.iter() {
        let Some(daemons) = Daemons::observe(world, set, now, &mut plan) else { continue };
        if set.metadata.deletion_timestamp.is_none() {
            daemons.place(&mut plan);
        }
        daemons.report(&mut plan);
    }
    plan
}

// === impl Daemons ===

impl<'a> Daemons<'a> {
    fn observe(world: &'a World, set: &'a DaemonSet, now: Timestamp, plan: &mut Plan) -> Option<Self> {
        let spec = set.spec.as_ref()?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let history = history::observe(COMPONENT, set, &spec.selector, &spec.template, world, collisions, plan)?;
        let mut claimed = claim(COMPONENT, set, &selector(&spec.selector)?, &world.pods, plan, pods::is_active);
        claimed.sort_by_key(|pod| {
            (
                Reverse(pod.spec.as_ref().is_some_and(|it| it.node_name.is_some())),
                pod.metadata.creation_timestamp.clone(),
            )
        });
        let mut pods: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in claimed {
            pods.entry(node_of(&pod).unwrap_or_default()).or_default().push(pod);
        }
        let nodes = world.nodes.iter().map(|node| &**node).collect();
        Some(Self { set, spec, history, nodes, pods, now })
    }

    fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.pods.get(node).map_or(&[], Vec::as_slice)
    }

    fn place(&self, plan: &mut Plan) {
        let mut unavailable = self.unavailable_allowed();
        for node in &self.nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let fits = self.fits(node);
            if !fits {
                self.on(name).iter().for_each(|pod| self.delete(pod, plan));
            } else if self.on(name).is_empty() {
                self.create(name, plan);
            } else {
                self.tend(self.on(name), &mut unavailable, plan);
            }
        }
        let known = |name: &str| self.nodes.iter().any(|node| node.metadata.name.as_deref() == Some(name));
        for (_, strays) in self.pods.iter().filter(|(node, _)| !known(node)) {
            strays.iter().for_each(|pod| self.delete(pod, plan));
        }
    }

    /// Keeps one pod of those on a node, and replaces it when it ended or is of an old template.
    fn tend(&self, pods: &[Arc<Pod>], unavailable: &mut i32, plan: &mut Plan) {
        let (ended, running): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pods::is_terminal(pod));
        for pod in ended.iter().filter(|pod| !pods::is_terminating(pod)) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let failed = pods::phase(pod) == "Failed";
            let message = if failed { "Found failed daemon pod" } else { "Found succeeded daemon pod" };
            let action = plan.act(COMPONENT, self.set, Op::delete(&***pod));
            let message = format!("{message} {namespace}/{name}, will try to kill it");
            if failed {
                action.warn("FailedDaemonPod", message)
            } else {
                action.done("SucceededDaemonPod", message)
            };
        }
        running.iter().skip(1).for_each(|pod| self.delete(pod, plan));
        let Some(pod) = running.first().filter(|pod| !pods::is_terminating(pod)) else { return };
        let outdated = !self.is_updated(pod) && self.strategy() != "OnDelete";
        let available = self.is_available(pod);
        if outdated && (!available || *unavailable > 0) {
            *unavailable -= i32::from(available);
            self.delete(pod, plan);
        }
    }

    fn strategy(&self) -> &str {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
    }

    /// How many more pods an update may take down now. Surge is not done: there is one node.
    fn unavailable_allowed(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let fitting: Vec<_> = self.nodes.iter().filter(|node| self.fits(node)).collect();
        let total = fitting.len() as i32;
        let wanted = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let allowed = wanted.map_or(1, |value| scaled(Some(value), total, true)).max(1);
        allowed
            - fitting.iter().filter(|node| !self.shown(node).is_some_and(|pod| self.is_available(pod))).count() as i32
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !pods::is_terminating(pod) && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_REVISION));
        label.is_some_and(|hash| hash == history::hash(&self.history.update))
    }

    /// Whether the daemon is for this node.
    fn fits(&self, node: &Node) -> bool {
        let mut spec = self.spec.template.spec.clone().unwrap_or_default();
        spec.tolerations.get_or_insert_default().extend(tolerations());
        let named = spec.node_name.as_ref().is_none_or(|name| Some(name) == node.metadata.name.as_ref());
        named && scheduler::fits(node, &spec)
    }

    /// The pod of a node that its state is told by.
    fn shown(&self, node: &Node) -> Option<&Arc<Pod>> {
        self.on(node.metadata.name.as_deref().unwrap_or_default()).first()
    }

    fn create(&self, node: &str, plan: &mut Plan) {
        let mut pod = pods::generate(self.set, &self.spec.template, self.now, 0);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_REVISION.to_owned(), history::hash(&self.history.update).to_owned());
        labels.insert("pod-template-generation".to_owned(), self.set.metadata.generation.unwrap_or(1).to_string());
        let spec = pod.spec.get_or_insert_default();
        assign(spec, node);
        spec.tolerations.get_or_insert_default().extend(tolerations());
        let name = pod.metadata.name.clone().unwrap_or_default();
        plan.act(COMPONENT, self.set, Op::create(&pod))
            .done("SuccessfulCreate", format!("Created pod: {name}"))
            .failed("FailedCreate", "Error creating");
    }

    fn delete(&self, pod: &Pod, plan: &mut Plan) {
        if !pods::is_terminating(pod) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            plan.act(COMPONENT, self.set, Op::delete(pod))
                .done("SuccessfulDelete", format!("Deleted pod: {name}"))
                .failed("FailedDelete", "Error deleting");
        }
    }

    fn report(&self, plan: &mut Plan) {
        let mut updated = self.set.clone();
        updated.status = Some(self.status());
        plan.status(COMPONENT, self.set, &updated);
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let all = self.pods.values().flatten();
        all.filter_map(|pod| pods::available_at(pod, min_ready))
            .filter(|at| *at > self.now)
            .for_each(|at| plan.wake_at(at));
        let labels = self.pods.values().flatten().filter_map(|pod| pod.metadata.labels.as_ref()?.get(POD_REVISION));
        let mut used: BTreeSet<&str> = labels.map(String::as_str).collect();
        used.insert(history::name(&self.history.update));
        self.history.truncate(COMPONENT, self.set, &used, self.spec.revision_history_limit, plan);
    }

    fn status(&self) -> DaemonSetStatus {
        let (fitting, others): (Vec<&Node>, Vec<&Node>) = self.nodes.iter().copied().partition(|node| self.fits(node));
        let shown: Vec<&Arc<Pod>> = fitting.iter().filter_map(|node| self.shown(node)).collect();
        let count = |matches: &dyn Fn(&Pod) -> bool| shown.iter().filter(|pod| matches(pod)).count() as i32;
        let desired = fitting.len() as i32;
        let available = count(&|pod| pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now));
        DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: shown.len() as i32,
            number_misscheduled: others.iter().filter(|node| self.shown(node).is_some()).count() as i32,
            number_ready: count(&pods::is_ready),
            updated_number_scheduled: nonzero(count(&|pod| self.is_updated(pod))),
            number_available: nonzero(available),
            number_unavailable: nonzero(desired - available),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.history.collisions).filter(|count| *count > 0),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

fn tolerations() -> impl Iterator<Item = Toleration> {
    TOLERATED.into_iter().map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Default::default()
    })
}

/// Leaves the scheduler no other node, in the way that tells which node a pod is for before it is scheduled.
fn assign(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let node_affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required =
        node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    // What else is required of nodes was checked before the pod was made, as Kubernetes does.
    required.node_selector_terms = vec![NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None }];
}

/// The node that a pod is on or for.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let assigned = || {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        fields.find(|field| field.key == "metadata.name")?.values.as_ref()?.first().cloned()
    };
    spec.node_name.clone().or_else(assigned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::Cluster;

    fn agent(image: &str) -> String {
        format!(
            "apiVersion: apps/v1
kind: DaemonSet
metadata: {{ name: agent }}
spec:
  selector: {{ matchLabels: {{ app: agent }} }}
  template:
    metadata: {{ labels: {{ app: agent }} }}
    spec: {{ containers: [{{ name: agent, image: {image} }}] }}
"
        )
    }

    #[test]
    fn each_node_gets_one_pod_and_a_new_template_replaces_it() {
        let mut cluster = Cluster::new(&agent("v1"));
        cluster.converge();
        assert_eq!(cluster.pods().len(), 1);
        let status = cluster.get("daemonsets/agent", "/status");
        assert_eq!((&status["desiredNumberScheduled"], &status["numberAvailable"]), (&json!(1), &json!(1)));
        let first = cluster.names("pods");
        cluster.apply(&agent("v2"));
        cluster.converge();
        assert_ne!(cluster.names("pods"), first);
        assert_eq!(cluster.get("daemonsets/agent", "/status/updatedNumberScheduled"), json!(1));
        assert_eq!(cluster.names("controllerrevisions").len(), 2);
    }

    #[test]
    fn a_node_that_is_not_selected_gets_none() {
        let mut cluster =
            Cluster::new(&agent("v1").replace("spec: { containers", "spec: { nodeSelector: { disk: ssd }, containers"));
        cluster.converge();
        assert_eq!(cluster.pods().len(), 0);
        assert_eq!(cluster.get("daemonsets/agent", "/status/desiredNumberScheduled"), json!(0));
    }

    #[test]
    fn a_failed_pod_is_replaced() {
        let mut cluster = Cluster::new(&agent("v1"));
        cluster.converge();
        let first = cluster.names("pods");
        cluster.set_pod(&first[0], "Failed", false);
        cluster.converge();
        assert_ne!(cluster.names("pods"), first);
        assert!(
            cluster.events.iter().any(|event| event.starts_with("FailedDaemonPod: Found failed daemon pod default/"))
        );
    }
}
