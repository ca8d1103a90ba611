//! `heddle`: a service mesh whose interface is SMI. One file a subcommand; see ARCHITECTURE.md for the map.

mod apply;
mod check;
mod down;
mod effect;
mod exec;
mod fix;
mod honour;
mod live;
mod logs;
mod manifests;
mod mesh;
mod node;
mod output;
mod overview;
mod ready;
mod state;
mod status;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh whose interface is SMI
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

/// What this process logs; with `up`, every process of the mesh.
#[derive(Debug, clap::Args)]
pub(crate) struct Logging {
    /// What is logged, with `up` by every process of the mesh: a level (error, warn, info, debug, trace) or directives
    /// such as `warn,heddle_proxy=debug`
    #[arg(long = "log", global = true, env = FILTER, value_name = "FILTER", help_heading = "Logging")]
    filter: Option<String>,
    /// How it is logged
    #[arg(
        long = "log-format",
        global = true,
        env = FORMAT,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    format: LogFormat,
}

/// The variables that say what the flags of [`Logging`] do.
const FILTER: &str = "HEDDLE_LOG";
const FORMAT: &str = "HEDDLE_LOG_FORMAT";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run manifests on this machine: a Kubernetes API, every workload, and the mesh
    Up(up::Args),
    /// Stop what `up` started
    Down(down::Args),
    /// Show the mesh: workloads, modes, proxies, problems
    Status(status::Args),
    #[command(flatten)]
    Traffic(heddle_traffic::Command),
    /// Run a command as a workload: on its network, with its identity
    Exec(exec::Args),
    /// Print the logs of a workload
    Logs(logs::Args),
    /// Parse, validate and compile manifests; nothing needs to be running
    Check(check::Args),
    /// Run one proxy
    Proxy(Box<heddle_proxy::Args>),
    /// Run the control plane
    Control(Box<heddle_control::Args>),
    /// Run the node of `up`
    #[command(hide = true)]
    Node(node::Args),
    /// Run a program of the bookstore example
    #[command(hide = true)]
    Demo {
        #[command(subcommand)]
        program: heddle_demo::Program,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_service = cli.command.is_service();
    cli.logging.start(is_service);
    let logs_errors = is_service && cli.logging.format == LogFormat::Json;
    match run(cli.command, &cli.logging) {
        Ok(code) => code,
        Err(error) => {
            let why = output::explain(&error);
            match logs_errors {
                true => tracing::error!("{why}"),
                false => eprintln!("error: {why}"),
            }
            ExitCode::FAILURE
        }
    }
}

/// The whole program, as one choice. Services build runtimes of their own shape; the other commands share this one.
fn run(command: Command, logging: &Logging) -> anyhow::Result<ExitCode> {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::Check(args) => check::run(&args),
        Command::Proxy(args) => done(heddle_proxy::run(*args)),
        Command::Node(args) => node::run(&args),
        Command::Down(args) => done(down::run(&args)),
        Command::Control(args) => done(block_on(async { heddle_control::run(*args, stop_signal()?).await })),
        Command::Demo { program } => done(block_on(heddle_demo::run(program))),
        Command::Up(args) => block_on(up::run(args, logging)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Traffic(command) => done(block_on(async {
            let source = mesh::source(mesh::client().await?);
            heddle_traffic::run(command, &source).await
        })),
        Command::Exec(args) => block_on(exec::run(args)),
        Command::Logs(args) => done(block_on(logs::run(args))),
    }
}

fn block_on<T>(program: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(program);
    // A read of standard input goes on until something is typed: nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Done when the process is asked to end. Must be called in a runtime.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

impl Command {
    /// Whether it runs until it is stopped, so that its log is what there is to see of it.
    fn is_service(&self) -> bool {
        matches!(self, Self::Proxy(_) | Self::Control(_) | Self::Node(_) | Self::Demo { .. })
    }
}

impl Logging {
    fn start(&self, is_service: bool) {
        // The Kubernetes client logs every failed call as an error, also those that its callers expect.
        let default = if is_service { "info,kube_client=off" } else { "warn,kube_client=off" };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(self.filter.as_deref().unwrap_or(default)))
            .with_ansi(output::is_colored(&std::io::stderr()))
            .with_writer(std::io::stderr);
        match self.format {
            LogFormat::Text => builder.with_target(false).init(),
            LogFormat::Json => builder.json().init(),
        }
    }

    /// What tells another process to log as this one was told to.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let format = self.format.to_possible_value().map(|value| (FORMAT, value.get_name().to_owned()));
        let filter = self.filter.clone().map(|filter| (FILTER, filter));
        filter.into_iter().chain(format).collect()
    }
}
