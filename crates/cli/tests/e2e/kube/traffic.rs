//! Traffic between pods of the cluster, as their proxies count it and its API tells it.

use std::path::Path;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::served::kubectls;
use super::workload::{self, Workload};
use crate::mesh::{Tally, eventually};
use crate::traffic::{path_with_plugin, value};

const STORES: [&str; 2] = ["web-v1", "web-v2"];
const GOOD: &str = "/books-bought";
/// The store answers 502, as it finds no warehouse.
const FAILING: &str = "/buy-a-book/new";

/// A cluster, and what clients in it have sent so far by their own count.
struct Shop<'a> {
    cluster: &'a Cluster,
    client: &'a Workload,
    thief: &'a Workload,
    /// Answers 200 to the client, by the store that gave them.
    good: [u64; 2],
    /// Answers 502, in the same way.
    failed: [u64; 2],
    /// Answers 403 to the thief.
    denied: u64,
}

pub(super) fn is_counted(cluster: &Cluster) {
    let workloads = workload::start_all(cluster);
    cluster.apply_fixture("policy.yaml");
    let [client, thief, stores @ ..] = &workloads[..] else { panic!("there are two clients") };
    assert_eq!(stores.iter().map(|store| &store.name).collect::<Vec<_>>(), STORES);
    let mut shop = Shop { cluster, client, thief, good: [0; 2], failed: [0; 2], denied: 0 };
    shop.policy_has_effect();
    shop.send();
    shop.both_sides_count_the_same();
    shop.edges_are_as_specified();
    shop.every_kind_knows_its_part(&stores[0]);
    shop.a_split_tells_its_backends();
    shop.plugin_shows_the_same();
    shop.tables_are_read();
}

/// The items of a list.
fn items(list: &Value) -> &[Value] {
    list["items"].as_array().expect("items")
}

/// A count, which JSON may have with a point.
fn number(value: &Value) -> u64 {
    value.as_f64().expect("a number") as u64
}

impl Shop<'_> {
    /// The control plane writes onto resources that they are accepted and in effect; then they are.
    fn policy_has_effect(&mut self) {
        for resource in ["httproutegroups/web", "traffictargets/web", "trafficsplits/web"] {
            for condition in ["Accepted", "ResolvedRefs", "Programmed"] {
                let condition = format!("--for=condition={condition}");
                self.cluster.kubectl(&["wait", "-n", "shop", &condition, "--timeout=60s", resource]);
            }
        }
        eventually("both stores answer", || {
            self.ask_well(8);
            self.good.iter().all(|good| *good > 0)
        });
    }

    fn send(&mut self) {
        self.ask_well(100).assert_none_failed();
        let tally = self.client.ask(FAILING, 20);
        assert_eq!(tally.of_status(502), 20, "{tally:?}");
        self.failed = STORES.map(|store| tally.answers_of(store));
        let tally = self.thief.ask(GOOD, 10);
        self.denied = tally.of_status(403);
        assert_eq!(self.denied, 10, "{tally:?}");
    }

    /// Sends requests that the store answers 200.
    fn ask_well(&mut self, requests: u64) -> Tally {
        let tally = self.client.ask(GOOD, requests);
        for (good, store) in self.good.iter_mut().zip(STORES) {
            *good += tally.answers_of(store);
        }
        tally
    }

    fn get(&self, path: &str) -> Value {
        let sign = if path.contains('?') { '&' } else { '?' };
        self.cluster.get(&format!("/v1alpha1{path}{sign}t=10m"))
    }

    /// What a Deployment has counted of its edges with another: successes, failures and denied requests.
    fn edges(&self, deployment: &str, direction: &str, other: &str) -> [u64; 3] {
        let list = self.get(&format!("/namespaces/shop/deployments/{deployment}/edges?direction={direction}"));
        let edges = items(&list).iter().filter(|item| item["edge"]["resource"]["name"] == other);
        let counts = edges.map(|edge| ["success_count", "failure_count", "denied_count"].map(|name| value(edge, name)));
        counts.fold([0; 3], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]])
    }

    fn both_sides_count_the_same(&self) {
        for (at, store) in STORES.into_iter().enumerate() {
            let sent = [self.good[at], self.failed[at], 0];
            for (deployment, direction, other) in [("client", "to", store), (store, "from", "client")] {
                eventually(&format!("{deployment} has counted {sent:?}"), || {
                    self.edges(deployment, direction, other) == sent
                });
            }
        }
        let denied = |direction| {
            let edges = STORES.map(|store| match direction {
                "to" => self.edges("thief", direction, store),
                _ => self.edges(store, direction, "thief"),
            });
            assert!(
                edges.iter().all(|[good, failed, _]| good + failed == 0),
                "a denied request is nothing else: {edges:?}"
            );
            edges.iter().map(|edge| edge[2]).sum::<u64>()
        };
        for direction in ["to", "from"] {
            eventually("the denied requests have been counted", || denied(direction) == self.denied);
        }
    }

    /// The document of the specification, field by field.
    fn edges_are_as_specified(&self) {
        let list = self.get("/namespaces/shop/deployments/web-v1/edges");
        let deployment =
            |name| json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": name });
        let own = deployment("web-v1");
        assert_eq!((&list["kind"], &list["resource"]), (&json!("TrafficMetricsList"), &own), "{list}");
        let is_of_client = |item: &&Value| item["edge"]["resource"]["name"] == "client";
        let item = items(&list).iter().find(is_of_client).expect("the client is an edge");
        let version = json!("metrics.smi-spec.io/v1alpha1");
        assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("TrafficMetrics"), &version), "{item}");
        assert_eq!(item["resource"], own, "{item}");
        let edge = json!({ "direction": "from", "side": "server", "resource": deployment("client") });
        assert_eq!(item["edge"], edge, "{item}");
        assert!(item["timestamp"].is_string() && item["window"].is_string(), "{item}");
        let measures: Vec<&str> = item["metrics"].as_array().expect("measures")[..5]
            .iter()
            .map(|measure| measure["name"].as_str().expect("a name"))
            .collect();
        let names = ["p99_response_latency", "p90_response_latency", "p50_response_latency"];
        assert_eq!(measures, [&names[..], &["success_count", "failure_count"]].concat(), "{item}");
    }

    /// What one store received, asked of everything that its pod belongs to.
    fn every_kind_knows_its_part(&self, store: &Workload) {
        let set = store.pod.rsplit_once('-').expect("a pod of a ReplicaSet").0;
        let pod = format!("/namespaces/shop/pods/{}", store.pod);
        let paths = [&pod, &format!("/namespaces/shop/replicasets/{set}"), "/namespaces/shop/deployments/web-v1"];
        for path in paths.into_iter().chain(["/namespaces/shop/services/web-v1"]) {
            assert_eq!(value(&self.get(path), "success_count"), self.good[0], "{path}");
        }
        for path in ["/namespaces/shop", "/nodes/node-1", "/namespaces/shop/services/web"] {
            assert_eq!(value(&self.get(path), "success_count"), self.good.iter().sum::<u64>(), "{path}");
        }
    }

    fn a_split_tells_its_backends(&self) {
        let split = self.get("/namespaces/shop/trafficsplits/web");
        assert_eq!(split["items"].as_array().map(Vec::len), Some(2), "{split}");
        for (at, (store, weight)) in STORES.into_iter().zip([3, 1]).enumerate() {
            let item = &split["items"][at];
            assert_eq!(item["backend"], json!({ "apex": "web", "name": store, "weight": weight }), "{split}");
            assert_eq!(value(item, "success_count"), self.good[at], "{split}");
        }
    }

    /// The tables are of the last seconds, so that there must be traffic while they are read.
    fn tables_are_read(&mut self) {
        for kubectl in kubectls() {
            eventually("the table has traffic", || {
                self.ask_well(4);
                let args = ["get", "deployments.metrics.smi-spec.io", "-n", "shop"];
                let table = self.cluster.run(&mut self.cluster.command("admin", &kubectl, &args));
                let row = |name: &str| table.lines().find(|line| line.starts_with(name)).expect("a row").to_owned();
                let web: Vec<String> = row("web-v1").split_whitespace().map(str::to_owned).collect();
                web[1].ends_with('%') && web[2] != "0.0" && web[4..].iter().all(|latency| latency != "-")
            });
        }
    }

    /// The plugin, as kubectl finds it.
    fn plugin(&self, args: &[&str]) -> String {
        let mut command = self.cluster.command("admin", Path::new("kubectl"), &[&["traffic"], args].concat());
        self.cluster.run(command.env("PATH", path_with_plugin()))
    }

    /// What the plugin prints as JSON about the time since the test began.
    fn plugin_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.plugin(&[args, &["-n", "shop", "-t", "10m", "-o", "json"]].concat())).expect("JSON")
    }

    fn plugin_shows_the_same(&self) {
        let (top, split) = (self.plugin_json(&["top", "deployments"]), self.plugin_json(&["split"]));
        let links = &self.plugin_json(&["topology", "deployments"])["links"];
        let row = |rows: &Value, column: &str, name: &str| {
            let is_it = |row: &&Value| row["from"] != "shop/thief" && row[column] == name;
            rows.as_array().expect("rows").iter().find(is_it).cloned().unwrap_or_else(|| panic!("{name} in {rows}"))
        };
        for (at, store) in STORES.into_iter().enumerate() {
            let rows =
                [row(&top, "name", store), row(links, "to", &format!("shop/{store}")), row(&split, "backend", store)];
            for row in rows {
                assert_eq!(number(&row["success"]), self.good[at], "{row}");
                assert_eq!(number(&row["failure"]), self.failed[at], "{row}");
            }
        }
        let from_thief = links.as_array().expect("links").iter().filter(|link| link["from"] == "shop/thief");
        assert_eq!(from_thief.map(|link| number(&link["denied"])).sum::<u64>(), self.denied, "{links}");

        let all = ["-n", "shop", "-t", "10m"];
        let top = self.plugin(&[&["top", "deployments"], &all[..]].concat());
        assert!(top.starts_with("NAMESPACE") && top.contains("web-v1"), "{top}");
        let tree = self.plugin(&[&["topology", "deployments"], &all[..]].concat());
        assert!(tree.contains("shop/client") && tree.contains("─▶ shop/web-v2"), "{tree}");
        let split = self.plugin(&[&["split"], &all[..]].concat());
        assert!(split.contains("shop/web") && split.contains("75.0%"), "{split}");
    }
}
