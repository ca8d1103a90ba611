//! A process of a pod: started in the pod's namespaces, and ended with all that it started.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};
use tokio::process::{Child, Command};

use super::env::Environment;
use super::root::{Root, RootError};
use crate::namespace::{NetNamespace, on_thread, unshare};

/// What to run.
#[derive(Clone, Debug)]
pub struct Process {
    /// The program, found by `PATH` unless it has a slash, and its arguments.
    pub argv: Vec<String>,
    pub env: Environment,
    pub working_dir: Option<PathBuf>,
}

/// Where to run it.
#[derive(Clone, Debug)]
pub(super) enum Site<'a> {
    /// With the files of this machine, in a network namespace when there is one.
    Machine(Option<&'a NetNamespace>),
    /// With a file system and a host name of its own.
    Container { netns: &'a NetNamespace, root: &'a Root, hostname: &'a str },
    /// Where another process is.
    Beside(Pid),
}

/// The three standard streams.
pub(super) enum Streams {
    /// Nothing to read; what is written comes through pipes.
    Piped,
    /// All three through pipes.
    PipedInput,
    /// A terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// A process that runs.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    pub group: Group,
    /// What could not be done as the pod asks.
    pub warnings: Vec<String>,
}

/// A process and all that it started.
#[derive(Debug)]
pub struct Group {
    leader: Pid,
    /// The mount namespace that they alone are in. While it is open its number is not given to another.
    mounts: Option<OwnedFd>,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the container has no command: images are not run here; set `command`")]
    NoCommand,
    #[error("cannot make the container's file system: {0}")]
    Root(#[from] RootError),
    #[error("cannot enter the pod's namespaces: {0}")]
    Namespace(io::Error),
    #[error("cannot run `{program}`: {source}{hint}")]
    Run { program: String, source: io::Error, hint: String },
}

/// Starts a process. Blocks for the few milliseconds that it takes to make the namespaces.
pub(super) fn start(process: &Process, site: &Site<'_>, streams: Streams) -> Result<Started, StartError> {
    let mut outcome = Err(StartError::NoCommand);
    on_thread(|| {
        outcome = start_on_this_thread(process, site, streams);
        Ok(())
    })
    .map_err(StartError::Namespace)?;
    outcome
}

fn start_on_this_thread(process: &Process, site: &Site<'_>, streams: Streams) -> Result<Started, StartError> {
    let (mounts, warnings) = move_to(site)?;
    let mut command = command(process, streams)?;
    let child = command.spawn().map_err(|source| run_error(process, source))?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let leader = leader.ok_or_else(|| StartError::Namespace(io::Error::other("the process has no id")))?;
    Ok(Started { child, group: Group { leader, mounts }, warnings })
}

/// Moves the calling thread to where the process is to start, and tells what identifies its processes there.
fn move_to(site: &Site<'_>) -> Result<(Option<OwnedFd>, Vec<String>), StartError> {
    match site {
        Site::Machine(netns) => {
            netns.map_or(Ok(()), NetNamespace::enter).map_err(StartError::Namespace)?;
            Ok((None, Vec::new()))
        }
        Site::Container { netns, root, hostname } => {
            netns.enter().map_err(StartError::Namespace)?;
            unshare(UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWUTS).map_err(StartError::Namespace)?;
            let mounts = fs::File::open("/proc/thread-self/ns/mnt").map_err(StartError::Namespace)?;
            rustix::system::sethostname(hostname.as_bytes()).map_err(|error| StartError::Namespace(error.into()))?;
            let warnings = root.enter()?;
            Ok((Some(mounts.into()), warnings))
        }
        Site::Beside(pid) => {
            let enter = || {
                let process = pidfd_open(*pid, PidfdFlags::empty())?;
                unshare(UnshareFlags::FS)?;
                let kinds = ThreadNameSpaceType::MOUNT
                    | ThreadNameSpaceType::NETWORK
                    | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
                move_into_thread_name_spaces(process.as_fd(), kinds)?;
                Ok(())
            };
            enter().map_err(StartError::Namespace)?;
            Ok((None, Vec::new()))
        }
    }
}

fn command(process: &Process, streams: Streams) -> Result<Command, StartError> {
    let (program, arguments) = process.argv.split_first().ok_or(StartError::NoCommand)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(process.env.iter()).kill_on_drop(false);
    command.current_dir(process.working_dir.as_deref().unwrap_or(Path::new("/")));
    match streams {
        Streams::Piped => {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        }
        Streams::PipedInput => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        }
        Streams::Terminal(terminal) => {
            let clone = || terminal.try_clone().map_err(StartError::Namespace);
            command.stdin(clone()?).stdout(clone()?).stderr(terminal);
            lead_a_session(&mut command);
        }
    }
    Ok(command)
}

/// Makes the process lead a session whose controlling terminal is its standard input.
fn lead_a_session(command: &mut Command) {
    let lead = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    #[allow(unsafe_code, reason = "between fork and exec only two system calls are made, and nothing is allocated")]
    unsafe {
        command.pre_exec(lead);
    }
}

fn run_error(process: &Process, source: io::Error) -> StartError {
    let program = process.argv.first().cloned().unwrap_or_default();
    let missing = source.kind() == io::ErrorKind::NotFound;
    let hint = match &process.working_dir {
        Some(directory) if missing && !directory.is_dir() => {
            format!("; workingDir {} does not exist", directory.display())
        }
        _ if missing && !program.contains('/') => {
            format!("; it was looked for in PATH={}", process.env.get("PATH").unwrap_or_default())
        }
        _ if missing => "; the container sees this machine's files, and this is none of them".to_owned(),
        _ => String::new(),
    };
    StartError::Run { program, source, hint }
}

// === impl Group ===

impl Group {
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to the process group of the leader. A group that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        if kill_process_group(self.leader, signal).is_err() {
            // A process that leads a group is signalled through it; one that has left it, by itself.
            kill_process(self.leader, signal).ok();
        }
    }

    /// Kills the process group, and every process that is in the container's mount namespace, whatever group it went to.
    pub fn kill(&self) {
        kill_process_group(self.leader, Signal::KILL).ok();
        let Some(inode) =
            self.mounts.as_ref().and_then(|mounts| rustix::fs::fstat(mounts).ok()).map(|stat| stat.st_ino)
        else {
            return;
        };
        // A process that is about to fork may leave a child behind, so look until there is none.
        for _ in 0..100 {
            let members = processes_in(inode);
            if members.is_empty() {
                return;
            }
            for member in members {
                kill_process(member, Signal::KILL).ok();
            }
            std::thread::yield_now();
        }
    }
}

/// The living processes in the mount namespace with this inode number.
fn processes_in(mounts: u64) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_member = |pid: &i32| {
        let namespace = format!("/proc/{pid}/ns/mnt");
        fs::metadata(namespace).is_ok_and(|found| found.ino() == mounts)
    };
    numbers.filter(is_member).filter_map(Pid::from_raw).collect()
}
