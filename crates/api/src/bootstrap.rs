//! The objects every cluster has from the start.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::object::map_at;
use super::server::Server;
use super::store::{Expect, Key, StoreError};
use super::strategy;

/// Namespaces that always exist.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const RBAC: &str = include_str!("bootstrap.yaml");
/// The first address of the Services' range.
pub(crate) const API_CLUSTER_IP: &str = "10.96.0.1";

/// Creates what is missing.
pub(crate) async fn run(server: &Arc<Server>) -> Answer<()> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(server, "", "namespaces", namespace).await?;
    }
    for object in rbac_objects()? {
        let plural = format!("{}s", super::object::text(&object, "/kind").to_lowercase());
        create(server, "rbac.authorization.k8s.io", &plural, object).await?;
    }
    publish_authentication(server).await?;
    create(server, "", "services", api_service()).await
}

fn rbac_objects() -> Answer<Vec<Value>> {
    let mut objects: Vec<Value> = serde_saphyr::from_str(RBAC).map_err(Failure::internal)?;
    for object in &mut objects {
        object["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
        map_at(&mut object["metadata"], "labels")
            .insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    }
    Ok(objects)
}

/// What an aggregated API server must know to trust this one.
async fn publish_authentication(server: &Arc<Server>) -> Answer<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": server.pki.cluster.pem,
            "requestheader-client-ca-file": server.pki.front_proxy.pem,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        },
    });
    create(server, "", "configmaps", map).await
}

fn api_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": API_CLUSTER_IP, "clusterIPs": [API_CLUSTER_IP], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

/// Says where the API is reached from pods: the endpoint behind the Service `kubernetes`.
pub(crate) async fn publish_endpoint(server: &Arc<Server>, at: SocketAddr) -> Answer<()> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if at.is_ipv4() { "IPv4" } else { "IPv6" },
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}],
    });
    let key = Key {
        kind: "discovery.k8s.io/endpointslices".to_owned(),
        namespace: "default".to_owned(),
        name: "kubernetes".to_owned(),
    };
    if let Some(old) = server.store.get(&key)
        && (old.value["endpoints"] != slice["endpoints"] || old.value["ports"] != slice["ports"])
    {
        server.store.remove(key, old.revision).await.map_err(Failure::internal)?;
    }
    create(server, "discovery.k8s.io", "endpointslices", slice).await
}

/// Creates a built-in object unless it exists.
async fn create(server: &Arc<Server>, group: &str, plural: &str, mut value: Value) -> Answer<()> {
    let registry = server.registry();
    let resource =
        registry.builtin_type(group, plural).ok_or_else(|| Failure::internal(format!("no type {plural}")))?;
    strategy::before_create(&resource, &mut value, &registry);
    let key = Key {
        kind: resource.storage(),
        namespace: super::object::namespace(&value).to_owned(),
        name: super::object::name(&value).to_owned(),
    };
    match server.store.put(key, value, Expect::Absent).await {
        Ok(_) | Err(StoreError::Exists) => Ok(()),
        Err(other) => Err(Failure::internal(other)),
    }
}
