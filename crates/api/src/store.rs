//! The store: every object in memory in order, each write first in a redb file (or nowhere, for tests), one revision for
//! all, and a bounded history of changes for watches.

mod disk;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::Value;
use tokio::sync::watch;

use self::disk::Disk;

/// Changes kept for watches. A watcher that falls further behind is told to list again (410).
const HISTORY: usize = 4096;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// `group/plural`; the group is empty for the core group.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
}

/// An object as stored. `value` carries the revision as `metadata.resourceVersion`.
#[derive(Debug)]
pub(crate) struct Object {
    pub key: Key,
    pub revision: u64,
    pub value: Value,
}

/// One write: from `old` to `new`. Neither is absent at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub revision: u64,
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

/// What a writer believes is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Absent,
    Revision(u64),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the object exists already")]
    Exists,
    #[error("the object was changed by another writer")]
    Changed,
    #[error("revision {0} is older than the oldest change kept")]
    Compacted(u64),
    #[error("the store {path} is in use; is another `heddle up` running on this state directory?")]
    Busy { path: String },
    #[error("the store {path} is damaged: {why}; move the file away to start anew, without the objects in it")]
    Damaged { path: String, why: String },
    #[error("the disk of the store {path} is full; nothing was changed: free some space and try again")]
    Full { path: String },
    #[error("cannot use the store {path}: {source}; nothing was changed: check that you may read and write it")]
    Io { path: String, source: Box<redb::Error> },
    #[error("the writing task ended early")]
    Interrupted,
}

/// Objects of one kind by (namespace, name).
type Objects = BTreeMap<(String, String), Arc<Object>>;

#[derive(Default)]
struct State {
    kinds: BTreeMap<String, Objects>,
    revision: u64,
    history: VecDeque<Arc<Change>>,
    /// The greatest revision that is not in `history` any more.
    forgotten: u64,
}

struct Inner {
    /// Held while a write is decided, written to disk and applied: writes are one after another.
    writer: Mutex<Option<Disk>>,
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

/// A handle; clones share the store.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

impl Store {
    /// A store that ends with the process.
    pub(crate) fn memory() -> Self {
        Store::with(None, State { revision: 1, forgotten: 1, ..State::default() })
    }

    /// Opens or creates the file at `path` (mode 0600).
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let (disk, content) = Disk::open(path)?;
        let revision = content.revision.max(1);
        let mut state = State { revision, forgotten: revision, ..State::default() };
        for object in content.objects {
            let place = (object.key.namespace.clone(), object.key.name.clone());
            state.kinds.entry(object.key.kind.clone()).or_default().insert(place, Arc::new(object));
        }
        Ok(Store::with(Some(disk), state))
    }

    fn with(disk: Option<Disk>, state: State) -> Self {
        let (revision, _) = watch::channel(state.revision);
        Store(Arc::new(Inner { writer: Mutex::new(disk), state: RwLock::new(state), revision }))
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.state().kinds.get(&key.kind)?.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }

    /// Objects of a kind, of one namespace or of all, in order of (namespace, name), and the revision they are of.
    pub(crate) fn list(&self, kind: &str, namespace: Option<&str>) -> (Vec<Arc<Object>>, u64) {
        let state = self.state();
        let objects = state.kinds.get(kind).map(|all| match namespace {
            Some(ns) => {
                let from = (ns.to_owned(), String::new());
                all.range(from..).take_while(|((n, _), _)| n == ns).map(|(_, o)| o.clone()).collect()
            }
            None => all.values().cloned().collect(),
        });
        (objects.unwrap_or_default(), state.revision)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state().revision
    }

    /// Tells when the revision grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// At most `limit` changes after `revision`, oldest first.
    pub(crate) fn changes_after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Change>>, StoreError> {
        let state = self.state();
        if revision < state.forgotten {
            return Err(StoreError::Compacted(revision));
        }
        let start = state.history.partition_point(|change| change.revision <= revision);
        Ok(state.history.iter().skip(start).take(limit).cloned().collect())
    }

    /// Stores `value`, which gets its new `metadata.resourceVersion` here.
    pub(crate) async fn put(&self, key: Key, value: Value, expect: Expect) -> Result<Arc<Object>, StoreError> {
        let object = self.write(key, Some(value), expect).await?;
        object.new.clone().ok_or(StoreError::Interrupted)
    }

    /// Removes the object, which must be at `revision`; returns the change.
    pub(crate) async fn remove(&self, key: Key, revision: u64) -> Result<Arc<Change>, StoreError> {
        self.write(key, None, Expect::Revision(revision)).await
    }

    /// The disk may be slow to answer, so the write happens off the async threads.
    async fn write(&self, key: Key, value: Option<Value>, expect: Expect) -> Result<Arc<Change>, StoreError> {
        let store = self.clone();
        let written = tokio::task::spawn_blocking(move || store.write_now(key, value, expect)).await;
        written.map_err(|_| StoreError::Interrupted)?
    }

    fn write_now(&self, key: Key, value: Option<Value>, expect: Expect) -> Result<Arc<Change>, StoreError> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.get(&key);
        match (&old, expect) {
            (Some(_), Expect::Absent) => return Err(StoreError::Exists),
            (Some(old), Expect::Revision(revision)) if old.revision == revision => {}
            (None, Expect::Absent) => {}
            _ => return Err(StoreError::Changed),
        }
        let revision = self.state().revision + 1;
        let new = value.map(|mut value| {
            value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
            Arc::new(Object { key: key.clone(), revision, value })
        });
        if let Some(disk) = writer.as_mut() {
            let (old, new) = (old.as_ref().map(|object| &object.value), new.as_ref().map(|object| &object.value));
            disk.write(&key, old, new, revision)?;
        }
        let change = Arc::new(Change { revision, old, new });
        self.apply(&key, &change, writer);
        Ok(change)
    }

    /// Makes a written change visible; takes the writer's lock so that changes appear in order.
    fn apply(&self, key: &Key, change: &Arc<Change>, _writer: MutexGuard<'_, Option<Disk>>) {
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        let place = (key.namespace.clone(), key.name.clone());
        let objects = state.kinds.entry(key.kind.clone()).or_default();
        match &change.new {
            Some(object) => objects.insert(place, object.clone()),
            None => objects.remove(&place),
        };
        state.revision = change.revision;
        state.history.push_back(change.clone());
        if state.history.len() > HISTORY
            && let Some(oldest) = state.history.pop_front()
        {
            state.forgotten = oldest.revision;
        }
        drop(state);
        self.0.revision.send_replace(change.revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key { kind: "/configmaps".to_owned(), namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[tokio::test]
    async fn the_history_is_bounded_and_says_what_it_forgot() {
        let store = Store::memory();
        let value = json!({"metadata": {}});
        let mut object = store.put(key("a"), value.clone(), Expect::Absent).await.expect("stored");
        let first = object.revision;
        for _ in 0..HISTORY {
            object = store.put(key("a"), value.clone(), Expect::Revision(object.revision)).await.expect("stored");
        }
        assert!(matches!(store.changes_after(first - 1, 1), Err(StoreError::Compacted(_))));
        assert_eq!(store.changes_after(first, usize::MAX).expect("changes").len(), HISTORY);
    }

    #[tokio::test]
    async fn a_writer_that_is_late_changes_nothing() {
        let store = Store::memory();
        let old = store.put(key("a"), json!({"metadata": {}, "n": 1}), Expect::Absent).await.expect("stored");
        store.put(key("a"), json!({"metadata": {}, "n": 2}), Expect::Revision(old.revision)).await.expect("stored");
        let late = store.put(key("a"), json!({"metadata": {}, "n": 3}), Expect::Revision(old.revision)).await;
        assert!(matches!(late, Err(StoreError::Changed)));
        assert_eq!(store.get(&key("a")).expect("kept").value["n"], 2);
    }
}
