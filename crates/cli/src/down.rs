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
    #[arg(long, default_value = "35s", value_name = "DURATION", value_parser = heddle_control::duration)]
    timeout: Duration,
    /// Text, or JSON for programs
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Where nothing was ever started, nothing is made.
    let stopped = args.state_dir.exists() && StateDir::open(&args.state_dir)?.stop(args.timeout)?;
    let dir = args.state_dir.display();
    match args.output {
        Format::Json => output::json(&serde_json::json!({ "stateDir": dir.to_string(), "stopped": stopped })),
        Format::Text => {
            let what = if stopped { "stopped the mesh in" } else { "no mesh runs in" };
            println!("{what} {dir}");
            Ok(())
        }
    }
}
