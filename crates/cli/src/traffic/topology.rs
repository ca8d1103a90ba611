//! `topology`: who talks to whom.

use clap::ValueEnum;

use crate::commands::View;
use crate::{Graph, Kind, Source};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind of resources: `deploy`, `pods`, `ns`, ...
    resource: Kind,
    #[command(flatten)]
    view: View,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Dot,
    Json,
    Mermaid,
}

pub(crate) async fn run(args: Args, source: &Source) -> anyhow::Result<()> {
    let draw = async || {
        let parameters = format!("t={}", args.view.window);
        let edges = source.edges(args.resource, args.view.namespace(source), &parameters).await?;
        let graph = Graph::of(&edges, Some(args.resource));
        Ok(match args.output {
            Format::Text if graph.links.is_empty() => format!("no traffic in the last {}\n", args.view.window),
            Format::Text => graph.text(),
            Format::Dot => graph.dot(),
            Format::Json => serde_json::to_string_pretty(&graph)? + "\n",
            Format::Mermaid => graph.mermaid(),
        })
    };
    args.view.show(draw).await
}
