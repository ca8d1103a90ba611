//! Every bound of the data plane, in one place. What passes one of them is refused or closed, and counted.

use std::time::Duration;

pub use heddle_http1::{CHUNK_LINE_BYTES, HEAD_BYTES, HEADERS, ROOM_BYTES, ROOM_HEADERS, TRAILER_BYTES};

/// From the first byte of a head to its last: what is slower gets 408 (slow header attacks).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a kept-alive connection may wait for its next request.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long an exchange may stand still: without an answer it gets 504, within an answer it is closed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client on a port whose protocol is not declared may be silent before the server is connected to, in case
/// it is the one that speaks first. Most clients that speak first have spoken by then.
pub const DETECT_HEAD_START: Duration = Duration::from_millis(5);
/// How long the first bytes of a client on such a port may be too few to tell what it speaks, before they are taken for
/// another protocol than HTTP.
pub const DETECT_TIMEOUT: Duration = Duration::from_millis(50);
/// For a TCP connection to an endpoint or the application to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a TLS handshake, on either side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up, so that a dead peer is
/// noticed without timers of our own.
pub const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel's keep-alive: the idle time before its first probe.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// The kernel's keep-alive: between probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a worker looks for connections that have been idle too long. Nothing runs while it has none.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Accepted connections per worker, of each direction; more are closed at once.
pub const CONNECTIONS: usize = 32 * 1024;
/// Connections and requests under way per worker, beyond which streams of other proxies are refused.
pub const TASKS: usize = 3 * CONNECTIONS;

/// The largest payload of one frame between proxies: a full frame fills one TLS record.
pub const FRAME_BYTES: usize = 16 * 1024 - crate::mux::HEADER_BYTES;
/// What one side may send on a stream before the other has taken it, in bytes.
pub const STREAM_CREDIT: u32 = 256 * 1024;
/// Streams open at once on a connection between proxies; the client makes another connection beyond it.
pub const STREAMS: usize = 1024;
/// Frames queued for a connection between proxies, in bytes, beyond which its streams wait.
pub const QUEUED_BYTES: usize = 512 * 1024;
/// Streams that a client may abandon in a second beyond those it completes; its connection is closed if it abandons more
/// (reset floods).
pub const ABANDONED_STREAMS: u32 = 1024;
/// How long a connection between proxies may have no stream before its client closes it.
pub const SESSION_IDLE: Duration = Duration::from_secs(90);
/// The age at which a connection between proxies is replaced, less a random part of up to a quarter.
pub const SESSION_AGE: Duration = Duration::from_secs(3600);
/// Connections between proxies, per worker and peer.
pub const SESSIONS: usize = 16;

/// What one side may send on a stream of HTTP/2 before the proxy has passed it on, in bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a connection. Streams that nobody reads hold up the others once they fill it, so it has room for many.
pub const HTTP2_CONNECTION_WINDOW: u32 = 64 * HTTP2_STREAM_WINDOW;
/// Bytes of a stream of HTTP/2 that wait to be written to its connection.
pub const HTTP2_SEND_BUFFER: usize = 128 * 1024;
/// Requests of HTTP/2 that were reset before they were looked at, beyond which their connection is closed.
pub const HTTP2_PENDING_RESETS: usize = 128;
/// Streams of HTTP/2 reset for what their peer did wrong, beyond which their connection is closed.
pub const HTTP2_ERRORS: usize = 256;
/// How long the uploads of a connection to a server of HTTP/2 may stand still before further requests go on another.
pub const HTTP2_STUCK: Duration = Duration::from_millis(100);
/// Requests of HTTP/2 that wait for room on a full server's connections, per worker and server, and for how long.
pub const HTTP2_WAITING: usize = 4096;
pub const HTTP2_WAIT: Duration = Duration::from_secs(10);

/// How long a plain HTTP/1 connection to an application may lie idle before it is closed. Shorter than what common
/// servers keep idle connections for, so that a request seldom meets a server that is just closing.
pub const POOL_IDLE: Duration = Duration::from_secs(3);
/// Idle plain HTTP/1 connections kept per worker and address.
pub const POOL_CONNECTIONS: usize = 256;

/// Endpoints tried for one request or connection while no application has seen any of it.
pub const ATTEMPTS: usize = 3;
/// What is kept of the bytes of a TCP connection, in case it is refused and another endpoint is tried.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// For how long an endpoint is left out after a first failure to connect; it doubles with each further one.
pub const EJECTION: Duration = Duration::from_secs(1);
/// The longest time an endpoint is left out.
pub const EJECTION_MAX: Duration = Duration::from_secs(30);

/// Edges counted apart per worker; those beyond are counted without their peer's pod.
pub const EDGES: usize = 4096;
/// Edges without their peer's pod that are counted apart beyond that; traffic beyond is counted together.
pub const EDGES_WITHOUT_POD: usize = 1024;
/// How often what nothing was counted of for long is looked for, to be retired.
pub const RETIRE_INTERVAL: Duration = Duration::from_secs(60);
/// Peer workloads, per side, and peer pods that have labels of their own in metrics; the others share `other`.
pub const LABELLED_WORKLOADS: usize = 256;
pub const LABELLED_PODS: usize = 128;
/// Lines of the access log, and spans, that wait to be written or sent. More are dropped.
pub const ACCESS_LOG_LINES: usize = 4096;
pub const SPANS: usize = 2048;
/// Denials logged per second and worker; the others are only counted.
pub const LOGGED_DENIALS: u32 = 10;

/// The first size of a buffer, and what it may grow to.
pub const BUFFER_BYTES: usize = 4 * 1024;
pub const BUFFER_BYTES_MAX: usize = 64 * 1024;
