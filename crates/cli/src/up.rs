//! `heddle up`: runs manifests on this machine, and shows how it goes.
//!
//! The node runs in a process of its own. This command starts it, applies what is to be applied through its API as any
//! client would, and then either leaves (`--detach`) or shows the mesh until Ctrl-C.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use heddle_local::node::{Capture, Launch, Launched, launch};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::manifests::{self, Manifest};
use crate::state::{self, StateDir};
use crate::{apply, check, live, ready};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  heddle up examples/bookstore")]
pub(crate) struct Args {
    /// Manifests: files, or directories of .yaml, .yml and .json files
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Return when every workload is ready, and leave the mesh running
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
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    cert_ttl: String,
    /// Apply manifests again when their files change
    #[arg(long, conflicts_with = "detach")]
    watch: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let manifests = manifests::load(&args.paths)?;
    if !is_sound(&manifests) {
        return Ok(ExitCode::FAILURE);
    }
    let state = StateDir::open(&args.state_dir)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let launched = start(&args, &state)?;
    if let Some(why) = &launched.ready.why {
        eprintln!("capture is {}: {why}", launched.ready.capture);
    }
    let objects = objects(&manifests);
    let shown = async {
        let client = client(&state).await?;
        if !bring_up(&client, &objects, &args, &state).await? && args.detach {
            return Ok(ExitCode::FAILURE);
        }
        match args.detach {
            true => Ok(ExitCode::SUCCESS),
            false => live::run(&client, &state, &args.paths, args.watch, objects).await,
        }
    };
    let outcome = tokio::select! {
        outcome = shown => outcome,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
    };
    // What was started for `--detach` stays even when a workload is not ready: its logs are what the user needs next.
    if !args.detach {
        stop(&state, launched)?;
    }
    outcome
}

/// Prints what `heddle check` would. Nothing is started for manifests with errors.
fn is_sound(manifests: &[Manifest]) -> bool {
    let findings = check::check(manifests);
    let sound = !check::has_errors(&findings);
    if !sound {
        eprint!("{}", check::report(manifests, &findings));
    }
    sound
}

/// Starts the node. Blocks, on the thread whose end an attached node does not survive.
fn start(args: &Args, state: &StateDir) -> anyhow::Result<Launched> {
    let lock = state.lock()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.api_port))
        .with_context(|| format!("cannot listen at 127.0.0.1:{}; choose another --api-port", args.api_port))?;
    let log_path = state.path().join("node.log");
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let launched = launch(Launch {
        command: vec![program.into(), "node".into()],
        state_dir: state.path().to_owned(),
        capture: args.capture,
        listener,
        hold: vec![lock.as_fd()],
        log: Stdio::from(log),
        attached: !args.detach,
    })
    .with_context(|| format!("see {}", log_path.display()))?;
    state.set_process(launched.process.id())?;
    Ok(launched)
}

fn stop(state: &StateDir, mut launched: Launched) -> anyhow::Result<()> {
    eprintln!("\nstopping");
    launched.terminate();
    launched.process.wait().context("cannot wait for the node")?;
    std::fs::remove_file(state.kubeconfig()).ok();
    Ok(())
}

async fn client(state: &StateDir) -> anyhow::Result<Client> {
    let config = Kubeconfig::read_from(state.kubeconfig()).context("the node wrote no kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Applies the mesh's own objects, then the user's, and waits until workloads are ready. Whether they all are.
async fn bring_up(client: &Client, objects: &[Value], args: &Args, state: &StateDir) -> anyhow::Result<bool> {
    let end = Instant::now() + args.timeout;
    let own = own_objects(&args.cert_ttl)?;
    for object in &own {
        apply::apply(client, object).await?;
    }
    if !wait_ready(client, &own, end).await?.is_empty() {
        bail!(
            "the control plane is not ready within {} s; see {}",
            args.timeout.as_secs(),
            state.path().join("logs").display()
        );
    }
    for object in objects {
        apply::apply(client, object).await?;
    }
    println!("export KUBECONFIG={}", state.kubeconfig().display());
    let pending = wait_ready(client, objects, end).await?;
    for workload in &pending {
        eprintln!("{} is not ready: {}", workload.name, workload.why);
    }
    Ok(pending.is_empty())
}

/// What the mesh itself consists of, in the order of application.
fn own_objects(cert_ttl: &str) -> anyhow::Result<Vec<Value>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.to_str().context("this program's path is not UTF-8")?;
    let crds = heddle_smi::crds(&heddle_smi::heddle_conversion());
    let mut objects = crds.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    objects.extend(heddle_control::manifests(program));
    let command = objects.iter_mut().find_map(|object| object.pointer_mut("/spec/template/spec/containers/0/command"));
    let command = command.and_then(Value::as_array_mut).context("the control plane's Deployment has no command")?;
    command.push(format!("--cert-ttl={cert_ttl}").into());
    Ok(objects)
}

async fn wait_ready(client: &Client, objects: &[Value], end: Instant) -> anyhow::Result<Vec<ready::Pending>> {
    loop {
        let pending = ready::pending(client, objects).await?;
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

/// `90s`, `5m`, `24h`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a duration such as 60s, 5m or 24h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a duration such as 60s, 5m or 24h".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}
