//! A pod's status, as a function of the pod and of what runs of it.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::context::PROXY_CONTAINER;
use super::state::{ContainerState, MeshState, Phase, PodState, Terminated, Waiting};

/// The condition that tells of the pod's proxy.
const PROXY_READY: &str = "heddle.dev/ProxyReady";
/// Reason and message of a pod that was active for too long, as in Kubernetes.
pub(super) const OVERDUE: &str = "DeadlineExceeded";
pub(super) const OVERDUE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The status of `pod`. Conditions that the kubelet does not own are kept, and so is the time of a transition where
/// there was none.
pub(super) fn pod_status(pod: &core::Pod, state: &PodState, host_ip: Ipv4Addr, now: Timestamp) -> core::PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let known = pod.status.clone().unwrap_or_default();
    let ip = state.ip.map(|ip| ip.to_string());
    let why = if state.overdue { Some(Waiting::new(OVERDUE, OVERDUE_MESSAGE)) } else { state.blocked.clone() };
    core::PodStatus {
        phase: Some(phase(state, &spec).to_owned()),
        conditions: Some(conditions(pod, state, now)),
        init_container_statuses: present(state.init.iter().map(container_status).collect()),
        ephemeral_container_statuses: present(proxy_status(state).into_iter().collect()),
        container_statuses: Some(state.containers.iter().map(container_status).collect()),
        host_ip: Some(host_ip.to_string()),
        host_ips: Some(vec![core::HostIP { ip: host_ip.to_string() }]),
        pod_ips: ip.clone().map(|ip| vec![core::PodIP { ip }]),
        pod_ip: ip,
        qos_class: Some(qos_class(&spec).to_owned()),
        start_time: state.started_at.map(Time).or(known.start_time),
        message: why.as_ref().and_then(|why| why.message.clone()),
        reason: why.map(|why| why.reason.to_owned()),
        observed_generation: known.observed_generation,
        nominated_node_name: known.nominated_node_name,
        ..core::PodStatus::default()
    }
}

/// `Pending`, `Running`, `Succeeded` or `Failed`, as Kubernetes defines them. A pod that the node interrupts has not
/// ended.
pub(super) fn phase(state: &PodState, spec: &core::PodSpec) -> &'static str {
    let never = spec.restart_policy.as_deref() == Some("Never");
    let always = !matches!(spec.restart_policy.as_deref(), Some("Never" | "OnFailure"));
    let failed = |container: &ContainerState| container.ended().is_some_and(|end| end.code != 0);
    if state.overdue {
        return "Failed";
    }
    if never && !state.interrupted && state.init.iter().any(|init| !init.sidecar && failed(init)) {
        return "Failed";
    }
    if !initialized(state) {
        return "Pending";
    }
    let ended = state.containers.iter().all(|container| container.ended().is_some());
    if ended && !always && !state.interrupted {
        return if state.containers.iter().any(failed) { "Failed" } else { "Succeeded" };
    }
    let ran = |container: &ContainerState| !matches!(container.current, Phase::Waiting(_)) || container.last.is_some();
    if state.containers.iter().any(ran) { "Running" } else { "Pending" }
}

/// Every init container has done its part: regular ones have succeeded, sidecars have started.
fn initialized(state: &PodState) -> bool {
    let done = |init: &ContainerState| match init.sidecar {
        true => init.started || init.ended().is_some(),
        false => init.ended().is_some_and(|end| end.code == 0),
    };
    state.init.iter().all(done)
}

fn conditions(pod: &core::Pod, state: &PodState, now: Timestamp) -> Vec<core::PodCondition> {
    let spec = pod.spec.clone().unwrap_or_default();
    let known = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let finished = matches!(phase(state, &spec), "Succeeded" | "Failed");
    let mut conditions = known.clone();
    let mut set = |kind: &str, holds: Result<(), (&str, String)>| {
        let before = known.iter().find(|condition| condition.type_ == kind);
        let condition = condition(kind, &holds, before, now);
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(condition);
    };
    let network = if state.ip.is_some() { Ok(()) } else { Err(("NoNetwork", String::new())) };
    set("PodReadyToStartContainers", if finished { Err(("PodCompleted", String::new())) } else { network });
    set(
        "Initialized",
        if initialized(state) { Ok(()) } else { Err(("ContainersNotInitialized", waiting_for_init(state))) },
    );
    if let Some(mesh) = mesh_condition(&state.mesh) {
        set(PROXY_READY, mesh);
    }
    let ready = containers_ready(state, finished);
    set("ContainersReady", ready.clone());
    set("Ready", ready.and_then(|()| gates_hold(&spec, &known)));
    conditions
}

fn condition(
    kind: &str,
    holds: &Result<(), (&str, String)>,
    before: Option<&core::PodCondition>,
    now: Timestamp,
) -> core::PodCondition {
    let status = if holds.is_ok() { "True" } else { "False" };
    let unchanged =
        before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
    core::PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: holds.as_ref().err().map(|(reason, _)| (*reason).to_owned()),
        message: holds.as_ref().err().map(|(_, message)| message.clone()).filter(|message| !message.is_empty()),
        last_transition_time: Some(unchanged.unwrap_or(Time(now))),
        ..core::PodCondition::default()
    }
}

fn mesh_condition(mesh: &MeshState) -> Option<Result<(), (&'static str, String)>> {
    match mesh {
        MeshState::Outside => None,
        MeshState::Starting(why) => Some(Err(("ProxyStarting", why.clone()))),
        MeshState::Ready { .. } => Some(Ok(())),
        MeshState::Failed(why) => Some(Err(("ProxyFailed", why.clone()))),
    }
}

/// The proxy is shown as an ephemeral container: it is not of the pod's making, and does not count as one of its
/// containers.
fn proxy_status(state: &PodState) -> Option<core::ContainerStatus> {
    let current = match &state.mesh {
        MeshState::Outside => return None,
        MeshState::Starting(why) => Phase::Waiting(Waiting::new("ProxyStarting", why.clone())),
        MeshState::Ready { since } => Phase::Running { since: *since, id: String::new() },
        MeshState::Failed(why) => Phase::Waiting(Waiting::new("ProxyFailed", why.clone())),
    };
    Some(core::ContainerStatus {
        name: PROXY_CONTAINER.to_owned(),
        image: "heddle".to_owned(),
        ready: matches!(state.mesh, MeshState::Ready { .. }),
        restart_count: state.proxy_restarts,
        state: Some(container_state(&current)),
        ..core::ContainerStatus::default()
    })
}

fn containers_ready(state: &PodState, finished: bool) -> Result<(), (&'static str, String)> {
    if finished {
        return Err(("PodCompleted", String::new()));
    }
    let sidecars = state.init.iter().filter(|init| init.sidecar);
    let unready: Vec<_> = sidecars.chain(&state.containers).filter(|container| !container.ready).collect();
    if unready.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = unready.iter().map(|container| container.name.as_str()).collect();
    Err(("ContainersNotReady", format!("containers with unready status: [{}]", names.join(" "))))
}

fn gates_hold(spec: &core::PodSpec, known: &[core::PodCondition]) -> Result<(), (&'static str, String)> {
    let holds = |kind: &str| known.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    match spec.readiness_gates.iter().flatten().find(|gate| !holds(&gate.condition_type)) {
        None => Ok(()),
        Some(gate) => {
            Err(("ReadinessGatesNotReady", format!("the readiness gate {} is not True", gate.condition_type)))
        }
    }
}

fn waiting_for_init(state: &PodState) -> String {
    let incomplete = state.init.iter().filter(|init| !(init.sidecar && init.started));
    let names: Vec<_> =
        incomplete.filter(|init| init.ended().is_none_or(|end| end.code != 0)).map(|init| init.name.as_str()).collect();
    format!("containers with incomplete status: [{}]", names.join(" "))
}

fn container_status(container: &ContainerState) -> core::ContainerStatus {
    let id = match &container.current {
        Phase::Running { id, .. } => Some(id.clone()),
        Phase::Terminated(end) => Some(end.id.clone()),
        Phase::Waiting(_) => container.last.as_ref().map(|end| end.id.clone()),
    };
    core::ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: String::new(),
        container_id: id.filter(|id| !id.is_empty()),
        ready: container.ready,
        started: Some(container.started),
        restart_count: container.restarts,
        state: Some(container_state(&container.current)),
        last_state: container
            .last
            .as_ref()
            .map(|end| core::ContainerState { terminated: Some(terminated(end)), ..core::ContainerState::default() }),
        ..core::ContainerStatus::default()
    }
}

fn container_state(phase: &Phase) -> core::ContainerState {
    let mut state = core::ContainerState::default();
    match phase {
        Phase::Waiting(Waiting { reason, message }) => {
            let reason = Some((*reason).to_owned());
            state.waiting = Some(core::ContainerStateWaiting { reason, message: message.clone() });
        }
        Phase::Running { since, .. } => {
            state.running = Some(core::ContainerStateRunning { started_at: Some(Time(*since)) });
        }
        Phase::Terminated(end) => state.terminated = Some(terminated(end)),
    }
    state
}

fn terminated(end: &Terminated) -> core::ContainerStateTerminated {
    core::ContainerStateTerminated {
        exit_code: end.code,
        signal: end.signal,
        reason: Some(end.reason.clone()),
        message: end.message.clone(),
        started_at: end.started_at.map(Time),
        finished_at: Some(Time(end.finished_at)),
        container_id: Some(end.id.clone()).filter(|id| !id.is_empty()),
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of all containers.
pub(super) fn qos_class(spec: &core::PodSpec) -> &'static str {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let resources: Vec<_> = containers.map(|container| container.resources.clone().unwrap_or_default()).collect();
    let none = |map: &Option<std::collections::BTreeMap<_, _>>| map.as_ref().is_none_or(|map| map.is_empty());
    if resources.iter().all(|resources| none(&resources.requests) && none(&resources.limits)) {
        return "BestEffort";
    }
    let guaranteed = resources.iter().all(|resources| {
        let limits = resources.limits.clone().unwrap_or_default();
        let requests = resources.requests.clone().unwrap_or_default();
        ["cpu", "memory"].iter().all(|name| {
            limits.get(*name).is_some_and(|limit| requests.get(*name).is_none_or(|request| request == limit))
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

fn present<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
