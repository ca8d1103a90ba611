//! A pod on this node, as its workers share it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;

use super::Shared;
use super::action::Target;
use super::container::Control;
use super::downward::Place;
use super::event::Kind;
use super::log::Log;
use super::process::{self, Process, Site, StartError, Started, Streams};
use super::root::Root;
use super::state::{MeshState, PodState, has_ended};
use super::volumes::Directories;
use crate::namespace::NetNamespace;

/// A pod and what belongs to it while it runs.
pub struct Context {
    pub shared: Arc<Shared>,
    /// The pod as last seen, with the volume of its ServiceAccount's token.
    pub pod: watch::Sender<Arc<core::Pod>>,
    pub state: watch::Sender<PodState>,
    /// Set once the pod has a network.
    pub sandbox: OnceLock<Sandbox>,
    /// Volumes and small files of the pod; removed with it.
    pub dir: PathBuf,
    /// Its logs; removed when the pod is deleted.
    pub log_dir: PathBuf,
    /// It had ended before this kubelet saw it, and does not start again.
    pub ended_before: bool,
    /// How each container is told to stop.
    pub controls: BTreeMap<String, watch::Sender<Control>>,
    live: Mutex<BTreeMap<String, Target>>,
    logs: Mutex<BTreeMap<String, Log>>,
}

/// The network that a pod's processes are in.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub ip: Ipv4Addr,
    /// Absent where there are no network namespaces.
    pub netns: Option<NetNamespace>,
    /// The address and namespace are the node's.
    pub of_node: bool,
}

/// The name by which the proxy's log is read.
pub(super) const PROXY_CONTAINER: &str = "heddle-proxy";

impl Context {
    pub fn new(shared: Arc<Shared>, pod: core::Pod) -> Self {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        Self {
            state: watch::Sender::new(PodState::new(&pod)),
            sandbox: OnceLock::new(),
            dir: shared.config.run_dir.join("pods").join(&uid),
            log_dir: shared.config.log_dir.join(&uid),
            ended_before: has_ended(&pod),
            controls: containers.map(|container| (container.name.clone(), watch::Sender::default())).collect(),
            live: Mutex::default(),
            logs: Mutex::default(),
            pod: watch::Sender::new(Arc::new(pod)),
            shared,
        }
    }

    pub fn pod(&self) -> Arc<core::Pod> {
        self.pod.borrow().clone()
    }

    pub fn spec(&self) -> core::PodSpec {
        self.pod.borrow().spec.clone().unwrap_or_default()
    }

    pub fn name(&self) -> String {
        self.pod.borrow().metadata.name.clone().unwrap_or_default()
    }

    pub fn namespace(&self) -> String {
        self.pod.borrow().metadata.namespace.clone().unwrap_or_default()
    }

    /// The name of the pod's host: its own, shortened as the kernel asks, or what the pod says.
    pub fn hostname(&self) -> String {
        let mut name = self.spec().hostname.unwrap_or_else(|| self.name());
        name.truncate(63);
        name.trim_end_matches(['-', '.']).to_owned()
    }

    /// `spec.terminationGracePeriodSeconds`, 30 s unless it says otherwise.
    pub fn grace(&self) -> Duration {
        let seconds = self.spec().termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    pub fn place(&self) -> Place {
        Place {
            pod_ip: self.sandbox.get().map_or(Ipv4Addr::UNSPECIFIED, |sandbox| sandbox.ip),
            host_ip: self.shared.network.node_ip(),
            processors: self.shared.capacity.processors,
            memory: self.shared.capacity.memory,
        }
    }

    pub fn volumes_dir(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    pub(super) fn directories(&self) -> Directories {
        let claims = self.shared.config.claims_dir.join(self.namespace());
        Directories { volumes: self.volumes_dir(), claims }
    }

    /// Starts a process in the pod: with a root of its own where there are namespaces, on the machine otherwise.
    pub async fn start(&self, process: &Process, root: Option<&Root>) -> Result<Started, StartError> {
        let (process, root, hostname) = (process.clone(), root.cloned(), self.hostname());
        let netns = self.sandbox.get().and_then(|sandbox| sandbox.netns.clone());
        let start = move || {
            let site = match (&netns, &root) {
                (Some(netns), Some(root)) => Site::Container { netns, root, hostname: &hostname },
                (netns, _) => Site::Machine(netns.as_ref()),
            };
            process::start(&process, &site, Streams::Piped)
        };
        let started = tokio::task::spawn_blocking(start).await;
        started.unwrap_or_else(|error| Err(StartError::Namespace(std::io::Error::other(error))))
    }

    /// Waits until the pod's proxy is ready; at once for a pod that is not meshed.
    pub async fn proxy_ready(&self) {
        let mut state = self.state.subscribe();
        let settled = |state: &PodState| matches!(state.mesh, MeshState::Outside | MeshState::Ready { .. });
        if state.wait_for(settled).await.is_err() {
            std::future::pending().await
        }
    }

    /// The log of a container, or of the proxy as `heddle-proxy`.
    pub fn log(&self, container: &str) -> std::io::Result<Log> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get(container) {
            return Ok(log.clone());
        }
        let run = self.state.borrow().container(container).map_or(0, |state| state.restarts);
        let log = Log::open(self.log_dir.join(container), u32::try_from(run).unwrap_or(0))?;
        if self.ended_before {
            log.close();
        }
        logs.insert(container.to_owned(), log.clone());
        Ok(log)
    }

    /// A running container, for commands beside it.
    pub fn live(&self, container: &str) -> Option<Target> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }

    pub fn set_live(&self, container: &str, target: Option<Target>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match target {
            Some(target) => live.insert(container.to_owned(), target),
            None => live.remove(container),
        };
    }

    pub fn event(&self, container: Option<&str>, kind: Kind, reason: &str, message: &str) {
        self.shared.events.publish(&self.pod(), container, kind, reason, message);
    }
}
