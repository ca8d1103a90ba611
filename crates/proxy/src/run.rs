//! `heddle proxy`: the wiring of one process.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use heddle_identity::Store;
use heddle_policy::telemetry::Report;
use heddle_xds::{Client, Dial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::dial::Dialer;
use crate::file::{Watched, read_config, read_credentials};
use crate::random::Random;
use crate::{Args, Proxy, admin};

/// How often totals are reported, when they have changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a proxy until SIGTERM or SIGINT, and drains it.
pub fn run(args: Args) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = Store::empty();
    let proxy = Rc::new(Proxy::start(args.options(), store.clone())?);
    for listen in proxy.listening() {
        info!(address = %listen.address, entrance = ?listen.entrance, "listening");
    }
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let admin = admin::serve(proxy.shared.clone()).await?;
        tokio::select! {
            result = supply(&args, &proxy, &store) => result?,
            result = admin => result?,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    })?;
    info!("draining");
    let proxy = Rc::into_inner(proxy).context("the proxy is still in use")?;
    proxy.drain();
    Ok(())
}

/// Every connection takes descriptors, and the usual limit is for programs that have few.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "the limit on open files cannot be raised");
    }
}

/// Keeps configuration and credentials current, for ever. Files that are bad at the start are an error; later, the
/// last good ones stay.
async fn supply(args: &Args, proxy: &Proxy, store: &Store) -> anyhow::Result<()> {
    let svid = match (&args.svid_cert, &args.svid_key, &args.trust_bundle) {
        (Some(chain), Some(key), Some(bundle)) => Some([chain.clone(), key.clone(), bundle.clone()]),
        _ => None,
    };
    // A certificate from files is not replaced by the control plane's.
    let signed = if svid.is_some() { Store::empty() } else { store.clone() };
    tokio::try_join!(
        supply_config(args.config.clone(), proxy),
        supply_credentials(svid, store),
        follow_control(args, proxy, signed),
    )?;
    Ok(())
}

async fn supply_config(path: Option<PathBuf>, proxy: &Proxy) -> anyhow::Result<()> {
    let Some(path) = path else { return std::future::pending().await };
    let mut watched = Watched::new(vec![path.clone()]);
    proxy.configure(Arc::new(read_config(&path)?));
    loop {
        watched.changed().await;
        match read_config(&path) {
            Ok(config) => proxy.configure(Arc::new(config)),
            Err(error) => warn!(error = format!("{error:#}"), "a changed configuration is not used"),
        }
    }
}

async fn supply_credentials(files: Option<[PathBuf; 3]>, store: &Store) -> anyhow::Result<()> {
    let Some([chain, key, bundle]) = files else { return std::future::pending().await };
    let mut watched = Watched::new(vec![chain.clone(), key.clone(), bundle.clone()]);
    store.replace(read_credentials(&chain, &key, &bundle)?);
    loop {
        watched.changed().await;
        match read_credentials(&chain, &key, &bundle) {
            Ok(credentials) => store.replace(credentials),
            Err(error) => warn!(error = format!("{error:#}"), "changed credentials are not used"),
        }
    }
}

/// Takes configurations and certificates from the control plane, and reports to it.
async fn follow_control(args: &Args, proxy: &Proxy, store: Store) -> anyhow::Result<()> {
    let (Some(address), Some(ca_file), Some(token_file)) = (&args.control, &args.ca_file, &args.token_file) else {
        return std::future::pending().await;
    };
    let (config, mut configs) = watch::channel(Arc::default());
    let (report, reports) = watch::channel(None);
    let client = Client {
        dial: dial_control(address, Dialer { mark: args.mark }),
        ca_file: ca_file.clone(),
        token_file: token_file.clone(),
        store,
        config,
        // All that can be wrong with a configuration is found when it is read.
        validate: Arc::new(|_| Ok(())),
        reports,
    };
    let configure = async {
        while configs.changed().await.is_ok() {
            proxy.configure(configs.borrow_and_update().clone());
        }
    };
    tokio::join!(client.run(), configure, send_reports(proxy, report));
    Ok(())
}

fn dial_control(address: &str, dialer: Dialer) -> Dial {
    let address: Arc<str> = address.into();
    Arc::new(move || {
        let address = address.clone();
        Box::pin(async move {
            let mut found = tokio::net::lookup_host(&*address).await?;
            dialer.connect(found.next().ok_or(io::ErrorKind::AddrNotAvailable)?).await
        })
    })
}

async fn send_reports(proxy: &Proxy, report: watch::Sender<Option<Arc<Report>>>) {
    let instance: Arc<str> = format!("{:016x}", Random::new().next()).into();
    let mut interval = tokio::time::interval(REPORT_INTERVAL);
    loop {
        interval.tick().await;
        let mut edges = proxy.totals();
        edges.sort_by(|(edge, _), (other, _)| edge.cmp(other));
        let newest = Report { instance: instance.clone(), edges };
        report.send_if_modified(|last| {
            let is_news = last.as_deref() != Some(&newest);
            if is_news {
                *last = Some(Arc::new(newest));
            }
            is_news
        });
    }
}
