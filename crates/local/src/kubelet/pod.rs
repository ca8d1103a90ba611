//! The life of one pod: network, volumes, proxy, init containers, containers, and the way back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::container::{Control, RestartPolicy, Runner};
use super::context::Context;
use super::event::Kind;
use super::mesh;
use super::state::{MeshState, Waiting, is_sidecar};
use super::status::{OVERDUE, OVERDUE_MESSAGE, pod_status};
use super::unsupported::unsupported;

/// What is running of a pod.
pub(super) struct Worker {
    pod: Arc<Context>,
    /// Sidecars in the order of their start.
    sidecars: Vec<(String, JoinHandle<()>)>,
    containers: Vec<(String, JoinHandle<()>)>,
    proxy: Option<(watch::Sender<Control>, JoinHandle<()>)>,
    volumes: JoinSet<()>,
}

/// That a pod is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leave {
    pub why: Why,
    pub by: Instant,
}

/// Why a pod is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// It was deleted: its object goes when it is done.
    Deleted,
    /// Its object is gone already.
    Gone,
    /// The node stops; the pod starts again with it.
    NodeStops,
}

/// The way to a pod's end, which may be made shorter on the way.
struct Ending {
    leave: watch::Receiver<Option<Leave>>,
    /// By when it is at its end if nobody asks for that: it ended by itself.
    own: Instant,
}

/// Waits between attempts to write, each twice as long as the one before.
struct Waits(Duration);

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The first and the longest wait before a write is tried again.
const WRITE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Pods that nobody waits for any more get this long.
pub(super) const GONE_GRACE: Duration = Duration::from_secs(2);
/// How long the last status of a pod that is to go may keep it from going.
const LAST_STATUS: Duration = Duration::from_secs(10);

// === impl Leave ===

impl Leave {
    /// What holds when this was told before and `other` is told now.
    pub(super) fn and(self, other: Leave) -> Self {
        Leave { why: if other.why == Why::Gone { Why::Gone } else { self.why }, by: self.by.min(other.by) }
    }
}

// === impl Waits ===

impl Default for Waits {
    fn default() -> Self {
        Self(WRITE_AGAIN.0)
    }
}

impl Waits {
    async fn next(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(WRITE_AGAIN.1);
    }
}

// === impl Ending ===

impl Ending {
    /// Waits for the end of a task. `stop` tells it by when that is to be, and tells it again when that is sooner.
    async fn of(&mut self, task: &mut JoinHandle<()>, stop: impl Fn(Instant)) {
        loop {
            stop(self.leave.borrow_and_update().map_or(self.own, |leave| leave.by));
            tokio::select! {
                _ = &mut *task => return,
                Ok(()) = self.leave.changed() => {}
            }
        }
    }
}

// === impl Worker ===

impl Worker {
    /// Runs a pod from its start to its end. `leave` says when it is to end.
    pub(super) async fn run(pod: Arc<Context>, mut leave: watch::Receiver<Option<Leave>>) {
        let mut worker =
            Self { pod, sidecars: Vec::new(), containers: Vec::new(), proxy: None, volumes: JoinSet::new() };
        if !worker.pod.ended_before {
            let reporting = tokio::spawn(report(worker.pod.clone()));
            let pod = worker.pod.clone();
            tokio::select! {
                biased;
                () = worker.live() => {}
                () = overdue(&pod) => {
                    pod.event(None, Kind::Normal, OVERDUE, OVERDUE_MESSAGE);
                    pod.state.send_modify(|state| state.overdue = true);
                }
                left = told(&mut leave) => {
                    let interrupted = left.is_some_and(|left| left.why == Why::NodeStops);
                    pod.state.send_modify(|state| state.interrupted = interrupted);
                }
            }
            worker.end(leave.clone()).await;
            reporting.abort();
            tokio::select! {
                () = write_status(&worker.pod) => {}
                () = long_told(&mut leave) => {}
            }
        }
        let left = told(&mut leave).await;
        worker.forget(left.map(|left| left.why)).await;
    }

    /// Starts everything in its order, and returns when nothing is left to run.
    async fn live(&mut self) {
        self.warn_of_unsupported();
        self.pod.state.send_modify(|state| {
            state.started_at.get_or_insert_with(Timestamp::now);
        });
        let meshed = self.make_network().await;
        self.make_volumes(meshed).await;
        if meshed {
            self.start_proxy();
        }
        if self.initialize().await {
            self.start_containers();
            for (_, container) in &mut self.containers {
                container.await.ok();
            }
        }
    }

    fn warn_of_unsupported(&self) {
        let fields = unsupported(&self.pod.spec());
        if fields.is_empty() {
            return;
        }
        let list: Vec<_> = fields.iter().map(|(field, why)| format!("{field} ({why})")).collect();
        self.pod.event(None, Kind::Warning, "NotHonoured", &format!("Not honoured on this node: {}", list.join("; ")));
    }

    /// Gives the pod its network, and tells whether it has a proxy.
    async fn make_network(&self) -> bool {
        let pod = &self.pod;
        loop {
            match self.try_network().await {
                Ok(meshed) => {
                    pod.state.send_modify(|state| {
                        state.ip = pod.sandbox.get().map(|sandbox| sandbox.ip);
                        state.blocked = None;
                    });
                    return meshed;
                }
                Err(error) => self.blocked("FailedCreatePodSandBox", &error).await,
            }
        }
    }

    async fn try_network(&self) -> Result<bool, String> {
        let pod = &self.pod;
        let namespace = Api::<core::Namespace>::all(pod.shared.client.clone()).get_opt(&pod.namespace()).await;
        let namespace = namespace.map_err(|error| format!("cannot read the pod's namespace: {error}"))?;
        let meshed = mesh::is_meshed(&pod.pod(), namespace.as_ref()) && !pod.shared.config.mesh.program.is_empty();
        let host_network = pod.spec().host_network.unwrap_or(false);
        let sandbox = pod.shared.network.sandbox(host_network, meshed).await.map_err(|error| error.to_string())?;
        pod.sandbox.set(sandbox).ok();
        Ok(meshed)
    }

    /// Fills the pod's volumes, and keeps them as their sources are.
    async fn make_volumes(&mut self, meshed: bool) {
        let pod = self.pod.clone();
        let mut keeper = super::keeper::Keeper::new(pod, meshed);
        loop {
            match keeper.refresh().await {
                Ok(()) => break,
                Err(error) => self.blocked("FailedMount", &error).await,
            }
        }
        self.pod.state.send_modify(|state| state.blocked = None);
        self.volumes.spawn(keeper.keep());
    }

    /// Shows why the pod cannot start yet, and waits a little, or until what it may lack has changed.
    async fn blocked(&self, reason: &'static str, message: &str) {
        self.pod.event(None, Kind::Warning, reason, message);
        let mut changes = self.pod.shared.changes.subscribe();
        self.pod.state.send_modify(|state| state.blocked = Some(Waiting::new(reason, message)));
        tokio::time::timeout(RETRY, changes.changed()).await.ok();
    }

    fn start_proxy(&mut self) {
        self.pod.state.send_modify(|state| state.mesh = MeshState::Starting("the proxy starts".to_owned()));
        let (control, told) = watch::channel(Control::default());
        self.proxy = Some((control, tokio::spawn(mesh::run(self.pod.clone(), told))));
    }

    /// Runs the init containers one after the other. False when one has failed for good.
    async fn initialize(&mut self) -> bool {
        let spec = self.pod.spec();
        let policy = match RestartPolicy::of(&spec) {
            RestartPolicy::Never => RestartPolicy::Never,
            RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        };
        for (index, container) in spec.init_containers.into_iter().flatten().enumerate() {
            let name = container.name.clone();
            let at = format!("spec.initContainers[{index}]");
            if is_sidecar(&container) {
                let task = self.start(container, at, RestartPolicy::Always);
                self.sidecars.push((name.clone(), task));
                let mut state = self.pod.state.subscribe();
                let started = state.wait_for(|state| state.container(&name).is_none_or(|container| container.started));
                started.await.ok();
            } else {
                let task = self.start(container, at, policy);
                self.containers.push((name.clone(), task));
                if let Some((_, task)) = self.containers.last_mut() {
                    task.await.ok();
                }
                self.containers.pop();
                let state = self.pod.state.borrow();
                if state.container(&name).and_then(|state| state.ended()).is_none_or(|end| end.code != 0) {
                    return false;
                }
            }
        }
        true
    }

    fn start_containers(&mut self) {
        let spec = self.pod.spec();
        let policy = RestartPolicy::of(&spec);
        for (index, container) in spec.containers.into_iter().enumerate() {
            let name = container.name.clone();
            let task = self.start(container, format!("spec.containers[{index}]"), policy);
            self.containers.push((name, task));
        }
    }

    fn start(&self, spec: core::Container, at: String, policy: RestartPolicy) -> JoinHandle<()> {
        let control = self.pod.controls.get(&spec.name).map(watch::Sender::subscribe);
        let control = control.unwrap_or_else(|| watch::channel(Control::default()).1);
        self.pod.state.send_modify(|state| {
            if let Some(state) = state.container_mut(&spec.name) {
                state.current = super::state::Phase::Waiting(Waiting { reason: "ContainerCreating", message: None });
            }
        });
        tokio::spawn(Runner { pod: self.pod.clone(), spec, at, policy, control }.run())
    }

    /// Stops what still runs: containers together, then sidecars from last to first, then the proxy.
    async fn end(&mut self, leave: watch::Receiver<Option<Leave>>) {
        let mut ending = Ending { leave, own: Instant::now() + self.pod.grace() };
        let (names, tasks): (Vec<_>, Vec<_>) = self.containers.drain(..).unzip();
        // One that ended by itself was waited for already.
        for mut task in tasks.into_iter().filter(|task| !task.is_finished()) {
            ending.of(&mut task, |by| names.iter().for_each(|name| self.stop(name, by))).await;
        }
        for (name, mut task) in std::mem::take(&mut self.sidecars).into_iter().rev() {
            ending.of(&mut task, |by| self.stop(&name, by)).await;
        }
        if let Some((control, mut task)) = self.proxy.take() {
            ending.of(&mut task, |by| control.send_modify(|control| control.stop = Some(by))).await;
        }
        self.volumes.shutdown().await;
        if let Some(sandbox) = self.pod.sandbox.get().filter(|sandbox| !sandbox.of_node) {
            self.pod.shared.network.release(sandbox.ip);
        }
        remove_dir(&self.pod.dir);
    }

    fn stop(&self, container: &str, by: Instant) {
        if let Some(control) = self.pod.controls.get(container) {
            control.send_modify(|control| control.stop = Some(by));
        }
    }

    /// Lets the API forget a deleted pod, and removes its logs.
    async fn forget(&self, why: Option<Why>) {
        if why == Some(Why::Deleted) {
            delete(&self.pod).await;
        }
        if matches!(why, Some(Why::Deleted | Why::Gone)) {
            remove_dir(&self.pod.log_dir);
        }
    }
}

/// Waits until the pod is to end; none when nobody is left to say so.
async fn told(leave: &mut watch::Receiver<Option<Leave>>) -> Option<Leave> {
    leave.wait_for(Option::is_some).await.ok().and_then(|leave| *leave)
}

/// Waits until the pod was to end for as long as its last status may take.
async fn long_told(leave: &mut watch::Receiver<Option<Leave>>) {
    told(leave).await;
    tokio::time::sleep(LAST_STATUS).await;
}

fn remove_dir(directory: &std::path::Path) {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, directory = %directory.display(), "cannot remove a pod's directory");
        }
        _ => {}
    }
}

/// Ends when the pod was active for as long as it may be; never without `spec.activeDeadlineSeconds`, which may change.
async fn overdue(pod: &Context) {
    let mut seen = pod.pod.subscribe();
    loop {
        let limit = seen.borrow_and_update().spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let over = async {
            let Some(limit) = limit.and_then(|seconds| u64::try_from(seconds).ok()) else {
                return std::future::pending().await;
            };
            let begun = pod.state.borrow().started_at.unwrap_or_else(Timestamp::now);
            let active = Timestamp::now().duration_since(begun).try_into().unwrap_or(Duration::ZERO);
            tokio::time::sleep(Duration::from_secs(limit).saturating_sub(active)).await;
        };
        tokio::select! {
            () = over => return,
            changed = seen.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

/// Writes the pod's status whenever it changes.
async fn report(pod: Arc<Context>) {
    let mut state = pod.state.subscribe();
    let mut gates = pod.pod.subscribe();
    loop {
        state.borrow_and_update();
        gates.borrow_and_update();
        write_status(&pod).await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = gates.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes the pod's status, until the API has taken it or the pod is gone.
async fn write_status(pod: &Context) {
    let api = Api::<core::Pod>::namespaced(pod.shared.client.clone(), &pod.namespace());
    let mut waits = Waits::default();
    loop {
        let seen = pod.pod();
        let status = pod_status(&seen, &pod.state.borrow(), pod.shared.network.node_ip(), Timestamp::now());
        if seen.status.as_ref() == Some(&status) {
            return;
        }
        let patch = status_patch(&seen, &status);
        match api.patch_status(&pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => return,
            Err(error) if is_gone(&api, pod, &error).await => return,
            Err(error) => tracing::warn!(pod = pod.name(), %error, "a pod's status could not be written"),
        }
        waits.next().await;
    }
}

/// The status as a patch of this very pod: what has no value any more is taken away.
fn status_patch(pod: &core::Pod, status: &core::PodStatus) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for field in ["message", "reason", "podIP", "podIPs"] {
        if value.get(field).is_none() {
            value[field] = serde_json::Value::Null;
        }
    }
    serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": value})
}

async fn delete(pod: &Context) {
    let api = Api::<core::Pod>::namespaced(pod.shared.client.clone(), &pod.namespace());
    let preconditions = Preconditions { uid: pod.pod().metadata.uid.clone(), resource_version: None };
    let now = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
    let mut waits = Waits::default();
    loop {
        match api.delete(&pod.name(), &now).await {
            Ok(_) => return,
            Err(error) if is_gone(&api, pod, &error).await => return,
            Err(error) => tracing::warn!(pod = pod.name(), %error, "a pod that ended could not be deleted"),
        }
        waits.next().await;
    }
}

/// Whether the API refused a write because the pod is no more, or another has its name. A conflict alone does not say so:
/// it may be with another writer.
async fn is_gone(api: &Api<core::Pod>, pod: &Context, error: &kube::Error) -> bool {
    let kube::Error::Api(answer) = error else { return false };
    if !matches!(answer.code, 409 | 422) {
        return answer.code == 404;
    }
    let own = pod.pod().metadata.uid.clone();
    let found = api.get_metadata_opt(&pod.name()).await;
    found.is_ok_and(|found| found.is_none_or(|found| found.metadata.uid != own))
}
