//! One request, top to bottom: parse, authenticate, authorize, find the resource, act.

use std::sync::{Arc, RwLock};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::negotiate::{Format, respond};
use super::request::{Place, Query, Target};
use super::resource::{Registry, Resource};
use super::store::{Key, Object, Store};
use super::user::User;
use super::write::Write;
use super::{crd, object};

/// Largest request body, as in Kubernetes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Everything a request can need.
pub(crate) struct Server {
    pub store: Store,
    registry: RwLock<Arc<Registry>>,
}

/// One request for a resource, authenticated and allowed.
pub(crate) struct Call {
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
}

pub(crate) async fn handle(State(server): State<Arc<Server>>, request: axum::extract::Request) -> Response {
    server.answer(request).await.unwrap_or_else(Failure::into_response)
}

impl Server {
    pub(crate) fn new(store: Store) -> Arc<Self> {
        let server = Arc::new(Server { store, registry: RwLock::new(Arc::new(Registry::builtin())) });
        server.refresh_registry();
        server
    }

    /// The resource types served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
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
        *self.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(registry);
    }

    async fn answer(self: &Arc<Self>, request: axum::extract::Request) -> Answer<Response> {
        let query = Query::parse(request.uri().query())?;
        let target = Target::parse(request.method(), request.uri().path(), &query);
        let user = request.extensions().get::<User>().cloned().ok_or_else(Failure::unauthorized)?;
        match target.resource.clone() {
            None => self.non_resource(&request, &target),
            Some(place) => self.resource(request, user, target.verb, place, query).await,
        }
    }

    fn non_resource(&self, request: &Request<axum::body::Body>, target: &Target) -> Answer<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        match target.path.trim_end_matches('/') {
            "/healthz" | "/livez" | "/readyz" => Ok("ok".into_response()),
            "/version" => Ok(respond(StatusCode::OK, &super::discovery::version(), false, &[])),
            path => super::discovery::answer(self, path, request.headers()),
        }
    }

    async fn resource(
        self: &Arc<Self>,
        request: axum::extract::Request,
        user: User,
        verb: String,
        place: Place,
        query: Query,
    ) -> Answer<Response> {
        let resource =
            self.registry().get(&place.group, &place.version, &place.plural).ok_or_else(Failure::no_such_path)?;
        let format = Format::of(request.headers())?;
        let (parts, body) = request.into_parts();
        let call = Call { user, place, query, headers: parts.headers, resource, format };
        check_place(&call)?;
        match verb.as_str() {
            "get" => self.get(&call).await,
            "list" => self.list(&call).await,
            "watch" => self.watch(&call).await,
            _ => {
                let body = read_body(body).await?;
                self.write(&call, &verb, body).await
            }
        }
    }

    async fn write(self: &Arc<Self>, call: &Call, verb: &str, body: Bytes) -> Answer<Response> {
        let mut write = Write::new(self, call)?;
        let (code, value) = match verb {
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
pub(crate) async fn read_body(body: axum::body::Body) -> Answer<Bytes> {
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
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": object::name(value), "group": resource.group, "kind": resource.plural, "uid": object::uid(value)},
    })
}
