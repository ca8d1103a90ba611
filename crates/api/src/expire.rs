//! Events are forgotten an hour after they last happened, as in Kubernetes: they would fill the store.

use std::sync::Weak;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::object::text;
use super::server::Server;

const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
const EVERY: Duration = Duration::from_secs(60);

/// Runs until the server is dropped.
pub(crate) async fn run(server: Weak<Server>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(server) = server.upgrade() else { return };
        let (events, _) = server.store.list("/events", None);
        for event in events.iter().filter(|e| is_old(&e.value, Timestamp::now())) {
            if let Err(error) = server.store.remove(event.key.clone(), event.revision).await {
                tracing::debug!(event = event.key.name, %error, "an old event changed or cannot be removed");
            }
        }
    }
}

fn is_old(event: &Value, now: Timestamp) -> bool {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let last = times.iter().filter_map(|at| text(event, at).parse::<Timestamp>().ok()).max();
    last.is_some_and(|last| now.duration_since(last) > LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_that_happens_again_is_kept() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let once = json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}});
        let again =
            json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}, "lastTimestamp": "2026-01-01T11:30:00Z"});
        assert!(is_old(&once, now) && !is_old(&again, now));
    }
}
