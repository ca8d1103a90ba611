//! A load generator: so many requests over so many connections, and what came of them, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hyper::StatusCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::{Load, dial};

/// What came of the requests.
#[derive(Default)]
struct Tally {
    /// By status code.
    statuses: BTreeMap<u16, u64>,
    /// By the answer's header `identity`.
    identities: BTreeMap<String, u64>,
    /// Requests that got no answer, by what went wrong.
    errors: BTreeMap<String, u64>,
    /// From each request to the end of its answer, in milliseconds.
    latencies: Vec<f64>,
}

/// How long a connection waits after a request without an answer.
const PAUSE: Duration = Duration::from_millis(20);

/// What the workers share.
struct Plan {
    urls: Vec<String>,
    /// Requests that were begun.
    begun: AtomicU64,
    at_most: u64,
    /// Before `stopped` counts.
    at_least: u64,
    end: Option<Instant>,
    /// Whether somebody asked to stop.
    stopped: AtomicBool,
    log: Option<Mutex<File>>,
    tally: Mutex<Tally>,
}

/// Runs until there were enough requests, the time is over, or SIGINT or SIGTERM asks for the tally.
pub(crate) async fn run(args: Load) -> anyhow::Result<()> {
    let log = args
        .times
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("{} cannot be written", path.display())));
    let plan = Arc::new(Plan {
        urls: args.urls,
        begun: AtomicU64::new(0),
        at_most: args.requests,
        at_least: args.at_least,
        end: args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        stopped: AtomicBool::new(false),
        log: log.transpose()?.map(Mutex::new),
        tally: Mutex::default(),
    });
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut workers: JoinSet<()> = (0..args.connections.max(1)).map(|_| work(plan.clone())).collect();
    loop {
        tokio::select! {
            _ = terminate.recv() => plan.stopped.store(true, Ordering::Relaxed),
            _ = interrupt.recv() => plan.stopped.store(true, Ordering::Relaxed),
            ended = workers.join_next() => match ended {
                Some(ended) => ended?,
                None => break,
            },
        }
    }
    println!("{}", lock(&plan.tally).report());
    Ok(())
}

/// Takes requests from the common count until there are none, or it is over.
async fn work(plan: Arc<Plan>) {
    let mut connection = None;
    let mut mine = Tally::default();
    while let Some(number) = plan.take() {
        let (url, begun, begun_at) = (&plan.urls[(number % plan.urls.len() as u64) as usize], Instant::now(), micros());
        let answer = dial::get(&mut connection, url, "load").await;
        plan.log(begun_at, answer.as_ref().ok().map(|head| head.status));
        match answer {
            Ok(head) => {
                mine.latencies.push(begun.elapsed().as_secs_f64() * 1e3);
                *mine.statuses.entry(head.status.as_u16()).or_default() += 1;
                let identity = head.headers.get("identity").and_then(|value| value.to_str().ok()).unwrap_or("-");
                *mine.identities.entry(identity.to_owned()).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                *mine.errors.entry(format!("{error:#}")).or_default() += 1;
                // Where nobody answers, all requests would be spent in a moment.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    lock(&plan.tally).add(mine);
}

impl Plan {
    /// The number of the next request; `None` when there is to be none.
    fn take(&self) -> Option<u64> {
        let is_late = self.end.is_some_and(|end| Instant::now() >= end);
        let limit = if self.stopped.load(Ordering::Relaxed) { self.at_least.min(self.at_most) } else { self.at_most };
        let take = |begun: u64| (begun < limit && !is_late).then_some(begun + 1);
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()
    }

    fn log(&self, begun: u128, status: Option<StatusCode>) {
        let Some(log) = &self.log else { return };
        let status = status.map_or_else(|| "-".to_owned(), |status| status.as_u16().to_string());
        if let Err(error) = lock(log).write_all(format!("{begun} {} {status}\n", micros()).as_bytes()) {
            eprintln!("the log cannot be written: {error}");
        }
    }
}

/// Microseconds since 1970.
fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    fn add(&mut self, other: Self) {
        merge(&mut self.statuses, other.statuses);
        merge(&mut self.identities, other.identities);
        merge(&mut self.errors, other.errors);
        self.latencies.extend(other.latencies);
    }

    fn report(&mut self) -> serde_json::Value {
        self.latencies.sort_by(f64::total_cmp);
        let latency_ms = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)].map(|(name, share)| (name, self.quantile(share)));
        serde_json::json!({
            "statuses": self.statuses, "identities": self.identities, "errors": self.errors,
            "latencyMs": BTreeMap::from(latency_ms),
        })
    }

    /// The least latency that a share of the answers did not exceed; of sorted ones.
    fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (self.latencies.len() as f64 * share).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).copied()
    }
}

fn merge<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}
