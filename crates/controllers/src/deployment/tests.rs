use serde_json::{Value, json};

use super::super::fixtures::Cluster;
use super::rolling::{Bounds, scaled};

fn web(replicas: u32, image: &str, strategy: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web, annotations: {{ team: blue }} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: web }} }}
  strategy: {strategy}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec: {{ containers: [{{ name: web, image: {image} }}] }}
"
    )
}

const ROLLING: &str = "{ type: RollingUpdate, rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } }";

fn deployment(cluster: &Cluster, pointer: &str) -> Value {
    cluster.get("deployments/web", pointer)
}

fn condition(cluster: &Cluster, kind: &str) -> (String, String) {
    let all = deployment(cluster, "/status/conditions");
    let found = all.as_array().unwrap().iter().find(|it| it["type"] == kind).unwrap();
    (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
}

/// `spec.replicas` of the ReplicaSets by the image of their template.
fn sizes(cluster: &Cluster) -> Vec<(String, i32)> {
    let image = |set: &k8s_openapi::api::apps::v1::ReplicaSet| {
        let template = set.spec.clone().unwrap().template.unwrap();
        template.spec.unwrap().containers[0].image.clone().unwrap()
    };
    let mut sizes: Vec<_> = cluster.world.replica_sets.iter().map(|set| (image(set), super::replicas(set))).collect();
    sizes.sort();
    sizes
}

fn size(cluster: &Cluster, image: &str) -> i32 {
    sizes(cluster).into_iter().find(|(it, _)| it == image).map_or(0, |(_, size)| size)
}

#[test]
fn a_new_deployment_becomes_available_and_complete() {
    let mut cluster = Cluster::new(&web(2, "v1", ROLLING));
    cluster.settle();
    assert_eq!(condition(&cluster, "Available"), ("False".into(), "MinimumReplicasUnavailable".into()));
    assert_eq!(deployment(&cluster, "/metadata/annotations/deployment.kubernetes.io~1revision"), json!("1"));
    cluster.converge();
    assert_eq!(cluster.pods().len(), 2);
    assert_eq!(condition(&cluster, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&cluster, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(deployment(&cluster, "/status/availableReplicas"), json!(2));
    assert_eq!(deployment(&cluster, "/status/observedGeneration"), deployment(&cluster, "/metadata/generation"));
    let set = &cluster.names("replicasets")[0];
    assert!(cluster.events.contains(&format!("ScalingReplicaSet: Scaled up replica set {set} from 0 to 2")));
    assert_eq!(cluster.get(&format!("replicasets/{set}"), "/metadata/annotations/team"), json!("blue"));
    let hash = cluster.get(&format!("replicasets/{set}"), "/spec/selector/matchLabels/pod-template-hash");
    assert_eq!(json!(set), json!(format!("web-{}", hash.as_str().unwrap())));
}

#[test]
fn a_rolling_update_never_exceeds_its_surge_nor_falls_below_availability() {
    let mut cluster = Cluster::new(&web(4, "v1", ROLLING));
    cluster.converge();
    cluster.apply(&web(4, "v2", ROLLING));
    cluster.settle();
    let mut steps = 0;
    while size(&cluster, "v1") > 0 || size(&cluster, "v2") < 4 {
        let pods = cluster.pods();
        let active = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count();
        let ready = pods.iter().filter(|pod| crate::pods::is_ready(pod)).count();
        assert!(active <= 5 && ready >= 4, "{active} active, {ready} ready");
        cluster.run_pods();
        steps += 1;
        assert!(steps < 30, "{:?}", sizes(&cluster));
    }
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 0), ("v2".into(), 4)]);
    assert_eq!(deployment(&cluster, "/metadata/annotations/deployment.kubernetes.io~1revision"), json!("2"));
    assert_eq!(condition(&cluster, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut cluster = Cluster::new(&web(2, "v1", "{ type: Recreate }"));
    cluster.converge();
    cluster.apply(&web(2, "v2", "{ type: Recreate }"));
    cluster.settle();
    assert_eq!(sizes(&cluster), [("v1".into(), 0)]);
    assert_eq!(cluster.pods().len(), 2, "terminating");
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 0), ("v2".into(), 2)]);
}

#[test]
fn undo_gives_the_old_replica_set_the_next_revision_and_notes_its_history() {
    let mut cluster = Cluster::new(&web(1, "v1", ROLLING));
    cluster.converge();
    let first = cluster.names("replicasets")[0].clone();
    cluster.apply(&web(1, "v2", ROLLING));
    cluster.converge();
    cluster.apply(&web(1, "v1", ROLLING));
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 1), ("v2".into(), 0)]);
    let annotations = cluster.get(&format!("replicasets/{first}"), "/metadata/annotations");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(deployment(&cluster, "/metadata/annotations/deployment.kubernetes.io~1revision"), json!("3"));
}

#[test]
fn a_rollout_without_progress_times_out_and_says_so() {
    let mut cluster = Cluster::new(&web(1, "v1", ROLLING));
    cluster.settle();
    cluster.pass(599);
    assert_eq!(condition(&cluster, "Progressing").0, "True");
    cluster.pass(2);
    assert_eq!(condition(&cluster, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    cluster.converge();
    assert_eq!(condition(&cluster, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut cluster = Cluster::new(&web(1, "v1", ROLLING));
    cluster.converge();
    cluster.apply(&web(3, "v2", ROLLING).replace("  replicas", "  paused: true\n  replicas"));
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 3)]);
    assert_eq!(condition(&cluster, "Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    cluster.apply(&web(3, "v2", ROLLING).replace("  replicas", "  paused: false\n  replicas"));
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 0), ("v2".into(), 3)]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let strategy = "{ type: RollingUpdate, rollingUpdate: { maxSurge: 3, maxUnavailable: 2 } }";
    let mut cluster = Cluster::new(&web(10, "v1", strategy));
    cluster.converge();
    cluster.apply(&web(10, "v2", strategy));
    cluster.settle();
    assert_eq!(sizes(&cluster), [("v1".into(), 8), ("v2".into(), 5)]);
    cluster.apply(&web(15, "v2", strategy));
    cluster.settle();
    // The documented example of Kubernetes: of five more, three go to the old and two to the new ReplicaSet.
    assert_eq!(sizes(&cluster), [("v1".into(), 11), ("v2".into(), 7)]);
    cluster.converge();
    assert_eq!(sizes(&cluster), [("v1".into(), 0), ("v2".into(), 15)]);
}

#[test]
fn the_history_is_kept_within_its_limit() {
    let mut cluster = Cluster::new("");
    for image in ["v1", "v2", "v3", "v4"] {
        cluster.apply(&web(1, image, ROLLING).replace("  replicas", "  revisionHistoryLimit: 2\n  replicas"));
        cluster.converge();
    }
    assert_eq!(sizes(&cluster), [("v2".into(), 0), ("v3".into(), 0), ("v4".into(), 1)]);
}

#[test]
fn a_deployment_adopts_matching_replica_sets_and_replica_sets_adopt_matching_pods() {
    let mut cluster = Cluster::new(&web(2, "v1", ROLLING));
    cluster.converge();
    let (set, pods) = (cluster.names("replicasets"), cluster.names("pods"));
    cluster.request_deletion("deployments/web", Some("orphan"));
    cluster.settle();
    assert_eq!(cluster.names("deployments"), Vec::<String>::new());
    assert_eq!(cluster.names("replicasets"), set);
    cluster.request_deletion(&format!("replicasets/{}", set[0]), Some("orphan"));
    cluster.settle();
    assert_eq!(cluster.names("pods"), pods);
    let labels = cluster.get(&format!("pods/{}", pods[0]), "/metadata/labels");
    cluster.apply(&web(2, "v1", ROLLING));
    cluster.converge();
    // The pods have the hash label of the same template, so the new ReplicaSet takes them.
    assert_eq!(cluster.names("pods"), pods);
    assert_eq!(cluster.get(&format!("pods/{}", pods[0]), "/metadata/labels"), labels);
}

#[test]
fn deletion_in_the_foreground_ends_pods_before_their_owners() {
    let mut cluster = Cluster::new(&web(2, "v1", ROLLING));
    cluster.converge();
    cluster.request_deletion("deployments/web", Some("foregroundDeletion"));
    cluster.settle();
    assert_eq!(cluster.names("deployments"), ["web"]);
    assert!(cluster.pods().iter().all(|pod| pod.metadata.deletion_timestamp.is_some()));
    cluster.run_pods();
    cluster.settle();
    assert_eq!(
        cluster.names("pods").len() + cluster.names("replicasets").len() + cluster.names("deployments").len(),
        0
    );
}

#[test]
fn deletion_in_the_background_leaves_nothing() {
    let mut cluster = Cluster::new(&web(2, "v1", ROLLING));
    cluster.converge();
    cluster.request_deletion("deployments/web", None);
    cluster.converge();
    assert_eq!(cluster.names("pods").len() + cluster.names("replicasets").len(), 0);
}

#[test]
fn percentages_round_up_for_surge_and_down_for_unavailability() {
    let percent = |text: &str| Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(text.to_owned()));
    assert_eq!(scaled(percent("25%").as_ref(), 10, true), 3);
    assert_eq!(scaled(percent("25%").as_ref(), 10, false), 2);
    assert_eq!(scaled(None, 3, true), 1);
    let bounds = Bounds::of(&k8s_openapi::api::apps::v1::DeploymentSpec { replicas: Some(1), ..Default::default() });
    assert_eq!((bounds.surge, bounds.unavailable), (1, 0));
}
