//! The commands, and what they have in common.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use crate::{Source, split, top, topology};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show requests, success and latency of resources
    Top(top::Args),
    /// Show who talks to whom
    Topology(topology::Args),
    /// Show how traffic splits go: the weights asked for and the shares seen
    Split(split::Args),
}

/// What every command asks: of which resources, over what time, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    /// Resources of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Resources of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The time that is counted, such as `30s` or `5m`
    #[arg(short = 't', long, default_value = "30s", value_name = "TIME")]
    pub(crate) window: String,
    /// Draw it again each second
    #[arg(short, long)]
    watch: bool,
}

/// How figures that are rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// How often a watched view is drawn.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs a command to its end; one that watches has none.
///
/// # Errors
///
/// The API does not answer, refuses, or does not know what is asked for.
pub async fn run(command: Command, source: &Source) -> anyhow::Result<()> {
    match command {
        Command::Top(args) => top::run(args, source).await,
        Command::Topology(args) => topology::run(args, source).await,
        Command::Split(args) => split::run(args, source).await,
    }
}

impl View {
    /// The namespace that is asked about; `None` for all of them.
    pub(crate) fn namespace<'a>(&'a self, source: &'a Source) -> Option<&'a str> {
        match self.all_namespaces {
            true => None,
            false => Some(self.namespace.as_deref().unwrap_or(source.namespace())),
        }
    }

    /// Prints what `draw` says: once, or again each second in its place.
    pub(crate) async fn show(&self, draw: impl AsyncFn() -> anyhow::Result<String>) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        if !self.watch {
            write!(out, "{}", draw().await?)?;
            return Ok(());
        }
        let (before, after) = if out.is_terminal() { ("\x1b[H\x1b[J", "") } else { ("", "\n") };
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            let text = draw().await?;
            // A terminal is cleared from its first line on; elsewhere one view follows the other.
            write!(out, "{before}{text}{after}")?;
            out.flush()?;
        }
    }
}
