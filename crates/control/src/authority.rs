//! The mesh's root: kept in a Secret, published in a ConfigMap; and the control plane's own certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use heddle_cluster::{Kind, create_or_read, read};
use heddle_identity::{Authority, Names, Store, control_plane_id};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde_json::{Value, json};
use tracing::{error, info};

use crate::names::{NAMESPACE, ROOT_SECRET, SERVICE};

pub(crate) const SECRET: Kind = Kind::new("", "v1", "Secret", "secrets");
const MESH_CONFIG: Kind = Kind::new("heddle.dev", "v1alpha1", "MeshConfig", "meshconfigs");

/// Loads the root from the Secret `heddle-root`, and makes it when there is none. Of several control planes that start
/// at once, all get the same root.
pub(crate) async fn load_root(client: &Client) -> anyhow::Result<Authority> {
    let secret = match read(client, &SECRET, NAMESPACE, ROOT_SECRET).await.context("reading the root's Secret")? {
        Some(secret) => secret,
        None => {
            let root = new_root(&trust_domain(client).await?)?;
            create_or_read(client, &SECRET, &root).await.context("creating the root's Secret")?
        }
    };
    let authority = root_of(secret).with_context(|| {
        format!(
            "the Secret {NAMESPACE}/{ROOT_SECRET} holds no usable root; restore it, or delete it for a new root, with \
             which every proxy needs a restart"
        )
    })?;
    info!(trust_domain = authority.trust_domain(), "the root is loaded");
    Ok(authority)
}

async fn trust_domain(client: &Client) -> anyhow::Result<String> {
    let config = match read(client, &MESH_CONFIG, "", heddle_smi::MESH_CONFIG_NAME).await {
        // Its CustomResourceDefinition may not be installed.
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        config => config.context("reading the MeshConfig")?,
    };
    let domain = config.and_then(|config| config["spec"]["trustDomain"].as_str().map(str::to_owned));
    Ok(domain.unwrap_or_else(|| heddle_smi::MeshConfigSpec::default().trust_domain))
}

fn new_root(trust_domain: &str) -> anyhow::Result<Value> {
    let authority = Authority::create(trust_domain, SystemTime::now())?;
    info!(trust_domain, "a new root is made");
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "namespace": NAMESPACE, "name": ROOT_SECRET },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": authority.bundle().to_pem(), "tls.key": authority.key_pem() },
    }))
}

fn root_of(secret: Value) -> anyhow::Result<Authority> {
    let secret: Secret = serde_json::from_value(secret)?;
    let mut data = secret.data.unwrap_or_default();
    let mut pem = |key: &str| -> anyhow::Result<String> {
        let bytes = data.remove(key).with_context(|| format!("it has no `{key}`"))?;
        String::from_utf8(bytes.0).map_err(|_| anyhow::anyhow!("its `{key}` is not PEM"))
    };
    Ok(Authority::from_pem(&pem("tls.crt")?, &pem("tls.key")?)?)
}

/// The longest sleep until the certificate is due: a machine that was suspended looks at its clock again.
const NAP: Duration = Duration::from_secs(30);

/// Keeps a valid certificate for the control plane's servers in `store`, and never ends. The first is there when this
/// is called; `ttl` is how long each is valid, and it is renewed after two thirds of that. What cannot be renewed is
/// tried again.
pub(crate) async fn keep_certified(authority: Arc<Authority>, store: Store, ttl: Duration) {
    loop {
        let due = store.current().map_or(SystemTime::UNIX_EPOCH, |credentials| credentials.svid.rotate_at());
        let left = due.duration_since(SystemTime::now()).unwrap_or_default();
        if !left.is_zero() {
            tokio::time::sleep(left.min(NAP)).await;
        } else if let Err(error) = certify(&authority, &store, ttl) {
            error!(%error, "the control plane's certificate cannot be renewed");
            tokio::time::sleep(NAP.min(ttl / 10)).await;
        }
    }
}

/// Puts a new certificate of the control plane in `store`.
pub(crate) fn certify(authority: &Authority, store: &Store, ttl: Duration) -> anyhow::Result<()> {
    let dns = ["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{SERVICE}.{NAMESPACE}{suffix}"));
    let identity = control_plane_id(authority.trust_domain())?;
    let names = Names { identity, dns: dns.to_vec() };
    store.replace(authority.credentials(&names, ttl, SystemTime::now())?);
    Ok(())
}
