//! Reading the metrics API.

use heddle_smi::metrics::{GROUP, TrafficMetrics, TrafficMetricsList};
use kube::Client;

use crate::Kind;

/// The API, with a client's rights.
#[derive(Clone)]
pub struct Source {
    client: Client,
    namespace: String,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "the API server has no metrics.smi-spec.io that answers: the mesh's control plane serves it \
         (`kubectl get apiservice v1alpha1.{GROUP}` says why it does not)"
    )]
    Absent,
    #[error("{}", .0.message)]
    Refused(Box<kube::core::Status>),
    #[error("the metrics cannot be read: {}; does the Kubernetes API answer?", root_cause(.0))]
    Failed(kube::Error),
}

/// What is at the bottom of an error, such as a connection that was refused.
fn root_cause(error: &kube::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

impl Source {
    /// `namespace` is the one that commands are about when they name none.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into() }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Every resource of a kind in one namespace, or in all. `parameters` follow `?` in the request.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        parameters: &str,
    ) -> Result<Vec<TrafficMetrics>, SourceError> {
        self.get(&format!("{}?{parameters}", path(kind, namespace))).await
    }

    /// The edges of every resource of a kind in one namespace, or in all.
    pub async fn edges(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        parameters: &str,
    ) -> Result<Vec<TrafficMetrics>, SourceError> {
        self.get(&format!("{}/*/edges?{parameters}", path(kind, namespace))).await
    }

    async fn get(&self, path: &str) -> Result<Vec<TrafficMetrics>, SourceError> {
        let version = format!("/apis/{GROUP}/v1alpha1");
        let request = http::Request::get(format!("{version}{path}")).body(Vec::new());
        let request = request.map_err(|error| SourceError::Failed(kube::Error::HttpError(error)))?;
        let answer = self.client.request::<TrafficMetricsList>(request).await;
        answer.map(|list| list.items).map_err(|error| match error {
            kube::Error::Api(status) if is_absent(&status) => SourceError::Absent,
            kube::Error::Api(status) => SourceError::Refused(status),
            error => SourceError::Failed(error),
        })
    }
}

/// The path of a kind's resources, below the version.
fn path(kind: Kind, namespace: Option<&str>) -> String {
    let place = namespace.filter(|_| kind.is_namespaced).map(|name| format!("/namespaces/{name}"));
    format!("{}/{}", place.unwrap_or_default(), kind.plural)
}

/// Whether the answer is that of an API server which has nobody to pass the request on to.
fn is_absent(status: &kube::core::Status) -> bool {
    status.code == 503 || (status.code == 404 && !status.message.contains(GROUP))
}
