//! The embedded Kubernetes API server: one axum router over one store, for `kubectl` over TLS and for clients in this
//! process. It is for one machine; it is no replacement for a cluster's API server.

mod bootstrap;
mod columns;
mod convert;
mod crd;
mod custom;
mod defaults;
mod definitions;
mod delete;
mod discovery;
mod error;
mod jsonpath;
mod merge_keys;
mod names;
mod negotiate;
mod object;
mod patch;
mod pod_status;
mod quantity;
mod read;
mod reaper;
mod request;
mod resource;
mod scale;
mod schema;
mod selector;
mod server;
mod store;
mod strategic;
mod strategy;
mod subresource;
mod table;
mod user;
mod view;
mod watch;
mod write;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use tower::ServiceExt as _;

pub use self::error::{Cause, Failure};
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
    #[error("cannot create the first objects: {0}")]
    Bootstrap(Failure),
}

impl Api {
    /// Opens the store and makes sure that the objects every cluster has are there. Must be called in a Tokio runtime.
    pub async fn open(config: Config) -> Result<Self, ApiError> {
        let store = match &config.state_dir {
            None => store::Store::memory(),
            Some(dir) => {
                let failed = |source| ApiError::StateDir { path: dir.display().to_string(), source };
                std::fs::create_dir_all(dir).map_err(failed)?;
                store::Store::open(&dir.join("objects.redb"))?
            }
        };
        let server = server::Server::new(store);
        tokio::spawn(reaper::run(Arc::downgrade(&server)));
        bootstrap::run(&server).await.map_err(ApiError::Bootstrap)?;
        Ok(Api { server })
    }

    /// The API as a router. A request must carry a [`User`] extension, or it is answered 401.
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
