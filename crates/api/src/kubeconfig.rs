//! Kubeconfig files: where the API is, whom to trust, and a client certificate.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};

use super::pki::{Pki, PkiError, write_private};

/// A kubeconfig for a new administrator's certificate.
pub(crate) fn admin(pki: &Pki, api: SocketAddr) -> Result<Value, PkiError> {
    let leaf = pki.client_leaf("heddle-admin", &["system:masters"])?;
    let base64 = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let cluster = json!({"server": format!("https://{api}"), "certificate-authority-data": base64(&pki.cluster.pem)});
    let user = json!({
        "client-certificate-data": base64(&leaf.certificate_pem), "client-key-data": base64(&leaf.key_pem),
    });
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "heddle", "preferences": {},
        "clusters": [{"name": "heddle", "cluster": cluster}],
        "users": [{"name": "heddle-admin", "user": user}],
        "contexts": [{"name": "heddle", "context": {"cluster": "heddle", "user": "heddle-admin"}}],
    }))
}

/// Writes it where only its owner may read it. JSON is YAML too.
pub(crate) fn write(config: &Value, path: &Path) -> Result<(), PkiError> {
    let text = format!("{config:#}\n");
    write_private(path, &text).map_err(|source| PkiError::File { path: path.display().to_string(), source })
}
