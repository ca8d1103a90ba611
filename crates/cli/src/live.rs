//! The live view of `heddle up`: the mesh, drawn again each second.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kube::Client;
use notify::{RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::overview::Overview;
use crate::state::StateDir;
use crate::{apply, check, manifests, up};

/// How often the view is drawn.
const PERIOD: Duration = Duration::from_secs(1);
/// An editor writes a file in several steps; its changes are taken together.
const QUIET: Duration = Duration::from_millis(100);

/// Shows the mesh until the caller stops it. Where output is no terminal it is drawn once.
pub(crate) async fn run(
    client: &Client,
    state: &StateDir,
    paths: &[PathBuf],
    watch: bool,
    objects: Vec<Value>,
) -> anyhow::Result<ExitCode> {
    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = if watch { Some(watcher(paths, changed)?) } else { None };
    let mut applied = objects;
    let mut notes = Vec::new();
    let mut view = View { terminal: std::io::stdout().is_terminal(), lines: 0, drawn: false };
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let overview = Overview::read(client).await?;
                view.draw(state, &overview, &notes)?;
            }
            Some(()) = changes.recv() => {
                tokio::time::sleep(QUIET).await;
                while changes.try_recv().is_ok() {}
                notes = reapply(client, paths, &mut applied).await;
                view.say(&notes);
            }
        }
    }
}

struct View {
    terminal: bool,
    /// The lines of the last drawing, which the next one replaces.
    lines: usize,
    drawn: bool,
}

impl View {
    fn draw(&mut self, state: &StateDir, overview: &Overview, notes: &[String]) -> anyhow::Result<()> {
        if self.drawn && !self.terminal {
            return Ok(());
        }
        let mut text = format!("export KUBECONFIG={}\n\n{}", state.kubeconfig().display(), overview.text());
        for note in notes {
            text.push_str(&format!("\n{note}\n"));
        }
        text.push_str("\nCtrl-C stops everything.\n");
        let mut out = std::io::stdout().lock();
        if self.terminal && self.lines > 0 {
            // Back to the first line of the last drawing, and clear from there.
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        write!(out, "{text}")?;
        out.flush()?;
        self.lines = text.lines().count();
        self.drawn = true;
        Ok(())
    }

    /// Without a terminal, what happened is a line each.
    fn say(&self, notes: &[String]) {
        if !self.terminal {
            notes.iter().for_each(|note| println!("{note}"));
        }
    }
}

fn watcher(paths: &[PathBuf], changed: mpsc::Sender<()>) -> anyhow::Result<impl Watcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A change that is already waiting to be seen is enough.
            let _ = changed.try_send(());
        }
    })?;
    for path in paths {
        watcher.watch(path, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

/// Applies the files as they are now, and deletes what they no longer hold. Files with errors change nothing. Returns
/// what there is to say about it.
async fn reapply(client: &Client, paths: &[PathBuf], applied: &mut Vec<Value>) -> Vec<String> {
    let loaded = match manifests::load(paths) {
        Ok(loaded) => loaded,
        Err(error) => return vec![format!("{error:#}")],
    };
    let findings = check::check(&loaded);
    if check::has_errors(&findings) {
        return vec![
            check::report(&loaded, &findings),
            "nothing was applied; the last good manifests are in force".into(),
        ];
    }
    let objects = up::objects(&loaded);
    let kept: HashSet<String> = objects.iter().map(apply::describe).collect();
    let mut notes = Vec::new();
    for object in &objects {
        if !applied.contains(object) {
            notes.push(match apply::apply(client, object).await {
                Ok(()) => format!("applied {}", apply::describe(object)),
                Err(error) => format!("{error:#}"),
            });
        }
    }
    for object in applied.iter().rev().filter(|object| !kept.contains(&apply::describe(object))) {
        notes.push(match apply::delete(client, object).await {
            Ok(()) => format!("deleted {}", apply::describe(object)),
            Err(error) => format!("{error:#}"),
        });
    }
    *applied = objects;
    notes
}
