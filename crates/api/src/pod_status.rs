//! A pod's state in one word, as kubectl's STATUS column says it.

use serde_json::Value;

use super::object::{self, integer, items, text};
use super::table::age;

/// The STATUS column.
pub(crate) fn summary(pod: &Value) -> String {
    let phase = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let state = starting(pod).unwrap_or_else(|| running(pod, phase));
    match (object::is_deleting(pod), text(pod, "/status/reason")) {
        (true, "NodeLost") => "Unknown".to_owned(),
        (true, _) if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") => "Terminating".to_owned(),
        _ => state,
    }
}

/// Why init containers are not done yet, if they are not.
fn starting(pod: &Value) -> Option<String> {
    let specs = items(pod, "/spec/initContainers");
    for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = specs.iter().any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always");
        let state = &status["state"];
        if integer(state, "/terminated/exitCode") == Some(0) || (sidecar && status["started"] == true) {
            continue;
        }
        return Some(match (&state["terminated"], text(state, "/waiting/reason")) {
            (Value::Null, "" | "PodInitializing") => format!("Init:{index}/{}", specs.len()),
            (Value::Null, reason) => format!("Init:{reason}"),
            (terminated, _) => format!("Init:{}", ended(terminated)),
        });
    }
    None
}

/// What the containers say; the first of them has the last word.
fn running(pod: &Value, phase: String) -> String {
    let (mut said, mut some_running) = (phase, false);
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        let state = &status["state"];
        match (text(state, "/waiting/reason"), &state["terminated"]) {
            ("", Value::Null) => some_running |= status["ready"] == true && !state["running"].is_null(),
            ("", terminated) => said = ended(terminated),
            (reason, _) => said = reason.to_owned(),
        }
    }
    if said == "Completed" && some_running {
        let ready = items(pod, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        return if ready { "Running" } else { "NotReady" }.to_owned();
    }
    said
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), integer(terminated, "/signal").unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "/exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The RESTARTS column.
pub(crate) fn restarts(pod: &Value) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().filter_map(|s| integer(s, "/restartCount")).sum();
    let last = statuses.iter().map(|s| text(s, "/lastState/terminated/finishedAt")).max().unwrap_or_default();
    if count > 0 && !last.is_empty() { format!("{count} ({} ago)", age(last)) } else { count.to_string() }
}
