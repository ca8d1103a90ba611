//! What the API asks of the kubelet: logs, commands and connections of running containers.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A container of a pod. The API has checked that the pod exists and has a container of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    /// The pod's UID: a pod of the same name made later is another.
    pub uid: String,
    pub container: String,
}

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// The run before the current one.
    pub previous: bool,
    /// Begin each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines at or after this time.
    pub since: Option<jiff::Timestamp>,
    /// End after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// A command to run in a container, or (with an empty `command`) its main process to attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// On a terminal: standard output and error are one stream.
    pub tty: bool,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Gives a terminal another size.
pub type Resize = Box<dyn Fn(TerminalSize) + Send + Sync>;

/// A running command. Dropping it ends the command.
pub struct Exec {
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// None on a terminal.
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Absent where there is no terminal.
    pub resize: Option<Resize>,
    /// The exit code, or why there is none.
    pub exit: BoxFuture<'static, io::Result<i32>>,
}

/// Why the node cannot do what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Answered 404.
    #[error("{0}")]
    NotFound(String),
    /// Answered 400: the container is not (or not any more) in the state that is needed.
    #[error("{0}")]
    NotRunning(String),
    /// Answered 500.
    #[error("{0}")]
    Failed(String),
}

/// The kubelet as the API sees it.
pub trait Node: Send + Sync + 'static {
    /// The container's log, in pieces.
    fn logs(
        &self,
        container: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, io::Result<Bytes>>, NodeError>>;

    /// Starts a command in the container.
    fn exec(&self, container: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Exec, NodeError>>;

    /// Connects to a port of the pod, on its loopback.
    fn port_forward(
        &self,
        container: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<Pin<Box<dyn Duplex>>, NodeError>>;
}
