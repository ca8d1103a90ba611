//! What a running mesh looks like at one moment: read through the Kubernetes API, printed by `status` and the live view.

mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use anyhow::Context;
use heddle_control::view;
use heddle_policy::Mode;
use heddle_traffic::text::{millis, percent, rate};
use heddle_traffic::{Figures, Graph, Kind, Link, Source, SourceError, SplitRow};
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::workloads::{Workload, workloads};
use crate::mesh;
use crate::output::{count, table};

/// The namespaces that are the cluster's and the mesh's own.
const SYSTEM: [&str; 4] = ["heddle-system", "kube-node-lease", "kube-public", "kube-system"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) splits: Vec<SplitRow>,
    /// Who talks to whom, as the servers saw it.
    pub(crate) edges: Vec<Link>,
    /// Absent while the control plane does not answer.
    pub(crate) mesh: Option<view::MeshStatus>,
    pub(crate) proxies: Vec<view::Proxy>,
    /// What could not be read, by its name here, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unread: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    namespace: String,
    name: String,
    address: String,
    ports: Vec<String>,
}

/// The time that the figures are of.
const WINDOW: &str = "10s";

// === reading ===

impl Overview {
    /// Fails when the API does not tell of workloads. What else cannot be read is noted in [`Self::unread`]: without the
    /// control plane the rest is still worth seeing.
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Self> {
        let services: Api<Service> = Api::all(client.clone());
        let everything = ListParams::default();
        let services = async { services.list(&everything).await.context("cannot list the Services") };
        let (mut workloads, services) = tokio::try_join!(workloads(client), services)?;
        workloads.retain(|workload| !is_system(&workload.namespace));
        let (source, status) = (mesh::source(client.clone()), format!("status/{}", view::STATUS_NAME));
        let (splits, edges, mesh, proxies) = tokio::join!(
            heddle_traffic::splits(&source, None, WINDOW),
            edges(&source, &workloads),
            view_get(client, &status),
            view_list::<view::Proxy>(client, "proxies"),
        );
        let mut unread = BTreeMap::new();
        let splits = or_note("splits", splits.map_err(anyhow::Error::from), &mut unread);
        let edges = or_note("edges", edges.map_err(anyhow::Error::from), &mut unread);
        let mesh = or_note("mesh", mesh.map(Some), &mut unread);
        let mut proxies = or_note("proxies", proxies, &mut unread);
        proxies.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(Self {
            workloads,
            services: services.items.iter().filter_map(service_row).collect(),
            splits,
            edges,
            mesh,
            proxies,
            unread,
        })
    }
}

/// What was read, or nothing and a note of why.
fn or_note<T: Default>(what: &'static str, read: anyhow::Result<T>, unread: &mut BTreeMap<&'static str, String>) -> T {
    read.unwrap_or_else(|error| {
        unread.insert(what, crate::output::explain(&error));
        T::default()
    })
}

/// What each workload received. A question is of every resource of a kind.
async fn edges(source: &Source, workloads: &[Workload]) -> Result<Vec<Link>, SourceError> {
    // Others, such as a CronJob, are not measured, and their pods' owners are.
    let kinds: BTreeSet<Kind> = workloads.iter().filter_map(|workload| workload.kind().parse().ok()).collect();
    let parameters = format!("t={WINDOW}&direction=from");
    let asked = kinds.into_iter().map(|kind| source.edges(kind, None, &parameters));
    let mut edges = futures::future::try_join_all(asked).await?.concat();
    let shown: HashSet<_> =
        workloads.iter().map(|workload| (&*workload.namespace, workload.kind(), short(&workload.name))).collect();
    // A Deployment's pods are pods too.
    edges.retain(|edge| {
        let resource = &edge.resource;
        let fields = [&resource.namespace, &resource.kind, &resource.name];
        let [namespace, kind, name] = fields.map(|field| field.as_deref().unwrap_or_default());
        shown.contains(&(namespace, kind, name))
    });
    Ok(Graph::of(&edges, None).links)
}

pub(crate) async fn view_list<T: DeserializeOwned>(client: &Client, resource: &str) -> anyhow::Result<Vec<T>> {
    Ok(view_get::<view::List<T>>(client, resource).await?.items)
}

async fn view_get<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<T> {
    let request = kube::core::Request::new(format!("/apis/{}", view::API_VERSION)).get(path, &Default::default())?;
    Ok(client.request(request).await?)
}

fn is_system(namespace: &str) -> bool {
    SYSTEM.contains(&namespace)
}

fn service_row(service: &Service) -> Option<ServiceRow> {
    let namespace = service.namespace()?;
    let name = service.name_any();
    if is_system(&namespace) || (namespace == "default" && name == "kubernetes") {
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

/// The columns that the figures of traffic take, and those between two columns of a table.
const FIGURES: usize = 48;
const GAP: usize = 2;

/// An end of traffic in so much room: without its namespace, and where that is not enough, without its middle.
fn shortened(end: &str, room: usize) -> String {
    let name: Vec<char> = end.rsplit('/').next().unwrap_or_default().chars().collect();
    if name.len() <= room {
        return name.into_iter().collect();
    }
    let tail = room / 2;
    let head = room.saturating_sub(tail + 1);
    name[..head].iter().chain(&['…']).chain(&name[name.len() - tail..]).collect()
}

/// `Deployment/bookstore-v1` without its kind, `bookstore/bookstore-v1` without its namespace.
fn short(workload: &str) -> &str {
    workload.split_once('/').map_or(workload, |(_, name)| name)
}

// === printing ===

impl Overview {
    /// The sections that have something to show, as people read them.
    pub(crate) fn text(&self) -> String {
        self.sections(self.workloads_text(|_| true), usize::MAX)
    }

    /// The same for a window: where it is too low, ready workloads are counted, and where it is too narrow, the ends of
    /// traffic have short names.
    pub(crate) fn text_within(&self, columns: usize, rows: usize) -> String {
        let text = self.sections(self.workloads_text(|_| true), columns);
        if text.lines().count() <= rows {
            return text;
        }
        let ready = self.workloads.iter().filter(|workload| workload.is_ready()).count();
        let counted = format!("{ready} of {} ready\n", count(self.workloads.len(), "workload"));
        self.sections(counted + &self.workloads_text(|workload| !workload.is_ready()), columns)
    }

    fn sections(&self, workloads: String, columns: usize) -> String {
        let sections =
            [self.mesh_text(), workloads, self.splits_text(), self.edges_text(columns), self.services_text()];
        let sections: Vec<String> = sections.into_iter().filter(|section| !section.is_empty()).collect();
        sections.join("\n")
    }

    fn mesh_text(&self) -> String {
        let Some(mesh) = &self.mesh else {
            let why = self.unread.get("mesh").map(|why| format!(": {why}")).unwrap_or_default();
            return format!("the control plane does not answer{why}\nproxies go on as they are\n");
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
        if let Some(why) = self.unread.get("proxies") {
            let _ = writeln!(text, "what proxies acknowledged is not known: {why}");
        }
        for kind in &mesh.unreadable {
            let _ = writeln!(text, "the control plane cannot read {}: {}", kind.kind, kind.reason);
        }
        for loss in &mesh.lost {
            let _ = writeln!(text, "{}", lost(loss));
        }
        for problem in mesh.problems.iter().filter(|problem| problem.severity != "note") {
            let _ = writeln!(text, "{}: {}: {}", problem.severity, problem.origin, problem.message);
        }
        text
    }

    fn workloads_text(&self, shown: impl Fn(&Workload) -> bool) -> String {
        let rows = self.workloads.iter().filter(|workload| shown(workload)).map(|workload| {
            [
                format!("{}/{}", workload.namespace, short(&workload.name)),
                workload.kind().to_owned(),
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
        if let Some(why) = self.unread.get("splits") {
            return format!("SPLIT\ncannot be read: {why}\n");
        }
        let mut last = None;
        let rows = self.splits.iter().map(|row| {
            let split = (&row.namespace, &row.name);
            let is_first = last.replace(split) != Some(split);
            let first = |text: String| if is_first { text } else { String::new() };
            [
                first(format!("{}/{}", row.namespace, row.name)),
                first(row.root.clone()),
                row.backend.clone(),
                row.weight.to_string(),
                percent(row.seen),
            ]
        });
        table(["SPLIT", "ROOT", "BACKEND", "WEIGHT", "SEEN"], &rows.collect::<Vec<_>>())
    }

    /// The columns that an end of traffic may take: what the figures leave, and the notes too where that is enough for
    /// names without namespaces.
    fn room_for_ends(&self, columns: usize) -> usize {
        let beside = |taken: usize| (columns.saturating_sub(taken) / 2).saturating_sub(GAP);
        let notes = self.edges.iter().map(|link| notes(&link.figures).chars().count()).max().unwrap_or_default();
        let with_notes = beside(FIGURES + GAP + notes);
        if self.longest_end(short) <= with_notes { with_notes } else { beside(FIGURES) }
    }

    fn longest_end(&self, named: impl Fn(&str) -> &str) -> usize {
        let ends = self.edges.iter().flat_map(|link| [&link.from, &link.to]);
        ends.map(|end| named(end).chars().count()).max().unwrap_or_default()
    }

    fn edges_text(&self, columns: usize) -> String {
        if let Some(why) = self.unread.get("edges") {
            return format!("TRAFFIC\ncannot be read: {why}\n");
        }
        let room = self.room_for_ends(columns);
        let longest = self.longest_end(|end| end);
        let name = |end: &str| if longest > room { shortened(end, room) } else { end.to_owned() };
        let rows = self.edges.iter().map(|link| {
            let figures = &link.figures;
            [
                name(&link.from),
                name(&link.to),
                rate(figures.rate(figures.total() - figures.connections)),
                rate(figures.rate(figures.connections)),
                percent(figures.success_share()),
                rate(figures.rate(figures.denied)),
                millis(figures.p50),
                millis(figures.p99),
                notes(figures),
            ]
        });
        let head = ["FROM", "TO", "REQ/S", "CONN/S", "SUCCESS", "DENIED/S", "P50", "P99", ""];
        table(head, &rows.collect::<Vec<_>>())
    }
}

/// What is to be said of a link beside its figures.
fn notes(figures: &Figures) -> String {
    let open = Some(figures.open_text()).filter(|open| !open.is_empty());
    open.into_iter().chain(figures.reasons.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// Of which counts the figures lack.
fn lost(loss: &view::Loss) -> String {
    let seconds = loss.until.duration_since(loss.from).as_secs_f64();
    let why = match loss.cause {
        view::LossCause::ProxyKilled => "its proxy was killed",
        view::LossCause::NotReported => "it ended while nobody heard its last report",
    };
    format!("counts of {} are missing, from {:.3} for {seconds:.1} s: {why}", loss.pod, loss.from)
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
        Mode::Permissive => "permissive",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Overview {
        let names = ["bookbuyer/bookbuyer", "bookstore/bookstore-v1", "bookwarehouse/bookwarehouse"];
        let workload = |name: &str| Workload {
            namespace: name.split('/').next().unwrap().to_owned(),
            name: format!("Deployment/{}", short(name)),
            ready: 1,
            pods: 1,
            restarts: 0,
            waiting: None,
        };
        let link = |from: &str, to: &str| Link {
            from: from.to_owned(),
            to: to.to_owned(),
            requests_per_second: 100.0,
            figures: Figures {
                seconds: 10.0,
                success: 1234.0,
                p50: Some(10.0),
                p99: Some(99.9),
                reasons: vec!["source-not-allowed".to_owned()],
                ..Figures::default()
            },
        };
        Overview {
            workloads: names.map(workload).into(),
            services: Vec::new(),
            splits: Vec::new(),
            edges: vec![
                link(names[0], names[1]),
                link(names[1], names[2]),
                link("shop/a-rather-long-name-v2", names[2]),
            ],
            mesh: None,
            proxies: Vec::new(),
            unread: BTreeMap::new(),
        }
    }

    #[test]
    fn a_classic_terminal_shows_success_and_latency_of_every_edge() {
        let text = shop().text_within(80, 20);
        let edges: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("FROM")).collect();
        let figures =
            |line: &str| line.chars().take(80).collect::<String>().contains("100.0%   -         10.0ms  99.9ms");
        assert!(edges[0].contains("P99") && edges[1..].iter().all(|line| figures(line)), "{text}");
        assert!(edges[1].starts_with("bookbuyer       bookstore-v1   123.4"), "{text}");
        assert!(edges[3].starts_with("a-rath…name-v2  bookwarehouse  123.4"), "{text}");
        let wider = shop().text_within(114, 20);
        let denied = |line: &&str| line.chars().take(114).collect::<String>().ends_with("source-not-allowed");
        assert_eq!(wider.lines().filter(denied).count(), 3, "short names leave room for reasons: {wider}");
        assert_eq!(shop().text_within(200, 50), shop().text(), "where there is room nothing is left out");
    }

    #[test]
    fn a_low_terminal_counts_workloads_that_are_ready_and_names_the_others() {
        let mut shop = shop();
        shop.workloads[1].ready = 0;
        shop.workloads[1].waiting = Some("container app: NoCommand".to_owned());
        let text = shop.text_within(80, 8);
        assert!(text.contains("\n2 of 3 workloads ready\n"), "{text}");
        assert!(text.contains("bookstore/bookstore-v1") && !text.contains("bookbuyer/bookbuyer"), "{text}");
    }

    #[test]
    fn a_connection_that_is_open_is_shown_on_its_link() {
        let mut shop = shop();
        shop.edges[1].figures = Figures { seconds: 10.0, open: 3.0, ..Figures::default() };
        let text = shop.text();
        let is_it = |line: &str| line.starts_with("bookstore/bookstore-v1") && line.ends_with(" 3 open");
        assert_eq!(text.lines().filter(|line| is_it(line)).count(), 1, "{text}");
    }
}
