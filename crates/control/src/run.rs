//! The process: its arguments, its tasks, its order of starting.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use heddle_cluster::{Candidate, KINDS, Recorder, campaign, connect, watch as watch_cluster};
use heddle_identity::{Authority, Store};
use heddle_xds::{Proxies, Server};
use k8s_openapi::jiff::SignedDuration;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{Instrument, info, info_span, warn};

use crate::authorization::Authorizer;
use crate::discovery::Discovery;
use crate::front_proxy::FrontProxy;
use crate::names::{NAME, NAMESPACE};
use crate::plane::Snapshot;
use crate::traffic::Traffic;
use crate::world::{Ledger, Resources, World};
use crate::writeback::Writer;
use crate::{authority, front_proxy, health, https, plane, read_api, registration};

/// Where proxies get their configurations and certificates.
pub const XDS_PORT: u16 = 15010;
pub const HEALTH_PORT: u16 = 15014;
/// Where the API server finds the webhooks and the read API.
pub const WEBHOOK_PORT: u16 = 15017;

/// Runs the control plane of a mesh. It finds the Kubernetes API as a pod does, else by KUBECONFIG.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The address to listen at.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub listen: IpAddr,
    /// The port for proxies.
    #[arg(long, default_value_t = XDS_PORT)]
    pub xds_port: u16,
    /// The port for the API server: webhooks and the read API.
    #[arg(long, default_value_t = WEBHOOK_PORT)]
    pub webhook_port: u16,
    /// The port for probes and metrics.
    #[arg(long, default_value_t = HEALTH_PORT)]
    pub health_port: u16,
    /// How long certificates are valid, such as `24h`. They are renewed after two thirds of it.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub cert_ttl: Duration,
    /// The name of this process among several control planes.
    #[arg(long, env = "POD_NAME", default_value = NAME)]
    pub name: String,
}

/// The sockets of a control plane.
pub struct Listeners {
    pub xds: TcpListener,
    pub webhook: TcpListener,
    pub health: TcpListener,
}

/// How long until another attempt to reach the API server at the start.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until `shutdown` is done.
///
/// # Errors
///
/// A port is taken, there is no way to find the API server, or a task failed that must not.
pub async fn run(args: Args, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&args).await?;
    let client = connect().await?;
    serve(args, listeners, client, shutdown).await
}

/// As [`run`], with sockets and a client of the caller's.
pub async fn serve(
    args: Args,
    listeners: Listeners,
    client: Client,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let starting = start(args, listeners, client, &mut tasks);
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        started = starting => started?,
    }
    // Dropping the tasks ends them. Proxies keep what they have.
    tokio::select! {
        () = shutdown => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error).context("a task of the control plane"),
            Some(Ok(Ok(()))) | None => anyhow::bail!("a task of the control plane ended"),
        },
    }
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// What the tasks share.
struct Plane {
    snapshots: watch::Receiver<Snapshot>,
    resources: Resources,
    ledger: Ledger,
    proxies: watch::Receiver<Proxies>,
    discovery: Arc<Discovery>,
    traffic: Traffic,
}

/// Starts everything, in order: health, root, reading and proxies, the API server's ends, writing back.
async fn start(args: Args, listeners: Listeners, client: Client, tasks: &mut Tasks) -> anyhow::Result<()> {
    let Listeners { xds, webhook, health } = listeners;
    let (publish, snapshots) = watch::channel(Snapshot::empty());
    let (serving, proxies) = watch::channel(None);
    let traffic = Traffic::new(Instant::now());
    let world = World::new(&KINDS, traffic.clone());
    let targets = world.targets.clone();
    let sources = health::Sources { snapshots: snapshots.clone(), targets, traffic: traffic.clone(), proxies };
    tasks.spawn(health::serve(health, sources).instrument(info_span!("health")));

    let authority = Arc::new(root(&client).await);
    let store = Store::empty();
    authority::certify(&authority, &store, args.cert_ttl)?;
    spawn(tasks, "certificate", authority::keep_certified(authority.clone(), store.clone(), args.cert_ttl));

    spawn(tasks, "traffic", traffic.clone().follow(client.clone()));
    let (resources, ledger) = (world.resources.clone(), world.ledger.clone());
    let discovery = Discovery::new(client.clone(), authority.clone(), args.cert_ttl, ledger.clone(), traffic.clone());
    let discovery = Arc::new(discovery);
    let events = watch_cluster(&client, &KINDS);
    tasks.spawn(plane::run(events, world, discovery.clone(), publish).instrument(info_span!("plane")));

    let server = Server::new(discovery.clone());
    let proxies = server.proxies();
    serving.send_replace(Some(proxies.clone()));
    let own = store.clone();
    let serve_proxies = async move { Ok(server.serve(xds, &own, std::future::pending()).await?) };
    tasks.spawn(serve_proxies.instrument(info_span!("xds")));

    let plane = Plane { snapshots, resources, ledger, proxies, discovery, traffic };
    start_api(webhook, &client, store, &plane, tasks)?;
    spawn(tasks, "registration", registration::keep_registered(client.clone(), authority.bundle().to_pem()));
    start_writing(client, args.name, plane, tasks);
    Ok(())
}

/// The HTTPS server for the API server.
fn start_api(
    listener: TcpListener,
    client: &Client,
    store: Store,
    plane: &Plane,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let (publish, front_proxy) = watch::channel(FrontProxy::default());
    let (configure, config) = watch::channel(Arc::new(https::server_config(&store, None)?));
    spawn(tasks, "front_proxy", front_proxy::follow(client.clone(), store, publish, configure));
    let router = read_api::router(read_api::Sources {
        snapshots: plane.snapshots.clone(),
        resources: plane.resources.clone(),
        proxies: plane.proxies.clone(),
        discovery: plane.discovery.clone(),
        traffic: plane.traffic.clone(),
        authorizer: Authorizer::new(client.clone()),
        front_proxy,
    });
    spawn(tasks, "https", https::serve(listener, config, router));
    Ok(())
}

/// Conditions and events, written by the leader.
fn start_writing(client: Client, name: String, plane: Plane, tasks: &mut Tasks) {
    let Plane { snapshots, ledger, proxies, discovery, .. } = plane;
    let (lead, leads) = watch::channel(false);
    let candidate = Candidate { namespace: NAMESPACE.into(), lease: NAME.into(), identity: name.clone() };
    spawn(tasks, "election", campaign(client.clone(), candidate, lead));
    let recorder = Recorder::new(client.clone(), name);
    let writer = Writer { client, ledger, discovery, recorder, seen: BTreeMap::new() };
    tasks.spawn(writer.run(snapshots, proxies, leads).instrument(info_span!("writeback")));
}

/// Starts a task that is not to end.
fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let task = async move {
        task.await;
        anyhow::bail!("the task `{name}` ended")
    };
    tasks.spawn(task.instrument(info_span!("task", name)));
}

/// The root, once the API server can be reached.
async fn root(client: &Client) -> Authority {
    loop {
        match authority::load_root(client).await {
            Ok(authority) => return authority,
            Err(error) => warn!(error = format!("{error:#}"), "the control plane waits for its root"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

// === impl Listeners ===

impl Listeners {
    /// Binds the ports of `args`.
    pub async fn bind(args: &Args) -> anyhow::Result<Self> {
        let bind = async |port: u16, what: &str| {
            let address = SocketAddr::new(args.listen, port);
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("listening at {address} for {what}"))?;
            info!(address = %listener.local_addr()?, "listens for {what}");
            anyhow::Ok(listener)
        };
        Ok(Self {
            xds: bind(args.xds_port, "proxies").await?,
            webhook: bind(args.webhook_port, "the API server").await?,
            health: bind(args.health_port, "probes").await?,
        })
    }
}

/// Reads a duration such as `24h`, `90s` or `1h 30m`: more than none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|error| format!("{error}; write it like `24h` or `90s`"))?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("it must be more than none".to_owned()),
    }
}
