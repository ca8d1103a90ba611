//! The scheduler of pods that name no other: a node that the pod's selector, affinity and tolerations admit.
//!
//! There is one machine, so there is nothing to weigh: resources are not counted and the first fitting node is taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition, PodSpec, Taint, Toleration,
};

use super::conditions::{self, Condition};
use super::plan::{Op, Plan, Target};
use super::pods;
use super::world::World;

const COMPONENT: &str = "default-scheduler";

/// The taint of a node that is cordoned, whether it is written down or only meant by `spec.unschedulable`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node does not take a pod, in the words of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Unschedulable,
    Selector,
    Taint(String),
}

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for pod in world.pods.iter().filter(|pod| is_ours(pod)) {
        let Some(spec) = &pod.spec else { continue };
        let fitting = world.nodes.iter().find(|node| refusal(node, spec).is_none());
        match fitting.and_then(|node| node.metadata.name.as_deref()) {
            Some(node) => bind(pod, node, &mut plan),
            None => refuse(world, pod, spec, now, &mut plan),
        }
    }
    plan
}

/// Whether the pod waits for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(COMPONENT);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    spec.node_name.is_none() && scheduler == COMPONENT && !gated && pods::is_active(pod)
}

fn bind(pod: &Pod, node: &str, plan: &mut Plan) {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let message =
        format!("Successfully assigned {}/{} to {node}", namespace.unwrap_or_default(), name.unwrap_or_default());
    let target = Target { resource_version: None, ..Target::of(pod) };
    plan.act(COMPONENT, pod, Op::Bind { pod: target, node: node.to_owned() })
        .done("Scheduled", message)
        .failed("FailedScheduling", "Binding rejected");
}

fn refuse(world: &World, pod: &Pod, spec: &PodSpec, now: Timestamp, plan: &mut Plan) {
    let refusals: Vec<Refusal> = world.nodes.iter().filter_map(|node| refusal(node, spec)).collect();
    let message = message(&refusals);
    plan.act(COMPONENT, pod, Op::Report).warn("FailedScheduling", message.clone());
    let mut updated = pod.clone();
    let status = updated.status.get_or_insert_default();
    let condition = PodCondition::new("PodScheduled", "False", "Unschedulable", &message, now);
    conditions::set(&mut status.conditions, condition);
    plan.status(COMPONENT, pod, &updated);
}

fn message(refusals: &[Refusal]) -> String {
    let total = refusals.len();
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let distinct: BTreeSet<&Refusal> = refusals.iter().collect();
    let reasons: Vec<String> = distinct
        .into_iter()
        .map(|refusal| {
            let count = refusals.iter().filter(|it| *it == refusal).count();
            match refusal {
                Refusal::Unschedulable => format!("{count} node(s) were unschedulable"),
                Refusal::Selector => format!("{count} node(s) didn't match Pod's node affinity/selector"),
                Refusal::Taint(taint) => format!("{count} node(s) had untolerated taint {{{taint}}}"),
            }
        })
        .collect();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}

/// Whether the node takes the pod.
pub(crate) fn fits(node: &Node, pod: &PodSpec) -> bool {
    refusal(node, pod).is_none()
}

fn refusal(node: &Node, pod: &PodSpec) -> Option<Refusal> {
    let spec = node.spec.clone().unwrap_or_default();
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let repelling = |taint: &&Taint| taint.effect != "PreferNoSchedule" && !tolerates(tolerations, taint);
    let cordon = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if spec.unschedulable == Some(true) && repelling(&&cordon) {
        return Some(Refusal::Unschedulable);
    }
    let taint = spec.taints.iter().flatten().find(repelling);
    if taint.is_some_and(|taint| taint.key == UNSCHEDULABLE) {
        return Some(Refusal::Unschedulable);
    }
    if let Some(taint) = taint {
        return Some(Refusal::Taint(format!("{}: {}", taint.key, taint.value.as_deref().unwrap_or_default())));
    }
    (!admits(node, pod)).then_some(Refusal::Selector)
}

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        effect && (key == taint.key || (key.is_empty() && exists)) && (exists || value)
    })
}

/// Whether the pod's `nodeSelector` and required node affinity admit the node.
fn admits(node: &Node, pod: &PodSpec) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node, labels)))
}

fn matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let name = |key: &str| node.metadata.name.as_ref().filter(|_| key == "metadata.name");
    let mut expressions = term.match_expressions.iter().flatten();
    let mut fields = term.match_fields.iter().flatten();
    let empty = term.match_expressions.is_none() && term.match_fields.is_none();
    !empty && expressions.all(|it| holds(it, labels.get(&it.key))) && fields.all(|it| holds(it, name(&it.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.contains(value));
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let (value_number, bound) = (number(value), number(values.first()));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value_number.zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value_number.zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;

    const POD: &str =
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [], nodeSelector: {disk: ssd}}}";

    #[test]
    fn a_pod_is_bound_to_the_node() {
        let mut cluster = Cluster::new("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}");
        cluster.settle();
        assert_eq!(cluster.get("pods/a", "/spec/nodeName"), "node");
        assert!(cluster.events.contains(&"Scheduled: Successfully assigned default/a to node".to_owned()));
    }

    #[test]
    fn a_pod_that_no_node_takes_says_why() {
        let mut cluster = Cluster::new(POD);
        cluster.settle();
        let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(cluster.get("pods/a", "/status/conditions/0/message"), message);
        assert!(cluster.events.contains(&format!("FailedScheduling: {message}")));
        cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: node, labels: {disk: ssd}}}");
        cluster.settle();
        assert_eq!(cluster.get("pods/a", "/spec/nodeName"), "node");
    }

    #[test]
    fn a_cordoned_node_takes_only_what_tolerates_it() {
        let mut cluster = Cluster::new(
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {containers: [], tolerations: [{operator: Exists}]}}",
        );
        cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: node}, spec: {unschedulable: true}}");
        cluster.settle();
        let message = "0/1 nodes are available: 1 node(s) were unschedulable.";
        assert_eq!(cluster.get("pods/a", "/status/conditions/0/message"), message);
        assert_eq!(cluster.get("pods/b", "/spec/nodeName"), "node");
    }

    #[test]
    fn pods_of_another_scheduler_are_left_alone() {
        let mut cluster = Cluster::new(&POD.replace("containers", "schedulerName: mine, containers"));
        cluster.settle();
        assert!(cluster.get("pods/a", "/spec/nodeName").is_null());
        assert!(cluster.get("pods/a", "/status").is_null());
    }
}
