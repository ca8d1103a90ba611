//! Serves the read API's documents, and the webhooks beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use heddle_compile::{Problem, compile};
use heddle_metrics::{Attributes, Loss, LossCause};
use heddle_policy::{Origin, PodName, Service};
use heddle_xds::Proxies;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::authorization::{Access, Authorizer};
use crate::discovery::Discovery;
use crate::front_proxy::{FrontProxy, User};
use crate::https::ClientCertificate;
use crate::plane::Snapshot;
use crate::programmed::rejection;
use crate::traffic::Traffic;
use crate::view::{self, API_VERSION, GROUP, List, MeshStatus, Metadata, STATUS_NAME, VERSION};
use crate::world::{Key, Resources};
use crate::{admission, conversion, metrics_api};

/// What the handlers read.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    pub(crate) resources: Resources,
    pub(crate) proxies: watch::Receiver<Proxies>,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) traffic: Traffic,
    pub(crate) authorizer: Authorizer,
    pub(crate) front_proxy: watch::Receiver<FrontProxy>,
}

/// An object of the API server is at most 1.5 MiB; an admission review holds two.
const ADMISSION_MAX: usize = 8 << 20;

/// A conversion review holds a page of a list.
const CONVERSION_MAX: usize = 64 << 20;

/// Reviews at a time, whose bodies are in memory, and how long one may take, with the wait for its turn. The API server
/// waits no longer for a webhook, and asks again.
const REVIEWS: usize = 16;
const REVIEW: Duration = Duration::from_secs(30);

/// How long a review's body may take when its turn has come. The API server sends it at once; whoever does not is not the API
/// server, which cannot be told by a certificate here, and must not keep it waiting.
const REVIEW_BODY: Duration = Duration::from_secs(5);

/// Trial compilations at a time, and how long one may take. Without it there are fewer warnings, and nothing else.
const TRIALS: usize = 1;
const TRIAL: Duration = Duration::from_secs(1);

/// The routes of port 15017.
pub(crate) fn router(sources: Sources) -> Router {
    let trials = Arc::new(Semaphore::new(TRIALS));
    let validate = post(validate).layer(DefaultBodyLimit::max(ADMISSION_MAX)).with_state((sources.clone(), trials));
    let convert = post(convert).layer(DefaultBodyLimit::max(CONVERSION_MAX));
    let reviews = Router::new().route("/validate", validate).route("/convert", convert);
    let reviews = reviews.layer(middleware::from_fn_with_state(Arc::new(Semaphore::new(REVIEWS)), bounded));
    let group = format!("/apis/{GROUP}");
    let version = format!("/apis/{API_VERSION}");
    let read = Router::new()
        .route(&group, get(async || Json(api_group())))
        .route(&version, get(async || Json(api_resources())))
        .route(&format!("{version}/proxies"), get(list_proxies))
        .route(&format!("{version}/proxies/{{name}}"), get(get_proxy))
        .route(&format!("{version}/destinations"), get(list_destinations))
        .route(&format!("{version}/destinations/{{name}}"), get(get_destination))
        .route(&format!("{version}/status"), get(list_statuses))
        .route(&format!("{version}/status/{{name}}"), get(get_status))
        .layer(middleware::from_fn_with_state(sources.authorizer.clone(), authorize))
        .with_state(sources.clone());
    let metrics = metrics_api::Sources { traffic: sources.traffic, authorizer: sources.authorizer };
    let read = read
        .merge(metrics_api::router(metrics))
        .layer(middleware::from_fn_with_state(sources.front_proxy, authenticate));
    reviews.merge(read).fallback(async || not_found(""))
}

/// Takes in a review when there is room for it, and gives up on one that is too slow.
async fn bounded(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let review = async {
        let _place = places.acquire().await;
        let (head, body) = request.into_parts();
        match timeout(REVIEW_BODY, to_bytes(body, CONVERSION_MAX)).await {
            Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
            Ok(Err(error)) => {
                status(StatusCode::BAD_REQUEST, "BadRequest", format!("the review cannot be read: {error}"))
            }
            Err(_) => unavailable("the review's body took too long"),
        }
    };
    timeout(REVIEW, review).await.unwrap_or_else(|_| unavailable("the review took too long"))
}

/// Lets in only the API server, and notes in whose name it asks.
async fn authenticate(
    State(front_proxy): State<watch::Receiver<FrontProxy>>,
    Extension(certificate): Extension<ClientCertificate>,
    mut request: Request,
    next: Next,
) -> Response {
    let front_proxy = front_proxy.borrow().clone();
    match front_proxy.user(request.headers()).filter(|_| front_proxy.admits(&certificate)) {
        Some(user) => {
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        None => status(StatusCode::UNAUTHORIZED, "Unauthorized", "ask through the Kubernetes API server".to_owned()),
    }
}

/// Lets pass what Kubernetes says the user may read. Discovery is for everybody.
async fn authorize(
    State(authorizer): State<Authorizer>,
    Extension(user): Extension<User>,
    request: Request,
    next: Next,
) -> Response {
    let mut segments = request.uri().path().split('/').skip(4).filter(|segment| !segment.is_empty()).map(str::to_owned);
    if let Some(resource) = segments.next() {
        let name = segments.next().unwrap_or_default();
        let verb = if name.is_empty() { "list" } else { "get" };
        let (version, namespace) = (VERSION.to_owned(), String::new());
        let attributes = Attributes { version, verb, resource, subresource: "", namespace, name };
        if let Err(refusal) = authorizer.check(&user, Access { group: GROUP, attributes }).await {
            return metrics_api::refused(&refusal);
        }
    }
    next.run(request).await
}

// === webhooks ===

async fn validate(
    State((sources, trials)): State<(Sources, Arc<Semaphore>)>,
    Json(review): Json<Value>,
) -> Json<Value> {
    let resources = sources.resources.clone();
    let object = review["request"]["object"].clone();
    let problems = match trials.try_acquire_owned() {
        Ok(permit) => {
            let trial = tokio::task::spawn_blocking(move || {
                let problems = try_out(&resources, &object);
                drop(permit);
                problems
            });
            timeout(TRIAL, trial).await.ok().and_then(Result::ok).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    Json(admission::review(&review, |_| problems))
}

/// The problems that `object` would have in the mesh.
fn try_out(resources: &Resources, object: &Value) -> Vec<Problem> {
    let key = Key::of(object);
    let mut resources = resources.read().clone();
    resources.insert(object, "".into());
    let mut problems = compile(&resources).problems;
    problems.retain(|problem| Key::from(&problem.origin) == key);
    problems
}

async fn convert(Json(review): Json<Value>) -> Json<Value> {
    Json(conversion::convert(&review))
}

// === documents ===

async fn list_proxies(State(sources): State<Sources>) -> Response {
    Json(List::new("Proxy", sources.revision(), sources.proxies())).into_response()
}

async fn get_proxy(State(sources): State<Sources>, Path(name): Path<String>) -> Response {
    one(sources.proxies().into_iter().find(|proxy| proxy.metadata.name == name), &name)
}

async fn list_destinations(State(sources): State<Sources>) -> Response {
    Json(List::new("Destination", sources.revision(), sources.destinations())).into_response()
}

async fn get_destination(State(sources): State<Sources>, Path(name): Path<String>) -> Response {
    one(sources.destinations().into_iter().find(|destination| destination.metadata.name == name), &name)
}

async fn list_statuses(State(sources): State<Sources>) -> Response {
    Json(List::new("MeshStatus", sources.revision(), vec![sources.status()])).into_response()
}

async fn get_status(State(sources): State<Sources>, Path(name): Path<String>) -> Response {
    one((name == STATUS_NAME).then(|| sources.status()), &name)
}

impl Sources {
    fn revision(&self) -> u64 {
        self.snapshots.borrow().revision
    }

    fn proxies(&self) -> Vec<view::Proxy> {
        let compiled = self.snapshots.borrow().compiled.clone();
        let mesh = &compiled.mesh;
        let proxies = self.proxies.borrow();
        let connected = proxies.iter().map(|(pod, proxy)| {
            let target = self.discovery.target(pod);
            let acked = proxy.acked.as_ref();
            view::Proxy {
                connected: true,
                revision: acked.map_or_else(String::new, |acked| acked.revision.to_string()),
                current: acked.is_some_and(|acked| target.as_ref() == Some(&acked.config)),
                rejected: rejection(proxy).map(str::to_owned),
                ..proxy_of(mesh, pod)
            }
        });
        let missing = mesh.pods().filter(|pod| !proxies.contains_key(*pod)).map(|pod| proxy_of(mesh, pod));
        connected.chain(missing).collect()
    }

    fn destinations(&self) -> Vec<view::Destination> {
        let compiled = self.snapshots.borrow().compiled.clone();
        compiled.mesh.services().values().map(|service| destination_of(service)).collect()
    }

    fn status(&self) -> MeshStatus {
        let Snapshot { revision, compiled, modes, unreadable, .. } = self.snapshots.borrow().clone();
        let proxies = self.proxies();
        let connected = || proxies.iter().filter(|proxy| proxy.connected);
        let trust_domain = modes.trust_domain.clone();
        MeshStatus {
            api_version: API_VERSION.to_owned(),
            kind: "MeshStatus".to_owned(),
            metadata: Metadata { name: STATUS_NAME.to_owned() },
            revision,
            mode: modes.of_mesh(),
            trust_domain: trust_domain.unwrap_or_else(|| heddle_smi::MeshConfigSpec::default().trust_domain),
            namespaces: modes
                .of_namespaces()
                .map(|(name, mode)| view::NamespaceStatus { name: name.clone(), mode })
                .collect(),
            proxies: view::ProxyCounts {
                expected: compiled.mesh.pods().count(),
                connected: connected().count(),
                current: connected().filter(|proxy| proxy.current).count(),
                rejecting: connected().filter(|proxy| proxy.rejected.is_some()).count(),
            },
            problems: compiled.problems.iter().map(problem).collect(),
            unreadable,
            lost: self.traffic.losses().into_iter().map(loss).collect(),
        }
    }
}

fn proxy_of(mesh: &heddle_compile::Mesh, pod: &PodName) -> view::Proxy {
    let settings = mesh.proxy_config(pod).and_then(|config| config.settings);
    view::Proxy {
        api_version: API_VERSION.to_owned(),
        kind: "Proxy".to_owned(),
        metadata: Metadata { name: format!("{}.{}", pod.name, pod.namespace) },
        pod: pod.clone(),
        identity: settings.as_ref().map(|settings| settings.identity.clone()),
        workload: settings.and_then(|settings| settings.workload.clone()),
        connected: false,
        revision: String::new(),
        current: false,
        rejected: None,
    }
}

fn destination_of(service: &Service) -> view::Destination {
    let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
    let endpoints: BTreeSet<&PodName> = endpoints.map(|endpoint| &endpoint.pod).collect();
    view::Destination {
        api_version: API_VERSION.to_owned(),
        kind: "Destination".to_owned(),
        metadata: Metadata { name: format!("{}.{}", service.name.name, service.name.namespace) },
        service: service.name.clone(),
        endpoints: endpoints.into_iter().cloned().collect(),
    }
}

fn loss(Loss { pod, gap, cause }: Loss) -> view::Loss {
    let time = |millis: u64| Timestamp::from_millisecond(millis as i64).unwrap_or_default();
    let cause = match cause {
        LossCause::Killed => view::LossCause::ProxyKilled,
        LossCause::Unheard => view::LossCause::NotReported,
    };
    view::Loss { pod, from: time(gap.from), until: time(gap.until), cause }
}

fn problem(problem: &Problem) -> view::Problem {
    let Problem { origin, severity, reason, message, hint } = problem;
    let origin: Origin = origin.clone();
    view::Problem {
        origin,
        severity: severity.to_string(),
        reason: reason.code().to_owned(),
        message: message.clone(),
        hint: hint.clone(),
    }
}

// === answers in the manner of Kubernetes ===

fn one<T: Serialize>(document: Option<T>, name: &str) -> Response {
    document.map_or_else(|| not_found(name), |document| Json(document).into_response())
}

fn not_found(name: &str) -> Response {
    status(StatusCode::NOT_FOUND, "NotFound", format!("\"{name}\" not found"))
}

fn unavailable(message: &str) -> Response {
    status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message.to_owned())
}

fn status(code: StatusCode, reason: &str, message: String) -> Response {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code.as_u16(),
        "reason": reason,
        "message": message,
    });
    (code, Json(body)).into_response()
}

fn api_group() -> Value {
    let version = json!({ "groupVersion": API_VERSION, "version": VERSION });
    json!({
        "apiVersion": "v1",
        "kind": "APIGroup",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    })
}

fn api_resources() -> Value {
    let resource = |name: &str, singular: &str, kind: &str| json!({ "name": name, "singularName": singular, "kind": kind, "namespaced": false, "verbs": ["get", "list"] });
    json!({
        "apiVersion": "v1",
        "kind": "APIResourceList",
        "groupVersion": API_VERSION,
        "resources": [
            resource("proxies", "proxy", "Proxy"),
            resource("destinations", "destination", "Destination"),
            resource("status", "status", "MeshStatus"),
        ],
    })
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_review_whose_body_does_not_come_keeps_no_other_waiting() {
        let places = Arc::new(Semaphore::new(1));
        let router = Router::new().route("/", post(async |body: Bytes| body));
        let router = router.layer(middleware::from_fn_with_state(places, bounded));
        let ask = |body| router.clone().oneshot(Request::post("/").body(body).expect("a request"));
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let (silent, whole) = tokio::join!(ask(silent), ask(Body::from("whole")));
        assert_eq!(silent.expect("an answer").status(), StatusCode::SERVICE_UNAVAILABLE);
        let whole = whole.expect("an answer").into_body();
        assert_eq!(to_bytes(whole, 100).await.expect("a body"), "whole");
    }
}
