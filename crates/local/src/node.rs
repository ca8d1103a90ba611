//! The node: a process that runs the API, the controllers, the kubelet and the cluster's DNS of one machine.
//!
//! ```text
//! heddle up ── heddle node                 makes the namespaces; forwards signals; its end is the end of all
//!               └─ heddle node (pid 1)     mounts /proc, reaps orphans
//!                   └─ heddle node         the node itself, on the machine's network
//!                       └─ pods            each in a network and mount namespace of its own
//! ```
//!
//! The node itself stays in the machine's network namespace: there it listens for `kubectl` and asks the machine's
//! resolvers. The pods' network is a namespace that it holds open. When the outer process is killed the kernel kills
//! pid 1, and with it every process, namespace, interface, rule and mount.
//!
//! Without namespaces (`--capture env`) there are two processes: the outer one adopts what the node leaves behind when
//! it dies, and kills it.

mod launch;
mod run;
mod stage;

pub use launch::{Launch, LaunchError, Launched, launch};
pub use run::Ready;
pub use stage::{Args, Capture, Stage, main};
