//! `heddle proxy`: the wiring of one process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use heddle_identity::Store;
use heddle_policy::PodName;
use heddle_policy::telemetry::{Edge, NOTE_INTERVAL, REPORT_INTERVAL, Report, Totals};
use heddle_xds::{Client, Dial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{debug, info, warn};

use crate::dial::Dialer;
use crate::file::{Watched, read_config, read_credentials};
use crate::report::{Ledger, note, note_nothing_new, of_pod};
use crate::{Args, Proxy, access_log, admin, limits};

/// How many times totals are noted for each time that they are reported.
const NOTES_OF_REPORT: u64 = (REPORT_INTERVAL.as_millis() / NOTE_INTERVAL.as_millis()) as u64;

/// How many times totals are noted for each time that edges are retired.
const NOTES_OF_RETIREMENT: u64 = (limits::RETIRE_INTERVAL.as_millis() / NOTE_INTERVAL.as_millis()) as u64;

// A report must say that an edge was retired before another says that it is counted again.
const _: () = assert!(NOTES_OF_RETIREMENT.is_multiple_of(NOTES_OF_REPORT));

/// How long the control plane may take to hear the last report.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Runs a proxy until SIGTERM or SIGINT, and drains it.
pub fn run(args: Args) -> anyhow::Result<()> {
    raise_descriptor_limit();
    keep_pages_small();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = Store::empty();
    let proxy = Arc::new(Proxy::start(args.options(), store.clone())?);
    for listen in proxy.listening() {
        info!(address = %listen.address, entrance = ?listen.entrance, "listening");
    }
    let lines = proxy.access_log().context("the access log has another reader")?;
    let mut exporter = proxy.exporter().context("the spans have another reader")?;
    let writer = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_access_log(lines))?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let admin = admin::serve(proxy.shared.clone()).await?;
        let (drained, draining) = oneshot::channel();
        let files = supply_files(&args, &proxy, &store);
        let control = follow_control(&args, &proxy, &store, draining);
        tokio::pin!(files, control);
        tokio::select! {
            result = &mut files => return result,
            () = &mut control => {}
            result = admin => return result,
            () = exporter.run() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("draining");
        let draining = proxy.clone();
        let workers = tokio::task::spawn_blocking(move || draining.drain());
        tokio::select! {
            result = workers => result.context("draining")?,
            () = &mut control => {}
        }
        // What the last connections counted is reported too.
        if drained.send(()).is_ok() && timeout(LAST_WORD, control).await.is_err() {
            warn!("the control plane did not hear the last report");
        }
        anyhow::Ok(())
    });
    runtime.block_on(exporter.finish());
    // Nobody can put a line into the log any more once these are gone, so that its writer ends with the last one.
    drop((proxy, runtime));
    writer.join().map_err(|_| anyhow::anyhow!("the writer of the access log has panicked"))?;
    result
}

/// Standard output is the access log's alone: what the proxy has to say itself goes to standard error.
fn write_access_log(lines: mpsc::Receiver<String>) {
    if let Err(error) = access_log::write(lines, io::stdout()) {
        warn!(%error, "the access log cannot be written; its lines are dropped and counted");
    }
}

/// Every connection takes descriptors, and the usual limit is for programs that have few.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "the limit on open files cannot be raised");
    }
}

/// A proxy's heap is small, and there is one beside every pod: huge pages made an idle one ten times as large.
fn keep_pages_small() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        debug!(%error, "huge pages cannot be turned off");
    }
}

/// Keeps configuration and credentials from files current, for ever. Files that are bad at the start are an error;
/// later, the last good ones stay.
async fn supply_files(args: &Args, proxy: &Proxy, store: &Store) -> anyhow::Result<()> {
    tokio::try_join!(supply_config(args.config.clone(), proxy), supply_credentials(svid_files(args), store))?;
    Ok(())
}

fn svid_files(args: &Args) -> Option<[PathBuf; 3]> {
    match (&args.svid_cert, &args.svid_key, &args.trust_bundle) {
        (Some(chain), Some(key), Some(bundle)) => Some([chain.clone(), key.clone(), bundle.clone()]),
        _ => None,
    }
}

async fn supply_config(path: Option<PathBuf>, proxy: &Proxy) -> anyhow::Result<()> {
    let Some(path) = path else { return std::future::pending().await };
    let mut watched = Watched::new(vec![path.clone()]);
    configure(&path, proxy)?;
    loop {
        watched.changed().await;
        if let Err(error) = configure(&path, proxy) {
            warn!(error = format!("{error:#}"), "a changed configuration is not used");
        }
    }
}

/// Takes the configuration from a file; one that is bad leaves the present one.
fn configure(path: &Path, proxy: &Proxy) -> anyhow::Result<()> {
    proxy.configure(Arc::new(read_config(path)?));
    Ok(())
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

/// Takes configurations and certificates from the control plane, and reports to it: until the proxy is drained and the
/// control plane has heard its last report. Without a control plane, until the proxy is drained.
async fn follow_control(args: &Args, proxy: &Proxy, store: &Store, drained: oneshot::Receiver<()>) {
    let (Some(address), Some(ca_file), Some(token_file)) = (&args.control, &args.ca_file, &args.token_file) else {
        if drained.await.is_err() {
            std::future::pending::<()>().await;
        }
        return;
    };
    // A certificate from files is not replaced by the control plane's.
    let store = if svid_files(args).is_some() { Store::empty() } else { store.clone() };
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
    let file = args.totals_file.as_deref();
    let ledger = Ledger::open(file, args.last_ended()).unwrap_or_else(|error| {
        warn!(%error, ?file, "the totals of the last proxy cannot be read; they begin with zeros");
        Ledger::begin()
    });
    tokio::join!(client.run(), configure, send_reports(proxy, ledger, file, report, drained));
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

fn open_connections(proxy: &Proxy, pod: &PodName) -> Vec<(Edge, u64)> {
    proxy.open_connections().into_iter().map(|(edge, open)| (of_pod(pod, edge), open)).collect()
}

/// Notes and reports the totals whenever they have changed, and a last time when the proxy is drained.
async fn send_reports(
    proxy: &Proxy,
    mut ledger: Ledger,
    file: Option<&Path>,
    sender: watch::Sender<Option<Arc<Report>>>,
    mut drained: oneshot::Receiver<()>,
) {
    proxy.shared.meter.lost_ms.store(ledger.lost().as_millis() as u64, Ordering::Relaxed);
    let mut interval = tokio::time::interval(NOTE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted: Option<Arc<Report>> = None;
    for tick in 0_u64.. {
        let last = tokio::select! {
            _ = interval.tick() => false,
            _ = &mut drained => true,
        };
        if let Some(settings) = proxy.shared.config.load().config.settings.clone() {
            // Before the totals are read: what is counted in between belongs to the next note.
            let now = SystemTime::now();
            let counted = match tick % NOTES_OF_RETIREMENT {
                0 => retire(proxy, &mut ledger, &settings.pod, now),
                _ => proxy.totals(),
            };
            // One that ends has no connections any more.
            let open = if last { Vec::new() } else { open_connections(proxy, &settings.pod) };
            let newest = Arc::new(Report { last, open, ..ledger.report(&settings.pod, counted, now) });
            let is_news_after =
                |earlier: &Option<Arc<Report>>| earlier.as_ref().is_none_or(|earlier| newest.is_news_after(earlier));
            let is_kept = keep(file, is_news_after(&noted).then_some(&newest), now);
            let is_due = last || tick % NOTES_OF_REPORT == 0;
            // Replaced also without news: a control plane that begins to listen is told how old the past is by now.
            sender.send_if_modified(|told| {
                let is_news = is_due && is_news_after(told);
                if is_due {
                    *told = Some(newest.clone());
                }
                is_news
            });
            if is_kept {
                noted = Some(newest);
            }
        }
        if last {
            return;
        }
    }
}

/// Retires edges of which nothing was counted for long: those that the workers have let go of since they were asked to, the
/// last time. Asks them for the others. The totals of what this proxy still counts.
fn retire(proxy: &Proxy, ledger: &mut Ledger, pod: &PodName, now: SystemTime) -> Vec<(Edge, Totals)> {
    let meter = &proxy.shared.meter;
    ledger.take_over(pod, meter.settle());
    let counted = proxy.totals();
    ledger.retire(pod, &counted, now);
    let idle = ledger.idle(now);
    if !idle.is_empty() {
        meter.idle.send_replace(Arc::new(idle));
    }
    counted
}

/// Notes the totals for the pod's next proxy; without `news`, that there are none. Tells whether that was done.
fn keep(file: Option<&Path>, news: Option<&Arc<Report>>, now: SystemTime) -> bool {
    let kept = file.map_or(Ok(()), |file| match news {
        Some(newest) => note(file, newest, now),
        None => note_nothing_new(file, now),
    });
    if let Err(error) = &kept {
        warn!(%error, ?file, "the totals cannot be noted: they are lost when this proxy ends");
    }
    kept.is_ok()
}

#[cfg(test)]
mod tests;
