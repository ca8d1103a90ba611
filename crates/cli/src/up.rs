//! `heddle up`: runs manifests on this machine, and shows how it goes.
//!
//! The node runs in a process of its own. This command starts it, applies what is to be applied through its API as any
//! client would, and then either leaves (`--detach`) or shows the mesh until Ctrl-C.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use heddle_control::duration;
use heddle_local::node::{Capture, Launch, Launched, launch};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::manifests::{self, Manifest};
use crate::output::{self, count};
use crate::state::{self, StateDir};
use crate::{Logging, apply, check, effect, honour, live, mesh, ready};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  heddle up examples/bookstore")]
pub(crate) struct Args {
    /// Manifests: files, or directories of .yaml, .yml and .json files
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Return when every workload is ready and can be called as policy says, and leave the mesh running
    #[arg(long)]
    detach: bool,
    /// How long workloads may take to be ready
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    /// Where everything is kept
    #[arg(long, default_value_os_t = state::default_dir(), value_name = "DIR")]
    state_dir: PathBuf,
    /// How pods' traffic comes to their proxies
    #[arg(long, value_enum, default_value_t)]
    capture: Capture,
    /// The port of the Kubernetes API on loopback; 0 for any that is free
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    api_port: u16,
    /// How long certificates of workloads are valid, such as 24h or 30s
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = cert_ttl)]
    cert_ttl: String,
    /// Apply manifests again when their files change
    #[arg(long, conflicts_with = "detach")]
    watch: bool,
}

/// How the command comes to its end.
enum End {
    Outcome(anyhow::Result<ExitCode>),
    /// By a signal.
    Interrupted,
}

/// The exit code of a program that SIGINT ends, as shells have it.
const INTERRUPTED: u8 = 130;

pub(crate) async fn run(args: Args, logging: &Logging) -> anyhow::Result<ExitCode> {
    let manifests = manifests::load(&args.paths)?;
    if !is_sound(&manifests) {
        return Ok(ExitCode::FAILURE);
    }
    let (own, objects) = (own_objects(&args.cert_ttl, logging)?, objects(&manifests));
    let state = StateDir::open(&args.state_dir)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut launched = start(&args, &state, logging)?;
    if let Some(why) = &launched.ready.why {
        eprintln!("capture is {}: {why}", launched.ready.capture);
        eprintln!("what reaches a pod's own port on this machine goes past its proxy and the policy");
    }
    let shown = async {
        let client = client(&state).await?;
        if !bring_up(&client, &own, &objects, &args, &state).await? && args.detach {
            return Ok(ExitCode::FAILURE);
        }
        match args.detach {
            true => Ok(ExitCode::SUCCESS),
            false => live::run(&client, &state, &args.paths, args.watch, objects).await,
        }
    };
    let end = tokio::select! {
        outcome = shown => End::Outcome(outcome),
        error = node_ended(&mut launched.process, &state) => End::Outcome(Err(error)),
        _ = interrupt.recv() => End::Interrupted,
        _ = terminate.recv() => End::Interrupted,
    };
    if !end.leaves_mesh(args.detach) {
        stop(&state, launched)?;
    }
    end.outcome(args.detach)
}

// === impl End ===

impl End {
    /// What was started for `--detach` stays even when a workload is not ready: its logs are what the user needs next.
    /// A mesh that nobody waited for to be complete does not.
    fn leaves_mesh(&self, detach: bool) -> bool {
        detach && matches!(self, End::Outcome(Ok(_)))
    }

    fn outcome(self, detach: bool) -> anyhow::Result<ExitCode> {
        match self {
            End::Outcome(outcome) => outcome,
            // A signal is the way to end what is shown, but keeps `--detach` from what it promised.
            End::Interrupted if detach => Ok(ExitCode::from(INTERRUPTED)),
            End::Interrupted => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Prints what `heddle check` would. Nothing is started for manifests with errors.
fn is_sound(manifests: &[Manifest]) -> bool {
    let findings = check::check(manifests);
    let sound = !check::has_errors(&findings);
    if !sound {
        eprint!("{}", check::report(manifests, &findings, output::is_colored(&std::io::stderr())));
        eprintln!("nothing was started");
    }
    sound
}

/// Starts the node. Blocks, on the thread whose end an attached node does not survive.
fn start(args: &Args, state: &StateDir, logging: &Logging) -> anyhow::Result<Launched> {
    let lock = state.lock()?;
    eprintln!("starting a Kubernetes API and the mesh in {}", state.path().display());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.api_port))
        .with_context(|| format!("cannot listen at 127.0.0.1:{}; choose another --api-port", args.api_port))?;
    let log_path = state.path().join("node.log");
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let launched = launch(Launch {
        command: vec![program.into(), "node".into()],
        variables: logging.variables(),
        state_dir: state.path().to_owned(),
        capture: args.capture,
        listener,
        hold: vec![lock.as_fd()],
        log: Stdio::from(log),
        attached: !args.detach,
    })
    .map_err(|error| anyhow::anyhow!("{error}; see {}", log_path.display()))?;
    state.set_process(launched.process.id())?;
    Ok(launched)
}

/// Waits for an end of the node that nobody asked for.
async fn node_ended(node: &mut Child, state: &StateDir) -> anyhow::Error {
    loop {
        let log = state.path().join("node.log");
        match node.try_wait() {
            Ok(None) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(Some(status)) => return anyhow::anyhow!("the node ended ({status}); see {}", log.display()),
            Err(error) => return anyhow::Error::new(error).context("cannot watch the node"),
        }
    }
}

fn stop(state: &StateDir, mut launched: Launched) -> anyhow::Result<()> {
    eprintln!("\nstopping");
    launched.terminate();
    launched.process.wait().context("cannot wait for the node")?;
    state.forget()
}

async fn client(state: &StateDir) -> anyhow::Result<Client> {
    let config = Kubeconfig::read_from(state.kubeconfig()).context("the node wrote no kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    mesh::connect(config)
}

/// Applies the mesh's own objects, then the user's, and waits until workloads are ready and policy is in effect, so that
/// the next request is decided as the manifests say. Whether that has come to be.
async fn bring_up(
    client: &Client,
    own: &[Value],
    objects: &[Value],
    args: &Args,
    state: &StateDir,
) -> anyhow::Result<bool> {
    let end = Instant::now() + args.timeout;
    eprintln!("the API serves; starting the control plane");
    // The control plane makes its root for the trust domain that it finds, so that has to be there before it.
    let (definitions, control): (Vec<_>, Vec<_>) =
        own.iter().partition(|object| object["kind"] == "CustomResourceDefinition");
    let settings = objects.iter().filter(|object| object["kind"] == "MeshConfig");
    for object in definitions.into_iter().chain(settings).chain(control) {
        apply::apply(client, object).await?;
    }
    if let [control, ..] = wait(end, async || ready::pending(client, own).await).await?.as_slice() {
        let (within, logs) = (args.timeout.as_secs(), state.path().join("logs"));
        bail!("the control plane is not ready within {within} s: {}; see {}", control.why, logs.display());
    }
    for object in objects {
        apply::apply(client, object).await?;
    }
    honour::not_honoured(objects).iter().for_each(|line| eprintln!("warning: {line}"));
    println!("export KUBECONFIG={}", state.kubeconfig().display());
    let workloads = objects.iter().filter(|object| ready::is_workload(object)).count();
    eprintln!("applied {}, waiting for {}", count(objects.len(), "object"), count(workloads, "workload"));
    let mut pending = wait(end, async || ready::pending(client, objects).await).await?;
    if pending.is_empty() {
        pending = wait(end, async || effect::pending(client, objects).await).await?;
    }
    for workload in &pending {
        eprintln!("{} is not ready: {}", workload.name, workload.why);
    }
    Ok(pending.is_empty())
}

/// What the mesh itself consists of, in the order of application.
fn own_objects(cert_ttl: &str, logging: &Logging) -> anyhow::Result<Vec<Value>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.to_str().context("this program's path is not UTF-8")?;
    let crds = heddle_smi::crds(&heddle_smi::heddle_conversion());
    let mut objects = crds.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    objects.extend(heddle_control::manifests(program));
    let control = objects.iter_mut().find_map(|object| object.pointer_mut("/spec/template/spec/containers/0"));
    let control = control.context("the control plane's Deployment has no container")?;
    append(control, "command", [format!("--cert-ttl={cert_ttl}").into()])?;
    let variables = logging.variables().into_iter().map(|(name, value)| json!({ "name": name, "value": value }));
    append(control, "env", variables)?;
    Ok(objects)
}

/// Adds to a list of the control plane's container.
fn append(container: &mut Value, list: &str, more: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
    let list =
        container[list].as_array_mut().with_context(|| format!("the control plane's container has no {list}"))?;
    list.extend(more);
    Ok(())
}

/// Asks `pending` until there is nothing more to wait for, or no more time: what is left then.
async fn wait(
    end: Instant,
    pending: impl AsyncFn() -> anyhow::Result<Vec<ready::Pending>>,
) -> anyhow::Result<Vec<ready::Pending>> {
    loop {
        let pending = pending().await?;
        if pending.is_empty() || Instant::now() > end {
            return Ok(pending);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The objects of the manifests, in the order of application.
pub(crate) fn objects(manifests: &[Manifest]) -> Vec<Value> {
    let documents = manifests.iter().flat_map(|manifest| &manifest.documents);
    let mut objects: Vec<Value> = documents.map(|document| document.value.clone()).collect();
    objects.sort_by_key(apply::rank);
    objects
}

/// A duration as it is passed on to the control plane, which is the one to read it.
fn cert_ttl(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use clap::Parser;

    use super::{End, INTERRUPTED};

    #[derive(Debug, Parser)]
    struct Up {
        #[command(flatten)]
        args: super::Args,
    }

    #[test]
    fn a_mesh_is_left_behind_only_by_a_detach_that_was_not_interrupted() {
        assert!(End::Outcome(Ok(ExitCode::FAILURE)).leaves_mesh(true));
        assert!(!End::Outcome(Ok(ExitCode::SUCCESS)).leaves_mesh(false));
        assert!(!End::Interrupted.leaves_mesh(true));
        let outcome = |detach| End::Interrupted.outcome(detach).expect("an exit code");
        assert_eq!((outcome(true), outcome(false)), (ExitCode::from(INTERRUPTED), ExitCode::SUCCESS));
    }

    #[test]
    fn durations_that_mean_nothing_are_refused_before_anything_starts() {
        for (option, value) in [("--timeout", "soon"), ("--timeout", "0s"), ("--cert-ttl", "abc"), ("--cert-ttl", "60")]
        {
            let refused = Up::try_parse_from(["up", "DIR", option, value]).expect_err(value).to_string();
            assert!(refused.contains(option), "{refused}");
        }
        let taken = Up::try_parse_from(["up", "DIR", "--timeout", "90s", "--cert-ttl", "1h 30m"]).expect("durations");
        assert_eq!((taken.args.timeout.as_secs(), taken.args.cert_ttl.as_str()), (90, "1h 30m"));
    }
}
