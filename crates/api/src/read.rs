//! Get and list.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::error::{Answer, Cause, Failure};
use super::negotiate::{View, metadata_only, respond};
use super::selector::Selector;
use super::server::{Call, Server};
use super::store::Object;
use super::view;

/// Where a list in pieces goes on.
struct Continue {
    /// Revision of the first piece.
    revision: u64,
    /// The last object of the piece before.
    namespace: String,
    name: String,
}

impl Server {
    pub(crate) async fn get(&self, call: &Call) -> Answer<Response> {
        let (asked, now) = (call.query.number("resourceVersion")?.unwrap_or_default(), self.store.revision());
        if asked > now {
            return Err(Failure::too_large_revision(asked, now));
        }
        let object = self.find(call)?;
        let value = match call.place.subresource.as_str() {
            "" | "status" | "approval" => self.show(call, vec![object]).await?.remove(0),
            "scale" => super::scale::show(&call.resource, &self.show(call, vec![object]).await?.remove(0))?,
            _ => return Err(Failure::method_not_allowed()),
        };
        Ok(self.respond_object(call, StatusCode::OK, value, &deprecation(call)))
    }

    /// Objects in the version of the call.
    pub(crate) async fn show(&self, call: &Call, objects: Vec<Arc<Object>>) -> Answer<Vec<Value>> {
        let values = objects.iter().map(|o| o.value.clone()).collect();
        view::from_storage(self, &call.resource, values).await
    }

    pub(crate) async fn list(&self, call: &Call) -> Answer<Response> {
        if call.resource.create_only {
            return Err(Failure::method_not_allowed());
        }
        let selector =
            Selector::parse(&call.resource, call.query.get("labelSelector"), call.query.get("fieldSelector"))?;
        let namespace = Some(call.place.namespace.as_str()).filter(|ns| !ns.is_empty());
        let (mut objects, now) = self.store.list(&call.resource.storage(), namespace);
        check_revision(call, now)?;
        objects.retain(|o| selector.matches(&o.value));
        let (objects, metadata) = page(call, objects, now)?;
        let items = self.show(call, objects).await?;
        Ok(respond(StatusCode::OK, &list_in_view(call, items, metadata), call.format.yaml, &deprecation(call)))
    }
}

/// Lists are of the newest revision; one that is asked for exactly must be that.
fn check_revision(call: &Call, now: u64) -> Answer<()> {
    let asked = call.query.number("resourceVersion")?;
    let field = "resourceVersionMatch";
    let refused = |detail: &str| Err(Failure::invalid_options("ListOptions", Cause::forbidden(field, detail)));
    let how = call.query.get(field);
    match (how, asked) {
        ("", _) | ("NotOlderThan", Some(_)) => {}
        ("Exact" | "NotOlderThan", None) => {
            return refused("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        ("Exact", Some(0)) => return refused("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        ("Exact", Some(_)) => {}
        (other, _) => {
            let cause = Cause::unsupported(field, &json!(other), &["Exact", "NotOlderThan", ""]);
            return Err(Failure::invalid_options("ListOptions", cause));
        }
    }
    let asked = asked.unwrap_or_default();
    if asked > now {
        return Err(Failure::too_large_revision(asked, now));
    }
    if how == "Exact" && asked != now && call.query.get("continue").is_empty() {
        return Err(Failure::expired("The resourceVersion for the provided list is too old."));
    }
    Ok(())
}

pub(crate) fn deprecation(call: &Call) -> Vec<String> {
    call.resource.custom().and_then(|c| c.deprecation.clone()).into_iter().collect()
}

/// The piece of the list that `limit` and `continue` ask for, and the list's metadata. Later pieces are of the newest
/// revision but carry that of the first: a watch from there sees everything that changed between.
fn page(call: &Call, mut objects: Vec<Arc<Object>>, now: u64) -> Answer<(Vec<Arc<Object>>, Value)> {
    let mut revision = now;
    let token = call.query.get("continue");
    if !token.is_empty() {
        let from = Continue::parse(token).ok_or_else(|| Failure::bad_request("continue: the token cannot be read"))?;
        objects.retain(|o| (&o.key.namespace, &o.key.name) > (&from.namespace, &from.name));
        revision = from.revision;
    }
    let limit = match call.query.get("limit") {
        "" => 0,
        text => text.parse::<i64>().map_err(|_| Failure::bad_request(format!("limit: not a number: {text:?}")))?,
    };
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let remaining = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(last)) = (remaining > 0, objects.last()) {
        let next = Continue { revision, namespace: last.key.namespace.clone(), name: last.key.name.clone() };
        metadata["continue"] = json!(next.token());
        metadata["remainingItemCount"] = json!(remaining);
    }
    Ok((objects, metadata))
}

impl Continue {
    fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.revision, self.namespace, self.name]).to_string())
    }

    fn parse(token: &str) -> Option<Self> {
        let (revision, namespace, name) = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        Some(Continue { revision, namespace, name })
    }
}

/// One object in the view asked for.
pub(crate) fn in_view(call: &Call, value: Value) -> Value {
    match &call.format.view {
        View::Object => value,
        View::Metadata(version) => metadata_only(&value, version),
        View::Table(version) => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            super::table::table(&call.resource, &[value], metadata, version, include(call))
        }
    }
}

/// `includeObject` of a table.
fn include(call: &Call) -> &str {
    call.query.get("includeObject")
}

fn list_in_view(call: &Call, mut items: Vec<Value>, metadata: Value) -> Value {
    match &call.format.view {
        View::Table(version) => super::table::table(&call.resource, &items, metadata, version, include(call)),
        View::Metadata(version) => {
            let items: Vec<Value> = items.iter().map(|item| metadata_only(item, version)).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "items": items,
            })
        }
        View::Object => {
            if call.resource.custom().is_none() {
                items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| {
                    item.shift_remove("apiVersion");
                    item.shift_remove("kind");
                });
            }
            json!({
                "kind": format!("{}List", call.resource.kind), "apiVersion": call.resource.api_version(),
                "metadata": metadata, "items": items,
            })
        }
    }
}
