//! The loop: events in, a mesh out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::stream::{BoxStream, StreamExt};
use heddle_cluster::{Event, Kind};
use heddle_compile::{Compiled, ResourceSet, compile};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::discovery::Discovery;
use crate::view::Unreadable;
use crate::world::{Changed, Modes, Resources, World};

/// The mesh at one time, and what it was made of.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// Counts the meshes since this process started; 0 when there is none yet.
    pub(crate) revision: u64,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) modes: Modes,
    pub(crate) unreadable: Vec<Unreadable>,
    /// How long the last compilation took.
    pub(crate) compile_time: Duration,
}

/// Changes that come faster than this are compiled together. The first of them is compiled at once.
const WINDOW: Duration = Duration::from_millis(10);

/// Reads events and publishes meshes: first to the proxies, then to `snapshots`. Ends only with the events.
///
/// A mesh is compiled from everything there is, each time. That is the whole of the logic, and what it costs is bounded
/// by [`WINDOW`].
pub(crate) async fn run(
    mut events: BoxStream<'static, Event>,
    mut world: World,
    discovery: Arc<Discovery>,
    snapshots: watch::Sender<Snapshot>,
) -> anyhow::Result<()> {
    let mut last = Instant::now();
    while let Some(event) = events.next().await {
        let mut changed = apply(&mut world, event);
        gather(&mut events, &mut world, &mut changed, last + WINDOW).await;
        if !world.is_complete() {
            debug!(awaited = ?world.awaited().collect::<Vec<_>>(), "not everything is listed yet");
            continue;
        }
        let snapshot =
            Snapshot { modes: world.modes.clone(), unreadable: world.unreadable(), ..snapshots.borrow().clone() };
        if changed.resources {
            let (resources, discovery) = (world.resources.clone(), discovery.clone());
            let compiling = move || step(snapshot, &resources, &discovery);
            snapshots.send_replace(tokio::task::spawn_blocking(compiling).await.context("compiling the mesh")?);
            last = Instant::now();
        } else if changed.notes {
            snapshots.send_replace(snapshot);
        }
    }
    Ok(())
}

/// Takes what else has happened: all that is there, and what comes until `deadline`.
async fn gather(events: &mut BoxStream<'static, Event>, world: &mut World, changed: &mut Changed, deadline: Instant) {
    // A stream that never pauses must not keep changes from taking effect.
    let limit = deadline.max(Instant::now()) + WINDOW;
    let timeout = tokio::time::sleep_until(deadline.into());
    tokio::pin!(timeout);
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = &mut timeout => None,
        };
        let Some(event) = event else { return };
        let more = apply(world, event);
        changed.resources |= more.resources;
        changed.notes |= more.notes;
        if Instant::now() > limit {
            return;
        }
    }
}

fn apply(world: &mut World, event: Event) -> Changed {
    use heddle_cluster::State;
    match &event.state {
        State::Failing(reason) => warn!(kind = event.kind.kind, reason, "cannot be read; what was known holds"),
        State::Missing => info!(kind = event.kind.kind, "is not installed"),
        State::Synced => {}
    }
    world.apply(event)
}

/// Compiles, and tells the proxies.
fn step(before: Snapshot, resources: &Resources, discovery: &Discovery) -> Snapshot {
    let start = Instant::now();
    let compiled = compile(&resources.read());
    let compile_time = start.elapsed();
    if before.revision > 0 && compiled == *before.compiled {
        return Snapshot { compile_time, ..before };
    }
    let compiled = Arc::new(compiled);
    discovery.publish(compiled.clone());
    let revision = before.revision + 1;
    let by_severity = compiled.problems.iter().fold(BTreeMap::new(), |mut counts, problem| {
        *counts.entry(problem.severity).or_insert(0_usize) += 1;
        counts
    });
    info!(revision, ?compile_time, problems = ?by_severity, "a new mesh");
    Snapshot { revision, compiled, compile_time, ..before }
}

// === impl Snapshot ===

impl Snapshot {
    /// Before anything is known.
    pub(crate) fn empty() -> Self {
        let compiled = Arc::new(compile(&ResourceSet::default()));
        Self { revision: 0, compiled, modes: Modes::default(), unreadable: Vec::new(), compile_time: Duration::ZERO }
    }
}

/// The kind of this name, among those that are read.
pub(crate) fn kind_of(name: &str) -> Option<&'static Kind> {
    heddle_cluster::KINDS.iter().find(|kind| kind.kind == name)
}
