//! `heddle status`: the mesh at this moment.

use std::process::ExitCode;

use crate::mesh;
use crate::output::{self, Format};
use crate::overview::Overview;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 when a part of the mesh cannot be read, such as traffic while the control plane is away."
)]
pub(crate) struct Args {
    /// Tables, or JSON for programs
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = mesh::client().await?;
    let overview = Overview::read(&client).await?;
    match args.output {
        Format::Json => output::json(&overview)?,
        Format::Text => _ = output::print(overview.text().as_bytes())?,
    }
    Ok(if overview.unread.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
