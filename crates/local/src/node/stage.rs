//! The processes of a node: which namespaces they make, and how signals and ends travel between them.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, set_child_subreaper, set_parent_process_death_signal, wait,
};
use rustix::thread::UnshareFlags;
use tokio::signal::unix::{SignalKind, signal};

use super::run;
use crate::namespace::{NetNamespace, unshare};
use crate::net::{NodeNetwork, nft};

/// The arguments of `heddle node`, which `heddle up` starts. Its standard input is the API's listener; its first line
/// of standard output says that it is ready, or why not.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where everything is kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// How pods' traffic comes to their proxies
    #[arg(long, value_enum, default_value_t)]
    pub capture: Capture,
    /// The name of the node, in the API
    #[arg(long, default_value = "heddle", value_name = "NAME")]
    pub node_name: String,
    /// The longest that pods may take to end when the node stops
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub grace: u64,
    /// End with the process that started this one
    #[arg(long)]
    pub attached: bool,
    /// File descriptors to hold open, such as that of a lock
    #[arg(long, value_delimiter = ',', value_name = "FD")]
    pub hold: Vec<i32>,
    /// Which of the node's processes this is
    #[arg(long, value_enum, default_value_t, hide = true)]
    pub stage: Stage,
    /// The namespaces are made in a user namespace
    #[arg(long, hide = true)]
    pub user_namespace: bool,
    /// Why there are no namespaces
    #[arg(long, hide = true, value_name = "TEXT")]
    pub why: Option<String>,
}

/// How pods' traffic comes to their proxies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Capture {
    /// `netns` where the machine permits it, else `env`.
    #[default]
    Auto,
    /// Each pod in a network namespace of its own, all TCP captured.
    Netns,
    /// Pods are told of their proxies by `http_proxy` and `<SVC>_SERVICE_HOST`.
    Env,
}

/// The processes of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Stage {
    /// Makes the namespaces.
    #[default]
    Outer,
    /// Pid 1 of the node.
    Init,
    /// The node itself.
    Node,
    /// Makes the namespaces for a trial.
    ProbeOuter,
    /// Tries out what a node needs.
    Probe,
}

/// Runs one of the node's processes. Must be called before the process has a second thread.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match args.stage {
        Stage::Outer => outer(args),
        Stage::Init => init(args),
        Stage::Node => node(args),
        Stage::ProbeOuter => probe_outer(args),
        Stage::Probe => probe(),
    }
}

fn outer(args: &Args) -> anyhow::Result<ExitCode> {
    if args.attached {
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    let isolation = choose(args.capture)?;
    let (stage, user_namespace, why) = match &isolation {
        Isolation::Namespaces { user } => {
            enter(*user).context("cannot make namespaces")?;
            (Stage::Init, *user, None)
        }
        Isolation::None { why } => {
            // What the node leaves behind becomes a child of this process, to be killed.
            set_child_subreaper(Some(rustix::process::getpid()))?;
            (Stage::Node, false, Some(why.clone()))
        }
    };
    let child = spawn(args, stage, user_namespace, why.as_deref())?;
    let code = supervise(child);
    kill_children();
    code
}

fn init(args: &Args) -> anyhow::Result<ExitCode> {
    // The outer process may be killed without a word; then this one is too, and the kernel kills the rest.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    prepare_mounts()?;
    supervise(spawn(args, Stage::Node, args.user_namespace, None)?)
}

fn node(args: &Args) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    for fd in &args.hold {
        keep_from_children(*fd);
    }
    let machine = stay_on_the_machine()?;
    if args.why.is_none() {
        // Threads made from now on are in the node's network; so is what the API server itself connects to.
        unshare(UnshareFlags::NEWNET).context("cannot make the node's network namespace")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(args, machine));
    // Tasks that still wait for something are not waited for.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// A runtime whose only thread stays in the machine's network namespace, for sockets that reach out of the node. It
/// ends with the process.
fn stay_on_the_machine() -> io::Result<tokio::runtime::Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let stay = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("machine".to_owned()).spawn(stay)?;
    Ok(handle)
}

/// What the node runs in.
enum Isolation {
    Namespaces { user: bool },
    None { why: String },
}

/// Finds out by trying what this machine permits.
fn choose(capture: Capture) -> anyhow::Result<Isolation> {
    if capture == Capture::Env {
        return Ok(Isolation::None { why: "it was asked for".to_owned() });
    }
    let root = rustix::process::geteuid().is_root();
    let mut reasons = Vec::new();
    for user in [false, true].into_iter().filter(|user| root || *user) {
        match try_out(user) {
            Ok(()) => return Ok(Isolation::Namespaces { user }),
            Err(why) => reasons.push(format!("{}: {why}", if user { "in a user namespace" } else { "as root" })),
        }
    }
    let why = reasons.join("; ");
    match capture {
        Capture::Netns => bail!("this machine does not let pods have network namespaces: {why}"),
        Capture::Auto | Capture::Env => Ok(Isolation::None { why }),
    }
}

/// Runs a trial in processes of its own, so that it leaves nothing behind.
fn try_out(user: bool) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(own_subcommand()).args(["--state-dir", "/", "--stage", "probe-outer"]);
    if user {
        command.arg("--user-namespace");
    }
    // Its standard error is the reason, for people to read: no log belongs there.
    command.env("HEDDLE_LOG", "off").env("HEDDLE_LOG_FORMAT", "text");
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned()),
    }
}

fn probe_outer(args: &Args) -> anyhow::Result<ExitCode> {
    enter(args.user_namespace).context("cannot make namespaces")?;
    supervise(spawn(args, Stage::Probe, args.user_namespace, None)?)
}

/// Does once what the node does for every pod.
fn probe() -> anyhow::Result<ExitCode> {
    prepare_mounts()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let network = NodeNetwork::create(NetNamespace::create()?).await?;
        let pod = NetNamespace::create()?;
        nft::Capture::default().install(&pod).context("cannot install nftables rules")?;
        network.attach(&pod, [10, 244, 0, 2].into()).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Moves this process into a mount namespace, and its children into a PID namespace.
fn enter(user: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    if !user {
        return unshare(flags);
    }
    flags |= UnshareFlags::NEWUSER;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(flags)?;
    // Groups must be given up before an unprivileged process may map one.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
}

/// Makes the mounts this namespace's own, and shows the processes of this PID namespace in `/proc`.
fn prepare_mounts() -> anyhow::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context("cannot mount /proc")
}

/// Starts the next of the node's processes with this one's arguments.
fn spawn(args: &Args, stage: Stage, user_namespace: bool, why: Option<&str>) -> anyhow::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.args(own_subcommand()).arg("--state-dir").arg(&args.state_dir);
    command.args(["--node-name", &args.node_name, "--grace", &args.grace.to_string()]);
    command.args(["--stage", stage.name()]);
    for fd in &args.hold {
        command.args(["--hold", &fd.to_string()]);
    }
    if user_namespace {
        command.arg("--user-namespace");
    }
    if let Some(why) = why {
        command.args(["--why", why]);
    }
    let child = command.spawn().context("cannot start the next process of the node")?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the next process of the node has no id")
}

/// The words before the arguments of this command, such as `node`: those up to the first flag of [`Args`].
fn own_subcommand() -> Vec<std::ffi::OsString> {
    std::env::args_os().skip(1).take_while(|word| word != "--state-dir").collect()
}

/// Forwards signals to the child, reaps whatever ends, and returns with the child's exit code.
fn supervise(child: Pid) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            if let Some(code) = reap(child) {
                return Ok(code);
            }
            tokio::select! {
                _ = ended.recv() => {}
                _ = terminate.recv() => drop(kill_process(child, Signal::TERM)),
                _ = interrupt.recv() => drop(kill_process(child, Signal::TERM)),
            }
        }
    })
}

/// Takes notice of every child that has ended. The code of the one that counts, when it is among them.
fn reap(child: Pid) -> Option<ExitCode> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let signalled = || status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or_else(signalled).unwrap_or(1);
                return Some(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(Some(_)) => {}
            Ok(None) => return None,
            // No child is left, so the one that counts is gone too.
            Err(_) => return Some(ExitCode::FAILURE),
        }
    }
}

/// Kills what the node left behind, and what that leaves behind, until there is nothing.
fn kill_children() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    loop {
        for child in children_of(own) {
            kill_process(child, Signal::KILL).ok();
        }
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
    }
}

fn children_of(parent: i32) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; after it come the state and the parent.
        let parent_of = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parent_of == Some(parent)
    };
    numbers.filter(is_child).filter_map(Pid::from_raw).collect()
}

/// Marks a descriptor that was inherited on purpose so that pods do not inherit it.
fn keep_from_children(fd: i32) {
    #[allow(unsafe_code, reason = "the descriptor is one that the parent keeps open across exec and named by --hold")]
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).ok();
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Init => "init",
            Self::Node => "node",
            Self::ProbeOuter => "probe-outer",
            Self::Probe => "probe",
        }
    }
}
