//! `heddle exec`: runs a command as a workload.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use futures::{Sink, SinkExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use kube::{Api, ResourceExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::mesh;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  heddle exec -n bookbuyer deploy/bookbuyer -- curl -s http://bookstore.bookstore:14001/books-bought"
)]
pub(crate) struct Args {
    /// The workload's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container; the pod's first one unless told
    #[arg(short, long)]
    container: Option<String>,
    /// Pass this command's input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal, of the size of this one
    #[arg(short, long)]
    tty: bool,
    /// A pod, or a workload such as deploy/NAME
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Exits as the command exited.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = mesh::client().await?;
    let pod = mesh::pod(&client, &args.namespace, &args.target).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.clone());
    let container = args.container.or(first).context("the pod has no container")?;
    // A terminal has one output.
    let params = AttachParams::default().container(container).stdin(args.stdin).tty(args.tty).stderr(!args.tty);
    let mut process = pods.exec(&pod.name_any(), &args.command, &params).await?;
    let raw = (args.tty && args.stdin).then(RawTerminal::open).flatten();
    if let Some(sizes) = process.terminal_size() {
        tokio::spawn(follow_size(sizes, signal(SignalKind::window_change())?));
    }
    let status = connect(process).await;
    drop(raw);
    exit_code(status?)
}

/// This command's terminal while what is typed goes to another one as it is typed; as it was before when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` where input is no terminal.
    fn open() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal is gone.
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Tells the size of this command's terminal, and each new one, until the process has ended.
async fn follow_size(mut sizes: impl Sink<TerminalSize> + Unpin, mut changes: Signal) {
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        changes.recv().await;
    }
}

/// Joins the streams of the process to this command's own, and waits for its end.
async fn connect(mut process: AttachedProcess) -> anyhow::Result<Status> {
    let status = process.take_status().context("the API sends no status for the command")?;
    if let Some(stdin) = process.stdin() {
        // It ends with the process, whether or not this command's input does.
        tokio::spawn(copy(tokio::io::stdin(), stdin));
    }
    let stdout = tokio::spawn(copy_opt(process.stdout(), tokio::io::stdout()));
    let stderr = tokio::spawn(copy_opt(process.stderr(), tokio::io::stderr()));
    let status = status.await.context("the connection to the command was lost")?;
    let (_, _) = tokio::join!(stdout, stderr);
    Ok(status)
}

async fn copy_opt(from: Option<impl AsyncRead + Unpin>, to: impl AsyncWrite + Unpin) {
    if let Some(from) = from {
        copy(from, to).await;
    }
}

/// A reader that has gone away (a closed pipe) is no error of the command's.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        tracing::debug!("{error}");
    }
}

fn exit_code(status: Status) -> anyhow::Result<ExitCode> {
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_ref()?.parse::<u8>().ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(anyhow!("the command did not run: {}", status.message.unwrap_or_default())),
    }
}
