//! The node: a process that runs the API, the controllers, the kubelet and the cluster's DNS of one machine.
//!
//! ```text
//! heddle up ── heddle node                 makes the namespaces; forwards signals; its end is the end of all
//!               └─ heddle node (pid 1)     mounts /proc, reaps orphans
//!                   └─ heddle node         the node itself, in a network namespace of its own
//!                       └─ pods            each in a network and mount namespace of its own
//! ```
//!
//! The API's listener for `kubectl` is made before, on the machine's loopback, and one thread of the node stays in the
//! machine's network to ask its resolvers. When the outer process is killed the kernel kills pid 1, and with it every
//! process, namespace, interface, rule and mount.
//!
//! Without namespaces (`--capture env`) there are two processes: the outer one adopts what the node leaves behind when
//! it dies, and kills it.

mod launch;
mod run;
mod stage;

pub use launch::{Launch, LaunchError, Launched, launch};
pub use run::Ready;
pub use stage::{Args, Capture, Stage, main};
