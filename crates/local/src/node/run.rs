//! The node itself: the API, the controllers, the network, DNS and the kubelet, started in this order and stopped in the
//! reverse one.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::stage::Args;
use crate::kubelet::{Config, Kubelet, MeshConfig, Network, follow_directory};
use crate::namespace::NetNamespace;
use crate::net::egress::Egress;
use crate::net::{CLUSTER_DOMAIN, DNS_IP, NODE_IP, NodeNetwork, dns, service};
use heddle_api::Api;

/// The API's port in the nodes's own network, behind the Service `kubernetes`.
const API_PORT: u16 = 6443;
/// The control plane's port for proxies.
const CONTROL_PORT: u16 = 15010;
/// A node that takes longer to start has failed.
const START: Duration = Duration::from_secs(30);

/// What `heddle up` learns of a node that is ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The address of the API, as `kubectl` reaches it.
    pub api: SocketAddr,
    pub kubeconfig: PathBuf,
    /// `netns` or `env`.
    pub capture: String,
    /// Why it is not `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The first line of a node's standard output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    Ready(Ready),
    Failed(String),
}

/// Everything that runs. Dropping it ends all but the pods.
struct Node {
    kubelet: Arc<Kubelet>,
    _dns: Option<dns::Server>,
    _tasks: JoinSet<()>,
}

/// Runs the node until it is told to end. `machine` is a runtime in the machine's network.
pub(super) async fn run(args: &Args, machine: Handle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = tokio::time::timeout(START, start(args, machine)).await;
    let node = match started.unwrap_or_else(|_| Err(anyhow::anyhow!("not ready within {} s", START.as_secs()))) {
        Ok((node, ready)) => {
            tell(&Outcome::Ready(ready))?;
            node
        }
        Err(error) => {
            tell(&Outcome::Failed(explain(&error)))?;
            return Err(error);
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the node stops");
    node.kubelet.stop(Duration::from_secs(args.grace)).await;
    Ok(())
}

/// An error with its causes, each once: many errors tell their cause in their own text.
fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Says how it went, then closes standard output by pointing it to where standard error goes.
fn tell(outcome: &Outcome) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{}", serde_json::to_string(outcome)?)?;
    output.flush()?;
    Ok(rustix::stdio::dup2_stdout(rustix::stdio::stderr())?)
}

async fn start(args: &Args, machine: Handle) -> anyhow::Result<(Node, Ready)> {
    let isolated = args.why.is_none();
    let listener = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not the API's listener")?;
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().context("standard input is not the API's listener")?;
    let run_dir = make_run_dir(&args.state_dir, isolated)?;

    let api = Api::open(heddle_api::Config { state_dir: Some(args.state_dir.clone()) }).await?;
    let client = api.client();
    let mut tasks = JoinSet::new();
    let (directory, following) = follow_directory(client.clone());
    tasks.spawn(async move { drop(following.await) });

    let (network, dns) = if isolated {
        let netns = NetNamespace::current().context("cannot find the node's network namespace")?;
        let network = NodeNetwork::create(netns.clone()).await?;
        serve_in_node(&mut tasks, &api, &netns)?;
        let dns = dns::Server::start(&netns, DNS_IP, CLUSTER_DOMAIN, directory.clone(), machine.clone())
            .context("cannot serve DNS")?;
        let egress = Egress::open(&netns).context("cannot open the pods' way out")?;
        tasks.spawn(egress.run(move |address| connect_on(machine.clone(), address)));
        tasks.spawn(service::run(netns, directory.clone(), vec![DNS_IP]));
        (Network::namespaces(network), Some(dns))
    } else {
        (Network::loopback().context("no part of 127.64.0.0/10 is free for pods")?, None)
    };
    let pods_see = isolated.then_some(SocketAddr::from((NODE_IP, API_PORT)));
    serve_on_machine(&mut tasks, &api, listener, pods_see)?;
    let settings = heddle_controllers::Settings { root_ca: Some(api.ca_pem().to_owned()) };
    tasks.spawn(async move { match heddle_controllers::run(client, settings).await {} });

    let config = config(args, &run_dir, &api, address, network.node_ip())?;
    let kubelet = Arc::new(Kubelet::start(config, api.client(), network, directory).await);
    api.set_node(kubelet.clone());
    let kubeconfig = args.state_dir.join("kubeconfig");
    api.write_kubeconfig(address, &kubeconfig)?;
    let capture = if isolated { "netns" } else { "env" }.to_owned();
    let ready = Ready { api: address, kubeconfig, capture, why: args.why.clone() };
    Ok((Node { kubelet, _dns: dns, _tasks: tasks }, ready))
}

/// A place for what lives only as long as the node: memory where it can be mounted, so that no secret reaches the disk.
fn make_run_dir(state_dir: &Path, isolated: bool) -> anyhow::Result<PathBuf> {
    let run_dir = state_dir.join("run");
    if run_dir.exists() {
        std::fs::remove_dir_all(&run_dir).with_context(|| format!("cannot empty {}", run_dir.display()))?;
    }
    std::fs::create_dir_all(&run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    if isolated {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", &run_dir, "tmpfs", flags, Some(c"mode=0700")).context("cannot mount a tmpfs for pods")?;
    }
    Ok(run_dir)
}

fn serve_on_machine(
    tasks: &mut JoinSet<()>,
    api: &Api,
    listener: TcpListener,
    pods_see: Option<SocketAddr>,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let (api, listener) = (api.clone(), tokio::net::TcpListener::from_std(listener)?);
    tasks.spawn(async move { report(api.serve(listener, pods_see).await) });
    Ok(())
}

/// Serves the API where pods reach it.
fn serve_in_node(tasks: &mut JoinSet<()>, api: &Api, netns: &NetNamespace) -> anyhow::Result<()> {
    let address = SocketAddr::from((NODE_IP, API_PORT));
    let listener = netns.run(|| TcpListener::bind(address)).context("cannot listen for pods")?;
    serve_on_machine(tasks, api, listener, Some(address))
}

/// A connection from the network of a runtime.
async fn connect_on(machine: Handle, address: SocketAddr) -> std::io::Result<TcpStream> {
    machine.spawn(TcpStream::connect(address)).await.map_err(std::io::Error::other)?
}

fn report(ended: Result<(), heddle_api::ApiError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the API does not serve");
    }
}

fn config(args: &Args, run_dir: &Path, api: &Api, address: SocketAddr, node_ip: Ipv4Addr) -> anyhow::Result<Config> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let beside = program.parent().unwrap_or(Path::new("/")).display();
    let path =
        std::env::var("PATH").unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(Config {
        node_name: args.node_name.clone(),
        run_dir: run_dir.to_owned(),
        log_dir: args.state_dir.join("logs"),
        claims_dir: args.state_dir.join("claims"),
        hidden: vec![args.state_dir.clone()],
        path: format!("{beside}:{path}"),
        api_ca: api.ca_pem().to_owned(),
        api_address: (address.ip().to_string(), address.port()),
        mesh: MeshConfig {
            program: vec![program.to_string_lossy().into_owned(), "proxy".to_owned()],
            control: format!("{node_ip}:{CONTROL_PORT}"),
        },
    })
}
