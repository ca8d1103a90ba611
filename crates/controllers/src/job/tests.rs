use serde_json::json;

use super::super::fixtures::Cluster;

fn job(spec: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{ name: pi }}
spec:
  {spec}
  template:
    metadata: {{ labels: {{ app: pi }} }}
    spec: {{ restartPolicy: Never, containers: [{{ name: pi, image: pi }}] }}
"
    )
}

/// The names of the pods that run.
fn running(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods().into_iter().filter(super::pods::is_active);
    pods.map(|pod| pod.metadata.name.unwrap()).collect()
}

fn end_all(cluster: &mut Cluster, phase: &str) {
    for name in running(cluster) {
        cluster.set_pod(&name, phase, false);
    }
    cluster.settle();
}

fn condition(cluster: &Cluster) -> (String, String) {
    let conditions = cluster.get("jobs/pi", "/status/conditions");
    let last = conditions.as_array().and_then(|all| all.last().cloned()).unwrap_or_default();
    (last["type"].as_str().unwrap_or_default().to_owned(), last["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_job_completes_when_enough_pods_succeeded() {
    let mut cluster = Cluster::new(&job("completions: 3\n  parallelism: 2"));
    cluster.settle();
    assert_eq!(running(&cluster).len(), 2);
    end_all(&mut cluster, "Succeeded");
    assert_eq!(running(&cluster).len(), 1);
    assert_eq!(cluster.get("jobs/pi", "/status/succeeded"), json!(2));
    end_all(&mut cluster, "Succeeded");
    assert_eq!(condition(&cluster), ("Complete".into(), "CompletionsReached".into()));
    assert_eq!(cluster.get("jobs/pi", "/status/succeeded"), json!(3));
    assert!(cluster.get("jobs/pi", "/status/completionTime").is_string());
    assert!(cluster.events.contains(&"Completed: Job completed".to_owned()));
    assert!(!cluster.pods().iter().any(super::pod::is_tracked));
}

#[test]
fn failures_are_retried_with_growing_delays_up_to_the_limit() {
    let mut cluster = Cluster::new(&job("backoffLimit: 1"));
    cluster.settle();
    end_all(&mut cluster, "Failed");
    assert_eq!(running(&cluster).len(), 0, "a failure is followed by a delay");
    cluster.pass(10);
    assert_eq!(running(&cluster).len(), 1);
    end_all(&mut cluster, "Failed");
    assert_eq!(condition(&cluster), ("Failed".into(), "BackoffLimitExceeded".into()));
    assert_eq!(cluster.get("jobs/pi", "/status/failed"), json!(2));
    assert!(cluster.events.contains(&"BackoffLimitExceeded: Job has reached the specified backoff limit".to_owned()));
}

#[test]
fn a_job_fails_at_its_deadline_and_its_pods_end() {
    let mut cluster = Cluster::new(&job("activeDeadlineSeconds: 30"));
    cluster.converge();
    cluster.pass(31);
    assert!(cluster.pods()[0].metadata.deletion_timestamp.is_some());
    cluster.converge();
    assert_eq!(condition(&cluster), ("Failed".into(), "DeadlineExceeded".into()));
}

#[test]
fn an_ended_job_is_deleted_after_its_time_to_live() {
    let mut cluster = Cluster::new(&job("ttlSecondsAfterFinished: 60"));
    cluster.settle();
    end_all(&mut cluster, "Succeeded");
    cluster.pass(59);
    assert_eq!(cluster.names("jobs"), ["pi"]);
    cluster.pass(1);
    cluster.converge();
    assert_eq!(cluster.names("jobs").len() + cluster.names("pods").len(), 0);
}

#[test]
fn an_indexed_job_runs_every_index_until_it_succeeded() {
    let mut cluster = Cluster::new(&job("completionMode: Indexed\n  completions: 3\n  parallelism: 3"));
    cluster.settle();
    let mut names = running(&cluster);
    names.sort();
    assert!(names[1].starts_with("pi-1-"));
    assert_eq!(cluster.get(&format!("pods/{}", names[1]), "/spec/hostname"), json!("pi-1"));
    cluster.set_pod(&names[0], "Succeeded", false);
    cluster.set_pod(&names[1], "Failed", false);
    cluster.set_pod(&names[2], "Succeeded", false);
    cluster.settle();
    assert_eq!(cluster.get("jobs/pi", "/status/completedIndexes"), json!("0,2"));
    cluster.pass(10);
    assert!(running(&cluster)[0].starts_with("pi-1-"));
    end_all(&mut cluster, "Succeeded");
    assert_eq!(cluster.get("jobs/pi", "/status/completedIndexes"), json!("0-2"));
    assert_eq!(condition(&cluster).0, "Complete");
}

#[test]
fn a_suspended_job_has_no_pods_until_it_is_resumed() {
    let mut cluster = Cluster::new(&job("suspend: true"));
    cluster.settle();
    assert_eq!(cluster.pods().len(), 0);
    assert_eq!(condition(&cluster), ("Suspended".into(), "JobSuspended".into()));
    cluster.apply(&job("suspend: false"));
    cluster.settle();
    assert_eq!(running(&cluster).len(), 1);
    assert!(cluster.events.contains(&"Resumed: Job resumed".to_owned()));
}

#[test]
fn a_deleted_job_leaves_no_pod_behind() {
    let mut cluster = Cluster::new(&job("parallelism: 2"));
    cluster.converge();
    cluster.request_deletion("jobs/pi", None);
    cluster.converge();
    assert_eq!(cluster.names("pods").len(), 0);
}
