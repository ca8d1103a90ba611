//! `heddle proxy`: the wiring of one process.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use heddle_identity::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::file::{Watched, read_config, read_credentials};
use crate::{Args, Proxy, admin};

/// Runs a proxy until SIGTERM or SIGINT, and drains it.
pub fn run(args: Args) -> anyhow::Result<()> {
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

/// Keeps configuration and credentials current, for ever. Files that are bad at the start are an error; later, the
/// last good ones stay.
async fn supply(args: &Args, proxy: &Proxy, store: &Store) -> anyhow::Result<()> {
    let svid = match (&args.svid_cert, &args.svid_key, &args.trust_bundle) {
        (Some(chain), Some(key), Some(bundle)) => Some([chain.clone(), key.clone(), bundle.clone()]),
        _ => None,
    };
    tokio::try_join!(supply_config(args.config.clone(), proxy), supply_credentials(svid, store))?;
    Ok(())
}

async fn supply_config(path: Option<PathBuf>, proxy: &Proxy) -> anyhow::Result<()> {
    let Some(path) = path else { return std::future::pending().await };
    let mut watched = Watched::new(vec![path.clone()]);
    proxy.configure(read_config(&path)?);
    loop {
        watched.changed().await;
        match read_config(&path) {
            Ok(config) => proxy.configure(config),
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
