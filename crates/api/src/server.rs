//! One request, top to bottom: parse, authenticate, authorize, find the resource, act.

use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::error::{Answer, Cause, Failure};
use super::negotiate::{Format, respond};
use super::node::Node;
use super::pki::Pki;
use super::rbac::Attributes;
use super::request::{Place, Query, Target};
use super::resource::{Registry, Resource};
use super::store::{Key, Object, Store};
use super::streams::STREAMS;
use super::user::User;
use super::write::Write;
use super::{crd, object, openapi};

/// Largest request body, as in Kubernetes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Everything a request can need.
pub(crate) struct Server {
    pub store: Store,
    pub pki: Pki,
    registry: RwLock<Arc<Registry>>,
    node: RwLock<Option<Arc<dyn Node>>>,
    /// Held while a Service's addresses are chosen and stored.
    pub allocations: tokio::sync::Mutex<()>,
}

/// One request for a resource, authenticated and allowed.
pub(crate) struct Call {
    pub verb: String,
    pub user: User,
    pub place: Place,
    pub query: Query,
    pub headers: HeaderMap,
    pub resource: Arc<Resource>,
    pub format: Format,
}

impl Call {
    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.place.name)
    }

    pub(crate) fn key_of(&self, name: &str) -> Key {
        let namespace = if self.resource.namespaced { self.place.namespace.clone() } else { String::new() };
        Key { kind: self.resource.storage(), namespace, name: name.to_owned() }
    }

    /// `dryRun=All`, the only value there is.
    pub(crate) fn dry_run(&self) -> Answer<bool> {
        match self.query.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let cause = Cause::unsupported("dryRun", &json!([other]), &["All"]);
                Err(Failure::invalid_options(self.options_kind(), cause))
            }
        }
    }

    /// What Kubernetes calls the parameters of such a request.
    pub(crate) fn options_kind(&self) -> &'static str {
        match self.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            "get" => "GetOptions",
            _ => "ListOptions",
        }
    }
}

pub(crate) async fn handle(State(server): State<Arc<Server>>, request: axum::extract::Request) -> Response {
    server.answer(request).await.unwrap_or_else(Failure::into_response)
}

impl Server {
    pub(crate) fn new(store: Store, pki: Pki) -> Arc<Self> {
        let registry = RwLock::new(Arc::new(Registry::builtin()));
        let server = Arc::new(Server {
            store,
            pki,
            registry,
            node: RwLock::new(None),
            allocations: tokio::sync::Mutex::default(),
        });
        server.refresh_registry();
        server
    }

    pub(crate) fn node(&self) -> Option<Arc<dyn Node>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_node(&self, node: Arc<dyn Node>) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// The resource types served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the types anew from the built-in table and the established CustomResourceDefinitions.
    pub(crate) fn refresh_registry(&self) {
        let mut registry = Registry::builtin();
        let (crds, _) = self.store.list(super::CRDS, None);
        for definition in crds.iter().filter(|c| crd::is_established(&c.value)) {
            for resource in crd::resources(&definition.value) {
                registry.insert(resource);
            }
        }
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    async fn answer(self: &Arc<Self>, request: axum::extract::Request) -> Answer<Response> {
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query())?;
        let target = Target::parse(&parts.method, parts.uri.path(), &query);
        let user = self.authenticate(&parts)?;
        self.authorize(&user, &attributes(&target, &query))?;
        // An aggregated API describes itself too.
        let path = parts.uri.path();
        if let Some(service) = self.api_service(path.strip_prefix("/openapi/v3").unwrap_or(path)) {
            return self.proxy(&service, &user, parts, body).await;
        }
        match target.resource.clone() {
            None => self.non_resource(&parts, &target).await,
            Some(place) => self.resource(parts, body, user, target.verb, place, query).await,
        }
    }

    async fn non_resource(&self, parts: &Parts, target: &Target) -> Answer<Response> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        match target.path.trim_end_matches('/') {
            "/healthz" | "/livez" | "/readyz" => Ok("ok".into_response()),
            "/version" => Ok(respond(StatusCode::OK, &super::discovery::version(), false, &[])),
            path if path.starts_with("/openapi/") => {
                let documents = if path == openapi::V2 { self.remote_openapi().await } else { Vec::new() };
                let remote = openapi::Remote { versions: self.remote_versions(), documents };
                openapi::answer(&self.registry(), &remote, path, &parts.headers)
            }
            path => super::discovery::answer(self, path, &parts.headers).await,
        }
    }

    async fn resource(
        self: &Arc<Self>,
        parts: Parts,
        body: Body,
        user: User,
        verb: String,
        place: Place,
        query: Query,
    ) -> Answer<Response> {
        let resource =
            self.registry().get(&place.group, &place.version, &place.plural).ok_or_else(Failure::no_such_path)?;
        // The types are made anew a while after a definition has gone, which its client may have heard of.
        if resource.custom().is_some() && self.lookup(super::CRDS, "", &resource.qualified()).is_none() {
            return Err(Failure::no_such_path());
        }
        let streams = resource.is("", "pods") && STREAMS.contains(&place.subresource.as_str());
        let format = if streams { Format::json() } else { Format::of(&parts.headers)? };
        let call = Call { verb, user, place, query, headers: parts.headers.clone(), resource, format };
        check_place(&call)?;
        match call.verb.as_str() {
            "get" | "create" if streams => self.stream(&call, parts).await,
            "get" => self.get(&call).await,
            "list" => self.list(&call).await,
            "watch" => self.watch(&call).await,
            _ => {
                let body = read_body(body).await?;
                self.write(&call, body).await
            }
        }
    }

    async fn write(self: &Arc<Self>, call: &Call, body: Bytes) -> Answer<Response> {
        let mut write = Write::new(self, call)?;
        let (code, value) = match call.verb.as_str() {
            "create" => write.create(&body).await?,
            "update" => write.update(&body).await?,
            "patch" => write.patch(&body).await?,
            "delete" => write.delete(&body).await?,
            "deletecollection" => write.delete_collection(&body).await?,
            _ => return Err(Failure::method_not_allowed()),
        };
        Ok(self.respond_object(call, code, value, &write.warnings))
    }

    /// An object or Status, in the form asked for.
    pub(crate) fn respond_object(&self, call: &Call, code: StatusCode, value: Value, warnings: &[String]) -> Response {
        let shown = if value["kind"] == "Status" { value } else { super::read::in_view(call, value) };
        respond(code, &shown, call.format.yaml, warnings)
    }

    /// The stored object that the call names.
    pub(crate) fn find(&self, call: &Call) -> Answer<Arc<Object>> {
        self.store.get(&call.key()).ok_or_else(|| Failure::not_found(&call.resource, &call.place.name))
    }

    /// A built-in object, for decisions of the server itself.
    pub(crate) fn lookup(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.store.get(&Key { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// What must be allowed. A list or watch of one object by name needs the right to that object alone.
fn attributes(target: &Target, query: &Query) -> Attributes {
    let mut attributes = Attributes::of(target);
    let by_name = query.get("fieldSelector").strip_prefix("metadata.name=").filter(|name| !name.contains(','));
    if let (true, true, Some(name)) = (target.resource.is_some(), attributes.name.is_empty(), by_name) {
        name.trim_start_matches('=').clone_into(&mut attributes.name);
    }
    attributes
}

/// Whether the path fits the scope of the type and names a subresource that exists.
fn check_place(call: &Call) -> Answer<()> {
    let (place, resource) = (&call.place, &call.resource);
    let is_namespace = resource.is("", "namespaces");
    if !resource.namespaced && !place.namespace.is_empty() && !is_namespace {
        return Err(Failure::no_such_path());
    }
    if resource.namespaced && place.namespace.is_empty() && !place.name.is_empty() {
        return Err(Failure::no_such_path());
    }
    if !place.subresource.is_empty() && !resource.has(&place.subresource) {
        return Err(Failure::no_such_path());
    }
    Ok(())
}

/// The whole body, at most 3 MiB.
pub(crate) async fn read_body(body: Body) -> Answer<Bytes> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_LIMIT}");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message))
        }
        Err(e) => Err(Failure::bad_request(format!("the body ended early: {e}"))),
    }
}

/// A Status that says the request was done.
pub(crate) fn success(resource: &Resource, value: &Value) -> Value {
    let mut details = json!({"name": object::name(value), "kind": resource.plural, "uid": object::uid(value)});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
