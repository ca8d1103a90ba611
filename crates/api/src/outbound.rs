//! Calls that the API server makes itself: to webhooks and to aggregated API servers, over HTTPS with a known authority.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::object::{integer, items, text};
use super::pki::Leaf;
use super::server::Server;

/// Largest answer of a webhook.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(5);

/// Where a call goes and whom it trusts.
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    /// The name that the certificate must have.
    name: String,
    /// The path that every call goes to, for webhooks.
    pub path: String,
    roots: RootCertStore,
}

impl Server {
    /// Reads a `clientConfig`: a URL, or a Service whose endpoints are called directly.
    pub(crate) fn endpoint(&self, config: &Value) -> Result<Endpoint, String> {
        let roots = roots(text(config, "/caBundle"))?;
        if let Some(url) = config["url"].as_str() {
            let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
            let host = uri
                .host()
                .filter(|_| uri.scheme_str() == Some("https"))
                .ok_or_else(|| format!("{url:?} is no https URL"))?;
            let host = host.trim_matches(['[', ']']).to_owned();
            return Ok(Endpoint {
                name: host.clone(),
                host,
                port: uri.port_u16().unwrap_or(443),
                path: uri.path().to_owned(),
                roots,
            });
        }
        let service = &config["service"];
        let port = integer(service, "/port").unwrap_or(443);
        let (host, port) = self.service_endpoint(text(service, "/namespace"), text(service, "/name"), port)?;
        let name = format!("{}.{}.svc", text(service, "/name"), text(service, "/namespace"));
        let path = Some(text(service, "/path")).filter(|p| !p.is_empty()).unwrap_or("/").to_owned();
        Ok(Endpoint { host, port, name, path, roots })
    }

    /// A ready address behind a port of a Service.
    fn service_endpoint(&self, namespace: &str, name: &str, port: i64) -> Result<(String, u16), String> {
        let what = format!("service {namespace}/{name}");
        let service = self.lookup("/services", namespace, name).ok_or_else(|| format!("{what} not found"))?;
        let entry = items(&service.value, "/spec/ports").iter().find(|p| integer(p, "/port") == Some(port));
        let entry = entry.ok_or_else(|| format!("{what} has no port {port}"))?;
        let (slices, _) = self.store.list("discovery.k8s.io/endpointslices", Some(namespace));
        let of_service =
            slices.iter().filter(|s| text(&s.value, "/metadata/labels/kubernetes.io~1service-name") == name);
        for slice in of_service {
            let number = items(&slice.value, "/ports").iter().find(|p| text(p, "/name") == text(entry, "/name"));
            let ready = items(&slice.value, "/endpoints").iter().filter(|e| e["conditions"]["ready"] != false);
            let address = ready.flat_map(|e| items(e, "/addresses")).find_map(Value::as_str);
            let number = number.and_then(|p| integer(p, "/port")).and_then(|p| u16::try_from(p).ok());
            if let (Some(address), Some(number)) = (address, number) {
                return Ok((address.to_owned(), number));
            }
        }
        Err(format!("no endpoints available for {what}"))
    }
}

fn roots(bundle: &str) -> Result<RootCertStore, String> {
    let pem =
        base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|_| "caBundle is not base64".to_owned())?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|_| "caBundle is not PEM".to_owned())?;
        roots.add(certificate).map_err(|e| format!("caBundle holds a certificate that cannot be used: {e}"))?;
    }
    if roots.is_empty() {
        Err("caBundle holds no certificate; set it to the authority that signed the server's".to_owned())
    } else {
        Ok(roots)
    }
}

impl Endpoint {
    /// Connects, as the owner of `identity` where there is one.
    pub(crate) async fn connect(&self, identity: Option<&Leaf>) -> Result<http1::SendRequest<Body>, String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}:{}: {e}", self.host, self.port);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(&e))?
            .with_root_certificates(self.roots.clone());
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.der.clone()], leaf.key()).map_err(|e| failed(&e))?,
        };
        let name = ServerName::try_from(self.name.clone()).map_err(|e| failed(&e))?;
        let connecting = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        };
        let stream =
            tokio::time::timeout(CONNECT, connecting).await.map_err(|_| failed(&"connecting took too long"))?;
        let stream = TokioIo::new(stream.map_err(|e| failed(&e))?);
        let (sender, connection) = http1::handshake(stream).await.map_err(|e| failed(&e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection of the API server ended");
            }
        });
        Ok(sender)
    }

    /// Posts JSON and reads JSON, within `limit`.
    pub(crate) async fn post(&self, body: &Value, limit: Duration) -> Result<Value, String> {
        let posted = async {
            let request = Request::post(&self.path)
                .header(header::HOST, &self.name)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json")
                .body(Body::from(body.to_string()))
                .map_err(|e| e.to_string())?;
            let response = self.connect(None).await?.send_request(request).await.map_err(|e| e.to_string())?;
            read(response).await
        };
        let (status, bytes) =
            tokio::time::timeout(limit, posted).await.map_err(|_| "context deadline exceeded".to_owned())??;
        if status != StatusCode::OK {
            return Err(format!("the server answered {status}"));
        }
        serde_json::from_slice(&bytes).map_err(|e| format!("the answer is not JSON: {e}"))
    }
}

/// A whole answer, at most 8 MiB.
pub(crate) async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), String> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?;
    Ok((status, body.to_bytes()))
}
