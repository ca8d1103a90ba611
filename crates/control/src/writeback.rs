//! What is written back on resources: conditions, and events of problems. Only the leader writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::StreamExt;
use heddle_cluster::{Draft, Note, Recorder, Severity, StatusError, merge_conditions, write_status};
use heddle_compile::{Condition, ConditionStatus, ConditionType, Problem, ResourceStatus};
use heddle_policy::Origin;
use heddle_xds::Proxies;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::discovery::Discovery;
use crate::plane::{Snapshot, kind_of};
use crate::programmed::Delays;
use crate::world::{Entry, Key, Ledger};

/// Writes what changes, while this process leads.
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) ledger: Ledger,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) recorder: Recorder,
    /// The problems of the last looks, with when each was first seen and whether it has been told.
    pub(crate) seen: BTreeMap<Problem, (Instant, bool)>,
}

/// Changes are written together once nothing has happened for this long: then proxies have answered, too.
const QUIET: Duration = Duration::from_millis(100);

/// The longest that a stream of changes puts off writing.
const OVERDUE: Duration = Duration::from_secs(1);

/// A problem that passes before this is no event: resources are created one after another.
const LASTING: Duration = Duration::from_secs(2);

/// Writes that fail are tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Writes at a time.
const WRITES: usize = 8;

// === impl Writer ===

impl Writer {
    /// Writes for ever.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Snapshot>,
        mut proxies: watch::Receiver<Proxies>,
        mut leads: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut again = None;
        loop {
            let wake = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = snapshots.changed() => changed?,
                changed = proxies.changed() => changed?,
                changed = leads.changed() => changed?,
                () = wake => {}
            }
            settle(&mut snapshots, &mut proxies).await?;
            let snapshot = snapshots.borrow_and_update().clone();
            if !*leads.borrow_and_update() || snapshot.revision == 0 {
                again = None;
                continue;
            }
            let delays = Delays::of(&proxies.borrow_and_update(), &self.discovery);
            let failures = self.write_statuses(&snapshot.compiled.statuses, &delays).await;
            let waiting = self.tell(&snapshot.compiled.problems).await;
            again = (failures > 0).then_some(RETRY).or(waiting.then_some(LASTING));
        }
    }

    /// Writes the conditions that differ from those that resources have. Returns how many could not be written.
    async fn write_statuses(&self, statuses: &[ResourceStatus], delays: &Delays) -> usize {
        let writes: Vec<_> = statuses.iter().map(|status| self.write(status, delays).boxed()).collect();
        let written: Vec<bool> = futures::stream::iter(writes).buffer_unordered(WRITES).collect().await;
        written.iter().filter(|written| !**written).count()
    }

    async fn write(&self, status: &ResourceStatus, delays: &Delays) -> bool {
        let key = Key::from(&status.origin);
        let (Some(kind), Some(entry)) = (kind_of(&key.kind), compiled(&self.ledger, &status.origin)) else {
            return true;
        };
        let drafts: Vec<_> = status.conditions.iter().map(|condition| draft(condition, &key, delays)).collect();
        let Some(conditions) = merge_conditions(&entry.conditions, &drafts, entry.generation) else { return true };
        match write_status(&self.client, kind, &key.namespace, &key.name, &conditions).await {
            Ok(()) => self.ledger.note(&key, &entry.uid, conditions),
            // C2: events tell the same, and trying again would not help.
            Err(StatusError::NoStatus) => {
                debug!(?key, "has no status to be written");
                self.ledger.note(&key, &entry.uid, conditions);
            }
            Err(error) => {
                warn!(?key, %error, "a status cannot be written");
                return false;
            }
        }
        true
    }

    /// Tells problems that last. Says whether some are too new to be told.
    async fn tell(&mut self, problems: &[Problem]) -> bool {
        let current: BTreeSet<&Problem> = problems.iter().filter(|problem| problem.is_event()).collect();
        self.seen.retain(|problem, _| current.contains(problem));
        let now = Instant::now();
        for problem in current {
            self.seen.entry(problem.clone()).or_insert((now, false));
        }
        let lasts = |since: Instant| now.saturating_duration_since(since) >= LASTING;
        for (problem, (since, told)) in &mut self.seen {
            if *told || !lasts(*since) {
                continue;
            }
            *told = true;
            if let Err(error) = record(&mut self.recorder, &self.ledger, problem).await {
                warn!(%error, "an event cannot be written");
            }
        }
        self.seen.values().any(|(_, told)| !told)
    }
}

/// Waits until nothing happens.
async fn settle(
    snapshots: &mut watch::Receiver<Snapshot>,
    proxies: &mut watch::Receiver<Proxies>,
) -> anyhow::Result<()> {
    let overdue = Instant::now() + OVERDUE;
    while Instant::now() < overdue {
        tokio::select! {
            () = tokio::time::sleep(QUIET) => return Ok(()),
            changed = snapshots.changed() => changed?,
            changed = proxies.changed() => changed?,
        }
    }
    Ok(())
}

/// What is known of an object, if that is the version of it that was compiled: of another one nothing can be said, and a
/// mesh made of it is on its way.
fn compiled(ledger: &Ledger, origin: &Origin) -> Option<Entry> {
    ledger.get(&Key::from(origin)).filter(|entry| entry.version == origin.at)
}

/// A condition as it is to be written: `Programmed` is true only when the proxies say so, too.
fn draft(condition: &Condition, key: &Key, delays: &Delays) -> Draft {
    let (status, reason, message) = match (condition.r#type, condition.status, delays.get(key)) {
        (ConditionType::Programmed, ConditionStatus::True, Some(delay)) => match &delay.rejected {
            Some((pod, message)) => ("False", "Rejected", format!("the proxy of {pod} refused it: {message}")),
            None if delay.pending == 1 => ("Unknown", "Pending", "1 proxy has not applied it yet".to_owned()),
            None => ("Unknown", "Pending", format!("{} proxies have not applied it yet", delay.pending)),
        },
        _ => (condition.status.as_str(), condition.reason, condition.message.clone()),
    };
    Draft { type_: condition.r#type.as_str().to_owned(), status: status.to_owned(), reason: reason.to_owned(), message }
}

async fn record(recorder: &mut Recorder, ledger: &Ledger, problem: &Problem) -> kube::Result<()> {
    let key = Key::from(&problem.origin);
    let (Some(kind), Some(entry)) = (kind_of(&key.kind), ledger.get(&key)) else { return Ok(()) };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let about = ObjectReference {
        api_version: Some(kind.api_version()),
        kind: Some(kind.kind.to_owned()),
        namespace: some(&key.namespace),
        name: some(&key.name),
        uid: some(&entry.uid),
        field_path: some(&problem.origin.field),
        ..ObjectReference::default()
    };
    let field = match &*problem.origin.field {
        "" => String::new(),
        field => format!("{field}: "),
    };
    let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
    let note = Note {
        severity: Severity::Warning,
        reason: problem.reason.code().to_owned(),
        action: "Compile",
        text: format!("{field}{}{hint}", problem.message),
    };
    recorder.record(&about, note).await
}

#[cfg(test)]
mod tests {
    use heddle_cluster::{Change, Event, KINDS, State};
    use serde_json::json;

    use super::*;
    use crate::traffic::Traffic;
    use crate::world::World;

    fn written(world: &mut World, generation: i64) {
        let route = json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "TCPRoute",
            "metadata": { "namespace": "shop", "name": "all", "uid": "1", "generation": generation },
            "spec": { "matches": {} },
        });
        let kind = *KINDS.iter().find(|kind| kind.kind == "TCPRoute").unwrap();
        world.apply(Event { kind, changes: vec![Change::Applied(route)], state: State::Synced });
    }

    #[test]
    fn what_was_compiled_is_said_of_no_later_generation() {
        let mut world = World::new(&[], Traffic::new(Instant::now()));
        written(&mut world, 1);
        let before = heddle_compile::compile(&world.resources.read()).statuses.remove(0);
        assert_eq!(compiled(&world.ledger, &before.origin).unwrap().generation, 1);

        written(&mut world, 2);
        assert_eq!(compiled(&world.ledger, &before.origin), None);
        let after = heddle_compile::compile(&world.resources.read()).statuses.remove(0);
        assert_eq!(compiled(&world.ledger, &after.origin).unwrap().generation, 2);
    }
}
