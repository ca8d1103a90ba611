//! `heddle down`: stops what `up` started.

use std::path::PathBuf;
use std::time::Duration;

use crate::output::{self, Format};
use crate::state::{self, StateDir};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The state directory of the mesh
    #[arg(long, default_value_os_t = state::default_dir(), value_name = "DIR")]
    state_dir: PathBuf,
    /// How long workloads may take to end
    #[arg(long, default_value = "35", value_name = "SECONDS")]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let state = StateDir::open(&args.state_dir)?;
    let stopped = state.stop(Duration::from_secs(args.timeout))?;
    match args.output {
        Format::Json => {
            output::json(&serde_json::json!({ "stateDir": state.path().display().to_string(), "stopped": stopped }))
        }
        Format::Text => {
            let what = if stopped { "stopped the mesh in" } else { "no mesh runs in" };
            println!("{what} {}", state.path().display());
            Ok(())
        }
    }
}
