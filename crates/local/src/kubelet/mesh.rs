//! The proxy beside a pod's containers: whether there is one, and its run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::action::pod_socket;
use super::backoff::Backoff;
use super::container::Control;
use super::context::{Context, PROXY_CONTAINER};
use super::env::Environment;
use super::event::Kind;
use super::process::Process;
use super::state::MeshState;
use super::volumes::TokenClaim;
use crate::net::MARK;

/// The audience of the tokens with which proxies prove their pods.
const AUDIENCE: &str = "heddle";
/// The label, of a pod or its namespace, that keeps a pod out of the mesh with the value `disabled`.
const INJECT_LABEL: &str = "heddle.dev/inject";
const SYSTEM_NAMESPACES: [&str; 2] = ["heddle-system", "kube-system"];
/// The proxy's port for `/ready` and `/metrics`.
const ADMIN_PORT: u16 = 15000;
/// The proxy's port for `http_proxy`, without capture.
pub(super) const HTTP_PROXY_PORT: u16 = 15001;
/// The first port of the proxy's listeners for Services, without capture.
const FIRST_SERVICE_PORT: u16 = 20000;
/// A proxy that takes longer is reported.
const SLOW: Duration = Duration::from_secs(20);
/// What a proxy gets to finish its connections in.
const DRAIN: Duration = Duration::from_secs(5);
/// What it gets on top, to report what it counted.
const LAST_WORD: Duration = Duration::from_secs(3);

/// Whether a pod has a proxy.
pub(super) fn is_meshed(pod: &core::Pod, namespace: Option<&core::Namespace>) -> bool {
    let disabled = |labels: Option<&std::collections::BTreeMap<String, String>>| {
        labels.and_then(|labels| labels.get(INJECT_LABEL)).is_some_and(|value| value == "disabled")
    };
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let name = pod.metadata.namespace.as_deref().unwrap_or_default();
    !host_network
        && !SYSTEM_NAMESPACES.contains(&name)
        && !disabled(pod.metadata.labels.as_ref())
        && !disabled(namespace.and_then(|namespace| namespace.metadata.labels.as_ref()))
}

/// The token with which the proxy proves its pod.
pub(super) fn token_claim() -> TokenClaim {
    TokenClaim { audience: Some(AUDIENCE.to_owned()), seconds: 3600 }
}

/// The control plane's certificate authority; absent until the control plane has published it.
pub(super) async fn trust_bundle(client: &Client) -> Result<Option<String>, kube::Error> {
    let api = Api::<core::ConfigMap>::namespaced(client.clone(), "heddle-system");
    let bundle = api.get_opt("heddle-trust-bundle").await?;
    Ok(bundle.and_then(|map| map.data).and_then(|mut data| data.remove("ca.crt")))
}

/// The port of a Service on the pod's own address, where nothing captures traffic: by its place among all ports of all
/// Services at the time when the pod's proxy starts.
pub(super) fn service_listeners(services: &[core::Service]) -> Vec<(String, i32, u16)> {
    let mut ports: Vec<(String, i32)> = services
        .iter()
        .flat_map(|service| {
            let name = format!(
                "{}/{}",
                service.metadata.namespace.as_deref().unwrap_or_default(),
                service.metadata.name.as_deref().unwrap_or_default()
            );
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            tcp.map(|port| (name.clone(), port.port)).collect::<Vec<_>>()
        })
        .collect();
    ports.sort();
    let numbered = ports.into_iter().zip(FIRST_SERVICE_PORT..u16::MAX);
    numbered.map(|((name, port), listener)| (name, port, listener)).collect()
}

/// The files that the proxy reads.
pub(super) struct Files {
    pub ca: PathBuf,
    pub token: PathBuf,
    /// Where a proxy leaves its totals for the next one of the pod.
    pub totals: PathBuf,
}

impl Files {
    pub(super) fn of(pod: &Context) -> Self {
        let file = |name: &str| pod.dir.join(name);
        Self { ca: file("mesh/ca.crt"), token: file("mesh/token"), totals: file("proxy-totals.json") }
    }
}

/// Runs a pod's proxy until it is told to stop. Whenever it ends before, the pod's containers are started again once
/// the next one is ready.
pub(super) async fn run(pod: Arc<Context>, mut control: watch::Receiver<Control>) {
    if let Err(error) = announce(&pod).await {
        tracing::warn!(pod = pod.name(), %error, "the proxy of a pod is not shown in it");
    }
    let mut backoff = Backoff::default();
    let mut runs = 0;
    let mut last_ended = None;
    while control.borrow().stop.is_none() {
        let begun = Instant::now();
        let why = run_once(&pod, &mut control, runs, last_ended).await;
        last_ended = Some(Timestamp::now());
        if control.borrow().stop.is_some() {
            return;
        }
        runs += 1;
        pod.event(None, Kind::Warning, "ProxyFailed", &format!("The proxy of the pod ended: {why}"));
        pod.state.send_modify(|state| {
            state.mesh = MeshState::Failed(why);
            state.proxy_restarts += 1;
        });
        for container in pod.controls.values() {
            container.send_modify(|control| control.generation += 1);
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(begun.elapsed())) => {}
            _ = control.wait_for(|control| control.stop.is_some()) => return,
        }
    }
}

/// Shows the proxy in the pod as an ephemeral container, which is what Kubernetes calls one that was added from
/// outside; so `kubectl logs -c heddle-proxy` and `kubectl describe` know it. Prometheus finds it by annotations.
async fn announce(pod: &Context) -> Result<(), kube::Error> {
    if let Some(annotations) = scrape_annotations(&pod.pod()) {
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.pod().metadata.uid, "annotations": annotations}}));
        let api = Api::<core::Pod>::namespaced(pod.shared.client.clone(), &pod.namespace());
        api.patch(&pod.name(), &PatchParams::default(), &patch).await?;
    }
    let proxy = json!({"name": PROXY_CONTAINER, "image": "heddle"});
    let patch = json!({"metadata": {"uid": pod.pod().metadata.uid}, "spec": {"ephemeralContainers": [proxy]}});
    let api = Api::<core::Pod>::namespaced(pod.shared.client.clone(), &pod.namespace());
    let patch = Patch::Strategic(patch);
    api.patch_ephemeral_containers(&pod.name(), &PatchParams::default(), &patch).await.map(drop)
}

/// The customary annotations by which Prometheus finds the proxy's metrics; none for a pod that has some of its own,
/// which name what its author wants to be scraped.
fn scrape_annotations(pod: &core::Pod) -> Option<serde_json::Value> {
    let mut present = pod.metadata.annotations.iter().flat_map(|annotations| annotations.keys());
    if present.any(|key| key.starts_with("prometheus.io/")) {
        return None;
    }
    Some(json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": ADMIN_PORT.to_string(),
        "prometheus.io/path": "/metrics",
    }))
}

async fn run_once(
    pod: &Context,
    control: &mut watch::Receiver<Control>,
    run: u32,
    last_ended: Option<Timestamp>,
) -> String {
    pod.state.send_modify(|state| state.mesh = MeshState::Starting("the proxy starts".to_owned()));
    let process = Process { argv: arguments(pod, last_ended), env: environment(), working_dir: None };
    let log = match pod.log(PROXY_CONTAINER).and_then(|log| log.begin(run).map(|()| log)) {
        Ok(log) => log,
        Err(error) => return format!("its log cannot be written: {error}"),
    };
    let mut started = match pod.start(&process, None).await {
        Ok(started) => started,
        Err(error) => return error.to_string(),
    };
    if let (Some(out), Some(err)) = (started.child.stdout.take(), started.child.stderr.take()) {
        tokio::spawn(log.clone().copy("stdout", out));
        tokio::spawn(log.copy("stderr", err));
    }
    let why = tokio::select! {
        status = started.child.wait() => Some(status.map_or_else(|error| error.to_string(), |status| status.to_string())),
        () = report_ready(pod) => None,
        _ = control.wait_for(|control| control.stop.is_some()) => None,
    };
    if let Some(why) = why {
        return why;
    }
    started.group.signal(Signal::TERM);
    // Whether it ended by itself or is killed now is the same to those who stopped it.
    tokio::time::timeout(DRAIN + LAST_WORD, started.child.wait()).await.ok();
    started.group.kill();
    started.child.wait().await.ok();
    "it was stopped".to_owned()
}

/// Waits until the proxy says that it is ready, then for ever.
async fn report_ready(pod: &Context) {
    let begun = Instant::now();
    let mut reported = false;
    while let Err(why) = ask_ready(pod).await {
        if begun.elapsed() > SLOW && !reported {
            reported = true;
            pod.event(None, Kind::Warning, "ProxyNotReady", &format!("The proxy of the pod is not ready: {why}"));
        }
        pod.state.send_if_modified(|state| {
            let starting = MeshState::Starting(why);
            let changed = state.mesh != starting;
            state.mesh = starting;
            changed
        });
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    pod.state.send_modify(|state| state.mesh = MeshState::Ready { since: Timestamp::now() });
    std::future::pending().await
}

async fn ask_ready(pod: &Context) -> Result<(), String> {
    let sandbox = pod.sandbox.get().ok_or("the pod has no network")?;
    let ask = async {
        let socket = pod_socket(sandbox.netns.as_ref()).map_err(|error| error.to_string())?;
        let stream = socket.connect((sandbox.ip, ADMIN_PORT).into()).await.map_err(|_| "it does not listen yet")?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get("/ready").header(http::header::HOST, "proxy").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.map_err(|error| error.to_string())?).await;
        driver.abort();
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                Err(format!("/ready answers {}: it waits for its identity or configuration", answer.status()))
            }
            Err(error) => Err(error.to_string()),
        }
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.unwrap_or_else(|_| Err("/ready does not answer".to_owned()))
}

/// The command line of the proxy, where the one before it ended then.
fn arguments(pod: &Context, last_ended: Option<Timestamp>) -> Vec<String> {
    let files = Files::of(pod);
    let config = &pod.shared.config.mesh;
    let ip = pod.place().pod_ip.to_string();
    let isolated = pod.sandbox.get().is_some_and(|sandbox| sandbox.netns.is_some());
    let mut arguments = config.program.clone();
    let flags = [
        ("--control", config.control.clone()),
        ("--ca-file", files.ca.to_string_lossy().into_owned()),
        ("--token-file", files.token.to_string_lossy().into_owned()),
        ("--pod-ip", ip.clone()),
        ("--drain", DRAIN.as_secs().to_string()),
        ("--totals-file", files.totals.to_string_lossy().into_owned()),
        ("--capture", if isolated { "transparent" } else { "explicit" }.to_owned()),
    ];
    arguments.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    if let Some(ended) = last_ended {
        arguments.extend(["--last-ended".to_owned(), ended.as_millisecond().to_string()]);
    }
    if isolated {
        arguments.extend(["--mark".to_owned(), MARK.to_string()]);
    } else {
        for (service, port, listener) in service_listeners(&pod.shared.directory.borrow().services) {
            arguments.extend(["--env-listen".to_owned(), format!("{service}:{port}={ip}:{listener}")]);
        }
    }
    arguments
}

fn environment() -> Environment {
    let passed = ["RUST_BACKTRACE", "HEDDLE_LOG", "HEDDLE_LOG_FORMAT"];
    passed.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect()
}

/// The variables by which a pod without capture finds its proxy.
pub(super) fn variables(ip: std::net::Ipv4Addr) -> Environment {
    let proxy = format!("http://{ip}:{HTTP_PROXY_PORT}");
    let direct = "localhost,127.0.0.1,::1";
    Environment::from_iter([
        ("http_proxy", proxy.as_str()),
        ("HTTP_PROXY", proxy.as_str()),
        ("no_proxy", direct),
        ("NO_PROXY", direct),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_host_network_and_disabled_pods_are_not_meshed() {
        let check = |namespace: serde_json::Value, pod: serde_json::Value| {
            is_meshed(&serde_json::from_value(pod).unwrap(), Some(&serde_json::from_value(namespace).unwrap()))
        };
        let plain = json!({"metadata": {"name": "n"}});
        let off = json!({"metadata": {"name": "n", "labels": {"heddle.dev/inject": "disabled"}}});
        assert!(check(plain.clone(), json!({"metadata": {"namespace": "n"}})));
        assert!(!check(off.clone(), json!({"metadata": {"namespace": "n"}})));
        assert!(!check(plain.clone(), json!({"metadata": {"namespace": "n", "labels": off["metadata"]["labels"]}})));
        assert!(!check(plain.clone(), json!({"metadata": {"namespace": "heddle-system"}})));
        assert!(!check(
            plain,
            json!({"metadata": {"namespace": "n"}, "spec": {"hostNetwork": true, "containers": []}})
        ));
    }

    #[test]
    fn prometheus_is_told_of_the_proxy_unless_the_pod_says_what_to_scrape() {
        let pod = |annotations: serde_json::Value| {
            scrape_annotations(&serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap())
        };
        assert_eq!(pod(json!({"a": "b"})).unwrap()["prometheus.io/port"], "15000");
        assert_eq!(pod(json!(null)).unwrap()["prometheus.io/scrape"], "true");
        assert_eq!(pod(json!({"prometheus.io/port": "9090"})), None);
        assert_eq!(pod(json!({"prometheus.io/scrape": "false"})), None);
    }

    #[test]
    fn each_tcp_port_of_a_service_has_a_listener() {
        let services: Vec<core::Service> = serde_json::from_value(json!([
            {"metadata": {"name": "b", "namespace": "n"}, "spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}},
            {"metadata": {"name": "a", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}},
        ]))
        .unwrap();
        let expected = [("n/a".to_owned(), 80, 20000), ("n/b".to_owned(), 80, 20001)];
        assert_eq!(service_listeners(&services), expected);
    }
}
