use serde_json::json;

use super::super::fixtures::Cluster;

fn db(replicas: u32, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: db }}
spec:
  replicas: {replicas}
  serviceName: db
  selector: {{ matchLabels: {{ app: db }} }}
  {more}
  template:
    metadata: {{ labels: {{ app: db }} }}
    spec: {{ containers: [{{ name: db, image: {image} }}] }}
"
    )
}

fn images(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods().into_iter();
    pods.map(|pod| pod.spec.unwrap().containers[0].image.clone().unwrap()).collect()
}

#[test]
fn pods_come_one_after_the_other_with_stable_names() {
    let mut cluster = Cluster::new(&db(3, "v1", ""));
    cluster.settle();
    assert_eq!(cluster.names("pods"), ["db-0"]);
    cluster.run_pods();
    assert_eq!(cluster.names("pods"), ["db-0", "db-1"]);
    cluster.converge();
    assert_eq!(cluster.names("pods"), ["db-0", "db-1", "db-2"]);
    assert_eq!(cluster.get("pods/db-1", "/spec/hostname"), json!("db-1"));
    assert_eq!(cluster.get("pods/db-1", "/spec/subdomain"), json!("db"));
    assert_eq!(cluster.get("pods/db-1", "/metadata/labels/apps.kubernetes.io~1pod-index"), json!("1"));
    assert_eq!(cluster.get("statefulsets/db", "/status/availableReplicas"), json!(3));
    let revision = cluster.get("statefulsets/db", "/status/currentRevision");
    assert_eq!(cluster.get("pods/db-2", "/metadata/labels/controller-revision-hash"), revision);
    assert!(cluster.events.contains(&"SuccessfulCreate: create Pod db-0 in StatefulSet db successful".to_owned()));
}

#[test]
fn parallel_sets_start_all_pods_at_once() {
    let mut cluster = Cluster::new(&db(3, "v1", "podManagementPolicy: Parallel"));
    cluster.settle();
    assert_eq!(cluster.names("pods").len(), 3);
}

#[test]
fn scaling_down_ends_the_highest_ordinal_first_and_one_at_a_time() {
    let mut cluster = Cluster::new(&db(3, "v1", ""));
    cluster.converge();
    cluster.apply(&db(1, "v1", ""));
    cluster.settle();
    let ending: Vec<_> = cluster.pods().into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).collect();
    assert_eq!(ending.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect::<Vec<_>>(), ["db-2"]);
    cluster.converge();
    assert_eq!(cluster.names("pods"), ["db-0"]);
}

#[test]
fn an_update_goes_from_the_highest_ordinal_down_to_the_partition() {
    let partition = "updateStrategy: { type: RollingUpdate, rollingUpdate: { partition: 1 } }";
    let mut cluster = Cluster::new(&db(3, "v1", partition));
    cluster.converge();
    cluster.apply(&db(3, "v2", partition));
    cluster.settle();
    assert!(cluster.get("pods/db-2", "/metadata/deletionTimestamp").is_string());
    assert!(cluster.get("pods/db-1", "/metadata/deletionTimestamp").is_null());
    cluster.converge();
    assert_eq!(images(&cluster), ["v1", "v2", "v2"]);
    let status = cluster.get("statefulsets/db", "/status");
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    assert_eq!((&status["currentReplicas"], &status["updatedReplicas"]), (&json!(1), &json!(2)));
    cluster.request_deletion("pods/db-0", None);
    cluster.converge();
    assert_eq!(images(&cluster), ["v1", "v2", "v2"], "a pod below the partition comes back as it was");
    cluster.apply(&db(3, "v2", &partition.replace('1', "0")));
    cluster.converge();
    assert_eq!(images(&cluster), ["v2", "v2", "v2"]);
    let status = cluster.get("statefulsets/db", "/status");
    assert_eq!(status["currentRevision"], status["updateRevision"]);
}

#[test]
fn on_delete_updates_only_what_is_deleted() {
    let strategy = "updateStrategy: { type: OnDelete }";
    let mut cluster = Cluster::new(&db(2, "v1", strategy));
    cluster.converge();
    cluster.apply(&db(2, "v2", strategy));
    cluster.converge();
    assert_eq!(images(&cluster), ["v1", "v1"]);
    cluster.request_deletion("pods/db-0", None);
    cluster.converge();
    assert_eq!(images(&cluster), ["v2", "v1"]);
}

#[test]
fn going_back_to_a_template_raises_its_revision_instead_of_adding_one() {
    let mut cluster = Cluster::new("");
    for image in ["v1", "v2", "v1"] {
        cluster.apply(&db(1, image, ""));
        cluster.converge();
    }
    let revisions = cluster.names("controllerrevisions");
    assert_eq!(revisions.len(), 2);
    let number = |name: &String| cluster.get(&format!("controllerrevisions/{name}"), "/revision");
    assert_eq!(revisions.iter().map(number).collect::<Vec<_>>(), [json!(3), json!(2)]);
    let patch = cluster.get(&format!("controllerrevisions/{}", revisions[0]), "/data/spec/template/$patch");
    assert_eq!(patch, json!("replace"));
}

#[test]
fn every_pod_has_its_own_claims_which_outlive_it() {
    let claims = "volumeClaimTemplates: [{ metadata: { name: data }, spec: { accessModes: [ReadWriteOnce] } }]";
    let mut cluster = Cluster::new(&db(2, "v1", claims));
    cluster.converge();
    assert_eq!(cluster.names("persistentvolumeclaims"), ["data-db-0", "data-db-1"]);
    assert_eq!(cluster.get("pods/db-1", "/spec/volumes/0/persistentVolumeClaim/claimName"), json!("data-db-1"));
    cluster.apply(&db(0, "v1", claims));
    cluster.converge();
    assert_eq!(cluster.names("persistentvolumeclaims").len(), 2);
}
