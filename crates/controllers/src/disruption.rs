//! The status of PodDisruptionBudgets: how many pods may be evicted now.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::SelectorExt;

use super::adoption::selector;
use super::deployment::scaled;
use super::plan::{Plan, time};
use super::pods;
use super::world::{World, controller_uid};

const COMPONENT: &str = "controllermanager";

pub(crate) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for budget in world.pod_disruption_budgets.iter() {
        let mut updated = (**budget).clone();
        updated.status = status(world, budget, now).or(updated.status);
        plan.status(COMPONENT, &**budget, &updated);
    }
    plan
}

fn status(world: &World, budget: &PodDisruptionBudget, now: Timestamp) -> Option<PodDisruptionBudgetStatus> {
    let spec = budget.spec.as_ref()?;
    let selector = selector(spec.selector.as_ref()?)?;
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let selected = world.pods.within(namespace).map(|pod| &**pod);
    let selected: Vec<&Pod> = selected
        .filter(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&Default::default())))
        .filter(|pod| pods::is_active(pod))
        .collect();
    let (expected, desired) = expectation(world, spec, &selected);
    let healthy = selected.iter().filter(|pod| pods::is_ready(pod)).count() as i32;
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let known = budget.status.clone().unwrap_or_default();
    Some(PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disruptions_allowed: allowed,
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, known.conditions, allowed, now)]),
        disrupted_pods: known.disrupted_pods,
    })
}

/// How many pods there should be, and how many of them have to be healthy.
fn expectation(world: &World, spec: &PodDisruptionBudgetSpec, selected: &[&Pod]) -> (i32, i32) {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => {
            let expected = scale(world, selected);
            (expected, (expected - scaled(Some(unavailable), expected, true)).max(0))
        }
        (None, Some(IntOrString::Int(available))) => (selected.len() as i32, *available),
        (None, available) => {
            let expected = scale(world, selected);
            (expected, available.as_ref().map_or(1, |value| scaled(Some(value), expected, true)))
        }
    }
}

/// The replicas that the controllers of these pods are asked for; a pod without one counts as itself.
fn scale(world: &World, selected: &[&Pod]) -> i32 {
    let mut owners: Vec<&str> = selected.iter().filter_map(|pod| controller_uid(&pod.metadata)).collect();
    owners.sort_unstable();
    owners.dedup();
    let is = |uid: &Option<String>, owner: &str| uid.as_deref() == Some(owner);
    let replicas = |owner: &str| {
        let set = world.replica_sets.iter().find(|set| is(&set.metadata.uid, owner));
        let stateful = world.stateful_sets.iter().find(|set| is(&set.metadata.uid, owner));
        let of_set = set.and_then(|set| set.spec.as_ref()?.replicas);
        of_set.or_else(|| stateful?.spec.as_ref()?.replicas).unwrap_or(1)
    };
    let alone = selected.iter().filter(|pod| controller_uid(&pod.metadata).is_none()).count() as i32;
    alone + owners.into_iter().map(replicas).sum::<i32>()
}

fn condition(budget: &PodDisruptionBudget, known: Option<Vec<Condition>>, allowed: i32, now: Timestamp) -> Condition {
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let known = known.into_iter().flatten().find(|it| it.type_ == "DisruptionAllowed" && it.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: known.map_or(time(now), |known| known.last_transition_time),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::Cluster;

    #[test]
    fn as_many_disruptions_are_allowed_as_there_are_healthy_pods_to_spare() {
        let mut cluster = Cluster::new(
            "
apiVersion: apps/v1
kind: ReplicaSet
metadata: { name: web }
spec:
  replicas: 3
  selector: { matchLabels: { app: web } }
  template: { metadata: { labels: { app: web } }, spec: { containers: [] } }
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: { name: web }
spec: { maxUnavailable: 1, selector: { matchLabels: { app: web } } }
",
        );
        cluster.settle();
        assert_eq!(cluster.get("poddisruptionbudgets/web", "/status/disruptionsAllowed"), json!(0));
        cluster.converge();
        let status = cluster.get("poddisruptionbudgets/web", "/status");
        assert_eq!((&status["expectedPods"], &status["desiredHealthy"]), (&json!(3), &json!(2)));
        assert_eq!((&status["currentHealthy"], &status["disruptionsAllowed"]), (&json!(3), &json!(1)));
        assert_eq!(status["conditions"][0]["reason"], json!("SufficientPods"));
    }
}
