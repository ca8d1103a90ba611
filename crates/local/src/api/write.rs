//! Create, update and patch: read the body, fill in what the server decides, check, store.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::admission::{self, Review};
use super::error::{Answer, Failure};
use super::managed::{self, Who};
use super::object::{self, metadata, text};
use super::rbac::check_escalation;
use super::resource::{SchemaSource, split_api_version};
use super::schema::{self, Schema};
use super::server::{Call, Server};
use super::store::{Expect, Object, StoreError};
use super::{CRDS, allocate, custom_validation, defaults, patch, protobuf, strategy, validate, view};

/// How often a write is tried again when others write the same object.
const ATTEMPTS: usize = 8;

/// What becomes of fields that the schema does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// One writing request.
pub(crate) struct Write<'a> {
    pub server: &'a Arc<Server>,
    pub call: &'a Call,
    pub dry_run: bool,
    /// Field manager: `fieldManager`, or the program in `User-Agent`.
    pub manager: String,
    /// What kubectl prints as warnings.
    pub warnings: Vec<String>,
    validation: FieldValidation,
    /// Whether this is a server-side apply, which says itself who manages what.
    applies: bool,
}

pub(crate) fn store_failure(error: &StoreError, call: &Call, name: &str) -> Failure {
    match error {
        StoreError::Exists => Failure::already_exists(&call.resource, name),
        StoreError::Changed => Failure::modified(&call.resource, name),
        other => Failure::internal(other),
    }
}

impl<'a> Write<'a> {
    pub(crate) fn new(server: &'a Arc<Server>, call: &'a Call) -> Answer<Self> {
        let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let manager = match call.query.get("fieldManager") {
            "" => agent.split('/').next().unwrap_or("unknown").chars().take(128).collect(),
            given if given.len() > 128 => {
                return Err(Failure::bad_request("fieldManager: Too long: may not be more than 128 bytes"));
            }
            given => given.to_owned(),
        };
        let validation = match call.query.get("fieldValidation") {
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            other => {
                let message = format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                );
                return Err(Failure::bad_request(message));
            }
        };
        let warnings = super::read::deprecation(call);
        Ok(Write { server, call, dry_run: call.query.dry_run()?, manager, warnings, validation, applies: false })
    }

    pub(crate) async fn create(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        if !self.call.place.subresource.is_empty() {
            return self.create_subresource(body).await;
        }
        if !self.call.place.name.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        let value = self.read(body)?;
        if self.call.resource.create_only {
            return self.review(value);
        }
        let created = self.create_value(value).await?;
        Ok((StatusCode::CREATED, created))
    }

    /// Stores a new object. A generated name that is taken is generated again.
    pub(crate) async fn create_value(&mut self, value: Value) -> Answer<Value> {
        for _ in 0..ATTEMPTS {
            let generated = object::name(&value).is_empty();
            match self.try_create(value.clone()).await {
                Err(failure) if generated && failure.reason == "AlreadyExists" => continue,
                done => return done,
            }
        }
        Err(Failure::new(StatusCode::CONFLICT, "AlreadyExists", "no free name was found for generateName; try again"))
    }

    async fn try_create(&mut self, mut value: Value) -> Answer<Value> {
        let call = self.call;
        strategy::name_new(call, &mut value)?;
        self.check_namespace()?;
        defaults::apply(&call.resource, &mut value);
        strategy::before_create(&call.resource, &mut value, &self.server.registry());
        let name = object::name(&value).to_owned();
        self.admit_pod(&mut value)?;
        if call.resource.is("batch", "jobs") {
            defaults::job_selector(&mut value);
        }
        let mut value = admission::mutate(self, "CREATE", value, None).await?;
        let _allocations = self.allocate(&mut value, None).await?;
        self.check(&value, None)?;
        admission::validate(self, &Review { operation: "CREATE", object: Some(&value), old: None }).await?;
        if !self.applies {
            self.record(None, &mut value);
        }
        if self.dry_run {
            return match self.server.store.get(&call.key_of(&name)) {
                Some(_) => Err(Failure::already_exists(&call.resource, &name)),
                None => Ok(value),
            };
        }
        let stored = view::to_storage(self.server, &call.resource, value).await?;
        let put = self.server.store.put(call.key_of(&name), stored, Expect::Absent).await;
        let object = put.map_err(|e| store_failure(&e, call, &name))?;
        self.stored(object).await
    }

    /// A new pod gets its ServiceAccount, which must exist.
    fn admit_pod(&self, value: &mut Value) -> Answer<()> {
        let call = self.call;
        if !call.resource.is("", "pods") {
            return Ok(());
        }
        let named =
            Some(text(value, "/spec/serviceAccountName")).filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
        let namespace = &call.place.namespace;
        let found = self.server.lookup("/serviceaccounts", namespace, &named).ok_or_else(|| {
            let why =
                format!("error looking up service account {namespace}/{named}: serviceaccount \"{named}\" not found");
            Failure::forbidden(&call.resource, object::name(value), &why)
        })?;
        defaults::admit_pod(value, &found.value);
        Ok(())
    }

    /// Gives a Service its addresses and ports. The lock is held until they are stored.
    async fn allocate(
        &self,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Answer<Option<tokio::sync::MutexGuard<'a, ()>>> {
        if !self.call.resource.is("", "services") || !matches!(self.call.place.subresource.as_str(), "") {
            return Ok(None);
        }
        let guard = self.server.allocations.lock().await;
        allocate::service(self.server, self.call, value, old)?;
        Ok(Some(guard))
    }

    /// Refuses an object that is not valid, or that grants what its writer does not have.
    fn check(&self, value: &Value, old: Option<&Value>) -> Answer<()> {
        let resource = &self.call.resource;
        let mut causes = match old {
            None => validate::create(resource, value),
            Some(old) => validate::update(resource, value, old),
        };
        if let Some(custom) = resource.custom() {
            causes.extend(custom_validation::check(resource, custom, value, old));
        }
        if !causes.is_empty() {
            return Err(Failure::invalid(resource, object::name(value), &causes));
        }
        check_escalation(self.server, &self.call.user, resource, value)
    }

    fn who(&self) -> Who {
        Who {
            manager: self.manager.clone(),
            operation: if self.applies { "Apply" } else { "Update" },
            api_version: self.call.resource.api_version(),
            subresource: self.call.place.subresource.clone(),
        }
    }

    /// Notes who changed which fields.
    fn record(&self, old: Option<&Value>, new: &mut Value) {
        let resource = &self.call.resource;
        managed::record_update(Schema::of(resource), old, new, &self.who(), resource.has("status"));
    }

    /// Server-side apply: creates the object or lays the configuration over it.
    async fn apply(&mut self, config: &Value) -> Answer<(StatusCode, Value)> {
        if self.call.query.get("fieldManager").is_empty() {
            return Err(Failure::bad_request("fieldManager: Required value: is required for apply patch"));
        }
        if config["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        let mut config = config.clone();
        metadata(&mut config).insert("name".to_owned(), json!(self.call.place.name));
        let config = self.typed(config)?;
        self.applies = true;
        let (resource, who, force) = (self.call.resource.clone(), self.who(), self.call.query.flag("force"));
        let lay =
            |live: &Value| managed::apply(Schema::of(&resource), live, &config, &who, force, resource.has("status"));
        let exists = self.server.store.get(&self.call.key()).is_some();
        if !exists && self.call.place.subresource.is_empty() {
            let created = self.create_value(lay(&json!({}))?).await?;
            return Ok((StatusCode::CREATED, created));
        }
        let changed = self.change(true, |_, live| lay(live)).await?;
        Ok((StatusCode::OK, changed))
    }

    /// Nothing is created in a namespace that is absent or going away.
    fn check_namespace(&self) -> Answer<()> {
        let name = &self.call.place.namespace;
        if !self.call.resource.namespaced {
            return Ok(());
        }
        let namespaces =
            self.server.registry().builtin_type("", "namespaces").ok_or_else(|| Failure::internal("no namespaces"))?;
        match self.server.lookup("/namespaces", "", name) {
            None => Err(Failure::not_found(&namespaces, name)),
            Some(found) if object::is_deleting(&found.value) => {
                let why = format!("unable to create new content in namespace {name} because it is being terminated");
                let mut failure = Failure::forbidden(&self.call.resource, "", &why);
                let message = format!("namespace {name} is being terminated");
                failure.details["causes"] =
                    json!([{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]);
                Err(failure)
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) async fn update(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        self.check_named()?;
        let new = match self.call.place.subresource.as_str() {
            "scale" => return self.update_scale(body).await,
            "" | "status" | "finalize" | "ephemeralcontainers" => self.read(body)?,
            _ => return Err(Failure::method_not_allowed()),
        };
        if object::name(&new) != self.call.place.name && !object::name(&new).is_empty() {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::name(&new),
                self.call.place.name
            );
            return Err(Failure::bad_request(message));
        }
        let conditional = !text(&new, "/metadata/resourceVersion").is_empty();
        let changed = self.change(!conditional, |_, _| Ok(new.clone())).await?;
        Ok((StatusCode::OK, changed))
    }

    pub(crate) async fn patch(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        self.check_named()?;
        let patch = patch::Patch::read(&self.call.headers, body)?;
        if let (patch::Patch::Apply(config), "" | "status") = (&patch, self.call.place.subresource.as_str()) {
            return self.apply(config).await;
        }
        if self.call.place.subresource == "scale" {
            return self.patch_scale(&patch).await;
        }
        let resource = self.call.resource.clone();
        let changed = self
            .change(true, |write, old| {
                let mut new = patch.apply(Schema::of(&resource), resource.custom().is_some(), old)?;
                write.decode(&mut new)?;
                Ok(new)
            })
            .await?;
        Ok((StatusCode::OK, changed))
    }

    fn check_named(&self) -> Answer<()> {
        if self.call.place.name.is_empty() || self.call.resource.create_only {
            return Err(Failure::method_not_allowed());
        }
        Ok(())
    }

    /// Edits the object until no other writer comes between (or once, when `again` is false).
    pub(crate) async fn change(
        &mut self,
        again: bool,
        edit: impl Fn(&mut Self, &Value) -> Answer<Value> + Sync,
    ) -> Answer<Value> {
        let kept = self.warnings.len();
        for _ in 0..ATTEMPTS {
            self.warnings.truncate(kept);
            let old = self.server.find(self.call)?;
            let old_value = self.server.show(self.call, vec![old.clone()]).await?.remove(0);
            let new = edit(self, &old_value)?;
            match self.replace(&old, &old_value, new).await? {
                None if again => continue,
                None => return Err(Failure::modified(&self.call.resource, &self.call.place.name)),
                Some(value) => return Ok(value),
            }
        }
        Err(Failure::modified(&self.call.resource, &self.call.place.name))
    }

    /// Stores `new` in place of `old`. None when another writer was faster.
    async fn replace(&mut self, old: &Arc<Object>, old_value: &Value, mut new: Value) -> Answer<Option<Value>> {
        let call = self.call;
        self.check_identity(old_value, &new)?;
        defaults::apply(&call.resource, &mut new);
        strategy::before_update(&call.resource, &call.place.subresource, &mut new, old_value, &self.server.registry());
        if new == *old_value {
            return Ok(Some(new));
        }
        let mut new = admission::mutate(self, "UPDATE", new, Some(old_value)).await?;
        let _allocations = self.allocate(&mut new, Some(old_value)).await?;
        self.check(&new, Some(old_value))?;
        admission::validate(self, &Review { operation: "UPDATE", object: Some(&new), old: Some(old_value) }).await?;
        if !self.applies {
            self.record(Some(old_value), &mut new);
        }
        if self.dry_run {
            return Ok(Some(new));
        }
        let finished = super::delete::is_finished(&call.resource, &new);
        let stored = view::to_storage(self.server, &call.resource, new).await?;
        if finished {
            return self.remove_finished(old, stored).await;
        }
        match self.server.store.put(old.key.clone(), stored, Expect::Revision(old.revision)).await {
            Ok(object) => self.stored(object).await.map(Some),
            Err(StoreError::Changed) => Ok(None),
            Err(other) => Err(store_failure(&other, call, &call.place.name)),
        }
    }

    /// The last finalizer went: the object goes too.
    async fn remove_finished(&mut self, old: &Object, last: Value) -> Answer<Option<Value>> {
        match self.server.store.remove(old.key.clone(), old.revision).await {
            Ok(_) => {
                self.server.after_write(&old.key.kind);
                Ok(Some(view::from_storage(self.server, &self.call.resource, vec![last]).await?.remove(0)))
            }
            Err(StoreError::Changed) => Ok(None),
            Err(other) => Err(store_failure(&other, self.call, &self.call.place.name)),
        }
    }

    /// A writer may say which object and which revision of it is meant.
    fn check_identity(&self, old: &Value, new: &Value) -> Answer<()> {
        let (resource, name) = (&self.call.resource, self.call.place.name.as_str());
        let revision = text(new, "/metadata/resourceVersion");
        if !revision.is_empty() && revision != text(old, "/metadata/resourceVersion") {
            return Err(Failure::modified(resource, name));
        }
        let (wanted, found) = (object::uid(new), object::uid(old));
        if !wanted.is_empty() && wanted != found {
            let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
            return Err(Failure::conflict(resource, name, &why));
        }
        Ok(())
    }

    /// The object as the client sees it after the write.
    async fn stored(&self, object: Arc<Object>) -> Answer<Value> {
        self.server.after_write(&object.key.kind);
        Ok(self.server.show(self.call, vec![object]).await?.remove(0))
    }

    /// The body as an object of the call's type.
    pub(crate) fn read(&mut self, body: &[u8]) -> Answer<Value> {
        let value = read_value(&self.call.headers, body)?;
        self.typed(value)
    }

    /// The value as an object of the call's type.
    fn typed(&mut self, mut value: Value) -> Answer<Value> {
        let resource = &self.call.resource;
        let expected = (resource.api_version(), resource.kind.clone());
        let (sent_version, sent_kind) = (text(&value, "/apiVersion").to_owned(), text(&value, "/kind").to_owned());
        if (!sent_kind.is_empty() && sent_kind != expected.1)
            || (!sent_version.is_empty() && sent_version != expected.0)
        {
            let (group, version) = split_api_version(&sent_version);
            return Err(Failure::bad_request(format!(
                "the API version in the data ({sent_version}) does not match the expected API version ({}): {sent_kind} of group {group:?} version {version:?} was sent",
                expected.0
            )));
        }
        value["apiVersion"] = json!(expected.0);
        value["kind"] = json!(expected.1);
        self.decode(&mut value)?;
        Ok(value)
    }

    /// Checks the object's structure and drops what the type does not have, with the consequence the client asked for.
    pub(crate) fn decode(&mut self, value: &mut Value) -> Answer<()> {
        let call = self.call;
        let (resource, strict) = (&call.resource, self.validation);
        metadata(value);
        let unknown = match &resource.schema {
            SchemaSource::Builtin(name) => {
                let Some(schema) = Schema::builtin(name) else { return Ok(()) };
                let decoded = schema::decode(schema, &resource.kind, value);
                if let Some(mistake) = decoded.mistake {
                    let kind = &resource.kind;
                    let message =
                        format!("{kind} in version \"{}\" cannot be handled as a {kind}: {mistake}", resource.version);
                    return Err(Failure::bad_request(message));
                }
                decoded.unknown
            }
            SchemaSource::Custom(custom) => super::custom::decode(custom, value)?,
        };
        let unknown: Vec<String> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
        match strict {
            FieldValidation::Strict if !unknown.is_empty() => {
                let message = format!(
                    "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                    resource.kind,
                    resource.version,
                    resource.kind,
                    unknown.join(", ")
                );
                Err(Failure::bad_request(message))
            }
            FieldValidation::Warn => {
                self.warnings.extend(unknown);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Server {
    /// What follows from a write of this kind.
    pub(crate) fn after_write(&self, kind: &str) {
        if kind == CRDS {
            self.refresh_registry();
        }
    }
}

/// A JSON or YAML body.
pub(crate) fn read_value(headers: &http::HeaderMap, body: &[u8]) -> Answer<Value> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let value: Value = match kind {
        "application/json" | "" => serde_json::from_slice(body).map_err(|e| {
            Failure::bad_request(format!("the object provided is unrecognized (must be of type json): {e}"))
        })?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => parse_yaml(body)?,
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body).map_err(Failure::bad_request)?,
        other => {
            let wanted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            return Err(Failure::unsupported_media(other, wanted));
        }
    };
    if !value.is_object() {
        return Err(Failure::bad_request("the body must be an object"));
    }
    Ok(value)
}

pub(crate) fn parse_yaml(body: &[u8]) -> Answer<Value> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|e| Failure::bad_request(format!("error converting YAML to JSON: {e}")))
}

/// The body as JSON, or an empty object where there is none.
pub(crate) fn optional_body(headers: &http::HeaderMap, body: &Bytes) -> Answer<Value> {
    if body.is_empty() { Ok(json!({})) } else { read_value(headers, body) }
}
