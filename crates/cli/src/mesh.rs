//! The running mesh that a command talks to: a Kubernetes API, found as kubectl finds it.

use std::path::PathBuf;

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

/// The files that may name the API, as kubectl looks for them.
struct Kubeconfig {
    /// Of `KUBECONFIG`.
    named: Vec<PathBuf>,
    /// `~/.kube/config`, where it exists. It counts when `KUBECONFIG` names nothing.
    default: Option<PathBuf>,
}

/// A client for the API that a kubeconfig names.
pub(crate) async fn client() -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::find();
    let config = Config::infer().await.map_err(|error| kubeconfig.no_api(&error))?;
    let server = config.cluster_url.to_string();
    let client = connect(config)?;
    client.apiserver_version().await.map_err(|error| {
        let error = anyhow::Error::new(error);
        kubeconfig.no_answer(&server, error.root_cause())
    })?;
    Ok(client)
}

/// A client that takes the first answer: kube's own would ask again for minutes while the control plane is away, and
/// people would look at nothing for as long.
pub(crate) fn connect(mut config: Config) -> anyhow::Result<Client> {
    config.default_retry = false;
    Ok(Client::try_from(config)?)
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

// === impl Kubeconfig ===

/// Its errors are in the words of somebody who has just typed `heddle status`.
impl Kubeconfig {
    fn find() -> Self {
        let variable = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let named = std::env::split_paths(&variable).filter(|path| !path.as_os_str().is_empty()).collect();
        let default = std::env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        Self { named, default }
    }

    /// Why there is no API to talk to.
    fn no_api(&self, error: &InferConfigError) -> anyhow::Error {
        if let Some(missing) = self.named.iter().find(|path| !path.exists()) {
            let missing = missing.display();
            return anyhow::anyhow!(
                "no Kubernetes API to talk to: KUBECONFIG names {missing}, which does not exist; is the mesh up?"
            );
        }
        let Some(files) = self.files() else {
            return anyhow::anyhow!("no Kubernetes API to talk to: {UNSET}");
        };
        // The error also tells that this is no pod of a cluster, and goes on with an excerpt.
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let why = why.lines().next().unwrap_or_default();
        anyhow::anyhow!("no Kubernetes API to talk to: {files} is no kubeconfig: {why}")
    }

    /// What to say when the API that was found does not answer.
    fn no_answer(&self, server: &str, why: &dyn std::error::Error) -> anyhow::Error {
        let of = self.files().unwrap_or_else(|| "the environment of this pod".to_owned());
        let (by, hint) = match self.named.is_empty() {
            false => ("KUBECONFIG=", "is the mesh up?"),
            true => ("", UNSET),
        };
        anyhow::anyhow!("the Kubernetes API at {server}, which {by}{of} names, does not answer: {why}; {hint}")
    }

    /// The files that count, as `KUBECONFIG` has them.
    fn files(&self) -> Option<String> {
        match self.named.is_empty() {
            true => self.default.as_ref().map(|path| path.display().to_string()),
            false => Some(self.named.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")),
        }
    }
}

const UNSET: &str = "KUBECONFIG is not set; run the line `export KUBECONFIG=...` that `heddle up` prints";
