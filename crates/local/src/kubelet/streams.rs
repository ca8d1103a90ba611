//! Logs, commands and connections of running containers, as the API asks for them.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tokio_util::io::StreamReader;

use super::Kubelet;
use super::action::{Target, pod_socket};
use super::context::{Context, PROXY_CONTAINER};
use super::log::Selection;
use super::process::{self, Group, Process, Site, Started, Streams};
use super::state::MeshState;
use heddle_api::{ContainerRef, Duplex, Exec, ExecOptions, LogOptions, Node, NodeError, TerminalSize};

impl Node for Kubelet {
    fn logs(
        &self,
        container: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, io::Result<Bytes>>, NodeError>> {
        async move {
            let pod = self.pod(&container)?;
            if container.container == PROXY_CONTAINER && pod.state.borrow().mesh == MeshState::Outside {
                return Err(NodeError::NotFound(format!("the pod {} has no proxy", container.pod)));
            }
            let log = pod.log(&container.container).map_err(|error| NodeError::Failed(error.to_string()))?;
            let count = |count: Option<u64>| count.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
            let selection = Selection {
                previous: options.previous,
                follow: options.follow,
                timestamps: options.timestamps,
                tail: count(options.tail_lines),
                since: options.since,
                limit_bytes: count(options.limit_bytes),
            };
            let lines = log.read(selection).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    let name = &container.container;
                    NodeError::NotRunning(format!(
                        "previous terminated container \"{name}\" in pod \"{}\" not found",
                        container.pod
                    ))
                }
                _ => NodeError::Failed(error.to_string()),
            })?;
            Ok(lines.boxed())
        }
        .boxed()
    }

    fn exec(&self, container: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Exec, NodeError>> {
        async move {
            let pod = self.pod(&container)?;
            if options.command.is_empty() {
                return attach(&pod, &container);
            }
            let target = self.target(&pod, &container)?;
            run(target, options).await.map_err(NodeError::Failed)
        }
        .boxed()
    }

    fn port_forward(
        &self,
        container: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<Pin<Box<dyn Duplex>>, NodeError>> {
        async move {
            let pod = self.pod(&container)?;
            let not_running = || NodeError::NotRunning(format!("the pod {} has no network yet", container.pod));
            let sandbox = pod.sandbox.get().ok_or_else(not_running)?;
            let mut refused = String::new();
            for ip in [std::net::Ipv4Addr::LOCALHOST, sandbox.ip] {
                let socket =
                    pod_socket(sandbox.netns.as_ref()).map_err(|error| NodeError::Failed(error.to_string()))?;
                match socket.connect((ip, port).into()).await {
                    Ok(stream) => return Ok(Box::pin(stream) as Pin<Box<dyn Duplex>>),
                    Err(error) => refused = error.to_string(),
                }
            }
            Err(NodeError::Failed(format!("nothing listens on port {port} of the pod {}: {refused}", container.pod)))
        }
        .boxed()
    }
}

impl Kubelet {
    fn pod(&self, container: &ContainerRef) -> Result<Arc<Context>, NodeError> {
        self.find(&container.uid).ok_or_else(|| {
            NodeError::NotFound(format!("the pod {}/{} is not on this node", container.namespace, container.pod))
        })
    }

    /// The running container; for the proxy, the pod's network without a container.
    fn target(&self, pod: &Context, container: &ContainerRef) -> Result<Target, NodeError> {
        let name = &container.container;
        if name == PROXY_CONTAINER {
            return Err(NodeError::NotRunning(
                "commands run beside the containers of a pod, not in its proxy".to_owned(),
            ));
        }
        pod.live(name)
            .ok_or_else(|| NodeError::NotRunning(format!("container {name} of pod {} is not running", container.pod)))
    }
}

/// Starts a command beside a container.
async fn run(target: Target, options: ExecOptions) -> Result<Exec, String> {
    let mut env = target.env;
    let terminal = if options.tty { Some(open_terminal().map_err(|error| error.to_string())?) } else { None };
    if terminal.is_some() && env.get("TERM").is_none() {
        env.set("TERM", "xterm");
    }
    let process = Process { argv: options.command, env, working_dir: target.working_dir };
    let (controller, streams) = match terminal {
        Some((controller, terminal)) => (Some(controller), Streams::Terminal(terminal)),
        None if options.stdin => (None, Streams::PipedInput),
        None => (None, Streams::Piped),
    };
    let start = move || {
        let site = match (target.beside, &target.netns) {
            (Some(pid), _) => Site::Beside(pid),
            (None, netns) => Site::Machine(netns.as_ref()),
        };
        process::start(&process, &site, streams)
    };
    let started = tokio::task::spawn_blocking(start).await.map_err(|error| error.to_string())?;
    let started = started.map_err(|error| error.to_string())?;
    match controller {
        Some(controller) => with_terminal(started, &controller).map_err(|error| error.to_string()),
        None => Ok(with_pipes(started)),
    }
}

fn with_pipes(mut started: Started) -> Exec {
    let child = &mut started.child;
    let stdin = child.stdin.take().map(|stream| Box::pin(stream) as Pin<Box<dyn tokio::io::AsyncWrite + Send>>);
    let stdout = child.stdout.take().map(|stream| Box::pin(stream) as Pin<Box<dyn AsyncRead + Send>>);
    let stderr = child.stderr.take().map(|stream| Box::pin(stream) as Pin<Box<dyn AsyncRead + Send>>);
    Exec { stdin, stdout, stderr, resize: None, exit: exit(started) }
}

fn with_terminal(started: Started, controller: &OwnedFd) -> io::Result<Exec> {
    rustix::io::ioctl_fionbio(controller, true)?;
    let reader = pipe::Receiver::from_owned_fd_unchecked(controller.try_clone()?)?;
    let writer = pipe::Sender::from_owned_fd_unchecked(controller.try_clone()?)?;
    let terminal = controller.try_clone()?;
    let resize = move |TerminalSize { width, height }| {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        let _fails_for_no_open_terminal = rustix::termios::tcsetwinsize(&terminal, size);
    };
    Ok(Exec {
        stdin: Some(Box::pin(writer)),
        stdout: Some(Box::pin(TerminalOutput(reader))),
        stderr: None,
        resize: Some(Box::new(resize)),
        exit: exit(started),
    })
}

/// The end of the command. Dropped before, it kills the command.
fn exit(started: Started) -> BoxFuture<'static, io::Result<i32>> {
    struct KillOnDrop(Group);
    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            self.0.kill();
        }
    }
    let Started { mut child, group, .. } = started;
    let guard = KillOnDrop(group);
    async move {
        let status = child.wait().await;
        drop(guard);
        status.map(|status| {
            use std::os::unix::process::ExitStatusExt;
            status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255)
        })
    }
    .boxed()
}

/// A pair of a terminal's ends: the one to read and write, and the one for the command.
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let terminal = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((controller, terminal))
}

/// What a terminal shows. That nobody holds its other end any more is its end, which Linux tells as an error.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// What a container writes from now on. Its standard input is empty, so there is nothing to send to it.
fn attach(pod: &Context, container: &ContainerRef) -> Result<Exec, NodeError> {
    if pod.live(&container.container).is_none() {
        return Err(NodeError::NotRunning(format!("container {} is not running", container.container)));
    }
    let log = pod.log(&container.container).map_err(|error| NodeError::Failed(error.to_string()))?;
    let selection = Selection { follow: true, tail: Some(0), ..Selection::default() };
    let lines = log.read(selection).map_err(|error| NodeError::Failed(error.to_string()))?;
    let (mut state, name) = (pod.state.subscribe(), container.container.clone());
    let exit = async move {
        let ended = |state: &super::state::PodState| state.container(&name).is_none_or(|found| !found.is_running());
        state.wait_for(ended).await.ok();
        Ok(0)
    };
    let stdout: Pin<Box<dyn AsyncRead + Send>> = Box::pin(StreamReader::new(lines.boxed()));
    Ok(Exec { stdin: None, stdout: Some(stdout), stderr: None, resize: None, exit: exit.boxed() })
}
