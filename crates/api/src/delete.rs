//! Deletion: preconditions, grace, finalizers, propagation, and collections.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::body::optional_body;
use super::error::{Answer, Cause, Failure};
use super::object::{self, integer, metadata, text};
use super::read::deprecation;
use super::resource::Resource;
use super::schema::{self, Schema};
use super::selector::Selector;
use super::server::{Call, success};
use super::store::{Expect, Object, StoreError};
use super::view;
use super::write::{Write, store_failure};

const ATTEMPTS: usize = 8;

/// What a client wants of a deletion.
pub(crate) struct DeleteOptions {
    uid: String,
    revision: String,
    /// Seconds; none means the object's own.
    grace: Option<i64>,
    propagation: Propagation,
    /// Nothing is deleted: the request alone is checked.
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Propagation {
    /// The type's default, in practice Background.
    Default,
    Orphan,
    Foreground,
}

impl DeleteOptions {
    fn read(call: &Call, body: &Bytes) -> Answer<Self> {
        let mut options = optional_body(&call.headers, body)?;
        let kind = text(&options, "/kind");
        if !matches!(kind, "" | "DeleteOptions") {
            let version = text(&options, "/apiVersion");
            let message =
                format!("no kind {kind:?} of version {version:?} says how to delete: it must be DeleteOptions");
            return Err(Failure::bad_request(message));
        }
        if let Some(schema) = Schema::builtin("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
            && let Some(mistake) = schema::decode(schema, "DeleteOptions", &mut options).mistakes.first()
        {
            return Err(Failure::bad_request(mistake.answer.clone()));
        }
        DeleteOptions::of(call, &options)
    }

    /// From a DeleteOptions object and the query.
    pub(crate) fn of(call: &Call, body: &Value) -> Answer<Self> {
        let grace = match call.query.get("gracePeriodSeconds") {
            "" => integer(body, "/gracePeriodSeconds"),
            given => Some(given.parse().map_err(|_| Failure::bad_request("gracePeriodSeconds: not a number"))?),
        };
        let policy = match text(body, "/propagationPolicy") {
            "" => call.query.get("propagationPolicy"),
            given => given,
        };
        let orphan = call.query.flag("orphanDependents") || body["orphanDependents"] == true;
        let propagation = match policy {
            "Orphan" => Propagation::Orphan,
            "Foreground" => Propagation::Foreground,
            "Background" => Propagation::Default,
            "" if orphan => Propagation::Orphan,
            "" => Propagation::Default,
            other => {
                let supported = ["Foreground", "Background", "Orphan"];
                let cause = Cause::unsupported("propagationPolicy", &json!(other), &supported);
                return Err(Failure::invalid_options("DeleteOptions", cause));
            }
        };
        Ok(DeleteOptions {
            uid: text(body, "/preconditions/uid").to_owned(),
            revision: text(body, "/preconditions/resourceVersion").to_owned(),
            grace: grace.map(|g| g.max(0)),
            propagation,
            dry_run: dry_run(body)?,
        })
    }

    fn check(&self, resource: &Resource, value: &Value) -> Answer<()> {
        let name = object::name(value);
        let facts = [
            ("UID", &self.uid, object::uid(value)),
            ("ResourceVersion", &self.revision, text(value, "/metadata/resourceVersion")),
        ];
        for (what, wanted, found) in facts {
            if !wanted.is_empty() && wanted != found {
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). \
                     The object might have been deleted and then recreated"
                );
                return Err(Failure::conflict(resource, name, &why));
            }
        }
        Ok(())
    }
}

/// `dryRun` of a DeleteOptions object, which is where kubectl says it.
fn dry_run(options: &Value) -> Answer<bool> {
    let given = object::items(options, "/dryRun");
    if given.iter().any(|value| value != "All") {
        let cause = Cause::unsupported("dryRun", &json!(given), &["All"]);
        return Err(Failure::invalid_options("DeleteOptions", cause));
    }
    Ok(!given.is_empty())
}

/// Whether an object whose deletion began has nothing left to wait for.
pub(crate) fn is_finished(resource: &Resource, value: &Value) -> bool {
    if !object::is_deleting(value) || !object::finalizers(value).is_empty() {
        return false;
    }
    if resource.is("", "namespaces") {
        return object::items(value, "/spec/finalizers").is_empty();
    }
    integer(value, "/metadata/deletionGracePeriodSeconds").unwrap_or_default() == 0
}

impl Write<'_> {
    pub(crate) async fn delete(&mut self, body: &Bytes) -> Answer<(StatusCode, Value)> {
        if !self.call.place.subresource.is_empty() || self.call.resource.create_only {
            return Err(Failure::method_not_allowed());
        }
        let options = DeleteOptions::read(self.call, body)?;
        self.dry_run |= options.dry_run;
        let name = self.call.place.name.clone();
        let value = self.delete_one(&name, &options).await?;
        Ok((StatusCode::OK, value))
    }

    pub(crate) async fn delete_collection(&mut self, body: &Bytes) -> Answer<(StatusCode, Value)> {
        let call = self.call;
        let scattered = call.resource.namespaced && call.place.namespace.is_empty();
        if call.resource.create_only || scattered || call.resource.is("", "namespaces") {
            return Err(Failure::method_not_allowed());
        }
        let options = DeleteOptions::read(call, body)?;
        self.dry_run |= options.dry_run;
        let selector =
            Selector::parse(&call.resource, call.query.get("labelSelector"), call.query.get("fieldSelector"))?;
        let namespace = Some(call.place.namespace.as_str()).filter(|ns| !ns.is_empty());
        let (objects, _) = self.server.store.list(&call.resource.storage(), namespace);
        for object in objects.iter().filter(|o| selector.matches(&o.value)) {
            match self.delete_one(&object.key.name, &options).await {
                Err(failure) if failure.reason == "NotFound" => {}
                done => drop(done?),
            }
        }
        self.warnings = deprecation(call);
        Ok((StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})))
    }

    pub(crate) async fn delete_one(&mut self, name: &str, options: &DeleteOptions) -> Answer<Value> {
        let call = self.call;
        for _ in 0..ATTEMPTS {
            let old =
                self.server.store.get(&call.key_of(name)).ok_or_else(|| Failure::not_found(&call.resource, name))?;
            options.check(&call.resource, &old.value)?;
            refuse_fixed(&call.resource, name)?;
            super::admission::review_delete(self, &old).await?;
            match self.try_delete(&old, options).await {
                Err(StoreError::Changed) => continue,
                Err(other) => return Err(store_failure(&other, call, name)),
                Ok(None) => return self.deleted(&old).await,
                Ok(Some(left)) => return Ok(self.server.show(call, vec![left]).await?.remove(0)),
            }
        }
        Err(Failure::modified(&call.resource, name))
    }

    /// Removes the object, or marks it and returns it as it stays.
    async fn try_delete(&self, old: &Arc<Object>, options: &DeleteOptions) -> Result<Option<Arc<Object>>, StoreError> {
        let Some(marked) = marked(&self.call.resource, &old.value, options) else {
            if !self.dry_run {
                self.server.store.remove(old.key.clone(), old.revision).await?;
                self.server.after_write(&old.key.kind);
            }
            return Ok(None);
        };
        if marked == old.value || self.dry_run {
            return Ok(Some(old.clone()));
        }
        let object = self.server.store.put(old.key.clone(), marked, Expect::Revision(old.revision)).await?;
        self.server.after_write(&old.key.kind);
        Ok(Some(object))
    }

    /// The answer for an object that is gone: some types show it once more.
    async fn deleted(&self, old: &Arc<Object>) -> Answer<Value> {
        const SHOWN: &[&str] = &[
            "pods",
            "services",
            "serviceaccounts",
            "persistentvolumes",
            "persistentvolumeclaims",
            "podtemplates",
            "resourcequotas",
        ];
        let resource = &self.call.resource;
        if resource.group.is_empty() && SHOWN.contains(&resource.plural.as_str()) {
            return Ok(view::from_storage(self.server, resource, vec![old.value.clone()]).await?.remove(0));
        }
        Ok(success(resource, &old.value))
    }
}

/// Namespaces the system needs.
fn refuse_fixed(resource: &Resource, name: &str) -> Answer<()> {
    if resource.is("", "namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Failure::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// The object with its deletion begun, or none when it can go at once.
fn marked(resource: &Resource, old: &Value, options: &DeleteOptions) -> Option<Value> {
    let mut new = old.clone();
    apply_propagation(resource, &mut new, options.propagation);
    let grace = grace(resource, old, options);
    let already = integer(old, "/metadata/deletionGracePeriodSeconds");
    if already.is_none_or(|already| grace < already) {
        let began = text(old, "/metadata/deletionTimestamp").parse::<Timestamp>().ok();
        let began = match (began, already) {
            (Some(end), Some(seconds)) => end - SignedDuration::from_secs(seconds),
            _ => Timestamp::now(),
        };
        let end = began.checked_add(SignedDuration::from_secs(grace)).unwrap_or(began);
        let metadata = metadata(&mut new);
        metadata.insert("deletionTimestamp".to_owned(), json!(object::time(end)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
    }
    if resource.is("", "namespaces") {
        new["status"]["phase"] = json!("Terminating");
        metadata(&mut new).shift_remove("deletionGracePeriodSeconds");
    }
    (!is_finished(resource, &new)).then_some(new)
}

/// Seconds a pod gets to end: those asked for, or its own. A pod that no node runs, or that has ended, gets none.
fn grace(resource: &Resource, value: &Value, options: &DeleteOptions) -> i64 {
    let ended = matches!(text(value, "/status/phase"), "Succeeded" | "Failed");
    if !resource.is("", "pods") || text(value, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    options.grace.or_else(|| integer(value, "/spec/terminationGracePeriodSeconds")).unwrap_or(30)
}

/// The garbage collector reads from finalizers what becomes of dependents.
fn apply_propagation(resource: &Resource, value: &mut Value, propagation: Propagation) {
    if resource.is("", "namespaces") {
        return;
    }
    let wanted = match propagation {
        Propagation::Orphan => Some("orphan"),
        Propagation::Foreground => Some("foregroundDeletion"),
        Propagation::Default => None,
    };
    let metadata = metadata(value);
    let mut finalizers = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    finalizers
        .retain(|f| f.as_str().is_none_or(|f| !matches!(f, "orphan" | "foregroundDeletion") || wanted == Some(f)));
    if let Some(wanted) = wanted
        && !finalizers.contains(&json!(wanted))
    {
        finalizers.push(json!(wanted));
    }
    match finalizers.is_empty() {
        true => metadata.shift_remove("finalizers"),
        false => metadata.insert("finalizers".to_owned(), Value::Array(finalizers)),
    };
}
