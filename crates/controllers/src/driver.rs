//! The loop: watch everything, compute what is to be done, do it, repeat until quiet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use tokio::time::Instant;
use tokio_stream::StreamMap;

use super::discovery::{self, Kind};
use super::execute::{Outcome, backoff, execute};
use super::plan::{Action, Op, time};
use super::recorder::{self, Recorder};
use super::world::{Key, World, resource_key};

/// How long changes are collected before the next computation: most come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(3);

/// Kinds come and go with CustomResourceDefinitions and APIServices; this is for the changes that no watch tells.
const REDISCOVER: Duration = Duration::from_secs(30);

/// How long after a change of a CustomResourceDefinition the API needs to serve the kind.
const ESTABLISH: Duration = Duration::from_millis(200);

/// Computations in a row without looking at the watches.
const ROUNDS: usize = 16;

/// How long an action may take: as long as an API server gives a request. Webhooks may use much of it.
const LONGEST_ACTION: Duration = Duration::from_secs(60);

/// How long a computation waits for its actions. What takes longer goes on beside the computations that follow.
const PATIENCE: Duration = Duration::from_millis(100);

/// Actions that are under way at once.
const MOST_AT_ONCE: usize = 64;

/// How long the discovery of kinds may take.
const LONGEST_DISCOVERY: Duration = Duration::from_secs(10);

/// How long a state that is only reported stays reported before its event is counted once more.
const REPORT_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// What the controllers need to know that is not in the API.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// PEM certificates of the authority that signed the API's serving certificate; each namespace gets them in the
    /// ConfigMap `kube-root-ca.crt`. Without them there is no such ConfigMap.
    pub root_ca: Option<String>,
}

type Event = watcher::Event<DynamicObject>;

struct Driver {
    client: Client,
    settings: Settings,
    world: World,
    watches: StreamMap<String, BoxStream<'static, watcher::Result<Event>>>,
    kinds: BTreeMap<String, Watched>,
    /// Failures in a row, and when to try again, by what was attempted for whom.
    retries: HashMap<Attempt, (u32, Timestamp)>,
    /// The actions that are under way, one for each object for whose sake they are.
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// The uids of those objects. What else is to be done for them waits.
    busy: HashSet<Option<String>>,
    recorder: Recorder,
    due: Option<Timestamp>,
    rediscover: Instant,
}

/// An action that came to its end.
type Ended = (Action, Result<Outcome, kube::Error>);

/// A kind that is being watched.
struct Watched {
    kind: Kind,
    /// The objects of the list that is under way.
    listing: Vec<DynamicObject>,
    listed: bool,
    /// Whether it is known by more than its metadata.
    typed: bool,
}

/// What backs off together: the same verb on the same kind for the sake of the same object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    regarding: Option<String>,
    verb: &'static str,
    kind: String,
    /// The message of a bare report, which has no kind.
    report: String,
}

/// Runs all controllers until the future is dropped. Errors of the API are logged, backed off from and retried.
pub async fn run(client: Client, settings: Settings) -> Infallible {
    let (recorder, recording) = recorder::start(client.clone());
    let mut driver = Driver {
        client,
        settings,
        world: World::default(),
        watches: StreamMap::new(),
        kinds: BTreeMap::new(),
        retries: HashMap::new(),
        running: FuturesUnordered::new(),
        busy: HashSet::new(),
        recorder,
        due: None,
        rediscover: Instant::now(),
    };
    let controlling = async {
        loop {
            driver.discover().await;
            driver.observe().await;
            driver.settle().await;
        }
    };
    tokio::select! {
        never = controlling => never,
        never = recording => never,
    }
}

// === impl Driver ===

impl Driver {
    /// Starts watches of new kinds and ends those of kinds that are gone.
    async fn discover(&mut self) {
        if Instant::now() < self.rediscover {
            return;
        }
        self.rediscover = Instant::now() + REDISCOVER;
        let long_ago = Timestamp::now() - REPORT_AGAIN;
        self.retries.retain(|_, (_, at)| *at > long_ago);
        self.forget_failures();
        let known = self.kinds.values().map(|watched| watched.kind.clone()).collect();
        let found = match within(LONGEST_DISCOVERY, discovery::resources(&self.client, known)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the API's kinds cannot be discovered; retrying");
                self.rediscover = Instant::now() + Duration::from_secs(1);
                return;
            }
        };
        let gone = self.kinds.keys().filter(|key| !found.contains_key(*key)).cloned().collect::<Vec<_>>();
        for key in gone {
            self.watches.remove(&key);
            if let Some(watched) = self.kinds.remove(&key) {
                self.world.forget(&watched.kind.resource);
            }
        }
        for (key, kind) in found {
            if !self.kinds.contains_key(&key) {
                self.watch(key, kind);
            }
        }
    }

    /// Forgets failures of objects that are gone.
    fn forget_failures(&mut self) {
        let alive: HashSet<&str> = self.world.objects().iter().filter_map(|(_, meta)| meta.uid.as_deref()).collect();
        let gone: Vec<String> =
            self.world.failures.keys().filter(|uid| !alive.contains(uid.as_str())).cloned().collect();
        gone.iter().for_each(|uid| drop(self.world.failures.remove(uid)));
    }

    fn watch(&mut self, key: String, kind: Kind) {
        let typed = World::typed().into_iter().find(|typed| resource_key(typed) == key);
        let kind = Kind { resource: typed.clone().unwrap_or(kind.resource), ..kind };
        self.world.serve(&kind.resource, kind.namespaced);
        let config = watcher::Config::default();
        let stream = if typed.is_some() {
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource);
            watcher(api, config).default_backoff().boxed()
        } else {
            let api: Api<PartialObjectMeta> = Api::all_with(self.client.clone(), &kind.resource);
            watcher(api, config).default_backoff().map(|event| event.map(without_content)).boxed()
        };
        self.watches.insert(key.clone(), stream);
        self.kinds.insert(key, Watched { kind, listing: Vec::new(), listed: false, typed: typed.is_some() });
    }

    /// Waits for a change, for the end of an action or for something to be due, and takes in all that comes at once.
    async fn observe(&mut self) {
        let due = self
            .due
            .map(|at| Instant::now() + Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        let wake = due.map_or(self.rediscover, |due| due.min(self.rediscover));
        tokio::select! {
            Some((key, event)) = self.watches.next() => self.take(&key, event),
            Some(ended) = self.running.next() => drop(self.end(ended)),
            () = tokio::time::sleep_until(wake) => return,
        }
        let until = Instant::now() + DEBOUNCE;
        while let Ok(Some((key, event))) = tokio::time::timeout_at(until, self.watches.next()).await {
            self.take(&key, event);
        }
    }

    fn take(&mut self, key: &str, event: watcher::Result<Event>) {
        let Some(watched) = self.kinds.get_mut(key) else { return };
        let resource = &watched.kind.resource;
        match event {
            Ok(Event::Apply(object)) => log_malformed(resource, self.world.apply(resource, object).err()),
            Ok(Event::Delete(object)) => self.world.remove(resource, &object.metadata),
            Ok(Event::Init) => watched.listing.clear(),
            Ok(Event::InitApply(object)) => watched.listing.push(object),
            Ok(Event::InitDone) => {
                watched.listed = true;
                let listed = std::mem::take(&mut watched.listing);
                log_malformed(resource, self.world.replace(resource, listed));
            }
            Err(error) => {
                tracing::debug!(kind = resource.kind, %error, "watch interrupted; it is taken up again");
                return;
            }
        }
        if matches!(resource.kind.as_str(), "CustomResourceDefinition" | "APIService") {
            self.rediscover = self.rediscover.min(Instant::now() + ESTABLISH);
        }
    }

    /// Computes and acts until there is nothing to do now.
    async fn settle(&mut self) {
        if self.kinds.is_empty() || self.kinds.values().any(|watched| watched.typed && !watched.listed) {
            return;
        }
        self.world.complete = self.kinds.values().all(|watched| watched.listed);
        for _ in 0..ROUNDS {
            let plan = super::reconcile(&self.world, &self.settings, Timestamp::now());
            self.due = plan.due;
            if !self.carry_out(plan.actions).await {
                return;
            }
        }
        self.due = Some(Timestamp::now());
    }

    /// Carries out actions: those for one object in their order, those for different objects beside each other, so that
    /// a slow answer (a webhook that a write waits for) delays nothing else. Whether it is worth computing again.
    ///
    /// What is not begun within some patience is left to the next computation, which knows more.
    async fn carry_out(&mut self, mut waiting: Vec<Action>) -> bool {
        let before = self.busy.clone();
        waiting.retain(|action| !before.contains(&action.regarding.uid));
        let patience = Instant::now() + PATIENCE;
        let mut acted = false;
        loop {
            acted |= self.begin(&mut waiting);
            if waiting.is_empty() && self.busy.is_subset(&before) {
                return acted;
            }
            tokio::select! {
                Some(ended) = self.running.next() => acted |= self.end(ended),
                () = tokio::time::sleep_until(patience) => return acted,
            }
        }
    }

    /// Begins what has nothing to wait for; whether an action was outdated, so that it is worth computing again.
    fn begin(&mut self, waiting: &mut Vec<Action>) -> bool {
        let mut outdated = false;
        for action in std::mem::take(waiting) {
            if self.busy.contains(&action.regarding.uid) || self.running.len() >= MOST_AT_ONCE {
                waiting.push(action);
            } else if self.is_outdated(&action) {
                outdated = true;
            } else if let Some(at) = self.backs_off(&action) {
                self.wake_at(at);
            } else {
                self.busy.insert(action.regarding.uid.clone());
                self.running.push(act(self.client.clone(), action, LONGEST_ACTION).boxed());
            }
        }
        outdated
    }

    /// Until when the action is not to be tried again, if so.
    fn backs_off(&self, action: &Action) -> Option<Timestamp> {
        self.retries.get(&Attempt::of(action)).map(|(_, at)| *at).filter(|at| *at > Timestamp::now())
    }

    /// Takes in how an action ended; whether it is worth computing again.
    fn end(&mut self, (action, result): Ended) -> bool {
        let now = Timestamp::now();
        self.busy.remove(&action.regarding.uid);
        let attempt = Attempt::of(&action);
        let useful = matches!(&result, Ok(outcome) if self.absorb(&action, outcome, now));
        if useful {
            self.retries.remove(&attempt);
        } else {
            let failures = self.retries.get(&attempt).map_or(0, |(failures, _)| *failures) + 1;
            let at = if matches!(action.op, Op::Report) { now + REPORT_AGAIN } else { backoff(failures, now) };
            self.retries.insert(attempt, (failures, at));
            self.wake_at(at);
        }
        self.report(&action, result);
        useful
    }

    /// Asks for another computation at this time at the latest.
    fn wake_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Whether an action before this one changed what it was computed from.
    fn is_outdated(&self, action: &Action) -> bool {
        let Some(target) = action.op.target() else { return false };
        let key = Key { namespace: target.namespace.clone().unwrap_or_default(), name: target.name.clone() };
        let Some(wanted) = &target.resource_version else { return false };
        let known = self.world.metadata(&target.resource, &key);
        known.is_some_and(|known| known.resource_version.as_ref() != Some(wanted))
    }

    /// Takes what the API answered into the world; whether anything changed by it.
    fn absorb(&mut self, action: &Action, outcome: &Outcome, now: Timestamp) -> bool {
        let Some(target) = action.op.target() else { return false };
        let key = Key { namespace: target.namespace.clone().unwrap_or_default(), name: target.name.clone() };
        match outcome {
            Outcome::Written(object) => {
                let changed = object.metadata.resource_version != target.resource_version;
                log_malformed(&target.resource, self.world.apply(&target.resource, DynamicObject::clone(object)).err());
                changed
            }
            Outcome::Deleted => {
                self.world.mark_deleted(&target.resource, &key, &time(now));
                true
            }
            Outcome::Stale | Outcome::Nothing => false,
        }
    }

    /// Records the event of an action, and its failure for the status of the object it was for.
    fn report(&mut self, action: &Action, result: Result<Outcome, kube::Error>) {
        let uid = action.regarding.uid.clone().unwrap_or_default();
        let note = match result {
            Ok(Outcome::Stale) => return,
            Ok(_) => {
                if action.failed.is_some() {
                    self.world.failures.remove(&uid);
                }
                action.done.clone()
            }
            Err(error) => {
                let message = action.op.without_generated_name(message(&error));
                let (name, verb) = (action.regarding.name.as_deref(), action.op.verb());
                match &action.failed {
                    Some(_) => {
                        tracing::debug!(component = action.component, object = name, verb, error = message, "failed")
                    }
                    None => {
                        tracing::warn!(component = action.component, object = name, verb, error = message, "failed")
                    }
                }
                let note = action.failed.clone().map(|note| note.with_cause(&message));
                note.inspect(|_| drop(self.world.failures.insert(uid, message)))
            }
        };
        if let Some(note) = note {
            self.recorder.record(action.component, &action.regarding, note);
        }
    }
}

// === impl Attempt ===

impl Attempt {
    fn of(action: &Action) -> Self {
        let target = action.op.target();
        let report = if target.is_none() { action.done.as_ref().map(|note| note.message.clone()) } else { None };
        Self {
            regarding: action.regarding.uid.clone(),
            verb: action.op.verb(),
            kind: target.map(|target| resource_key(&target.resource)).unwrap_or_default(),
            report: report.unwrap_or_default(),
        }
    }
}

async fn act(client: Client, action: Action, limit: Duration) -> Ended {
    let result = within(limit, execute(&client, &action.op)).await;
    (action, result)
}

/// The answer, or an error when there is none in time.
async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let late = |_| Err(kube::Error::Service(format!("the API did not answer within {} s", limit.as_secs()).into()));
    tokio::time::timeout(limit, answer).await.unwrap_or_else(late)
}

/// What the API said, without the wrapping of the client.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn without_content(event: watcher::Event<PartialObjectMeta>) -> Event {
    let object = |meta: PartialObjectMeta| DynamicObject {
        types: meta.types,
        metadata: meta.metadata,
        data: serde_json::Value::Null,
    };
    match event {
        watcher::Event::Apply(meta) => Event::Apply(object(meta)),
        watcher::Event::Delete(meta) => Event::Delete(object(meta)),
        watcher::Event::Init => Event::Init,
        watcher::Event::InitApply(meta) => Event::InitApply(object(meta)),
        watcher::Event::InitDone => Event::InitDone,
    }
}

fn log_malformed(resource: &ApiResource, errors: impl IntoIterator<Item = serde_json::Error>) {
    for error in errors {
        tracing::warn!(kind = resource.kind, %error, "an object of the API does not have its kind's shape; it is left alone");
    }
}

#[cfg(test)]
mod tests;
