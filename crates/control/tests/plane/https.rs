//! Requests to the control plane's HTTPS end, as the API server makes them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::World;

/// The authority of the API server's own client certificates.
pub(crate) struct FrontProxy {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl FrontProxy {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { authority }
    }

    pub(crate) fn config_map(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "namespace": "kube-system", "name": "extension-apiserver-authentication" },
            "data": {
                "requestheader-client-ca-file": self.authority.pem(),
                "requestheader-allowed-names": r#"["front-proxy-client"]"#,
            },
        })
    }

    fn certify(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

impl World {
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let head =
            format!("POST {path} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let (status, answer) = self.request(None, &head, &body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Asks with a certificate of this common name, or without one; in the name of an administrator.
    pub(crate) async fn get_as(&self, name: Option<&str>, path: &str) -> (u16, Value) {
        let user = "x-remote-user: admin\r\nx-remote-group: system:masters\r\n";
        self.request(name, &format!("GET {path} HTTP/1.1\r\n{user}"), "").await
    }

    /// Asks as the API server does in the name of a user.
    pub(crate) async fn get_for(&self, user: &str, path: &str) -> (u16, Value) {
        let user = format!("x-remote-user: {user}\r\nx-remote-group: system:authenticated\r\n");
        self.request(Some("front-proxy-client"), &format!("GET {path} HTTP/1.1\r\n{user}"), "").await
    }

    async fn request(&self, name: Option<&str>, head: &str, body: &str) -> (u16, Value) {
        let mut roots = RootCertStore::empty();
        let bundle = self.trust_bundle().await;
        roots.add(CertificateDer::from_pem_slice(bundle.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match name.map(|name| self.front_proxy.certify(name)) {
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.webhook.unwrap()).await.unwrap();
        let server = ServerName::try_from("heddle-control.heddle-system.svc").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await.unwrap();
        let request = format!("{head}host: heddle-control\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}
