//! Finding the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("this pod's ServiceAccount cannot be used: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    #[error("this pod's ServiceAccount cannot be used: {0}")]
    Account(String),
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
    let mut config = match (std::env::var("KUBERNETES_SERVICE_HOST"), unmounted_account()) {
        (Ok(host), Some(account)) => of_account(&host, &account)?,
        (Ok(_), None) => Config::incluster()?,
        (Err(_), _) => Config::from_kubeconfig(&KubeConfigOptions::default()).await?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(Client::try_from(config)?)
}

/// Where the ServiceAccount's files are when nothing can be mounted: on one machine without namespaces.
fn unmounted_account() -> Option<PathBuf> {
    let named =
        |(name, _): &(std::ffi::OsString, _)| name.to_string_lossy().starts_with("HEDDLE_VOLUME_KUBE_API_ACCESS_");
    std::env::vars_os().find(named).map(|(_, path)| path.into())
}

/// What [`Config::incluster`] makes of the files in the place that it knows.
fn of_account(host: &str, account: &Path) -> Result<Config, ConnectError> {
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    let url = format!("https://{host}:{port}").parse().map_err(|error| ConnectError::Account(format!("{error}")))?;
    let authority = account.join("ca.crt");
    let read = std::fs::read(&authority);
    let authority = read.map_err(|error| ConnectError::Account(format!("{}: {error}", authority.display())))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&authority).collect();
    let roots = roots.map_err(|error| ConnectError::Account(format!("{error}")))?;
    let mut config = Config::new(url);
    config.root_cert = Some(roots.iter().map(|root| root.to_vec()).collect());
    config.auth_info.token_file = Some(account.join("token").to_string_lossy().into_owned());
    Ok(config)
}
