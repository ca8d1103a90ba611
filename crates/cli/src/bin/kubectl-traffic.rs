//! `kubectl traffic`: the traffic commands as a plugin, which kubectl finds by this program's name.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use heddle_traffic::{Command, Source, run};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Show the traffic of a service mesh, as its SMI metrics tell it
#[derive(Debug, Parser)]
#[command(name = "kubectl-traffic", bin_name = "kubectl traffic", version, max_term_width = 100)]
struct Cli {
    /// The kubeconfig file; else as kubectl finds it
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let config = config(cli.kubeconfig, cli.context).await?;
            let namespace = config.default_namespace.clone();
            run(cli.command, &Source::new(Client::try_from(config)?, namespace)).await
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn config(file: Option<std::path::PathBuf>, context: Option<String>) -> anyhow::Result<Config> {
    let found = match (&file, &context) {
        (None, None) => Config::infer().await.map_err(anyhow::Error::from),
        _ => {
            let kubeconfig = match file {
                Some(file) => Kubeconfig::read_from(file)?,
                None => Kubeconfig::read()?,
            };
            let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(anyhow::Error::from)
        }
    };
    found.context("no Kubernetes API to talk to: set KUBECONFIG, as the line that `heddle up` prints does")
}
