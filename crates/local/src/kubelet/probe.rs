//! Probes: when an action is run, and what its outcomes come to.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use super::action::{Action, Target};

/// A probe of a container.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Probe {
    pub action: Action,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    /// So many outcomes in a row change what is believed.
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

/// What the outcomes so far come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    in_row: u32,
    last: Option<bool>,
    /// What is believed, once a threshold was reached.
    pub believed: Option<bool>,
}

// === impl Probe ===

impl Probe {
    pub(super) fn new(probe: &core::Probe, container: &core::Container) -> Self {
        let seconds = |declared: Option<i32>, default: u64| {
            let declared = declared.and_then(|seconds| u64::try_from(seconds).ok());
            Duration::from_secs(declared.unwrap_or(default))
        };
        let count = |declared: Option<i32>, default: u32| {
            declared.and_then(|count| u32::try_from(count).ok()).unwrap_or(default).max(1)
        };
        Self {
            action: Action::of_probe(probe, container),
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        }
    }

    /// Runs the probe for ever. `report` hears each outcome and what is believed after it.
    pub(super) async fn watch(&self, target: &Target, mut report: impl FnMut(Result<(), String>, Tally)) {
        tokio::time::sleep(self.initial_delay).await;
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tally = Tally::default();
        loop {
            ticks.tick().await;
            let outcome = self.action.run(target, self.timeout).await;
            tally = tally.after(outcome.is_ok(), self);
            report(outcome, tally);
        }
    }
}

// === impl Tally ===

impl Tally {
    /// The tally after one more outcome.
    #[must_use]
    pub(super) fn after(self, success: bool, probe: &Probe) -> Self {
        let in_row = if self.last == Some(success) { self.in_row + 1 } else { 1 };
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        let believed = if in_row >= threshold { Some(success) } else { self.believed };
        Self { in_row, last: Some(success), believed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_in_a_row_changes_what_is_believed() {
        let probe: core::Probe =
            serde_json::from_value(serde_json::json!({"tcpSocket": {"port": 1}, "successThreshold": 2})).unwrap();
        let probe = Probe::new(&probe, &core::Container::default());
        let mut tally = Tally::default();
        let believed: Vec<_> = [true, true, false, false, true, false, false, false]
            .into_iter()
            .map(|success| {
                tally = tally.after(success, &probe);
                tally.believed
            })
            .collect();
        let (unknown, yes, no) = (None, Some(true), Some(false));
        assert_eq!(believed, [unknown, yes, yes, yes, yes, yes, yes, no]);
    }
}
