//! The kubelet: runs the pods of one node as processes of this machine.
//!
//! It reads pods, and what they refer to, through a Kubernetes client, and writes their status and events back; it
//! knows no other way to the rest. Each pod has a worker ([`pod`]), each container of it a runner ([`container`]); both
//! write what happens into one value ([`state`]), from which the status is made ([`status`]).

mod action;
mod backoff;
mod container;
mod context;
mod downward;
mod env;
mod event;
mod keeper;
mod log;
mod mesh;
mod network;
mod pod;
mod prepare;
mod probe;
mod process;
mod registration;
mod root;
mod sources;
mod state;
mod status;
mod streams;
mod unsupported;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use context::Context;
pub use log::{Log, Selection};
pub use network::{Network, SandboxError};
pub use unsupported::unsupported;

use self::env::Environment;
use self::event::Events;
use self::pod::{GONE_GRACE, Leave, Why, Worker};
use crate::net::directory::{self, Directory};

/// The settings of a kubelet.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the node, which is also the machine's as pods are told.
    pub node_name: String,
    /// Pods' volumes, while they run.
    pub run_dir: PathBuf,
    /// Containers' logs, until their pods are deleted.
    pub log_dir: PathBuf,
    /// What PersistentVolumeClaims stand for: a directory each, by namespace and name. It is kept.
    pub claims_dir: PathBuf,
    /// Directories that containers see empty, such as that of the API's store.
    pub hidden: Vec<PathBuf>,
    /// The `PATH` of containers.
    pub path: String,
    /// The certificate authority of the API, in PEM.
    pub api_ca: String,
    /// Where the API is reached without ClusterIPs, as host and port.
    pub api_address: (String, u16),
    pub mesh: MeshConfig,
}

/// How pods are joined to the mesh.
#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// The proxy's command line, without the flags that the kubelet adds. Empty: no pod is meshed.
    pub program: Vec<String>,
    /// Host and port of the control plane, as proxies reach it.
    pub control: String,
}

/// What all workers share.
pub struct Shared {
    pub config: Config,
    pub client: Client,
    pub network: Network,
    pub events: Events,
    pub directory: watch::Receiver<Arc<Directory>>,
    /// Counts changes of ConfigMaps and Secrets.
    pub changes: watch::Sender<u64>,
    pub capacity: registration::Capacity,
}

/// A kubelet that runs. The pods it runs end with [`Kubelet::stop`].
pub struct Kubelet {
    shared: Arc<Shared>,
    pods: Arc<Mutex<BTreeMap<String, Entry>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// A pod, by its UID.
struct Entry {
    pod: Arc<Context>,
    leave: watch::Sender<Option<Leave>>,
    worker: JoinHandle<()>,
}

// === impl Kubelet ===

impl Kubelet {
    /// Registers the node and begins to run its pods.
    pub async fn start(
        config: Config,
        client: Client,
        network: Network,
        directory: watch::Receiver<Arc<Directory>>,
    ) -> Self {
        let events = Events::new(client.clone(), &config.node_name);
        let capacity = registration::Capacity::of_machine();
        let changes = watch::Sender::new(0);
        let shared = Arc::new(Shared { config, client, network, events, directory, changes, capacity });
        let pods = Arc::default();
        let tasks = vec![
            tokio::spawn(registration::keep(shared.clone())),
            tokio::spawn(follow_pods(shared.clone(), Arc::clone(&pods))),
            tokio::spawn(follow_sources(shared.clone())),
        ];
        Self { shared, pods, tasks }
    }

    /// Stops all pods, each within its own grace period and none later than `limit`. Their objects stay, so that they
    /// start again with the node.
    pub async fn stop(&self, limit: Duration) {
        for task in &self.tasks {
            task.abort();
        }
        let entries = std::mem::take(&mut *lock(&self.pods));
        for entry in entries.values() {
            entry.end(Leave { why: Why::NodeStops, by: Instant::now() + entry.pod.grace().min(limit) });
        }
        for entry in entries.into_values() {
            // What does not end in its time is killed with the node.
            tokio::time::timeout(limit + Duration::from_secs(10), entry.worker).await.ok();
        }
    }

    /// A pod of this node, by its UID: one that ends and its successor may have the same name.
    pub fn find(&self, uid: &str) -> Option<Arc<Context>> {
        lock(&self.pods).get(uid).map(|entry| entry.pod.clone())
    }

    /// What the pods of this node share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

// === impl Entry ===

impl Entry {
    /// Tells the worker that the pod is to end. What it was told before stands, but may be brought forward.
    fn end(&self, told: Leave) {
        self.leave.send_if_modified(|known| {
            let next = known.map_or(told, |known| known.and(told));
            known.replace(next) != Some(next)
        });
    }
}

// === impl Shared ===

impl Shared {
    /// The variables that tell a pod of the Services and, without capture, of its proxy.
    fn network_variables(&self, pod: &Context) -> Environment {
        let directory = self.directory.borrow().clone();
        let own = pod.pod();
        if self.network.node().is_some() {
            return env::of_services(&own, &directory.services, |service, port| {
                let ip = service.spec.as_ref()?.cluster_ip.clone().filter(|ip| ip != "None" && !ip.is_empty())?;
                Some((ip, u16::try_from(port).ok()?))
            });
        }
        let ip = pod.place().pod_ip;
        let listeners = mesh::service_listeners(&directory.services);
        let mut variables = env::of_services(&own, &directory.services, |service, port| {
            let (namespace, name) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
            if (namespace, name) == ("default", "kubernetes") {
                return Some(self.config.api_address.clone());
            }
            let service = format!("{namespace}/{name}");
            let found = listeners.iter().find(|(known, number, _)| *known == service && *number == port)?;
            Some((ip.to_string(), found.2))
        });
        if !matches!(*pod.state.borrow(), state::PodState { mesh: state::MeshState::Outside, .. }) {
            variables.extend(mesh::variables(ip));
        }
        variables
    }
}

fn lock(pods: &Mutex<BTreeMap<String, Entry>>) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
    pods.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the pods that are bound to this node.
async fn follow_pods(shared: Arc<Shared>, pods: Arc<Mutex<BTreeMap<String, Entry>>>) {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.config.node_name));
    let stream = watcher(Api::<core::Pod>::all(shared.client.clone()), own).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                see(&shared, &pods, pod).await;
            }
            Ok(watcher::Event::InitDone) => {
                let gone: Vec<_> = lock(&pods).keys().filter(|uid| !listed.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| gone_from_api(&pods, uid));
            }
            Ok(watcher::Event::Apply(pod)) => see(&shared, &pods, pod).await,
            Ok(watcher::Event::Delete(pod)) => gone_from_api(&pods, pod.metadata.uid.as_deref().unwrap_or_default()),
            Err(error) => tracing::warn!(%error, "the watch of pods begins again"),
        }
    }
}

/// Takes notice of a pod as it is now.
async fn see(shared: &Arc<Shared>, pods: &Arc<Mutex<BTreeMap<String, Entry>>>, pod: core::Pod) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    let known = lock(pods).contains_key(&uid);
    let account = if known { None } else { service_account(shared, &pod).await };
    let mut entries = lock(pods);
    let leave = deletion(&pod);
    if let Some(entry) = entries.get(&uid) {
        let automount = entry.pod.spec().volumes;
        let pod = with_volumes_of(pod, automount, &entry.pod.spec());
        entry.pod.pod.send_replace(Arc::new(pod));
        if let Some(leave) = leave {
            entry.end(leave);
        }
        return;
    }
    let pod = volumes::with_service_account(pod, account.as_ref());
    let pod = Arc::new(Context::new(shared.clone(), pod));
    let (sender, receiver) = watch::channel(leave);
    let worker = tokio::spawn({
        let (pods, pod, uid) = (Arc::clone(pods), pod.clone(), uid.clone());
        async move {
            Worker::run(pod, receiver).await;
            lock(&pods).remove(&uid);
        }
    });
    entries.insert(uid, Entry { pod, leave: sender, worker });
}

/// The pod as now seen, with the containers and volumes it was started with: those do not change while it runs.
fn with_volumes_of(mut pod: core::Pod, volumes: Option<Vec<core::Volume>>, started: &core::PodSpec) -> core::Pod {
    if let Some(spec) = pod.spec.as_mut() {
        spec.volumes = volumes;
        spec.containers.clone_from(&started.containers);
        spec.init_containers.clone_from(&started.init_containers);
    }
    pod
}

async fn service_account(shared: &Shared, pod: &core::Pod) -> Option<core::ServiceAccount> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let found = Api::<core::ServiceAccount>::namespaced(shared.client.clone(), namespace).get_opt(name).await;
    found.unwrap_or_else(|error| {
        tracing::warn!(%error, namespace, name, "a ServiceAccount cannot be read; its pod gets a token as by default");
        None
    })
}

/// Whether the pod is to end, and by when: it has what is left of the time it was given.
fn deletion(pod: &core::Pod) -> Option<Leave> {
    let at = pod.metadata.deletion_timestamp.as_ref()?.0;
    let given = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0);
    let left = at.duration_since(Timestamp::now()).as_secs().clamp(0, given);
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0)).max(Duration::from_secs(1));
    Some(Leave { why: Why::Deleted, by: Instant::now() + left })
}

fn gone_from_api(pods: &Mutex<BTreeMap<String, Entry>>, uid: &str) {
    if let Some(entry) = lock(pods).get(uid) {
        entry.end(Leave { why: Why::Gone, by: Instant::now() + GONE_GRACE });
    }
}

/// Counts changes of ConfigMaps and Secrets, so that volumes follow them.
async fn follow_sources(shared: Arc<Shared>) {
    let config = watcher::Config::default();
    let maps = watcher(Api::<core::ConfigMap>::all(shared.client.clone()), config.clone()).default_backoff();
    let secrets = watcher(Api::<core::Secret>::all(shared.client.clone()), config).default_backoff();
    let changes = futures::stream::select(maps.map_ok(drop), secrets.map_ok(drop));
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(()) => shared.changes.send_modify(|count| *count += 1),
            Err(error) => tracing::warn!(%error, "the watch of ConfigMaps or Secrets begins again"),
        }
    }
}

/// The directory of Services, followed by a task of its own.
pub fn follow_directory(client: Client) -> (watch::Receiver<Arc<Directory>>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Arc::default());
    (receiver, tokio::spawn(directory::follow(client, sender)))
}
