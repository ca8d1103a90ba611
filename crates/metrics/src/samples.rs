//! What proxies have counted, over time: reports of running totals in, windows out.
//!
//! Two rings of slots: a slot a second for windows up to [`FINE`], and a slot every ten seconds for longer ones. A slot
//! holds what was added within it, so that an edge without traffic costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heddle_policy::PodName;
use heddle_policy::telemetry::{Edge, Gap, HISTORY, Past, Report, Totals};

use crate::packed::Packed;

/// Windows up to this are answered to the second.
pub const FINE: Duration = Duration::from_secs(60);

/// The longest window.
pub const LONGEST_WINDOW: Duration = HISTORY;

/// The seconds of a slot for long windows.
const COARSE: u64 = 10;

/// Edges that are told apart, of one proxy and of all. Those that come beyond are counted without their peer's pod.
const EDGES_OF_PROXY: usize = 2_000;
const EDGES: usize = 100_000;

/// Edges of one proxy without their peer's pod that are told apart beyond that. What comes beyond is counted at the edge of
/// that proxy and side whose other end is not known.
const EDGES_WITHOUT_POD: usize = 500;

/// How long a proxy that is silent is remembered. One that comes back later counts anew from then on.
const FORGET: Duration = Duration::from_secs(3600);

/// The traffic of the last minutes, by edge.
#[derive(Debug)]
pub struct Samples {
    /// The time of second [`LONGEST_WINDOW`]: there are seconds before it for the history of proxies.
    start: Instant,
    /// The same in milliseconds since 1970.
    start_ms: u64,
    proxies: HashMap<PodName, Proxy>,
    /// Places of edges in `proxies`.
    edges: usize,
    /// The second in which proxies were last looked through for those to forget.
    forgot: u64,
    fine: Ring,
    coarse: Ring,
}

/// The totals of one instance, as it last reported them.
#[derive(Debug)]
pub(crate) struct Proxy {
    instance: Arc<str>,
    at: Instant,
    /// When its pod went.
    pub(crate) ended: Option<Instant>,
    last: bool,
    /// Counts that are missing, by its own word.
    pub(crate) lost: Vec<Gap>,
    /// Counts of instances before it that are missing: their last reports were not heard.
    unheard: Vec<Gap>,
    /// The edges that it named. There are no more than a message has room for.
    known: BTreeMap<Edge, Known>,
    /// Where they are counted.
    places: BTreeSet<Arc<Edge>>,
    /// The connections that are open, by places.
    open: BTreeMap<Arc<Edge>, u64>,
}

/// An edge as a proxy reported it last.
#[derive(Debug)]
struct Known {
    /// The edge at which it is counted: itself, or one that stands for several. It stays for as long as the edge is named,
    /// and each has totals of its own, so that nothing is counted twice when there is room again.
    place: Arc<Edge>,
    totals: Totals,
}

/// What was added to edges, and where it is counted.
type Added = BTreeMap<Edge, (Arc<Edge>, Totals)>;

/// The slots of the newest time, oldest first.
#[derive(Debug)]
struct Ring {
    /// The seconds of a slot.
    length: u64,
    /// How many slots are kept.
    kept: u64,
    slots: VecDeque<Slot>,
}

/// What was added in some seconds.
#[derive(Debug)]
struct Slot {
    number: u64,
    added: HashMap<Arc<Edge>, Packed>,
}

/// What was counted within a window.
pub struct Within<'a> {
    slots: Vec<&'a Slot>,
    /// The seconds of a slot.
    slot_length: u64,
    /// What was asked for, or up to ten seconds more when that is longer than [`FINE`].
    pub length: Duration,
}

// === impl Samples ===

impl Samples {
    /// Nothing yet. Time begins `now`, and that is `time`.
    pub fn new(now: Instant, time: SystemTime) -> Self {
        let ring = |length: u64, reach: Duration| Ring {
            length,
            // The window may begin anywhere in the oldest slot.
            kept: reach.as_secs() / length + 1,
            slots: VecDeque::new(),
        };
        Self {
            start: now,
            start_ms: time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            proxies: HashMap::new(),
            edges: 0,
            forgot: 0,
            fine: ring(1, FINE),
            coarse: ring(COARSE, LONGEST_WINDOW),
        }
    }

    /// Takes in the report of `pod`'s proxy. What it says of other pods is ignored: a proxy speaks for itself.
    ///
    /// A report counts what its totals exceed those of the one before, so that it may come twice. The first one of an
    /// instance counts its history alone: when the rest was counted is not known.
    pub fn add(&mut self, pod: &PodName, report: Report, now: Instant) {
        let second = self.second(now);
        self.forget(now);
        let before = self.proxies.remove(pod);
        self.edges -= before.as_ref().map_or(0, |before| before.places.len());
        let is_known = before.as_ref().is_some_and(|before| before.instance == report.instance);
        let mut proxy = match before {
            Some(proxy) if is_known => proxy,
            before => {
                let unheard = before.map(|before| self.unheard(&before, Some(before.ended.unwrap_or(now))));
                Proxy::new(&report, unheard.unwrap_or_default(), now)
            }
        };
        if !is_known {
            self.add_history(pod, &mut proxy, &report, second);
        }
        let named = named(pod, report.edges);
        proxy.retain(&named);
        let mut added = proxy.add(named, self.room());
        if is_known {
            let unheard = now.saturating_duration_since(proxy.at);
            self.add_unheard(&mut added, &report.history, unheard, second);
            added.values().for_each(|(place, added)| self.note(second, place, added));
        }
        proxy.open = proxy.open_places(pod, &report.open);
        proxy.at = now;
        proxy.last = report.last;
        proxy.lost = report.lost.gaps;
        self.edges += proxy.places.len();
        self.proxies.insert(pod.clone(), proxy);
    }

    /// Notes that a pod is gone: what its proxy has not reported is missing, until it does.
    pub fn end(&mut self, pod: &PodName, now: Instant) {
        if let Some(proxy) = self.proxies.get_mut(pod) {
            proxy.ended.get_or_insert(now);
            proxy.open.clear();
        }
    }

    /// The newest instance of every pod's proxy.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = (&PodName, &Proxy)> {
        self.proxies.iter()
    }

    /// Whether a pod has ever reported; for as long as it is remembered.
    pub(crate) fn knows(&self, pod: &PodName) -> bool {
        self.proxies.contains_key(pod)
    }

    /// The times of which counts are missing because the proxy, or one before it, was not heard before it `ended`.
    pub(crate) fn unheard(&self, proxy: &Proxy, ended: Option<Instant>) -> Vec<Gap> {
        let gap = |ended| Gap { from: self.millis(proxy.at), until: self.millis(ended) };
        proxy.unheard.iter().copied().chain(ended.filter(|_| !proxy.last).map(gap)).collect()
    }

    /// The begin of a second, in milliseconds since 1970.
    pub(crate) fn millis_of_second(&self, second: u64) -> u64 {
        (self.start_ms + second * 1000).saturating_sub(LONGEST_WINDOW.as_millis() as u64)
    }

    /// In milliseconds since 1970.
    pub(crate) fn millis(&self, time: Instant) -> u64 {
        let since = |later: Instant, earlier: Instant| later.saturating_duration_since(earlier).as_millis() as u64;
        (self.start_ms + since(time, self.start)).saturating_sub(since(self.start, time))
    }

    /// What was counted in the `window` before `now`.
    pub fn within(&self, window: Duration, now: Instant) -> Within<'_> {
        let second = self.second(now);
        let asked = window.as_secs().clamp(1, LONGEST_WINDOW.as_secs());
        let ring = if asked <= FINE.as_secs() { &self.fine } else { &self.coarse };
        let first = second.saturating_sub(asked - 1) / ring.length;
        let slots = ring.slots.iter().filter(|slot| (first..=second / ring.length).contains(&slot.number));
        let length = Duration::from_secs(second + 1 - first * ring.length);
        Within { slots: slots.collect(), slot_length: ring.length, length }
    }

    /// The connections without HTTP that are open, by edge, as proxies said last.
    pub fn open(&self) -> impl Iterator<Item = (&Edge, u64)> {
        let open = self.proxies.values().flat_map(|proxy| &proxy.open);
        open.map(|(edge, open)| (&**edge, *open))
    }

    /// How many edges are told apart.
    pub fn edges(&self) -> usize {
        self.edges
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() + LONGEST_WINDOW.as_secs()
    }

    /// How many more edges may be told apart.
    fn room(&self) -> usize {
        EDGES.saturating_sub(self.edges)
    }

    fn add_history(&mut self, pod: &PodName, proxy: &mut Proxy, report: &Report, second: u64) {
        for past in report.history.iter() {
            let then = second.saturating_sub(u64::from(past.age));
            for (edge, added) in past.edges.iter().filter(|(edge, _)| edge.pod == *pod) {
                let place = proxy.meet(edge.clone(), self.room()).place.clone();
                self.note(then, &place, added);
            }
        }
    }

    /// Counts what was `added` while a proxy was not heard at the times that it tells, as far as it does; the rest is left.
    fn add_unheard(&mut self, added: &mut Added, history: &[Past], unheard: Duration, second: u64) {
        let is_unheard = |past: &&Past| Duration::from_secs(past.age.into()) < unheard;
        for past in history.iter().rev().filter(is_unheard) {
            let then = second.saturating_sub(u64::from(past.age));
            for (edge, counted) in past.edges.iter() {
                let Some((place, added)) = added.get_mut(edge) else { continue };
                let rest = added.since(counted);
                // What was counted before the proxy was last heard is known already.
                self.note(then, place, &added.since(&rest));
                *added = rest;
            }
        }
    }

    fn note(&mut self, second: u64, edge: &Arc<Edge>, added: &Totals) {
        if added.is_empty() {
            return;
        }
        for ring in [&mut self.fine, &mut self.coarse] {
            if let Some(slot) = ring.slot(second) {
                slot.added.entry(edge.clone()).or_default().merge(added);
            }
        }
    }

    /// Looks through all proxies once a second, however many report in it.
    fn forget(&mut self, now: Instant) {
        let second = self.second(now);
        if std::mem::replace(&mut self.forgot, second) == second {
            return;
        }
        self.proxies.retain(|_, proxy| {
            let is_kept = match proxy.ended {
                // No window reaches back to its traffic any more.
                Some(ended) => now.saturating_duration_since(ended) < 2 * LONGEST_WINDOW,
                None => now.saturating_duration_since(proxy.at) < FORGET,
            };
            self.edges -= if is_kept { 0 } else { proxy.places.len() };
            is_kept
        });
    }
}

// === impl Proxy ===

impl Proxy {
    fn new(report: &Report, unheard: Vec<Gap>, now: Instant) -> Self {
        Self {
            instance: report.instance.clone(),
            at: now,
            ended: None,
            last: false,
            lost: Vec::new(),
            unheard,
            known: BTreeMap::new(),
            places: BTreeSet::new(),
            open: BTreeMap::new(),
        }
    }

    /// Forgets what a report does not name: it was retired, and begins with zeros if it comes back.
    fn retain(&mut self, named: &BTreeMap<Edge, Totals>) {
        let before = self.known.len();
        self.known.retain(|edge, _| named.contains_key(edge));
        if self.known.len() < before {
            self.places = self.known.values().map(|known| known.place.clone()).collect();
        }
    }

    /// Takes over the newest totals: what they exceed those before.
    fn add(&mut self, named: BTreeMap<Edge, Totals>, room: usize) -> Added {
        let mut all = Added::new();
        for (edge, totals) in named {
            let known = self.meet(edge.clone(), room);
            let added = totals.since(&known.totals);
            known.totals = totals;
            if !added.is_empty() {
                all.insert(edge, (known.place.clone(), added));
            }
        }
        all
    }

    /// What is known of an edge; a place and zeros, when it is new.
    fn meet(&mut self, edge: Edge, room: usize) -> &mut Known {
        match self.known.entry(edge) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(new) => {
                let place = place(&mut self.places, new.key(), room);
                new.insert(Known { place, totals: Totals::default() })
            }
        }
    }

    /// What is open, by the places that edges have.
    fn open_places(&self, pod: &PodName, open: &[(Edge, u64)]) -> BTreeMap<Arc<Edge>, u64> {
        let mut places = BTreeMap::new();
        for (edge, open) in open.iter().filter(|(edge, open)| edge.pod == *pod && *open > 0) {
            let known = self.known.get(edge).map(|known| known.place.clone());
            let place = known.unwrap_or_else(|| Arc::new(overflow(edge)));
            let sum: &mut u64 = places.entry(place).or_default();
            *sum = sum.saturating_add(*open);
        }
        places
    }
}

/// The edges of a report that are `pod`'s.
fn named(pod: &PodName, edges: Vec<(Edge, Totals)>) -> BTreeMap<Edge, Totals> {
    let mut named: BTreeMap<Edge, Totals> = BTreeMap::new();
    for (edge, totals) in edges.into_iter().filter(|(edge, _)| edge.pod == *pod) {
        named.entry(edge).or_default().merge(&totals);
    }
    named
}

/// Where a new edge is counted: at a place of its own, else with others. The backends of splits are told apart for longer
/// than the pods behind them.
fn place(places: &mut BTreeSet<Arc<Edge>>, edge: &Edge, room: usize) -> Arc<Edge> {
    let most = EDGES_OF_PROXY.min(room);
    let has_room = |places: &BTreeSet<Arc<Edge>>, edge: &Edge, most| places.len() < most || places.contains(edge);
    let mut edge = edge.clone();
    if !has_room(places, &edge, most) {
        edge.peer_pod = None;
    }
    if !has_room(places, &edge, most + EDGES_WITHOUT_POD) {
        edge = overflow(&edge);
    }
    if let Some(known) = places.get(&edge) {
        return known.clone();
    }
    let place = Arc::new(edge);
    places.insert(place.clone());
    place
}

/// The edge that stands for those which are not told apart.
fn overflow(edge: &Edge) -> Edge {
    Edge { side: edge.side, pod: edge.pod.clone(), peer: None, peer_pod: None, service: None, backend: None }
}

// === impl Ring ===

impl Ring {
    /// The slot of a second; `None` for a second that is too long ago.
    fn slot(&mut self, second: u64) -> Option<&mut Slot> {
        let number = second / self.length;
        let newest = self.slots.back().map_or(number, |slot| slot.number.max(number));
        let oldest = (newest + 1).saturating_sub(self.kept);
        while self.slots.front().is_some_and(|slot| slot.number < oldest) {
            self.slots.pop_front();
        }
        if number < oldest {
            return None;
        }
        let at = self.slots.partition_point(|slot| slot.number < number);
        if self.slots.get(at).is_none_or(|slot| slot.number != number) {
            self.slots.insert(at, Slot { number, added: HashMap::new() });
        }
        self.slots.get_mut(at)
    }
}

// === impl Within ===

impl Within<'_> {
    /// What was added, by edge, in pieces: who has no use for an edge does not add them up.
    pub(crate) fn added(&self) -> HashMap<&Edge, Vec<&Packed>> {
        let mut edges: HashMap<&Edge, Vec<&Packed>> = HashMap::new();
        for (edge, added) in self.slots.iter().flat_map(|slot| &slot.added) {
            edges.entry(edge).or_default().push(added);
        }
        edges
    }

    /// The pods that were met as peers who proved to be of the mesh, each with the second after it.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&PodName, u64)> {
        self.slots.iter().flat_map(|slot| {
            let proven = slot.added.keys().filter(|edge| edge.peer.is_some());
            proven.filter_map(|edge| Some((edge.peer_pod.as_ref()?, (slot.number + 1) * self.slot_length)))
        })
    }
}
