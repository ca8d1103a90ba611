//! Create, update and patch: fill in what the server decides, check, store.

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::{Value, json};

use super::admission::{self, Review};
use super::body::FieldValidation;
use super::error::{Answer, Cause, Failure};
use super::managed::{self, Who};
use super::object::{self, metadata, text};
use super::rbac::check_escalation;
use super::schema::Schema;
use super::server::{Call, Server};
use super::store::{Expect, Object, StoreError};
use super::{CRDS, allocate, custom_validation, defaults, patch, strategy, validate, view};

/// How often a write is tried again when others write the same object.
const ATTEMPTS: usize = 8;
/// How long a pod waits for the ServiceAccount of its new namespace.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(2);

/// One writing request.
pub(crate) struct Write<'a> {
    pub server: &'a Arc<Server>,
    pub call: &'a Call,
    pub dry_run: bool,
    /// Field manager: `fieldManager`, or the program in `User-Agent`.
    pub manager: String,
    /// What kubectl prints as warnings.
    pub warnings: Vec<String>,
    pub validation: FieldValidation,
    /// Keys that stand twice in the body.
    pub duplicates: Vec<String>,
    /// Whether this is a server-side apply, which says itself who manages what.
    applies: bool,
}

pub(crate) fn store_failure(error: &StoreError, call: &Call, name: &str) -> Failure {
    match error {
        StoreError::Exists => Failure::already_exists(&call.resource, name),
        StoreError::Changed => Failure::modified(&call.resource, name),
        StoreError::Full { .. } => {
            Failure::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", error.to_string())
        }
        other => Failure::internal(other),
    }
}

impl<'a> Write<'a> {
    pub(crate) fn new(server: &'a Arc<Server>, call: &'a Call) -> Answer<Self> {
        let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let manager = match call.query.get("fieldManager") {
            "" => agent.split('/').next().unwrap_or("unknown").chars().take(128).collect(),
            given if given.len() > 128 => {
                let cause = Cause::too_long("fieldManager", 128);
                return Err(Failure::invalid_options(call.options_kind(), cause));
            }
            given => given.to_owned(),
        };
        let validation = FieldValidation::read(call)?;
        let mut warnings = super::read::deprecation(call);
        if matches!(call.verb.as_str(), "create" | "update" | "patch") {
            warnings.extend(strategy::unheeded(&call.resource));
        }
        let (dry_run, duplicates) = (call.dry_run()?, Vec::new());
        Ok(Write { server, call, dry_run, manager, warnings, validation, duplicates, applies: false })
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
        if !self.applies {
            self.record(None, &mut value);
        }
        strategy::before_create(&call.resource, &mut value, &self.server.registry());
        let name = object::name(&value).to_owned();
        self.admit(&mut value).await?;
        if call.resource.is("batch", "jobs") {
            defaults::job_selector(&mut value);
        }
        let mut value = admission::mutate(self, "CREATE", value, None).await?;
        let _allocations = self.allocate(&mut value, None).await?;
        self.check(&value, None)?;
        admission::validate(self, &Review { operation: "CREATE", object: Some(&value), old: None }).await?;
        if self.dry_run {
            return match self.server.store.get(&call.key_of(&name)) {
                Some(_) => Err(self.taken(&name)),
                None => Ok(value),
            };
        }
        let stored = view::to_storage(self.server, &call.resource, value).await?;
        match self.server.store.put(call.key_of(&name), stored, Expect::Absent).await {
            Ok(object) => self.stored(object).await,
            Err(StoreError::Exists) => Err(self.taken(&name)),
            Err(other) => Err(store_failure(&other, call, &name)),
        }
    }

    /// Another object has the name, if only until its deletion is done.
    fn taken(&self, name: &str) -> Failure {
        let mut failure = Failure::already_exists(&self.call.resource, name);
        let found = self.server.store.get(&self.call.key_of(name));
        if found.is_some_and(|found| object::is_deleting(&found.value)) {
            failure.message = format!("object is being deleted: {}", failure.message);
        }
        failure
    }

    /// What a new object gets of those that are there: a pod its ServiceAccount, a signing request its requestor.
    async fn admit(&self, value: &mut Value) -> Answer<()> {
        match self.call.resource.qualified().as_str() {
            "pods" => self.admit_pod(value).await,
            "certificatesigningrequests.certificates.k8s.io" => {
                object::map_at(value, "spec").extend(self.call.user.info().as_object().cloned().unwrap_or_default());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A new pod gets its ServiceAccount, which must exist.
    async fn admit_pod(&self, value: &mut Value) -> Answer<()> {
        let call = self.call;
        let named =
            Some(text(value, "/spec/serviceAccountName")).filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
        let namespace = &call.place.namespace;
        let found = self.account(namespace, &named).await.ok_or_else(|| {
            let why =
                format!("error looking up service account {namespace}/{named}: serviceaccount \"{named}\" not found");
            Failure::forbidden(&call.resource, object::name(value), &why)
        })?;
        super::pod_admission::admit(value, &found.value);
        Ok(())
    }

    /// A ServiceAccount. That of a namespace itself is made soon after the namespace, and waited for a little.
    async fn account(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let find = || self.server.lookup("/serviceaccounts", namespace, name);
        if name != "default" {
            return find();
        }
        let mut changes = self.server.store.subscribe();
        let made = async {
            loop {
                match find() {
                    Some(found) => return Some(found),
                    None => changes.changed().await.ok()?,
                }
            }
        };
        tokio::time::timeout(ACCOUNT_PATIENCE, made).await.ok().flatten()
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
            // It gives a pod its node, which nothing else may.
            Some(_) if self.call.place.subresource == "binding" => Vec::new(),
            Some(old) => validate::update(resource, value, old),
        };
        if let Some(custom) = resource.custom() {
            causes.extend(custom_validation::check(resource, custom, value, old));
        }
        if !causes.is_empty() {
            return Err(Failure::invalid(resource, object::name(value), &causes));
        }
        check_escalation(self.server, &self.call.user, resource, value, old)
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
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(Failure::invalid_options("PatchOptions", cause));
        }
        if config["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        if text(config, "/kind").is_empty() || text(config, "/apiVersion").is_empty() {
            return Err(Failure::bad_request("the configuration that is applied must have apiVersion and kind"));
        }
        self.check_name(config)?;
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
            "" | "status" | "approval" | "finalize" | "ephemeralcontainers" => self.read(body)?,
            _ => return Err(Failure::method_not_allowed()),
        };
        self.check_name(&new)?;
        let conditional = !text(&new, "/metadata/resourceVersion").is_empty();
        if !conditional && self.call.resource.custom().is_some() {
            let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(Failure::invalid(&self.call.resource, &self.call.place.name, &[cause]));
        }
        let changed = self.change(!conditional, |_, _| Ok(new.clone())).await?;
        Ok((StatusCode::OK, changed))
    }

    pub(crate) async fn patch(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        self.check_named()?;
        let patch = patch::Patch::read(&self.call.headers, body)?;
        if let (patch::Patch::Apply(config), "" | "status") = (&patch, self.call.place.subresource.as_str()) {
            return self.apply(config).await;
        }
        if !self.call.query.get("force").is_empty() {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(Failure::invalid_options("PatchOptions", cause));
        }
        if self.call.place.subresource == "scale" {
            return self.patch_scale(&patch).await;
        }
        let resource = self.call.resource.clone();
        let changed = self
            .change(true, |write, old| {
                let mut new = patch.apply(Schema::of(&resource), resource.custom().is_some(), old)?;
                write.check_name(&new)?;
                patch::check_kind(&resource, &new)?;
                let patched = new.to_string();
                write.decode(&mut new).map_err(|failure| Failure::unpatchable(&patched, &failure.message))?;
                Ok(new)
            })
            .await?;
        Ok((StatusCode::OK, changed))
    }

    /// The object must be the one that the path names, if it says which it is.
    fn check_name(&self, object: &Value) -> Answer<()> {
        let place = &self.call.place;
        let (sent, wanted) = (object::name(object), place.name.as_str());
        if !sent.is_empty() && sent != wanted {
            let message = format!("the name of the object ({sent}) does not match the name on the URL ({wanted})");
            return Err(Failure::bad_request(message));
        }
        let namespace = object::namespace(object);
        if self.call.resource.namespaced && !namespace.is_empty() && namespace != place.namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Failure::bad_request(message));
        }
        Ok(())
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
        if !self.applies {
            self.record(Some(old_value), &mut new);
        }
        let mut new = admission::mutate(self, "UPDATE", new, Some(old_value)).await?;
        let _allocations = self.allocate(&mut new, Some(old_value)).await?;
        self.check(&new, Some(old_value))?;
        admission::validate(self, &Review { operation: "UPDATE", object: Some(&new), old: Some(old_value) }).await?;
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
}

impl Server {
    /// What follows from a write of this kind.
    pub(crate) fn after_write(&self, kind: &str) {
        if kind == CRDS {
            self.refresh_registry();
        }
    }
}
