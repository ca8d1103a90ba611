//! The embedded Kubernetes API server: one axum router over one store, for `kubectl` over TLS and for clients in this
//! process. It is for one machine; it is no replacement for a cluster's API server.
//!
//! It follows Kubernetes 1.33. Of what a cluster has it leaves out, and does not name in discovery: validating and
//! mutating admission policies (webhooks are there), flow control, resource claims, and versions of built-in groups that
//! are not the newest stable one, but for the autoscaler's. Kinds that are stored but that nothing on one machine acts on
//! say so in a warning.

mod admission;
mod aggregate;
mod allocate;
mod authn;
mod autoscaling;
mod body;
mod bootstrap;
mod columns;
mod convert;
mod crd;
mod crd_validation;
mod custom;
mod custom_validation;
mod defaults;
mod definitions;
mod delete;
mod discovery;
mod duplicates;
mod error;
mod expire;
mod fields;
mod jsonpath;
mod kubeconfig;
mod managed;
mod merge_keys;
mod names;
mod negotiate;
mod node;
mod object;
mod offline;
mod openapi;
mod outbound;
mod patch;
mod pki;
mod pod_admission;
mod pod_status;
mod protobuf;
mod quantity;
mod rbac;
mod read;
mod reaper;
mod request;
mod resource;
mod review;
mod rule_fields;
mod scale;
mod schema;
mod selector;
mod serve;
mod server;
mod spdy;
mod store;
mod strategic;
mod strategy;
mod streams;
mod subresource;
mod table;
mod token;
mod user;
mod validate;
mod view;
mod watch;
mod websocket;
mod write;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

pub use self::error::{Cause, Failure};
pub use self::node::{ContainerRef, Duplex, Exec, ExecOptions, LogOptions, Node, NodeError, Resize, TerminalSize};
pub use self::offline::{Mistake, MistakeKind, Types};
pub use self::pki::PkiError;
pub use self::store::StoreError;
pub use self::user::User;

/// The storage kind of CustomResourceDefinitions.
const CRDS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// How the API is made.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where objects and keys are kept; none keeps them in memory.
    pub state_dir: Option<PathBuf>,
}

/// The running API. Clones share it.
#[derive(Clone)]
pub struct Api {
    server: Arc<server::Server>,
}

/// Why the API could not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot use the state directory {path}: {source}; check that it exists and that you may write to it")]
    StateDir { path: String, source: std::io::Error },
    #[error("the API's listener has no address: {source}")]
    Listen { source: std::io::Error },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("cannot create the first objects: {0}")]
    Bootstrap(Failure),
}

impl Api {
    /// Opens the store and makes sure that the objects every cluster has are there. Must be called in a Tokio runtime.
    pub async fn open(config: Config) -> Result<Self, ApiError> {
        let (store, pki) = match &config.state_dir {
            None => (store::Store::memory(), pki::Pki::open(None)?),
            Some(dir) => {
                let failed = |source| ApiError::StateDir { path: dir.display().to_string(), source };
                std::fs::create_dir_all(dir).map_err(failed)?;
                (store::Store::open(&dir.join("objects.redb"))?, pki::Pki::open(Some(&dir.join("pki")))?)
            }
        };
        let server = server::Server::new(store, pki);
        tokio::spawn(reaper::run(Arc::downgrade(&server)));
        tokio::spawn(expire::run(Arc::downgrade(&server)));
        tokio::spawn(aggregate::watch_availability(Arc::downgrade(&server)));
        bootstrap::run(&server).await.map_err(ApiError::Bootstrap)?;
        Ok(Api { server })
    }

    /// Gives logs, exec and port-forward to the kubelet.
    pub fn set_node(&self, node: Arc<dyn Node>) {
        self.server.set_node(node);
    }

    /// The certificate of the cluster's authority, in PEM: what pods trust (`kube-root-ca.crt`).
    pub fn ca_pem(&self) -> &str {
        &self.server.pki.cluster.pem
    }

    /// Serves TLS on the listener until the future is dropped. `pods_see` is where pods reach it, when that is another
    /// address: the endpoint behind the Service `kubernetes`.
    pub async fn serve(&self, listener: TcpListener, pods_see: Option<SocketAddr>) -> Result<(), ApiError> {
        let failed = |source| ApiError::Listen { source };
        let local = listener.local_addr().map_err(failed)?;
        let seen = pods_see.unwrap_or(local);
        let tls = serve::tls(&self.server.pki, &[local.ip(), seen.ip()])?;
        bootstrap::publish_endpoint(&self.server, seen).await.map_err(ApiError::Bootstrap)?;
        serve::run(self.router(), tls, listener).await;
        Ok(())
    }

    /// A kubeconfig with an administrator's client certificate, for the API at `api`.
    pub fn kubeconfig(&self, api: SocketAddr) -> Result<serde_json::Value, ApiError> {
        Ok(kubeconfig::admin(&self.server.pki, api)?)
    }

    /// Writes that kubeconfig to a file that only its owner may read.
    pub fn write_kubeconfig(&self, api: SocketAddr, path: &Path) -> Result<(), ApiError> {
        Ok(kubeconfig::write(&self.kubeconfig(api)?, path)?)
    }

    /// The API as a router. A request is by the [`User`] in its extensions, by the bearer of a ServiceAccount token, or
    /// it is answered 401.
    pub fn router(&self) -> Router {
        Router::new().fallback(server::handle).with_state(self.server.clone())
    }

    /// A client in this process, with every right, known as `system:heddle`.
    pub fn client(&self) -> kube::Client {
        self.client_as(User::admin("system:heddle"))
    }

    /// A client in this process that acts as `user`.
    pub fn client_as(&self, user: User) -> kube::Client {
        let router = self.router();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (router, user) = (router.clone(), user.clone());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(user);
                router.oneshot(request).await as Result<Response, Infallible>
            }
        });
        kube::Client::new(service, "default")
    }
}
