//! Watches: one stream of changes over all kinds.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kube::Client;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;

use crate::Kind;

/// What became known of one kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub kind: Kind,
    /// Relative to what was told before, in order. A list that follows a lost watch is told as its differences.
    pub changes: Vec<Change>,
    pub state: State,
}

/// One object that is, or is no more. Objects carry `apiVersion` and `kind`, and neither `managedFields` nor the
/// manifest that `kubectl apply` leaves behind.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    Applied(Value),
    /// Of an object that went while nobody watched, only its kind, namespace and name are known.
    Deleted(Value),
}

/// How well a kind is known after an [`Event`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Everything told so far is what there is.
    Synced,
    /// The API server does not know the kind: its CustomResourceDefinition is not installed.
    Missing,
    /// Reading fails, for this reason; what was told holds.
    Failing(String),
}

/// The longest pause before another attempt to read.
const RETRY_MAX: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(200);

/// How often in a row a known kind must be missing until its objects count as deleted. An API server that starts
/// answers 404 for a moment, and that must not revoke policy.
const MISSING_AFTER: u32 = 4;

/// Watches `kinds` in all namespaces, for ever. Each kind's first event is its first complete list, or says why there
/// is none. Errors are told as [`State::Failing`] and retried.
pub fn watch(client: &Client, kinds: &[Kind]) -> BoxStream<'static, Event> {
    stream::select_all(kinds.iter().map(|kind| watch_kind(client, *kind))).boxed()
}

/// The reading of one kind.
struct Reader {
    kind: Kind,
    objects: BoxStream<'static, watcher::Result<watcher::Event<DynamicObject>>>,
    /// The objects told and not deleted, by namespace and name.
    known: BTreeSet<(String, String)>,
    /// A list under way.
    list: Vec<Value>,
    /// Attempts that failed since one succeeded.
    failures: u32,
    state: Option<State>,
}

fn watch_kind(client: &Client, kind: Kind) -> BoxStream<'static, Event> {
    let objects = watcher(kind.api(client, ""), watcher::Config::default()).boxed();
    let reader = Reader { kind, objects, known: BTreeSet::new(), list: Vec::new(), failures: 0, state: None };
    stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed()
}

// === impl Reader ===

impl Reader {
    /// The next event that tells something new.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let told = match self.objects.next().await? {
                Ok(event) => self.read(event),
                Err(error) => {
                    let event = self.fail(&error);
                    if event.is_none() {
                        tokio::time::sleep(pause(self.failures)).await;
                    }
                    event
                }
            };
            if told.is_some() {
                return told;
            }
        }
    }

    fn read(&mut self, event: watcher::Event<DynamicObject>) -> Option<Event> {
        match event {
            watcher::Event::Init => self.list.clear(),
            watcher::Event::InitApply(object) => self.list.push(self.value(object)),
            watcher::Event::InitDone => return Some(self.finish_list()),
            watcher::Event::Apply(object) => {
                let object = self.value(object);
                self.known.insert(key(&object));
                return Some(self.synced(vec![Change::Applied(object)]));
            }
            watcher::Event::Delete(object) => {
                let object = self.value(object);
                self.known.remove(&key(&object));
                return Some(self.synced(vec![Change::Deleted(object)]));
            }
        }
        None
    }

    fn finish_list(&mut self) -> Event {
        let list = std::mem::take(&mut self.list);
        let now: BTreeSet<_> = list.iter().map(key).collect();
        let gone = self.known.difference(&now).map(|name| Change::Deleted(self.stub(name)));
        let changes = gone.chain(list.into_iter().map(Change::Applied)).collect();
        self.known = now;
        self.synced(changes)
    }

    fn synced(&mut self, changes: Vec<Change>) -> Event {
        self.failures = 0;
        self.state = Some(State::Synced);
        Event { kind: self.kind, changes, state: State::Synced }
    }

    /// Notes a failure. Tells it when it is news.
    fn fail(&mut self, error: &watcher::Error) -> Option<Event> {
        self.failures = self.failures.saturating_add(1);
        let missing = self.kind.is_custom() && is_not_found(error);
        let mut changes = Vec::new();
        let state = if missing && (self.known.is_empty() || self.failures >= MISSING_AFTER) {
            changes = self.known.iter().map(|name| Change::Deleted(self.stub(name))).collect();
            self.known.clear();
            State::Missing
        } else {
            State::Failing(error.to_string())
        };
        // A watch that breaks off is usual, and the next attempt most often succeeds.
        if self.state == Some(State::Synced) && self.failures == 1 && state != State::Missing {
            return None;
        }
        let news = self.state.as_ref().is_none_or(|old| std::mem::discriminant(old) != std::mem::discriminant(&state));
        self.state = Some(state.clone());
        news.then_some(Event { kind: self.kind, changes, state })
    }

    fn value(&self, mut object: DynamicObject) -> Value {
        object.metadata.managed_fields = None;
        if let Some(annotations) = &mut object.metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        let mut value = self.stub(&(String::new(), String::new()));
        value["metadata"] = serde_json::to_value(&object.metadata).unwrap_or_default();
        if let (Some(fields), Value::Object(data)) = (value.as_object_mut(), object.data) {
            fields.extend(data);
        }
        value
    }

    fn stub(&self, (namespace, name): &(String, String)) -> Value {
        serde_json::json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.kind,
            "metadata": { "namespace": namespace, "name": name },
        })
    }
}

/// Doubles with each failure in a row.
fn pause(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(RETRY_MAX)
}

fn key(object: &Value) -> (String, String) {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}

fn is_not_found(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}
