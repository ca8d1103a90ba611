//! Who may ask the read API: the API server, which passes on the requests that it has authenticated and authorised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use heddle_cluster::read;
use heddle_identity::Store;
use kube::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::https::{ClientCertificate, server_config};
use crate::registration::CONFIG_MAPS;

/// How the API server proves that it is the one who asks, by the ConfigMap
/// `kube-system/extension-apiserver-authentication`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FrontProxy {
    /// The authority of its client certificate, in PEM; empty when unknown, and then nobody may ask.
    authority: String,
    /// The common names it may have; any when empty.
    names: Vec<String>,
    /// The headers in which it says who asks.
    headers: Headers,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Headers {
    user: Vec<String>,
    group: Vec<String>,
    extra_prefix: Vec<String>,
}

/// Who asks, by the word of the API server.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// As [`LOOK_AGAIN`], while nobody is known who may ask.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// Follows the ConfigMap, for ever: publishes who may ask, and a TLS configuration that checks it.
pub(crate) async fn follow(
    client: Client,
    store: Store,
    front_proxy: watch::Sender<FrontProxy>,
    config: watch::Sender<Arc<ServerConfig>>,
) {
    loop {
        match FrontProxy::read(&client).await {
            Ok(found) if found != *front_proxy.borrow() => {
                match found.roots().and_then(|roots| server_config(&store, roots)) {
                    Ok(new) => {
                        info!(names = ?found.names, "the front proxy's authority is known");
                        config.send_replace(Arc::new(new));
                        front_proxy.send_replace(found);
                    }
                    Err(error) => warn!(%error, "the front proxy's authority cannot be used; the read API refuses"),
                }
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the front proxy's authority cannot be read"),
        }
        let known = *front_proxy.borrow() != FrontProxy::default();
        tokio::time::sleep(if known { LOOK_AGAIN } else { LOOK_FOR }).await;
    }
}

// === impl FrontProxy ===

impl FrontProxy {
    async fn read(client: &Client) -> kube::Result<Self> {
        let map = read(client, &CONFIG_MAPS, "kube-system", "extension-apiserver-authentication").await?;
        Ok(map.map_or_else(Self::default, |map| Self::from_data(&map["data"])))
    }

    fn from_data(data: &Value) -> Self {
        let text = |key: &str| data[key].as_str().unwrap_or_default();
        // A list that cannot be read admits a name that no certificate has, and not every name.
        let names = match text("requestheader-allowed-names") {
            "" => Vec::new(),
            list => serde_json::from_str(list).unwrap_or_else(|_| vec![String::new()]),
        };
        let list = |key: &str, default: &str| match serde_json::from_str::<Vec<String>>(text(key)) {
            Ok(list) if !list.is_empty() => list,
            _ => vec![default.to_owned()],
        };
        let headers = Headers {
            user: list("requestheader-username-headers", "x-remote-user"),
            group: list("requestheader-group-headers", "x-remote-group"),
            extra_prefix: list("requestheader-extra-headers-prefix", "x-remote-extra-"),
        };
        Self { authority: text("requestheader-client-ca-file").to_owned(), names, headers }
    }

    fn roots(&self) -> anyhow::Result<Option<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        Ok((!roots.is_empty()).then_some(roots))
    }

    /// Whether the holder of this certificate speaks for the API server. The authority was checked in the handshake.
    pub(crate) fn admits(&self, certificate: &ClientCertificate) -> bool {
        let Some(certificate) = &certificate.0 else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        !self.authority.is_empty()
            && (self.names.is_empty() || names.any(|name| self.names.iter().any(|allowed| allowed == name)))
    }

    /// Who asks. Only for the request of one that is [admitted](Self::admits).
    pub(crate) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let values = |name: &String| headers.get_all(name.as_str()).iter().filter_map(text);
        let name = self.headers.user.iter().flat_map(values).find(|name| !name.is_empty())?.to_owned();
        let groups = self.headers.group.iter().flat_map(values).map(str::to_owned).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let prefixes = self.headers.extra_prefix.iter().map(|prefix| prefix.to_ascii_lowercase());
            let key = prefixes.into_iter().find_map(|prefix| header.as_str().strip_prefix(&prefix).map(unescape));
            if let (Some(key), Some(value)) = (key, text(value)) {
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(User { name, groups, extra })
    }
}

/// A header's value; names of people are not all ASCII, and the API server sends them as they are.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// A key of extra information: what a header's name cannot hold is percent-encoded in it.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn certificate(name: &str) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate(Some(certificate.der().clone()))
    }

    fn front_proxy(names: &str) -> FrontProxy {
        FrontProxy::from_data(&json!({ "requestheader-client-ca-file": "PEM", "requestheader-allowed-names": names }))
    }

    #[test]
    fn only_the_names_listed_are_admitted() {
        let front_proxy = front_proxy(r#"["front-proxy-client"]"#);
        assert!(front_proxy.admits(&certificate("front-proxy-client")));
        assert!(!front_proxy.admits(&certificate("kubelet")));
        assert!(!front_proxy.admits(&ClientCertificate(None)));
    }

    #[test]
    fn no_list_admits_any_name_of_the_authority() {
        assert!(front_proxy("[]").admits(&certificate("anyone")));
        assert!(front_proxy("").admits(&certificate("anyone")));
    }

    #[test]
    fn the_user_is_whom_the_headers_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "system:serviceaccount:shop:reader"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-group", "readers"),
            ("x-remote-extra-authentication.kubernetes.io%2fpod-name", "web-1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let user = front_proxy("").user(&headers).unwrap();
        assert_eq!(user.name, "system:serviceaccount:shop:reader");
        assert_eq!(user.groups, ["system:authenticated", "readers"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web-1"]);
        assert_eq!(front_proxy("").user(&HeaderMap::new()), None);
    }

    #[test]
    fn a_user_may_have_any_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-remote-user", "josé"), ("x-remote-group", "entwicklung-süd")] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let user = front_proxy("").user(&headers).unwrap();
        assert_eq!((&*user.name, &*user.groups), ("josé", &["entwicklung-süd".to_owned()][..]));
    }

    #[test]
    fn what_cannot_be_read_admits_nobody() {
        assert!(!front_proxy("{").admits(&certificate("front-proxy-client")));
        assert!(!FrontProxy::default().admits(&certificate("front-proxy-client")));
    }
}
