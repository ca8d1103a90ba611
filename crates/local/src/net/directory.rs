//! The Services and their endpoints, as last seen: what DNS, ClusterIPs and environment variables are made from.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

/// All Services and EndpointSlices.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

impl Directory {
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| {
            service.metadata.namespace.as_deref() == Some(namespace) && service.metadata.name.as_deref() == Some(name)
        })
    }

    /// The slices of a Service.
    pub fn slices_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices.iter().filter(move |slice| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace == service.metadata.namespace
                && labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == service.metadata.name.as_ref()
        })
    }
}

/// Follows the Services and EndpointSlices of the cluster. Runs until the receivers are gone.
pub async fn follow(client: Client, directory: watch::Sender<Arc<Directory>>) {
    let (services, service_writer) = reflector::store();
    let (slices, slice_writer) = reflector::store();
    let config = watcher::Config::default();
    let service_changes =
        watcher(Api::<Service>::all(client.clone()), config.clone()).default_backoff().reflect(service_writer);
    let slice_changes = watcher(Api::<EndpointSlice>::all(client), config).default_backoff().reflect(slice_writer);
    let changes = futures::stream::select(service_changes.map_ok(drop), slice_changes.map_ok(drop));
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        if let Err(error) = change {
            tracing::debug!(%error, "the watch of Services and EndpointSlices begins again");
            continue;
        }
        let services = services.state().iter().map(|service: &Arc<Service>| Service::clone(service)).collect();
        let slices = slices.state().iter().map(|slice: &Arc<EndpointSlice>| EndpointSlice::clone(slice)).collect();
        directory.send_replace(Arc::new(Directory { services, slices }));
        if directory.is_closed() {
            return;
        }
    }
}
