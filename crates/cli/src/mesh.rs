//! The running mesh that a command talks to: a Kubernetes API, found as kubectl finds it.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, bail};
use heddle_traffic::Source;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::config::InferConfigError;
use kube::core::Selector;
use kube::{Api, Client, Config, ResourceExt};

/// A client for the API that `KUBECONFIG` names.
pub(crate) async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.map_err(|error| no_api(std::env::var_os("KUBECONFIG").as_deref(), &error))?;
    let server = config.cluster_url.to_string();
    let client = connect(config)?;
    client.apiserver_version().await.map_err(|error| {
        let error = anyhow::Error::new(error);
        let why = error.root_cause();
        anyhow::anyhow!(
            "the Kubernetes API at {server}, which KUBECONFIG names, does not answer: {why}; is the mesh up?"
        )
    })?;
    Ok(client)
}

/// A client that takes the first answer: kube's own would ask again for minutes while the control plane is away, and
/// people would look at nothing for as long.
pub(crate) fn connect(mut config: Config) -> anyhow::Result<Client> {
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Why there is no API to talk to, in the words of somebody who has just typed `heddle status`.
fn no_api(kubeconfig: Option<&OsStr>, error: &InferConfigError) -> anyhow::Error {
    match kubeconfig {
        None => anyhow::anyhow!(
            "no Kubernetes API to talk to: KUBECONFIG is not set; run the line `export KUBECONFIG=...` that `heddle up` prints"
        ),
        Some(path) if !Path::new(path).exists() => anyhow::anyhow!(
            "no Kubernetes API to talk to: KUBECONFIG names {}, which does not exist; is the mesh up?",
            path.display()
        ),
        Some(path) => {
            // The error also tells that this is no pod of a cluster, and goes on with an excerpt.
            let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            let why = why.lines().next().unwrap_or_default();
            anyhow::anyhow!("no Kubernetes API to talk to: {} is no kubeconfig: {why}", path.display())
        }
    }
}

/// Its metrics.
pub(crate) fn source(client: Client) -> Source {
    let namespace = client.default_namespace().to_owned();
    Source::new(client, namespace)
}

/// The pod that a target names: `NAME`, `pod/NAME`, or one of the pods of `deploy/NAME`, `sts/NAME`, `rs/NAME`,
/// `ds/NAME`, `job/NAME` or `svc/NAME`, a ready one if there is one.
pub(crate) async fn pod(client: &Client, namespace: &str, target: &str) -> anyhow::Result<Pod> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = match kind {
        "po" | "pod" | "pods" => {
            return pods.get_opt(name).await?.with_context(|| format!("there is no pod {name} in {namespace}"));
        }
        _ => selector(client, namespace, kind, name).await?,
    };
    let selector: Selector = selector.try_into().context("its selector is not valid")?;
    let mut found = pods.list(&ListParams::default().labels_from(&selector)).await?.items;
    found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    found.sort_by_key(|pod| (!is_ready(pod), pod.name_any()));
    found.into_iter().next().with_context(|| format!("{kind}/{name} in {namespace} has no pods"))
}

/// What selects the pods of a workload or Service.
async fn selector(client: &Client, namespace: &str, kind: &str, name: &str) -> anyhow::Result<LabelSelector> {
    macro_rules! of {
        ($kind:ty, |$found:ident| $selector:expr) => {{
            let api: Api<$kind> = Api::namespaced(client.clone(), namespace);
            api.get_opt(name).await?.and_then(|$found| $selector)
        }};
    }
    let selector = match kind {
        "deploy" | "deployment" | "deployments" => of!(Deployment, |found| found.spec.map(|spec| spec.selector)),
        "sts" | "statefulset" | "statefulsets" => of!(StatefulSet, |found| found.spec.map(|spec| spec.selector)),
        "rs" | "replicaset" | "replicasets" => of!(ReplicaSet, |found| found.spec.map(|spec| spec.selector)),
        "ds" | "daemonset" | "daemonsets" => of!(DaemonSet, |found| found.spec.map(|spec| spec.selector)),
        "job" | "jobs" => of!(Job, |found| found.spec.and_then(|spec| spec.selector)),
        "svc" | "service" | "services" => of!(Service, |found| {
            let match_labels = found.spec.and_then(|spec| spec.selector);
            Some(LabelSelector { match_labels, ..LabelSelector::default() })
        }),
        _ => bail!(
            "`{kind}/{name}` is not a target: write a pod's name, or deploy/, sts/, rs/, ds/, job/ or svc/ before a name"
        ),
    };
    selector.with_context(|| format!("there is no {kind}/{name} in {namespace}"))
}

/// Whether a pod's condition `Ready` is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
