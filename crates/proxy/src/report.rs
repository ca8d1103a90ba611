//! What the proxy reports of itself: totals that outlive it, and the newest part of their past.
//!
//! Totals are noted in a file before they are reported. The pod's next proxy goes on from there, so that a proxy that is
//! restarted loses nothing, and one that is killed what it counted since the last note. The time of the file is that
//! until which all is noted: from then until the proxy ended counts are missing, and its successor says so.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heddle_policy::PodName;
use heddle_policy::telemetry::{Edge, Gap, HISTORY, Lost, Past, Report, Totals};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The totals of a pod's proxies, one after the other.
pub(crate) struct Ledger {
    instance: Arc<str>,
    /// What earlier proxies counted.
    before: Edges,
    /// What those of them lost that were killed.
    lost: Lost,
    /// The intervals of the past, oldest first.
    past: VecDeque<Interval>,
    /// The totals at the end of the newest of them, and when that was.
    at_last: Edges,
    last: u64,
    /// When something was last counted of an edge, in seconds since 1970; to an interval.
    counted_at: BTreeMap<Edge, u64>,
}

type Edges = BTreeMap<Edge, Totals>;

/// What was added to the totals in some seconds.
struct Interval {
    /// In seconds since 1970.
    ended: u64,
    /// In seconds, at most.
    length: u64,
    edges: Arc<[(Edge, Totals)]>,
}

/// A note of the totals.
#[derive(Serialize, Deserialize)]
struct Note<R> {
    /// In seconds since 1970.
    at: u64,
    report: R,
}

/// The length of an interval of the past.
const INTERVAL: Duration = Duration::from_secs(10);

/// How much of the past is kept: so many edges of intervals. They are about half of what a message has room for.
const PAST_EDGES: usize = 5_000;

/// What intervals may become in length, as they are added up for want of room.
const LONGEST_INTERVAL: Duration = Duration::from_secs(120);

impl Ledger {
    /// Goes on from the note in `file`, or begins with zeros where there is none. The proxies before have `ended` then, or
    /// earlier.
    ///
    /// # Errors
    ///
    /// There is a note that cannot be read.
    pub(crate) fn open(file: Option<&Path>, ended: SystemTime) -> io::Result<Self> {
        let Some(file) = file else { return Ok(Self::begin()) };
        match std::fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::begin()),
            json => {
                let noted = std::fs::metadata(file)?.modified()?;
                Ok(Self::go_on(serde_json::from_slice(&json?)?, noted, ended))
            }
        }
    }

    /// Begins with zeros.
    pub(crate) fn begin() -> Self {
        Self {
            instance: format!("{:016x}", Random::new().next()).into(),
            before: Edges::new(),
            lost: Lost::default(),
            past: VecDeque::new(),
            at_last: Edges::new(),
            last: 0,
            counted_at: BTreeMap::new(),
        }
    }

    /// Goes on from a note of all that was counted until `noted`.
    fn go_on(Note { at, report }: Note<Report>, noted: SystemTime, ended: SystemTime) -> Self {
        let mut lost = report.lost;
        if !report.last {
            lost.add(Gap { from: millis(noted), until: millis(ended.max(noted)) });
        }
        let before: Edges = report.edges.into_iter().collect();
        let past = report.history.iter().map(|past| Interval {
            ended: at.saturating_sub(past.age.into()),
            length: past.length.into(),
            edges: past.edges.clone(),
        });
        let past: VecDeque<_> = past.collect();
        let counted = past.iter().flat_map(|past| past.edges.iter().map(|(edge, _)| (edge.clone(), past.ended)));
        let counted_at = counted.collect();
        Self { instance: report.instance, at_last: before.clone(), before, lost, past, last: at, counted_at }
    }

    /// Takes over what this proxy has counted of edges that it has let go of.
    pub(crate) fn take_over(&mut self, pod: &PodName, settled: Vec<(Edge, Totals)>) {
        for (edge, totals) in settled {
            self.before.entry(of_pod(pod, edge)).or_default().merge(&totals);
        }
    }

    /// Retires the edges of which nothing was counted for long, unless they are among those that this proxy has `counted`
    /// and holds. No report names them any more, until they are counted again, with totals that begin with zeros.
    pub(crate) fn retire(&mut self, pod: &PodName, counted: &[(Edge, Totals)], now: SystemTime) {
        let held: HashSet<Edge> = counted.iter().map(|(edge, _)| of_pod(pod, edge.clone())).collect();
        let idle = self.before.keys().filter(|edge| !held.contains(edge) && self.is_idle(edge, seconds(now)));
        for edge in idle.cloned().collect::<Vec<_>>() {
            self.before.remove(&edge);
            self.at_last.remove(&edge);
            self.counted_at.remove(&edge);
        }
    }

    /// The edges of which nothing was counted for long.
    pub(crate) fn idle(&self, now: SystemTime) -> HashSet<Edge> {
        self.at_last.keys().filter(|edge| self.is_idle(edge, seconds(now))).cloned().collect()
    }

    fn is_idle(&self, edge: &Edge, now: u64) -> bool {
        let counted_at = self.counted_at.get(edge).copied().unwrap_or_default();
        now.saturating_sub(counted_at) > HISTORY.as_secs()
    }

    /// The newest report, of what this proxy has `counted` for its `pod` and what those before it did.
    pub(crate) fn report(&mut self, pod: &PodName, counted: Vec<(Edge, Totals)>, now: SystemTime) -> Report {
        let now = seconds(now);
        let mut totals = self.before.clone();
        for (edge, counted) in counted {
            totals.entry(of_pod(pod, edge)).or_default().merge(&counted);
        }
        let added = self.since_last(&totals);
        self.counted_at.extend(added.iter().map(|(edge, _)| (edge.clone(), now)));
        let length = if self.last == 0 { 0 } else { now.saturating_sub(self.last) };
        let newest = (!added.is_empty()).then_some(Interval { ended: now, length, edges: added });
        let is_over = now.saturating_sub(self.last) >= INTERVAL.as_secs();
        let history = self.past.iter().chain(&newest).map(|interval| Past {
            age: narrow(now.saturating_sub(interval.ended)),
            length: narrow(interval.length),
            edges: interval.edges.clone(),
        });
        let history = history.filter(|past| u64::from(past.age) <= HISTORY.as_secs()).collect();
        if is_over {
            self.past.extend(newest);
            self.at_last.clone_from(&totals);
            self.last = now;
            self.forget(now);
        }
        let edges = totals.into_iter().collect();
        let (instance, lost) = (self.instance.clone(), self.lost.clone());
        Report { instance, edges, open: Vec::new(), lost, last: false, history }
    }

    /// Of how much time counts were lost with proxies that were killed.
    pub(crate) fn lost(&self) -> Duration {
        Duration::from_millis(self.lost.total_ms)
    }

    fn since_last(&self, totals: &Edges) -> Arc<[(Edge, Totals)]> {
        let none = Totals::default();
        let added = totals.iter().map(|(edge, totals)| {
            let before = self.at_last.get(edge).unwrap_or(&none);
            (edge.clone(), totals.since(before))
        });
        added.filter(|(_, added)| !added.is_empty()).collect()
    }

    fn forget(&mut self, now: u64) {
        self.past.retain(|interval| now.saturating_sub(interval.ended) <= HISTORY.as_secs());
        while self.past.iter().map(|interval| interval.edges.len()).sum::<usize>() > PAST_EDGES {
            match self.shortest_pair() {
                Some(older) => self.add_up(older),
                None => drop(self.past.pop_front()),
            }
        }
    }

    /// The first of the two intervals, one after the other, that are the shortest together, unless that is too long.
    fn shortest_pair(&self) -> Option<usize> {
        let newer = self.past.iter().skip(1);
        let lengths = self.past.iter().zip(newer).map(|(older, newer)| older.length_until(newer)).enumerate();
        let short = lengths.filter(|(_, length)| *length <= LONGEST_INTERVAL.as_secs());
        short.min_by_key(|(_, length)| *length).map(|(older, _)| older)
    }

    /// Makes one interval of two.
    fn add_up(&mut self, older: usize) {
        let Some(newer) = self.past.remove(older + 1) else { return };
        let older = &mut self.past[older];
        let mut edges: Edges = older.edges.iter().cloned().collect();
        for (edge, added) in newer.edges.iter() {
            edges.entry(edge.clone()).or_default().merge(added);
        }
        let length = older.length_until(&newer);
        *older = Interval { ended: newer.ended, length, edges: edges.into_iter().collect() };
    }
}

impl Interval {
    /// From its begin to the end of a newer one.
    fn length_until(&self, newer: &Self) -> u64 {
        newer.ended.saturating_sub(self.ended).saturating_add(self.length)
    }
}

/// What was counted before the proxy knew its pod is the pod's too.
pub(crate) fn of_pod(pod: &PodName, edge: Edge) -> Edge {
    Edge { pod: pod.clone(), ..edge }
}

fn narrow(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Notes a report of all that was counted until `now` in `file`, in the stead of the one that is there.
///
/// # Errors
///
/// The file cannot be written; it is then as it was.
pub(crate) fn note(file: &Path, report: &Report, now: SystemTime) -> io::Result<()> {
    let json = serde_json::to_vec(&Note { at: seconds(now), report })?;
    let mut path: PathBuf = file.to_owned();
    path.as_mut_os_string().push(".new");
    let mut new = File::create(&path)?;
    new.write_all(&json)?;
    new.set_modified(now)?;
    std::fs::rename(&path, file)
}

/// Notes that nothing was counted until `now` beside what is noted in `file`.
///
/// # Errors
///
/// The file is not there, or cannot be written.
pub(crate) fn note_nothing_new(file: &Path, now: SystemTime) -> io::Result<()> {
    File::options().write(true).open(file)?.set_modified(now)
}

fn seconds(time: SystemTime) -> u64 {
    millis(time) / 1000
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use heddle_policy::telemetry::{Counts, Side};

    use super::*;

    fn pod() -> PodName {
        PodName::new("shop", "web-1")
    }

    fn counted(pod: PodName, success: u64) -> Vec<(Edge, Totals)> {
        let edge = Edge { side: Side::Server, pod, peer: None, peer_pod: None, service: None, backend: None };
        vec![(edge, Totals { requests: Counts { success, ..Counts::default() }, ..Totals::default() })]
    }

    fn total(edges: &[(Edge, Totals)]) -> u64 {
        edges.iter().map(|(_, totals)| totals.requests.success).sum()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn the_history_is_the_newest_part_of_the_totals() {
        let mut ledger = Ledger::begin();
        for second in 0..2_000 {
            let report = ledger.report(&pod(), counted(pod(), second * 5), at(second));
            let told: u64 = report.history.iter().map(|past| total(&past.edges)).sum();
            assert!(report.history.iter().all(|past| u64::from(past.age) <= HISTORY.as_secs()), "{second}");
            assert!(told >= (second * 5).min(590 * 5) && told <= second * 5, "{second}: {told}");
        }
    }

    #[test]
    fn the_next_proxy_goes_on_where_the_last_one_had_noted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("totals.json");
        let mut first = Ledger::open(Some(&file), at(0)).unwrap();
        let last = Report { last: true, ..first.report(&pod(), counted(pod(), 7), at(0)) };
        note(&file, &last, at(0)).unwrap();

        let mut second = Ledger::open(Some(&file), at(1)).unwrap();
        let report = second.report(&pod(), counted(pod(), 5), at(1));
        assert_eq!((total(&report.edges), report.last), (12, false));
        assert_eq!(report.lost, Lost::default());
        assert_eq!(report.instance, last.instance);
        let told: u64 = report.history.iter().map(|past| total(&past.edges)).sum();
        assert_eq!(told, 12);
    }

    #[test]
    fn what_a_killed_proxy_may_have_lost_is_of_the_time_from_its_last_note_to_its_end_however_late_that_note_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("totals.json");
        let (noted, quiet) = (at(0), at(0) + Duration::from_millis(500));
        let report = Ledger::begin().report(&pod(), counted(pod(), 7), noted);
        note(&file, &report, noted).unwrap();
        note_nothing_new(&file, quiet).unwrap();
        for (ended, length) in [(quiet + Duration::from_millis(300), 300), (at(3), 2500), (noted, 0)] {
            let mut next = Ledger::open(Some(&file), ended).unwrap();
            let report = next.report(&pod(), Vec::new(), at(60));
            let from = millis(quiet);
            assert_eq!(report.lost.gaps, [Gap { from, until: from + length }]);
            assert_eq!((total(&report.edges), report.lost.total_ms), (7, length));
        }
    }

    #[test]
    fn an_edge_without_traffic_is_retired_and_begins_with_zeros_when_it_is_counted_again() {
        let mut ledger = Ledger::begin();
        let edge = counted(pod(), 0).remove(0).0;
        ledger.report(&pod(), counted(pod(), 7), at(0));
        let long_after = at(HISTORY.as_secs() + 20);
        ledger.report(&pod(), counted(pod(), 7), long_after);
        assert_eq!(ledger.idle(long_after), HashSet::from([edge]));
        // Somebody may count on it still.
        ledger.retire(&pod(), &counted(pod(), 7), long_after);
        assert_eq!(ledger.report(&pod(), counted(pod(), 7), long_after).edges, counted(pod(), 7));
        // One that is counted just as it is let go of goes on.
        let mut other = Ledger::begin();
        other.report(&pod(), counted(pod(), 7), at(0));
        other.take_over(&pod(), counted(pod(), 7));
        other.retire(&pod(), &counted(pod(), 1), long_after);
        assert_eq!(other.report(&pod(), counted(pod(), 1), long_after).edges, counted(pod(), 8));

        ledger.take_over(&pod(), counted(pod(), 7));
        ledger.retire(&pod(), &[], long_after);
        assert_eq!(ledger.report(&pod(), Vec::new(), long_after).edges, []);
        assert_eq!(ledger.idle(long_after), HashSet::new());
        let report = ledger.report(&pod(), counted(pod(), 1), long_after + INTERVAL);
        assert_eq!(report.edges, counted(pod(), 1));
        assert_eq!(total(&report.history[0].edges), 1);
    }

    #[test]
    fn the_next_proxy_retires_what_the_last_one_had_not_counted_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("totals.json");
        let peers = |success: u64| {
            let edge =
                |peer: &str| Edge { peer_pod: Some(PodName::new("shop", peer)), ..counted(pod(), 0).remove(0).0 };
            let totals = |success| counted(pod(), success).remove(0).1;
            vec![(edge("gone"), totals(1)), (edge("here"), totals(success))]
        };
        let (mut first, noted) = (Ledger::begin(), at(HISTORY.as_secs()));
        first.report(&pod(), peers(1), at(0));
        note(&file, &first.report(&pod(), peers(2), noted), noted).unwrap();
        let mut next = Ledger::open(Some(&file), noted).unwrap();
        next.retire(&pod(), &[], noted + Duration::from_secs(1));
        assert_eq!(next.report(&pod(), Vec::new(), noted + Duration::from_secs(1)).edges, peers(2)[1..]);
    }

    #[test]
    fn where_there_is_no_room_for_the_past_it_is_told_less_finely() {
        let mut ledger = Ledger::begin();
        let edges = |success: u64| {
            let edge = |peer: u32| Edge {
                peer_pod: Some(PodName::new("shop", format!("peer-{peer}"))),
                ..counted(pod(), 0).remove(0).0
            };
            (0..500).map(|peer| (edge(peer), counted(pod(), success).remove(0).1)).collect::<Vec<_>>()
        };
        let mut report = ledger.report(&pod(), edges(0), at(0));
        for tens in 1..=100 {
            report = ledger.report(&pod(), edges(tens * 10), at(tens * 10));
        }
        let told: u64 = report.history.iter().map(|past| total(&past.edges)).sum();
        assert!(told >= 500 * 480, "{told}: all but the oldest interval, which began before");
        assert!(report.history.iter().map(|past| past.edges.len()).sum::<usize>() <= PAST_EDGES + 500);
        for (older, newer) in report.history.iter().zip(report.history.iter().skip(1)) {
            assert!(u64::from(newer.length) <= LONGEST_INTERVAL.as_secs());
            assert_eq!(older.age - newer.age, newer.length, "none is left out");
            assert_eq!(total(&newer.edges), 500 * u64::from(newer.length), "sums are exact");
        }
    }

    #[test]
    fn what_was_counted_before_the_pod_was_known_is_the_pods() {
        let mut ledger = Ledger::begin();
        let unknown = counted(PodName::new("unknown", "unknown"), 3);
        let known = counted(pod(), 4);
        let report = ledger.report(&pod(), [unknown, known].concat(), at(0));
        assert_eq!(report.edges, counted(pod(), 7));
    }

    #[test]
    fn a_note_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("totals.json");
        std::fs::write(&file, "{").unwrap();
        assert!(Ledger::open(Some(&file), at(0)).is_err());
        assert!(Ledger::open(Some(&directory.path().join("none.json")), at(0)).is_ok());
    }
}
