//! Finding the API server.

use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("this pod's ServiceAccount cannot be used: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    #[error(
        "the kubeconfig cannot be used: {0} (set KUBECONFIG to the file that `heddle up` or your cluster gave you)"
    )]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("the Kubernetes client cannot be made: {0}")]
    Client(#[from] kube::Error),
}

/// A client as this pod's ServiceAccount when this is a pod, else as KUBECONFIG says.
///
/// The pod comes first: on one machine a pod sees the user's files, and must not take the user's rights.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = match std::env::var_os("KUBERNETES_SERVICE_HOST") {
        Some(_) => Config::incluster()?,
        None => Config::from_kubeconfig(&KubeConfigOptions::default()).await?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(Client::try_from(config)?)
}
