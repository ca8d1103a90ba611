//! What the kubelet knows of a pod that it runs: values that the workers write and [`super::status`] reads.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

/// A pod on this node.
#[derive(Clone, Debug, Default)]
pub struct PodState {
    pub started_at: Option<Timestamp>,
    /// Absent until the pod has a network.
    pub ip: Option<Ipv4Addr>,
    /// The regular init containers and the sidecars among them, in their order.
    pub init: Vec<ContainerState>,
    pub containers: Vec<ContainerState>,
    pub mesh: MeshState,
    pub proxy_restarts: i32,
    /// Why nothing of the pod can start, while that is so.
    pub blocked: Option<Waiting>,
    /// It was active for longer than `spec.activeDeadlineSeconds`, and has failed by that.
    pub overdue: bool,
    /// The node stopped it: how its containers end then is not how the pod ends, which starts again with the node.
    pub interrupted: bool,
}

/// A container, or a place for one.
#[derive(Clone, Debug)]
pub struct ContainerState {
    pub name: String,
    pub image: String,
    pub current: Phase,
    pub last: Option<Terminated>,
    pub restarts: i32,
    /// Its startup probe, if any, succeeded.
    pub started: bool,
    /// Its readiness probe, if any, succeeds.
    pub ready: bool,
    /// An init container with `restartPolicy: Always`.
    pub sidecar: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Waiting(Waiting),
    Running { since: Timestamp, id: String },
    Terminated(Terminated),
}

/// Why a container does not run yet: a CamelCase word and a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: Option<String>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Terminated {
    /// 128 + N when signal N ended it.
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub id: String,
}

/// The proxy beside the containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum MeshState {
    /// The pod is not meshed.
    #[default]
    Outside,
    Starting(String),
    Ready {
        since: Timestamp,
    },
    Failed(String),
}

// === impl PodState ===

impl PodState {
    /// The state of a pod that this kubelet has not started: restarts and the last end of each container are those that
    /// its status tells of, so that a node that was stopped counts on.
    pub fn new(pod: &core::Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let known_init = status.init_container_statuses.unwrap_or_default();
        let known = status.container_statuses.unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let done = has_ended(pod);
        Self {
            started_at: status.start_time.map(|time| time.0),
            init: init.iter().map(|container| ContainerState::new(container, &known_init, done)).collect(),
            containers: spec.containers.iter().map(|container| ContainerState::new(container, &known, done)).collect(),
            ..Self::default()
        }
    }

    pub fn container(&self, name: &str) -> Option<&ContainerState> {
        self.init.iter().chain(&self.containers).find(|container| container.name == name)
    }

    pub fn container_mut(&mut self, name: &str) -> Option<&mut ContainerState> {
        self.init.iter_mut().chain(&mut self.containers).find(|container| container.name == name)
    }
}

// === impl ContainerState ===

impl ContainerState {
    /// `done` says that the pod has ended, so that there is no other run than the last.
    fn new(container: &core::Container, known: &[core::ContainerStatus], done: bool) -> Self {
        let known = known.iter().find(|status| status.name == container.name);
        let ran = known.and_then(|status| status.state.as_ref()).is_some_and(|state| state.waiting.is_none());
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            current: Phase::Waiting(Waiting { reason: "PodInitializing", message: None }),
            last: known.and_then(last_end),
            restarts: known.map_or(0, |status| status.restart_count + i32::from(ran && !done)),
            started: false,
            ready: false,
            sidecar: is_sidecar(container),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.current, Phase::Running { .. })
    }

    pub fn ended(&self) -> Option<&Terminated> {
        match &self.current {
            Phase::Terminated(end) => Some(end),
            _ => None,
        }
    }
}

impl Waiting {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: Some(message.into()) }
    }
}

/// Whether the pod's status says that it has ended, for good.
pub(super) fn has_ended(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether an init container runs beside the others: it has `restartPolicy: Always`.
pub(super) fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// How a container that an earlier kubelet ran has ended: as its status says, or unknown when the node stopped first.
fn last_end(status: &core::ContainerStatus) -> Option<Terminated> {
    let state = status.state.as_ref()?;
    let ended = state.terminated.as_ref().or_else(|| status.last_state.as_ref()?.terminated.as_ref());
    match (&state.running, ended) {
        (Some(running), _) => Some(Terminated {
            code: 255,
            signal: None,
            reason: "Unknown".to_owned(),
            message: Some("the node stopped while it ran".to_owned()),
            started_at: running.started_at.as_ref().map(|time| time.0),
            finished_at: Timestamp::now(),
            id: status.container_id.clone().unwrap_or_default(),
        }),
        (None, Some(ended)) => Some(Terminated {
            code: ended.exit_code,
            signal: ended.signal,
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone(),
            started_at: ended.started_at.as_ref().map(|time| time.0),
            finished_at: ended.finished_at.as_ref().map_or_else(Timestamp::now, |time| time.0),
            id: ended.container_id.clone().unwrap_or_default(),
        }),
        (None, None) => None,
    }
}
