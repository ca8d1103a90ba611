//! Aggregated APIs: requests of a group-version that an APIService gives to another server, and that server's discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::object::{self, integer, items, metadata, text};
use super::outbound::read;
use super::server::Server;
use super::store::{Expect, Object};
use super::user::User;

const API_SERVICES: &str = "apiregistration.k8s.io/apiservices";
/// How long the discovery of another server may take.
const DISCOVERY: Duration = Duration::from_secs(3);
/// How often an aggregated API is tried, beside after each change of its APIService.
const PROBE: Duration = Duration::from_secs(10);

/// Headers that say something about one connection alone.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// A group-version that another server serves.
pub(crate) struct Aggregated {
    pub group: String,
    pub version: String,
    /// The version with the highest one is preferred.
    pub priority: i64,
    /// APIResources; none when the server did not answer.
    pub resources: Option<Vec<Value>>,
}

impl Server {
    /// The APIService that gives this path to another server.
    pub(crate) fn api_service(&self, path: &str) -> Option<Arc<Object>> {
        let mut segments = path.split('/').filter(|s| !s.is_empty());
        let (root, group, version) = (segments.next()?, segments.next()?, segments.next()?);
        if root != "apis" {
            return None;
        }
        self.lookup(API_SERVICES, "", &format!("{version}.{group}")).filter(|s| s.value["spec"]["service"].is_object())
    }

    /// Sends the request on, in the user's name.
    pub(crate) async fn proxy(&self, service: &Object, user: &User, mut parts: Parts, body: Body) -> Answer<Response> {
        let unreachable = |why: String| Failure::unavailable(format!("error trying to reach service: {why}"));
        let endpoint = self.endpoint(&service.value["spec"]).map_err(unreachable)?;
        let identity = self.pki.front_proxy_leaf().map_err(Failure::internal)?;
        let mut sender = endpoint.connect(Some(&identity)).await.map_err(unreachable)?;
        let upgrade = parts
            .extensions
            .remove::<hyper::upgrade::OnUpgrade>()
            .filter(|_| parts.headers.contains_key(header::UPGRADE));
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request =
            Request::builder().method(parts.method.clone()).uri(target).body(body).map_err(Failure::internal)?;
        *request.headers_mut() = forwarded(&parts.headers, user, upgrade.is_some());
        let response = sender.send_request(request).await.map_err(|e| unreachable(e.to_string()))?;
        if let (http::StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
            return Ok(switched(response, client));
        }
        let mut response = response.map(Body::new);
        HOP_BY_HOP.iter().for_each(|name| drop(response.headers_mut().remove(*name)));
        Ok(response)
    }

    /// The group-versions that other servers serve, with what they say of themselves.
    pub(crate) async fn aggregated(&self) -> Vec<Aggregated> {
        let (services, _) = self.store.list(API_SERVICES, None);
        let remote = services.iter().filter(|s| s.value["spec"]["service"].is_object());
        futures::future::join_all(remote.map(async |service| Aggregated {
            group: text(&service.value, "/spec/group").to_owned(),
            version: text(&service.value, "/spec/version").to_owned(),
            priority: integer(&service.value, "/spec/versionPriority").unwrap_or_default(),
            resources: self.discover(service).await.ok(),
        }))
        .await
    }

    /// Group and version of the APIs that other servers serve.
    pub(crate) fn remote_versions(&self) -> Vec<(String, String)> {
        let (services, _) = self.store.list(API_SERVICES, None);
        let remote = services.iter().filter(|s| s.value["spec"]["service"].is_object());
        let field = |service: &Object, pointer: &str| text(&service.value, pointer).to_owned();
        remote.map(|service| (field(service, "/spec/group"), field(service, "/spec/version"))).collect()
    }

    /// What other servers say of their APIs in OpenAPI 2. One that says nothing in time is left out.
    pub(crate) async fn remote_openapi(&self) -> Vec<Value> {
        let (services, _) = self.store.list(API_SERVICES, None);
        // A server with several group-versions describes them all at once.
        let servers: BTreeMap<String, &Arc<Object>> = services
            .iter()
            .filter(|s| s.value["spec"]["service"].is_object())
            .map(|s| (s.value["spec"]["service"].to_string(), s))
            .collect();
        let asked = servers.into_values().map(|service| self.ask(service, "/openapi/v2"));
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn discover(&self, service: &Object) -> Result<Vec<Value>, String> {
        let path = format!("/apis/{}/{}", text(&service.value, "/spec/group"), text(&service.value, "/spec/version"));
        Ok(items(&self.ask(service, &path).await?, "/resources").to_vec())
    }

    /// Asks the server of an APIService for a JSON document, in the API server's own name.
    async fn ask(&self, service: &Object, path: &str) -> Result<Value, String> {
        let asked = async {
            let endpoint = self.endpoint(&service.value["spec"])?;
            let identity = self.pki.front_proxy_leaf().map_err(|e| e.to_string())?;
            let mut request = Request::get(path).body(Body::empty()).map_err(|e| e.to_string())?;
            *request.headers_mut() = forwarded(&HeaderMap::new(), &User::admin("system:kube-aggregator"), false);
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            let response =
                endpoint.connect(Some(&identity)).await?.send_request(request).await.map_err(|e| e.to_string())?;
            read(response).await
        };
        let (status, bytes) =
            tokio::time::timeout(DISCOVERY, asked).await.map_err(|_| "it took too long".to_owned())??;
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        serde_json::from_slice(&bytes).map_err(|e| format!("its answer is not JSON: {e}"))
    }

    /// Says in the status of an APIService whether its server answers.
    async fn note_availability(&self, service: &Arc<Object>) {
        let (status, reason, message) = if service.value["spec"]["service"].is_object() {
            match self.discover(service).await {
                Ok(_) => ("True", "Passed", "all checks passed".to_owned()),
                Err(why) => ("False", "FailedDiscoveryCheck", format!("failing or missing response: {why}")),
            }
        } else {
            ("True", "Local", "Local APIServices are always available".to_owned())
        };
        let old = items(&service.value, "/status/conditions").iter().find(|c| c["type"] == "Available");
        if old.is_some_and(|c| c["status"] == status && c["message"] == *message) {
            return;
        }
        let since = old
            .filter(|c| c["status"] == status)
            .map_or_else(object::now, |c| text(c, "/lastTransitionTime").to_owned());
        let mut value = service.value.clone();
        value["status"]["conditions"] = json!([{"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since}]);
        metadata(&mut value);
        if let Err(error) = self.store.put(service.key.clone(), value, Expect::Revision(service.revision)).await {
            tracing::debug!(service = service.key.name, %error, "the APIService changed while it was tried");
        }
    }
}

/// Tries aggregated APIs until the server is dropped.
pub(crate) async fn watch_availability(server: std::sync::Weak<Server>) {
    loop {
        let Some(strong) = server.upgrade() else { return };
        let mut changed = strong.store.subscribe();
        changed.mark_unchanged();
        let (services, revision) = strong.store.list(API_SERVICES, None);
        for service in &services {
            strong.note_availability(service).await;
        }
        drop(strong);
        let deadline = tokio::time::Instant::now() + PROBE;
        if !wait(&server, &mut changed, revision, deadline).await {
            return;
        }
    }
}

/// Until an APIService, a Service or an EndpointSlice changes, or the deadline. False when the server is gone.
async fn wait(
    server: &std::sync::Weak<Server>,
    changed: &mut tokio::sync::watch::Receiver<u64>,
    mut revision: u64,
    deadline: tokio::time::Instant,
) -> bool {
    const KINDS: &[&str] = &["/services", "discovery.k8s.io/endpointslices", API_SERVICES];
    loop {
        match tokio::time::timeout_at(deadline, changed.changed()).await {
            Err(_) => return true,
            Ok(Err(_)) => return false,
            Ok(Ok(())) => {}
        }
        let Some(server) = server.upgrade() else { return false };
        let Ok(changes) = server.store.changes_after(revision, usize::MAX) else { return true };
        let concerned = changes
            .iter()
            .filter_map(|c| c.new.as_ref().or(c.old.as_ref()))
            .any(|o| KINDS.contains(&o.key.kind.as_str()));
        if concerned {
            return true;
        }
        revision = changes.last().map_or(revision, |c| c.revision);
    }
}

/// The headers for the other server: the client's without its proof of identity, and the identity found.
fn forwarded(headers: &HeaderMap, user: &User, upgrade: bool) -> HeaderMap {
    let mut sent = headers.clone();
    let dropped: Vec<HeaderName> = sent
        .keys()
        .filter(|name| {
            let name = name.as_str();
            let hop = HOP_BY_HOP.contains(&name) && !(upgrade && matches!(name, "connection" | "upgrade"));
            hop || name == "authorization" || name.starts_with("x-remote-") || name.starts_with("impersonate-")
        })
        .cloned()
        .collect();
    dropped.iter().for_each(|name| drop(sent.remove(name)));
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            sent.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", key.replace('/', "%2f"));
        values.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|value| add(&name, value));
    }
    sent.entry(header::HOST).or_insert(HeaderValue::from_static("kubernetes.default.svc"));
    sent
}

/// Joins the two upgraded connections.
fn switched(mut response: http::Response<hyper::body::Incoming>, client: hyper::upgrade::OnUpgrade) -> Response {
    let upstream = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
        if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await
        {
            tracing::debug!(%error, "an upgraded connection to an aggregated API ended");
        }
    });
    response.map(|_| Body::empty())
}
