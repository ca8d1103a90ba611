//! The live view of `heddle up`: the mesh, drawn again each second.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use notify::{RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::output::{count, explain};
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
    let mut view = View::open(state)?;
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                view.draw(Overview::read(client).await.map_err(|error| explain(&error)), &notes)?;
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

/// Where the mesh is shown: a terminal has a screen of its own for it, and its own back when the view is dropped.
struct View {
    is_terminal: bool,
    kubeconfig: String,
    is_drawn: bool,
}

const OWN_SCREEN: &str = "\x1b[?1049h";
const FORMER_SCREEN: &str = "\x1b[?1049l";
const TOP_LEFT: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

impl View {
    fn open(state: &StateDir) -> anyhow::Result<Self> {
        let is_terminal = std::io::stdout().is_terminal();
        if is_terminal {
            print(OWN_SCREEN)?;
        }
        Ok(Self { is_terminal, kubeconfig: state.kubeconfig().display().to_string(), is_drawn: false })
    }

    /// Shows the mesh as it was seen, or why it was not.
    fn draw(&mut self, seen: Result<Overview, String>, notes: &[String]) -> anyhow::Result<()> {
        if self.is_drawn && !self.is_terminal {
            return Ok(());
        }
        self.is_drawn = true;
        let mut head = format!("export KUBECONFIG={}\n\n", self.kubeconfig);
        notes.iter().for_each(|note| head.push_str(&format!("{}\n\n", note.trim_end())));
        if !self.is_terminal {
            let seen = seen.map_or_else(|error| error + "\n", |overview| overview.text());
            return print(&format!("{head}{seen}\n{FOOT}\n"));
        }
        let (columns, rows) = terminal_size();
        let room = rows.saturating_sub(head.lines().count() + FOOT_ROWS);
        let seen = seen.map_or_else(|error| error, |overview| overview.text_within(columns, room));
        let lines = fit(&(head + &seen), columns, rows);
        print(&format!("{TOP_LEFT}{}{CLEAR_LINE}{CLEAR_REST}", lines.join(&format!("{CLEAR_LINE}\r\n"))))
    }

    /// Without a terminal, what happened is a line each.
    fn say(&self, notes: &[String]) {
        if !self.is_terminal {
            notes.iter().for_each(|note| println!("{note}"));
        }
    }
}

/// Columns and rows of the terminal; those of a classic one when it does not say.
fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
}

/// What every drawing ends with, and the rows that it takes with the blank one before it.
const FOOT: &str = "Ctrl-C stops everything.";
const FOOT_ROWS: usize = 2;

/// The lines that a terminal has room for, with the foot below them. What is cut is told: a line that wraps or scrolls
/// away could not be drawn over.
fn fit(text: &str, columns: usize, rows: usize) -> Vec<String> {
    let cut = |line: &str| match line.chars().count() > columns {
        true => line.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
        false => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().map(cut).collect();
    let room = rows.saturating_sub(FOOT_ROWS);
    if lines.len() <= room {
        lines.extend([String::new(), FOOT.to_owned()]);
        return lines;
    }
    let hidden = count(lines.len() - room, "more line");
    lines.truncate(room);
    lines.extend([cut(&format!("{hidden}: make the window taller, or run `heddle status`")), cut(FOOT)]);
    lines
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

impl Drop for View {
    fn drop(&mut self) {
        if self.is_terminal {
            // There is nobody to tell if the terminal is gone.
            print(FORMER_SCREEN).ok();
        }
    }
}

fn watcher(paths: &[PathBuf], changed: mpsc::Sender<()>) -> anyhow::Result<impl Watcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(_) => {
            // A change that is already waiting to be seen is enough.
            let _ = changed.try_send(());
        }
        Err(error) => tracing::warn!(%error, "a change of a manifest may have been missed"),
    })?;
    for path in paths {
        watcher
            .watch(path, RecursiveMode::Recursive)
            .with_context(|| format!("cannot watch {} for changes", path.display()))?;
    }
    Ok(watcher)
}

/// Applies the files as they are now, and deletes what they no longer hold. Files with errors change nothing. Returns
/// what there is to say about it.
async fn reapply(client: &Client, paths: &[PathBuf], applied: &mut Vec<Value>) -> Vec<String> {
    let loaded = match manifests::load(paths) {
        Ok(loaded) => loaded,
        Err(error) => return vec![explain(&error)],
    };
    let findings = check::check(&loaded);
    if check::has_errors(&findings) {
        return vec![
            check::report(&loaded, &findings, false),
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
                Err(error) => explain(&error),
            });
        }
    }
    for object in applied.iter().rev().filter(|object| !kept.contains(&apply::describe(object))) {
        notes.push(match apply::delete(client, object).await {
            Ok(()) => format!("deleted {}", apply::describe(object)),
            Err(error) => explain(&error),
        });
    }
    *applied = objects;
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        assert_eq!(fit("abcd\nabcde\n", 4, 4), ["abcd", "abc…", "", FOOT]);
        let text = "a\n".repeat(6);
        let told = "4 more lines: make the window taller, or run `heddle status`";
        assert_eq!(fit(&text, 80, 4), ["a", "a", told, FOOT]);
        assert_eq!(fit(&text, 80, 8).len(), 8, "all of it");
    }
}
