//! `heddle status`: the mesh at this moment.

use crate::mesh;
use crate::output::{self, Format};
use crate::overview::Overview;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = mesh::client().await?;
    let overview = Overview::read(&client).await?;
    match args.output {
        Format::Json => output::json(&overview),
        Format::Text => {
            print!("{}", overview.text());
            Ok(())
        }
    }
}
