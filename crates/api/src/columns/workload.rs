//! The columns of pods and of what makes them.

use serde_json::{Value, json};

use super::super::object::{self, integer, items, text};
use super::super::pod_status;
use super::super::scale::selector_text;
use super::super::table::{age, duration, or_none, pairs};
use super::{Column, column, count, created, joined, number, wide};

fn ratio(value: &Value, some: &str, all: &str) -> Value {
    json!(format!("{}/{}", number(value, some), number(value, all)))
}

fn container_texts(object: &Value, pointer: &str, field: &str) -> Value {
    joined(items(object, pointer).iter().map(|container| container[field].as_str().unwrap_or_default()), ",")
}

/// Names and images of the containers that a template at the usual place has, and the selector of their pods.
fn of_template() -> [Column; 3] {
    const CONTAINERS: &str = "/spec/template/spec/containers";
    [
        wide("Containers", |o| container_texts(o, CONTAINERS, "name")),
        wide("Images", |o| container_texts(o, CONTAINERS, "image")),
        wide("Selector", |o| json!(or_none(selector_text(&o["spec"]["selector"])))),
    ]
}

fn with_template(mut columns: Vec<Column>) -> Vec<Column> {
    columns.push(column("Age", created));
    columns.extend(of_template());
    columns
}

pub(super) fn deployments() -> Vec<Column> {
    with_template(vec![
        column("Ready", |o| ratio(o, "/status/readyReplicas", "/spec/replicas")),
        count("Up-to-date", |o| json!(number(o, "/status/updatedReplicas"))),
        count("Available", |o| json!(number(o, "/status/availableReplicas"))),
    ])
}

/// ReplicaSets and ReplicationControllers.
pub(super) fn replicated() -> Vec<Column> {
    with_template(vec![
        count("Desired", |o| json!(number(o, "/spec/replicas"))),
        count("Current", |o| json!(number(o, "/status/replicas"))),
        count("Ready", |o| json!(number(o, "/status/readyReplicas"))),
    ])
}

pub(super) fn stateful_sets() -> Vec<Column> {
    let [containers, images, _] = of_template();
    let ready = column("Ready", |o| ratio(o, "/status/readyReplicas", "/spec/replicas"));
    vec![ready, column("Age", created), containers, images]
}

pub(super) fn daemon_sets() -> Vec<Column> {
    with_template(vec![
        count("Desired", |o| json!(number(o, "/status/desiredNumberScheduled"))),
        count("Current", |o| json!(number(o, "/status/currentNumberScheduled"))),
        count("Ready", |o| json!(number(o, "/status/numberReady"))),
        count("Up-to-date", |o| json!(number(o, "/status/updatedNumberScheduled"))),
        count("Available", |o| json!(number(o, "/status/numberAvailable"))),
        column("Node Selector", |o| json!(pairs(&o["spec"]["template"]["spec"]["nodeSelector"]))),
    ])
}

pub(super) fn jobs() -> Vec<Column> {
    with_template(vec![
        column("Status", job_status),
        column("Completions", |o| match integer(o, "/spec/completions") {
            Some(all) => json!(format!("{}/{all}", number(o, "/status/succeeded"))),
            None => json!(format!("{}/1 of {}", number(o, "/status/succeeded"), number(o, "/spec/parallelism"))),
        }),
        column("Duration", job_duration),
    ])
}

pub(super) fn cron_jobs() -> Vec<Column> {
    const CONTAINERS: &str = "/spec/jobTemplate/spec/template/spec/containers";
    vec![
        column("Schedule", |o| json!(text(o, "/spec/schedule"))),
        column("Timezone", |o| json!(or_none(text(o, "/spec/timeZone").to_owned()))),
        column("Suspend", |o| json!(if o["spec"]["suspend"] == true { "True" } else { "False" })),
        count("Active", |o| json!(items(o, "/status/active").len())),
        column("Last Schedule", |o| match text(o, "/status/lastScheduleTime") {
            "" => json!("<none>"),
            at => json!(age(at)),
        }),
        column("Age", created),
        wide("Containers", |o| container_texts(o, CONTAINERS, "name")),
        wide("Images", |o| container_texts(o, CONTAINERS, "image")),
        wide("Selector", |o| json!(or_none(selector_text(&o["spec"]["jobTemplate"]["spec"]["selector"])))),
    ]
}

pub(super) fn templates() -> Vec<Column> {
    const CONTAINERS: &str = "/template/spec/containers";
    vec![
        column("Containers", |o| container_texts(o, CONTAINERS, "name")),
        column("Images", |o| container_texts(o, CONTAINERS, "image")),
        column("Pod Labels", |o| json!(pairs(&o["template"]["metadata"]["labels"]))),
    ]
}

pub(super) fn revisions() -> Vec<Column> {
    vec![
        column("Controller", |o| {
            let owners = items(o, "/metadata/ownerReferences").iter();
            let controller = owners
                .filter(|owner| owner["controller"] == true)
                .map(|owner| format!("{}/{}", text(owner, "/kind").to_lowercase(), text(owner, "/name")));
            json!(or_none(controller.collect()))
        }),
        column("Revision", |o| json!(number(o, "/revision"))),
        column("Age", created),
    ]
}

pub(super) fn pods() -> Vec<Column> {
    vec![
        column("Ready", |o| {
            // Sidecars are containers as others are; init containers that end are not.
            let sidecars = items(o, "/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always");
            let counted: Vec<&Value> = sidecars.chain(items(o, "/spec/containers")).map(|c| &c["name"]).collect();
            let statuses = ["/status/initContainerStatuses", "/status/containerStatuses"];
            let ready = statuses.iter().flat_map(|list| items(o, list));
            let ready = ready.filter(|s| s["ready"] == true && counted.contains(&&s["name"])).count();
            json!(format!("{ready}/{}", counted.len()))
        }),
        column("Status", |o| json!(pod_status::summary(o))),
        column("Restarts", |o| json!(pod_status::restarts(o))),
        column("Age", created),
        wide("IP", |o| json!(or_none(text(o, "/status/podIP").to_owned()))),
        wide("Node", |o| json!(or_none(text(o, "/spec/nodeName").to_owned()))),
        wide("Nominated Node", |o| json!(or_none(text(o, "/status/nominatedNodeName").to_owned()))),
        wide("Readiness Gates", |_| json!("<none>")),
    ]
}

fn job_status(job: &Value) -> Value {
    let holds =
        |kind: &str| items(job, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True");
    let status = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    ];
    let found = status.iter().find(|(kind, _)| holds(kind)).map_or("Running", |(_, said)| said);
    json!(if object::is_deleting(job) { "Terminating" } else { found })
}

fn job_duration(job: &Value) -> Value {
    let at = |pointer: &str| text(job, pointer).parse::<jiff::Timestamp>().ok();
    let Some(start) = at("/status/startTime") else { return json!("") };
    let end = at("/status/completionTime").unwrap_or_else(jiff::Timestamp::now);
    json!(duration(end.duration_since(start).as_secs()))
}
