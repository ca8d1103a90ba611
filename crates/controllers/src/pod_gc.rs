//! Pods that nobody else removes: ended ones beyond a bound, and those on a node that is no more.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::ApiResource;

use super::plan::{Deletion, Op, Plan, Target};
use super::pods;
use super::world::World;

const COMPONENT: &str = "pod-garbage-collector";

/// Ended pods that are kept for their logs and status. Kubernetes keeps 12,500 for a whole cluster.
const KEPT: usize = 1000;

pub(crate) fn reconcile(world: &World) -> Plan {
    let mut plan = Plan::default();
    let all = || world.pods.iter().map(|pod| &**pod);
    let mut ended: Vec<&Pod> = all().filter(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod)).collect();
    ended.sort_by_key(|pod| &pod.metadata.creation_timestamp);
    for pod in ended.iter().take(ended.len().saturating_sub(KEPT)) {
        plan.act(COMPONENT, *pod, Op::delete(*pod));
    }
    // Before the first node has registered itself every node seems to be gone.
    if world.complete && world.nodes.iter().next().is_some() {
        all()
            .filter_map(|pod| Some((pod, lost_node(world, pod)?)))
            .for_each(|(pod, node)| abandon(pod, node, &mut plan));
    }
    plan
}

/// The node that a pod is on, if there is no such node.
fn lost_node(world: &World, pod: &Pod) -> Option<String> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    world.nodes.get("", &node).is_none().then_some(node)
}

/// Deletes a pod at once: there is no kubelet that would end its containers.
fn abandon(pod: &Pod, node: String, plan: &mut Plan) {
    let resource = ApiResource::erase::<Node>(&());
    let node = Target { resource, namespace: None, name: node, uid: None, resource_version: None };
    let then = Op::Delete(Target::of(pod), Deletion::Now);
    plan.act(COMPONENT, pod, Op::IfAbsent { owners: vec![node], then: Box::new(then) });
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;

    #[test]
    fn pods_of_a_node_that_is_gone_are_deleted() {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: NAME}, spec: {nodeName: WHERE, containers: []}}";
        let mut cluster = Cluster::new(&pod.replace("NAME", "here").replace("WHERE", "node"));
        cluster.apply(&pod.replace("NAME", "lost").replace("WHERE", "elsewhere"));
        cluster.converge();
        assert_eq!(cluster.names("pods"), ["here"]);
    }
}
