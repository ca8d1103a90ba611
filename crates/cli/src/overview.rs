//! What a running mesh looks like at one moment: read through the Kubernetes API, printed by `status` and the live view.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use heddle_control::view;
use heddle_policy::telemetry::{Counts, Histogram, Side};
use heddle_policy::{Mode, Reason};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DynamicObject, ListParams};
use kube::core::GroupVersion;
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::{count, table};

/// The namespaces that are the cluster's and the mesh's own.
const SYSTEM: [&str; 4] = ["heddle-system", "kube-node-lease", "kube-public", "kube-system"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) splits: Vec<Split>,
    pub(crate) edges: Vec<Edge>,
    /// Absent while the control plane does not answer.
    pub(crate) mesh: Option<view::MeshStatus>,
    pub(crate) proxies: Vec<view::Proxy>,
}

/// The pods of one owner.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    /// Such as `Deployment/bookstore-v1`; a pod without owner is its own.
    pub(crate) name: String,
    pub(crate) ready: usize,
    pub(crate) pods: usize,
    pub(crate) restarts: i32,
    /// Why a pod is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    namespace: String,
    name: String,
    address: String,
    ports: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Split {
    namespace: String,
    name: String,
    root: String,
    backends: Vec<Backend>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend {
    service: String,
    weight: u64,
    /// Of the requests of the last seconds; absent when there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
}

/// The traffic of one workload with another in the last seconds, as the server saw it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    from: String,
    to: String,
    requests_per_second: f64,
    connections_per_second: f64,
    /// Of all that were not denied; absent when there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<f64>,
    denied_per_second: f64,
    would_deny_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_micros: Option<u64>,
    reasons: Vec<Reason>,
}

/// The sum of some edges.
#[derive(Default)]
struct Sum {
    seconds: f64,
    requests: Counts,
    connections: Counts,
    would_deny: u64,
    latency: Histogram,
    reasons: BTreeMap<Reason, u64>,
}

// === reading ===

impl Overview {
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Self> {
        let pods: Api<Pod> = Api::all(client.clone());
        let services: Api<Service> = Api::all(client.clone());
        let everything = ListParams::default();
        let (pods, services) = tokio::try_join!(pods.list(&everything), services.list(&everything))
            .context("cannot list the workloads")?;
        let splits = trafficsplits(client).await.unwrap_or_default();
        let edges = view_list::<view::Edge>(client, "edges").await.unwrap_or_default();
        let mesh = view_get(client, &format!("status/{}", view::STATUS_NAME)).await.ok();
        let mut proxies = view_list::<view::Proxy>(client, "proxies").await.unwrap_or_default();
        proxies.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(Self {
            workloads: workloads(&pods.items),
            services: services.items.iter().filter_map(service_row).collect(),
            splits: splits.iter().map(|split| Split::of(split, &edges)).collect(),
            edges: edge_rows(&edges),
            mesh,
            proxies,
        })
    }

    /// The workloads that have a pod which is not ready.
    pub(crate) fn unready(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().filter(|workload| workload.ready < workload.pods)
    }
}

async fn trafficsplits(client: &Client) -> anyhow::Result<Vec<DynamicObject>> {
    let version: GroupVersion = "split.smi-spec.io/v1alpha4".parse()?;
    let resource = ApiResource::from_gvk_with_plural(&version.with_kind("TrafficSplit"), "trafficsplits");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    Ok(api.list(&ListParams::default()).await?.items)
}

async fn view_list<T: DeserializeOwned>(client: &Client, resource: &str) -> anyhow::Result<Vec<T>> {
    Ok(view_get::<view::List<T>>(client, resource).await?.items)
}

async fn view_get<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<T> {
    let request = kube::core::Request::new(format!("/apis/{}", view::API_VERSION)).get(path, &Default::default())?;
    Ok(client.request(request).await?)
}

fn workloads(pods: &[Pod]) -> Vec<Workload> {
    let mut found = BTreeMap::<(String, String), Workload>::new();
    for pod in pods {
        let namespace = pod.namespace().unwrap_or_default();
        let is_over = phase(pod) == "Succeeded" || pod.metadata.deletion_timestamp.is_some();
        if SYSTEM.contains(&namespace.as_str()) || is_over {
            continue;
        }
        let name = owner(pod);
        let workload = found.entry((namespace.clone(), name.clone())).or_insert(Workload {
            namespace,
            name,
            ready: 0,
            pods: 0,
            restarts: 0,
            waiting: None,
        });
        workload.pods += 1;
        workload.restarts += restarts(pod);
        match crate::mesh::is_ready(pod) {
            true => workload.ready += 1,
            false => workload.waiting = Some(why_waiting(pod)),
        }
    }
    found.into_values().collect()
}

/// What made the pod: of a ReplicaSet, the Deployment that made it.
fn owner(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().first() else { return format!("Pod/{}", pod.name_any()) };
    let hash = pod.labels().get("pod-template-hash");
    match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')) {
        Some(deployment) => format!("Deployment/{deployment}"),
        None => format!("{}/{}", owner.kind, owner.name),
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// The first reason that a pod's status gives for not being ready.
fn why_waiting(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "not started yet".to_owned() };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let states = containers.filter(|container| !container.ready).filter_map(|container| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().map(|state| (state.reason.clone(), state.message.clone()));
        let ended = state.terminated.as_ref().map(|state| {
            (state.reason.clone(), state.message.clone().or(Some(format!("exit code {}", state.exit_code))))
        });
        let (reason, message) = waiting.or(ended)?;
        let parts: Vec<String> = reason.into_iter().chain(message.filter(|text| !text.is_empty())).collect();
        Some(format!("container {}: {}", container.name, parts.join(": ")))
    });
    let conditions = status.conditions.iter().flatten().filter(|condition| condition.status != "True");
    let condition = conditions.filter_map(|condition| condition.message.clone()).find(|text| !text.is_empty());
    states.into_iter().next().or(condition).unwrap_or_else(|| phase(pod).to_lowercase())
}

fn service_row(service: &Service) -> Option<ServiceRow> {
    let namespace = service.namespace()?;
    let name = service.name_any();
    if SYSTEM.contains(&namespace.as_str()) || (namespace == "default" && name == "kubernetes") {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().map(|port| match &port.name {
        Some(name) => format!("{}/{name}", port.port),
        None => port.port.to_string(),
    });
    let address = match (spec.cluster_ip.as_deref(), spec.external_name.as_deref()) {
        (Some("None"), _) => "headless",
        (Some(address), _) => address,
        (None, other) => other.unwrap_or("-"),
    };
    Some(ServiceRow { namespace, name, address: address.to_owned(), ports: ports.collect() })
}

impl Split {
    fn of(split: &DynamicObject, edges: &[view::Edge]) -> Self {
        let namespace = split.namespace().unwrap_or_default();
        let root = split.data["spec"]["service"].as_str().unwrap_or_default().to_owned();
        let root_name = root.split('.').next().unwrap_or_default().to_owned();
        let backends = split.data["spec"]["backends"].as_array().cloned().unwrap_or_default();
        let sent = |backend: Option<&str>| -> u64 {
            let of_root = edges.iter().filter(|edge| {
                edge.edge.side == Side::Client
                    && edge
                        .edge
                        .service
                        .as_ref()
                        .is_some_and(|name| *name.namespace == namespace && *name.name == *root_name)
            });
            let to_backend = of_root.filter(|edge| match (&edge.edge.backend, backend) {
                (Some(chosen), Some(wanted)) => *chosen.name == *wanted,
                (Some(_), None) => true,
                (None, _) => false,
            });
            to_backend.map(|edge| total(edge.window.requests) + total(edge.window.connections)).sum()
        };
        let all = sent(None);
        let backends = backends.iter().map(|backend| {
            let service = backend["service"].as_str().unwrap_or_default().to_owned();
            let share = (all > 0).then(|| sent(Some(&service)) as f64 / all as f64);
            Backend { weight: backend["weight"].as_u64().unwrap_or_default(), service, share }
        });
        Self { name: split.name_any(), root, backends: backends.collect(), namespace }
    }
}

fn edge_rows(edges: &[view::Edge]) -> Vec<Edge> {
    let mut sums = BTreeMap::<(String, String), Sum>::new();
    for edge in edges.iter().filter(|edge| edge.edge.side == Side::Server) {
        let to =
            format!("{}/{}", edge.edge.pod.namespace, short(edge.workload.as_deref().unwrap_or(&edge.edge.pod.name)));
        sums.entry((peer(edge), to)).or_default().add(&edge.window);
    }
    sums.into_iter().map(|((from, to), sum)| sum.row(from, to)).collect()
}

/// Who is at the other end, as well as it is known.
fn peer(edge: &view::Edge) -> String {
    let key = &edge.edge;
    match (&key.peer_pod, &edge.peer_workload, &key.peer) {
        (Some(pod), Some(workload), _) => format!("{}/{}", pod.namespace, short(workload)),
        (Some(pod), None, _) => pod.to_string(),
        (None, _, Some(identity)) => match identity.service_account() {
            Some((namespace, name)) => format!("{namespace}/{name}"),
            None => identity.to_string(),
        },
        (None, _, None) => "(plaintext)".to_owned(),
    }
}

/// `Deployment/bookstore-v1` without its kind.
fn short(workload: &str) -> &str {
    workload.split_once('/').map_or(workload, |(_, name)| name)
}

fn total(counts: Counts) -> u64 {
    counts.success + counts.failure + counts.denied
}

impl Sum {
    fn add(&mut self, window: &view::Window) {
        self.seconds = self.seconds.max(window.seconds);
        for (sum, more) in [(&mut self.requests, window.requests), (&mut self.connections, window.connections)] {
            sum.success += more.success;
            sum.failure += more.failure;
            sum.denied += more.denied;
        }
        self.would_deny += window.would_deny;
        self.latency.merge(&window.latency);
        for (reason, count) in &window.reasons {
            *self.reasons.entry(*reason).or_default() += count;
        }
    }

    fn row(self, from: String, to: String) -> Edge {
        let rate = |count: u64| if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 };
        let success = self.requests.success + self.connections.success;
        let served = success + self.requests.failure + self.connections.failure;
        Edge {
            requests_per_second: rate(total(self.requests)),
            connections_per_second: rate(total(self.connections)),
            success: (served > 0).then(|| success as f64 / served as f64),
            denied_per_second: rate(self.requests.denied + self.connections.denied),
            would_deny_per_second: rate(self.would_deny),
            p50_micros: self.latency.quantile(0.5),
            p99_micros: self.latency.quantile(0.99),
            reasons: self.reasons.into_iter().filter(|(_, count)| *count > 0).map(|(reason, _)| reason).collect(),
            from,
            to,
        }
    }
}

// === printing ===

impl Overview {
    /// The sections that have something to show, as people read them.
    pub(crate) fn text(&self) -> String {
        let sections =
            [self.mesh_text(), self.workloads_text(), self.services_text(), self.splits_text(), self.edges_text()];
        let sections: Vec<String> = sections.into_iter().filter(|section| !section.is_empty()).collect();
        sections.join("\n")
    }

    fn mesh_text(&self) -> String {
        let Some(mesh) = &self.mesh else {
            return "the control plane does not answer; proxies go on as they are\n".to_owned();
        };
        let proxies = &mesh.proxies;
        let mut text = format!(
            "mode {}, {} of {} connected, {} current\n",
            mode(mesh.mode.mode),
            proxies.connected,
            count(proxies.expected, "proxy").replace("proxys", "proxies"),
            proxies.current
        );
        for namespace in mesh.namespaces.iter().filter(|namespace| namespace.mode.mode != mesh.mode.mode) {
            let _ = writeln!(text, "mode {} in namespace {}", mode(namespace.mode.mode), namespace.name);
        }
        for proxy in self.proxies.iter().filter_map(|proxy| Some((&proxy.pod, proxy.rejected.as_ref()?))) {
            let _ = writeln!(text, "the proxy of {} refuses its configuration: {}", proxy.0, proxy.1);
        }
        for problem in mesh.problems.iter().filter(|problem| problem.severity != "note") {
            let _ = writeln!(text, "{}: {}: {}", problem.severity, problem.origin, problem.message);
        }
        text
    }

    fn workloads_text(&self) -> String {
        let rows = self.workloads.iter().map(|workload| {
            [
                format!("{}/{}", workload.namespace, short(&workload.name)),
                workload.name.split('/').next().unwrap_or_default().to_owned(),
                format!("{}/{}", workload.ready, workload.pods),
                workload.restarts.to_string(),
                workload.waiting.clone().unwrap_or_default(),
            ]
        });
        table(["WORKLOAD", "KIND", "READY", "RESTARTS", ""], &rows.collect::<Vec<_>>())
    }

    fn services_text(&self) -> String {
        let rows = self.services.iter().map(|service| {
            [format!("{}/{}", service.namespace, service.name), service.address.clone(), service.ports.join(" ")]
        });
        table(["SERVICE", "ADDRESS", "PORTS"], &rows.collect::<Vec<_>>())
    }

    fn splits_text(&self) -> String {
        let rows = self.splits.iter().flat_map(|split| {
            split.backends.iter().enumerate().map(move |(at, backend)| {
                let first = |text: String| if at == 0 { text } else { String::new() };
                [
                    first(format!("{}/{}", split.namespace, split.name)),
                    first(split.root.clone()),
                    backend.service.clone(),
                    backend.weight.to_string(),
                    backend.share.map_or_else(|| "-".to_owned(), percent),
                ]
            })
        });
        table(["SPLIT", "ROOT", "BACKEND", "WEIGHT", "SEEN"], &rows.collect::<Vec<_>>())
    }

    fn edges_text(&self) -> String {
        let rows = self.edges.iter().map(|edge| {
            let reasons: Vec<&str> = edge.reasons.iter().map(|reason| reason.code()).collect();
            [
                edge.from.clone(),
                edge.to.clone(),
                rate(edge.requests_per_second),
                rate(edge.connections_per_second),
                edge.success.map_or_else(|| "-".to_owned(), percent),
                rate(edge.denied_per_second),
                edge.p50_micros.map_or_else(|| "-".to_owned(), millis),
                edge.p99_micros.map_or_else(|| "-".to_owned(), millis),
                reasons.join(" "),
            ]
        });
        let head = ["FROM", "TO", "REQ/S", "CONN/S", "SUCCESS", "DENIED/S", "P50", "P99", ""];
        table(head, &rows.collect::<Vec<_>>())
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
        Mode::Permissive => "permissive",
    }
}

fn rate(per_second: f64) -> String {
    if per_second == 0.0 { "-".to_owned() } else { format!("{per_second:.1}") }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn millis(micros: u64) -> String {
    format!("{:.1}ms", micros as f64 / 1000.0)
}
