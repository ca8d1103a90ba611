//! The real Prometheus, with the documented configuration, in a running mesh.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::mesh::{HEDDLE, Mesh, Tally, eventually};

/// Of twenty requests one fails and one is slow.
const URL: &str = "http://podinfo.shop:9898";
const SLOW_MS: f64 = 1500.0;

/// Flagger's built-in queries for `-mesh-provider=osm`, with its variables filled in.
const SUCCESS_RATE: &str = r#"sum(rate(osm_request_total{destination_namespace="shop",destination_kind="Deployment",destination_name="podinfo",response_code!~"5.*"}[1m])) / sum(rate(osm_request_total{destination_namespace="shop",destination_kind="Deployment",destination_name="podinfo"}[1m])) * 100"#;
const DURATION: &str = r#"histogram_quantile(0.99, sum(rate(osm_request_duration_ms_bucket{destination_namespace="shop",destination_kind="Deployment",destination_name="podinfo"}[1m])) by (le))"#;

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/observability")
}

/// Whether the machine has Prometheus; where it must have it, its absence is a failure.
fn has_prometheus() -> bool {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    let has = runs("prometheus") && runs("promtool");
    assert!(has || std::env::var_os("HEDDLE_REQUIRE_PROMETHEUS").is_none(), "prometheus and promtool are not there");
    if !has {
        eprintln!("not tested, as this machine has no prometheus and promtool (Debian: apt install prometheus)");
    }
    has
}

struct Prometheus<'a>(&'a Mesh);

impl<'a> Prometheus<'a> {
    fn start(mesh: &'a Mesh) -> Self {
        let directory = observability();
        mesh.kubectl(&["apply", "-k", directory.to_str().expect("a path of text")]);
        mesh.kubectl(&["rollout", "status", "-n", "monitoring", "deploy/prometheus", "--timeout=60s"]);
        Self(mesh)
    }

    /// What `curl` prints in Prometheus' pod.
    fn curl(&self, args: &[&str]) -> String {
        let exec = ["exec", "-n", "monitoring", "deploy/prometheus", "--", "curl", "-sS", "--max-time", "10"];
        self.0.run(HEDDLE, &[&exec[..], args].concat())
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.curl(&[&format!("http://127.0.0.1:9090/api/v1/{path}")]);
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("Prometheus answered {answer}"))
    }

    /// The samples of an instant query.
    fn samples(&self, query: &str) -> Vec<Value> {
        let query = format!("query={query}");
        let answer = self.curl(&["-G", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &query]);
        let answer: Value = serde_json::from_str(&answer).expect("Prometheus answers in JSON");
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}")).clone()
    }

    /// The only sample of an instant query.
    fn value(&self, query: &str) -> Option<f64> {
        let samples = self.samples(query);
        samples.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok())
    }
}

/// Sends so many requests as the client, of which one in twenty fails and one is slow.
fn load(mesh: &Mesh, requests: u64) -> Tally {
    let slow = format!("{URL}/delay/{}", SLOW_MS as u64);
    let failing = format!("{URL}/status/503");
    let requests = requests.to_string();
    let demo = ["exec", "-n", "shop", "deploy/client", "--", "heddle", "demo", "load", "--requests", &requests];
    let mut args = [&demo[..], &[&slow, &failing]].concat();
    args.extend([URL; 18]);
    Tally::of(mesh.command(HEDDLE, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("heddle runs"))
}

#[test]
fn flaggers_queries_return_what_the_load_generator_counted() {
    let Some(mesh) = has_prometheus().then(|| Mesh::up("crates/cli/tests/fixtures/rollout", &[])).flatten() else {
        return;
    };
    let prometheus = Prometheus::start(&mesh);
    every_pod_is_scraped(&prometheus);
    // A rate knows nothing of what came before the first sample, so every series is there before the load.
    let before = load(&mesh, 20);
    let count = |code: &str| {
        let labels = format!(r#"destination_namespace="shop",destination_name="podinfo",response_code="{code}""#);
        prometheus.value(&format!("sum(osm_request_total{{{labels}}})")).unwrap_or_default() as u64
    };
    eventually("the first requests are counted", || count("200") == 19 && count("503") == 1);
    let tally = load(&mesh, 1000);
    let (ok, failed) = (before.of_status(200) + tally.of_status(200), before.of_status(503) + tally.of_status(503));
    assert_eq!((ok, failed), (969, 51), "{tally:?}");
    eventually("every request is counted", || count("200") == ok && count("503") == failed);
    assert_eq!(prometheus.value(r#"sum(osm_request_total{destination_name="podinfo-primary"})"#), None);

    let success = prometheus.value(SUCCESS_RATE).expect("a success rate");
    assert!((94.0..=96.0).contains(&success), "95% of the requests succeeded, and Flagger reads {success}");
    let (p99, known) = (prometheus.value(DURATION).expect("a duration"), tally.latency_ms("p99"));
    println!("p99: Flagger reads {p99} ms, the load generator knows {known} ms; success {success}%");
    assert!(known > SLOW_MS, "one answer in twenty is slow: {tally:?}");
    // A histogram knows buckets; and the proxy's time is a part of the load generator's, with the delay in it.
    let bucket = bucket_of(SLOW_MS).0..=bucket_of(known).1;
    assert!(bucket.contains(&p99), "Flagger reads {p99}, and the load generator knows {known}: {bucket:?}");
    eventually("the rules are evaluated", || prometheus.value("heddle:success_ratio:rate1m").is_some());

    promtool_finds_nothing_wrong(&prometheus);
    dashboard_and_rules_name_what_is_exposed(&prometheus);
}

/// The bounds of the bucket of `crates/proxy/src/metrics/traffic.rs` that a time is counted in, all in milliseconds.
fn bucket_of(ms: f64) -> (f64, f64) {
    let bounds = [0.0, 1000.0, 2500.0, 5000.0, 10_000.0];
    let upper = bounds.into_iter().find(|bound| *bound >= ms).unwrap_or(f64::INFINITY);
    (bounds.into_iter().rfind(|bound| *bound < ms).unwrap_or_default(), upper)
}

fn every_pod_is_scraped(prometheus: &Prometheus<'_>) {
    let expected = BTreeSet::from(["client", "heddle-control", "podinfo", "podinfo-primary"].map(str::to_owned));
    eventually("every proxy and the control plane are scraped", || {
        let up = prometheus.samples(r#"up{job="heddle"} == 1"#);
        // A pod of a Deployment is named <deployment>-<hash>-<suffix>.
        let deployment = |sample: &Value| {
            let pod = sample["metric"]["pod"].as_str()?.rsplitn(3, '-').nth(2)?;
            Some(pod.to_owned())
        };
        up.iter().filter_map(deployment).collect::<BTreeSet<_>>() == expected
    });
}

fn promtool_finds_nothing_wrong(prometheus: &Prometheus<'_>) {
    for (what, file) in [("config", "prometheus.yml"), ("rules", "rules.yml")] {
        let output = Command::new("promtool").args(["check", what]).arg(observability().join(file)).output();
        let output = output.expect("promtool runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for target in prometheus.get("targets")["data"]["activeTargets"].as_array().expect("targets") {
        let text = prometheus.curl(&[target["scrapeUrl"].as_str().expect("a URL")]);
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = promtool.spawn().expect("promtool runs");
        child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("promtool reads");
        let output = child.wait_with_output().expect("promtool ends");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // The names of OSM are as they were.
        let wrong: Vec<&str> = said.lines().filter(|line| !line.starts_with("osm_request_duration_ms ")).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
    }
}

/// Every family that the dashboard and the rules ask for is one that Prometheus has been told of.
fn dashboard_and_rules_name_what_is_exposed(prometheus: &Prometheus<'_>) {
    let metadata = prometheus.get("metadata");
    let exposed: BTreeSet<String> =
        metadata["data"].as_object().expect("metadata").keys().map(|name| family(name)).collect();
    let dashboard = std::fs::read_to_string(observability().join("grafana-dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries: Vec<String> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("a query").to_owned())
        .collect();
    queries.push(dashboard["templating"].to_string());
    queries.push(std::fs::read_to_string(observability().join("rules.yml")).expect("the rules"));
    for query in &queries {
        let names: BTreeSet<String> = metric_names(query).collect();
        assert!(!names.is_empty(), "{query} asks for no metric");
        let unknown: Vec<_> = names.difference(&exposed).collect();
        assert!(unknown.is_empty(), "nobody exposes {unknown:?}, which is asked for by {query}");
    }
    for panel in panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")) {
        let query = panel["expr"].as_str().expect("a query").replace("$__rate_interval", "1m");
        prometheus.samples(&query.replace("$namespace", ".*"));
    }
}

/// The families of Heddle and OSM that a text names.
fn metric_names(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_' || char == ':'));
    words.filter(|word| word.starts_with("heddle_") || word.starts_with("osm_")).map(family)
}

/// A family by the name of one of its series.
fn family(name: &str) -> String {
    let suffixes = ["_total", "_bucket", "_sum", "_count", "_info"];
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
}
