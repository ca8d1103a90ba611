//! Sends spans to the collector: in batches, from a bounded queue, and never in the way of traffic.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heddle_policy::{Settings, Tracing};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::otlp;
use super::transport::{ExportError, Transport};
use crate::record::Entry;
use crate::worker::Shared;

/// Sends a proxy's spans, by the tracing of its settings.
pub struct Exporter {
    shared: Arc<Shared>,
    spans: mpsc::Receiver<Entry>,
    /// Taken from the queue and not sent yet.
    batch: Vec<Entry>,
    /// With the settings that it was made for.
    transport: Option<(Tracing, Transport)>,
    /// Whether the last export failed: a lasting failure is logged once.
    failing: bool,
    /// How many spans had been dropped, and when, as it was logged last.
    logged: (u64, Option<Instant>),
}

/// Spans in one export, and how long the first of them waits for more.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
/// Between attempts to send a batch; after the last it is dropped.
const RETRIES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// For what is left when the proxy ends.
const LAST: Duration = Duration::from_secs(2);
/// Dropped spans are logged at most so often: a slow collector has some dropped all the time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Exporter {
    /// The exporter of a proxy; `None` when there is one already.
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let spans = shared.spans.reader()?;
        let (shared, logged) = (shared.clone(), (0, None));
        Some(Self { shared, spans, batch: Vec::new(), transport: None, failing: false, logged })
    }

    /// Sends what comes, for ever. What it holds when it is cancelled is kept for [`Exporter::finish`].
    pub async fn run(&mut self) {
        loop {
            self.gather().await;
            self.deliver().await;
            self.drop_batch();
            self.log_dropped();
        }
    }

    /// Sends the batch, again and again if need be, but not for ever: others wait behind it.
    async fn deliver(&mut self) {
        for wait in RETRIES {
            if self.send().await {
                return;
            }
            sleep(wait).await;
        }
        self.send().await;
    }

    /// Sends what is left, once.
    pub async fn finish(mut self) {
        let sending = async {
            while self.fill() {
                self.send().await;
                self.drop_batch();
            }
        };
        let _what_is_left_is_lost_with_the_proxy = timeout(LAST, sending).await;
    }

    /// Waits for a batch: a full one, or what has come a while after the first.
    async fn gather(&mut self) {
        while self.batch.is_empty() {
            match self.spans.recv().await {
                Some(first) => self.batch.push(first),
                None => std::future::pending().await,
            }
        }
        let deadline = Instant::now() + DELAY;
        while self.batch.len() < BATCH {
            let Ok(Some(next)) = timeout_at(deadline, self.spans.recv()).await else { return };
            self.batch.push(next);
        }
    }

    /// Takes what is there; whether there is anything to send.
    fn fill(&mut self) -> bool {
        while self.batch.len() < BATCH
            && let Ok(next) = self.spans.try_recv()
        {
            self.batch.push(next);
        }
        !self.batch.is_empty()
    }

    /// Sends the batch; whether it is done with, delivered or not.
    async fn send(&mut self) -> bool {
        let Some(settings) = self.shared.config.load().config.settings.clone() else { return false };
        let count = self.batch.len();
        match self.export(&settings).await {
            Ok(()) => {
                self.batch.clear();
                self.shared.meter.spans_exported.fetch_add(count as u64, Ordering::Relaxed);
                if std::mem::take(&mut self.failing) {
                    info!("spans reach the collector again");
                }
                true
            }
            Err(error) => {
                let endpoint = settings.tracing.as_ref().map_or("", |tracing| &tracing.endpoint);
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(endpoint, %error, "spans do not reach the collector");
                }
                error.is_final()
            }
        }
    }

    async fn export(&mut self, settings: &Settings) -> Result<(), ExportError> {
        // Tracing may have been switched off meanwhile: these spans go nowhere.
        let Some(tracing) = &settings.tracing else {
            self.drop_batch();
            return Ok(());
        };
        let transport = match self.transport.take().filter(|(known, _)| known == tracing) {
            Some((_, transport)) => transport,
            None => Transport::new(&self.shared, tracing)?,
        };
        let (_, transport) = self.transport.insert((tracing.clone(), transport));
        transport.send(otlp::request(settings, &self.batch)).await
    }

    fn log_dropped(&mut self) {
        let dropped = self.shared.spans.dropped();
        let (logged, at) = self.logged;
        if dropped == logged || at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        warn!(dropped = dropped - logged, "spans were dropped: the collector does not take them as fast as they come");
        self.logged = (dropped, Some(Instant::now()));
    }

    fn drop_batch(&mut self) {
        self.shared.spans.count_dropped(self.batch.len());
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests;
