//! Watches: each reads the store's history at its own pace, so a slow client costs nothing and is told when it is too late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::error::{Answer, Cause, Failure};
use super::negotiate::{View, metadata_only};
use super::resource::Resource;
use super::selector::Selector;
use super::server::{Call, Server};
use super::store::{Change, Object};
use super::{table, view};

/// Changes read from the history at a time.
const BATCH: usize = 256;
/// How often a client that wants bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(30);
/// How long a watch lives when the client does not say.
const LIFETIME: Duration = Duration::from_secs(45 * 60);

struct Watch {
    server: Arc<Server>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selector: Selector,
    view: View,
    /// `includeObject` of tables.
    include: String,
    bookmarks: bool,
    /// Everything up to this revision was sent or does not concern this watch.
    cursor: u64,
    changed: tokio::sync::watch::Receiver<u64>,
    pending: VecDeque<Bytes>,
    tick: Interval,
    deadline: Instant,
    /// Whether a table's columns were sent.
    columns_sent: bool,
    ended: bool,
}

impl Server {
    pub(crate) async fn watch(self: &Arc<Self>, call: &Call) -> Answer<Response> {
        if call.resource.create_only {
            return Err(Failure::method_not_allowed());
        }
        let mut watch = self.new_watch(call)?;
        let now = self.store.revision();
        let from = call.query.number("resourceVersion")?.unwrap_or_default();
        let initial = call.query.flag("sendInitialEvents");
        check_options(call, initial)?;
        if from > now {
            return Err(Failure::expired(format!("Too large resource version: {from}, current: {now}")));
        }
        if initial || from == 0 {
            watch.start_with_all().await?;
            if initial {
                watch.push_bookmark(true);
            }
        } else {
            self.store.changes_after(from, 1).map_err(|_| too_old(from))?;
            watch.cursor = from;
        }
        let body = Body::from_stream(stream::unfold(watch, |mut watch| async move {
            let line = watch.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(line), watch))
        }));
        let kind = if call.format.yaml { "application/yaml" } else { "application/json" };
        Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
    }

    fn new_watch(self: &Arc<Self>, call: &Call) -> Answer<Watch> {
        let mut fields = call.query.get("fieldSelector").to_owned();
        if !call.place.name.is_empty() {
            fields = format!("metadata.name={},{fields}", call.place.name);
        }
        let seconds = call.query.number("timeoutSeconds")?.map(|s| Duration::from_secs(s.min(24 * 3600)));
        let mut tick = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let namespaced = call.resource.namespaced && !call.place.namespace.is_empty();
        Ok(Watch {
            server: self.clone(),
            resource: call.resource.clone(),
            namespace: namespaced.then(|| call.place.namespace.clone()),
            selector: Selector::parse(&call.resource, call.query.get("labelSelector"), &fields)?,
            view: call.format.view.clone(),
            include: call.query.get("includeObject").to_owned(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            cursor: 0,
            changed: self.store.subscribe(),
            pending: VecDeque::new(),
            tick,
            deadline: Instant::now() + seconds.filter(|s| !s.is_zero()).unwrap_or(LIFETIME),
            columns_sent: false,
            ended: false,
        })
    }
}

/// `sendInitialEvents` and `resourceVersionMatch=NotOlderThan` go together.
fn check_options(call: &Call, initial: bool) -> Answer<()> {
    let field = "resourceVersionMatch";
    let cause = match (initial, call.query.get(field)) {
        (true, "NotOlderThan") | (false, "") => return Ok(()),
        (true, _) => Cause::forbidden(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        (false, _) => {
            Cause::forbidden(field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        }
    };
    Err(Failure::invalid_options("ListOptions", cause))
}

fn too_old(revision: u64) -> Failure {
    Failure::expired(format!("too old resource version: {revision}"))
}

impl Watch {
    /// The next line, or none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.changed.mark_unchanged();
            match self.server.store.changes_after(self.cursor, BATCH) {
                Err(_) => self.push_failure(&too_old(self.cursor)),
                Ok(changes) if changes.is_empty() => self.wait().await,
                Ok(changes) => self.take(changes).await,
            }
        }
    }

    async fn wait(&mut self) {
        let due = tokio::select! {
            changed = self.changed.changed() => { self.ended = changed.is_err(); false }
            _ = self.tick.tick() => self.bookmarks,
            () = tokio::time::sleep_until(self.deadline) => { self.ended = true; false }
        };
        if due {
            self.push_bookmark(false);
        }
    }

    async fn start_with_all(&mut self) -> Answer<()> {
        let (objects, revision) = self.server.store.list(&self.resource.storage(), self.namespace.as_deref());
        self.cursor = revision;
        for object in &objects {
            if self.selector.matches(&object.value) {
                self.push_object("ADDED", object, object.revision).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, changes: Vec<Arc<Change>>) {
        let kind = self.resource.storage();
        for change in changes {
            self.cursor = change.revision;
            let Some((event, object)) = self.event(&change, &kind) else { continue };
            if let Err(failure) = self.push_object(event, &object, change.revision).await {
                return self.push_failure(&failure);
            }
        }
    }

    /// What a change is to this watch: an object that begins to be selected is added, one that ceases to be is deleted.
    fn event(&self, change: &Change, kind: &str) -> Option<(&'static str, Arc<Object>)> {
        let concerns = |object: &&Arc<Object>| {
            object.key.kind == kind
                && self.namespace.as_ref().is_none_or(|ns| *ns == object.key.namespace)
                && self.selector.matches(&object.value)
        };
        let old = change.old.as_ref().filter(concerns);
        let new = change.new.as_ref().filter(concerns);
        match (old, new) {
            (None, Some(new)) => Some(("ADDED", new.clone())),
            (Some(_), Some(new)) => Some(("MODIFIED", new.clone())),
            (Some(old), None) => Some(("DELETED", old.clone())),
            (None, None) => None,
        }
    }

    async fn push_object(&mut self, event: &str, object: &Object, revision: u64) -> Answer<()> {
        let mut value = object.value.clone();
        value["metadata"]["resourceVersion"] = json!(revision.to_string());
        let value = view::from_storage(&self.server, &self.resource, vec![value]).await?.remove(0);
        let shown = match &self.view {
            View::Object => value,
            View::Metadata(version) => metadata_only(&value, version),
            View::Table(version) => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let mut table = table::table(&self.resource, &[value], metadata, version, &self.include);
                if std::mem::replace(&mut self.columns_sent, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        self.push(event, &shown);
        Ok(())
    }

    fn push(&mut self, event: &str, object: &Value) {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        self.pending.push_back(Bytes::from(line));
    }

    /// Says up to where the client has seen everything.
    fn push_bookmark(&mut self, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let bookmark = match &self.view {
            View::Table(version) => json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            View::Metadata(version) => metadata_only(&json!({"metadata": metadata}), version),
            View::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
        };
        self.push("BOOKMARK", &bookmark);
    }

    fn push_failure(&mut self, failure: &Failure) {
        self.push("ERROR", &failure.status());
        self.ended = true;
    }
}
