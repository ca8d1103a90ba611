//! A load generator: so many requests over so many connections, and what came of them, as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

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
}

pub(crate) async fn run(args: Load) -> anyhow::Result<()> {
    let left = Arc::new(AtomicU64::new(args.requests));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let workers: Vec<_> = (0..args.connections.max(1))
        .map(|_| tokio::spawn(work(args.url.clone(), left.clone(), end, tally.clone())))
        .collect();
    for worker in workers {
        worker.await?;
    }
    println!("{}", tally.lock().await.to_json());
    Ok(())
}

/// Takes requests from the common count until there are none, or the time is over.
async fn work(url: String, left: Arc<AtomicU64>, end: Option<Instant>, tally: Arc<Mutex<Tally>>) {
    let mut connection = None;
    let mut mine = Tally::default();
    let take = |left: u64| left.checked_sub(1);
    while end.is_none_or(|end| Instant::now() < end)
        && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    {
        match dial::get(&mut connection, &url, "load").await {
            Ok(head) => {
                *mine.statuses.entry(head.status.as_u16()).or_default() += 1;
                let identity = head.headers.get("identity").and_then(|value| value.to_str().ok()).unwrap_or("-");
                *mine.identities.entry(identity.to_owned()).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                *mine.errors.entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }
    tally.lock().await.add(mine);
}

impl Tally {
    fn add(&mut self, other: Self) {
        merge(&mut self.statuses, other.statuses);
        merge(&mut self.identities, other.identities);
        merge(&mut self.errors, other.errors);
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "statuses": self.statuses, "identities": self.identities, "errors": self.errors })
    }
}

fn merge<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}
