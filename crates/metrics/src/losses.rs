//! What is missing: the counts that pods had and nobody will hear of any more. They are never made up, and always told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heddle_policy::PodName;
use heddle_policy::telemetry::Gap;

use crate::samples::Within;
use crate::{Objects, Samples};

/// Counts of a pod that are missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Loss {
    pub pod: PodName,
    /// Within the window that was asked for.
    pub gap: Gap,
    pub cause: LossCause,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LossCause {
    /// The pod's proxy was killed before it had noted them.
    Killed,
    /// The pod ended, and this control plane was not told its counts.
    Unheard,
}

/// What is missing of the `window` before `now`, by pod and time.
pub fn losses(objects: &Objects, samples: &Samples, window: Duration, now: Instant) -> Vec<Loss> {
    let end = samples.millis(now);
    let begin = end.saturating_sub(window.as_millis() as u64);
    let mut found = Vec::new();
    let mut note = |pod: &PodName, gap: Gap, cause| {
        let gap = Gap { from: gap.from.max(begin), until: gap.until.min(end) };
        if gap.until > gap.from {
            found.push(Loss { pod: pod.clone(), gap, cause });
        }
    };
    for (pod, proxy) in samples.proxies() {
        proxy.lost.iter().for_each(|gap| note(pod, *gap, LossCause::Killed));
        samples.unheard(proxy, proxy.ended).into_iter().for_each(|gap| note(pod, gap, LossCause::Unheard));
    }
    for (pod, until) in silent(objects, samples, &samples.within(window, now)) {
        note(pod, Gap { from: begin, until: samples.millis_of_second(until) }, LossCause::Unheard);
    }
    found.sort();
    found
}

/// The pods whose peers have counted traffic with them, and that are gone without having told anything themselves, as
/// pods do that end while there is no control plane. Each with the second after the last such traffic.
fn silent<'a>(objects: &Objects, samples: &Samples, within: &'a Within<'_>) -> BTreeMap<&'a PodName, u64> {
    let mut silent = BTreeMap::new();
    for (pod, until) in within.peers().filter(|(pod, _)| !samples.knows(pod)) {
        let last = silent.entry(pod).or_insert(until);
        *last = until.max(*last);
    }
    // Pods that are there will tell.
    silent.retain(|pod, _| !objects.has_running_pod(pod));
    silent
}
