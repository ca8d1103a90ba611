//! What `heddle up` does: starts a node and hears from it whether it is ready.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::run::{Outcome, Ready};
use super::stage::Capture;

/// How a node is started.
pub struct Launch<'a> {
    /// The program and the words before the node's own arguments, such as `heddle node`.
    pub command: Vec<OsString>,
    /// Environment variables of the node beside those of this process.
    pub variables: Vec<(&'static str, String)>,
    pub state_dir: PathBuf,
    pub capture: Capture,
    /// The API's, on the machine's loopback.
    pub listener: TcpListener,
    /// Kept open by the node as long as it lives, such as the state directory's lock.
    pub hold: Vec<BorrowedFd<'a>>,
    /// Where the node logs to.
    pub log: Stdio,
    /// The node ends when the calling thread does.
    pub attached: bool,
}

/// A node that is ready.
#[derive(Debug)]
pub struct Launched {
    /// The outer process: SIGTERM ends the node in order, SIGKILL at once; either way nothing stays.
    pub process: Child,
    pub ready: Ready,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start the node: {0}")]
    Spawn(io::Error),
    #[error("the node could not start: {0}")]
    Failed(String),
    #[error("the node ended before it was ready ({0}); its log says why")]
    Ended(String),
}

/// Starts a node and waits until its API serves, which the node itself bounds in time. Blocks.
pub fn launch(launch: Launch<'_>) -> Result<Launched, LaunchError> {
    let (program, words) =
        launch.command.split_first().ok_or_else(|| LaunchError::Spawn(io::ErrorKind::InvalidInput.into()))?;
    let mut command = Command::new(program);
    command.args(words).arg("--state-dir").arg(&launch.state_dir).envs(launch.variables);
    command.args(["--capture", launch.capture.name()]);
    for fd in &launch.hold {
        // The node itself marks it again, so that no pod inherits it.
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(|error| LaunchError::Spawn(error.into()))?;
        command.args(["--hold", &fd.as_raw_fd().to_string()]);
    }
    if launch.attached {
        command.arg("--attached");
    }
    // In a group of its own a Ctrl-C reaches `heddle up` alone, which ends the node in order.
    command.stdin(OwnedFd::from(launch.listener)).stdout(Stdio::piped()).stderr(launch.log).process_group(0);
    let mut process = command.spawn().map_err(LaunchError::Spawn)?;
    for fd in &launch.hold {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).ok();
    }
    let mut line = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(LaunchError::Spawn)?;
    }
    match serde_json::from_str(&line) {
        Ok(Outcome::Ready(ready)) => Ok(Launched { process, ready }),
        Ok(Outcome::Failed(why)) => {
            process.wait().ok();
            Err(LaunchError::Failed(why))
        }
        Err(_) => {
            let status = process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(LaunchError::Ended(status))
        }
    }
}

impl Launched {
    /// Asks the node to end in order.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
}

impl Capture {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Netns => "netns",
            Self::Env => "env",
        }
    }
}
