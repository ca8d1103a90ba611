//! Which endpoint takes a request: the better of two chosen at random, by latency and load, among those in health.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_policy::{Endpoint, ServiceName};
use tokio::time::Instant;

use crate::http2::Server;
use crate::limits;
use crate::meter::Counters;
use crate::peers::Peer;
use crate::random::Random;

/// The endpoints that share the requests to one Service, or to one backend of its split.
pub(crate) struct Cluster {
    /// What the client addressed; absent when it dialled a pod.
    pub(crate) service: Option<ServiceName>,
    /// What a split chose.
    pub(crate) backend: Option<ServiceName>,
    pub(crate) members: Vec<Member>,
}

/// An endpoint within a cluster.
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    pub(crate) health: Rc<Health>,
    /// How to reach it; absent for an endpoint without proxy, which is reached in plaintext.
    pub(crate) peer: Option<Rc<Peer>>,
    /// How to reach it with HTTP/2. Resolved at the first request.
    pub(crate) http2: OnceCell<Rc<Server>>,
    /// Resolved at the first request.
    pub(crate) counters: OnceCell<Arc<Counters>>,
}

/// What a worker has seen of an endpoint. It outlives changes of the configuration.
pub(crate) struct Health {
    in_flight: Cell<u32>,
    /// In microseconds; absent until the first answer.
    latency: Cell<Option<f64>>,
    measured: Cell<Instant>,
    /// Failures since the last success.
    failures: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
}

/// A request or connection on its way to an endpoint: it counts as load until it is dropped.
pub(crate) struct Load(Rc<Health>);

/// How fast an old measurement loses its weight.
const DECAY: Duration = Duration::from_secs(10);

impl Cluster {
    /// Chooses a member, one that is not in `tried` if there is one. Members that failed lately are left out, but
    /// never all of them.
    pub(crate) fn pick(&self, random: &Random, tried: &[SocketAddr]) -> Option<&Member> {
        if let [only] = &self.members[..] {
            return Some(only);
        }
        let now = Instant::now();
        let untried = |member: &&Member| !tried.contains(&member.endpoint.address);
        let choose = |members: &dyn Fn(&&Member) -> bool| self.better_of_two(random, now, members);
        choose(&|member| untried(member) && member.health.is_healthy(now))
            .or_else(|| choose(&untried))
            .or_else(|| choose(&|_| true))
    }

    fn better_of_two(&self, random: &Random, now: Instant, among: &dyn Fn(&&Member) -> bool) -> Option<&Member> {
        let candidates = || self.members.iter().filter(among);
        let count = candidates().count();
        if count < 2 {
            return candidates().next();
        }
        let (first, second) = random.two_below(count);
        let (first, second) = (candidates().nth(first)?, candidates().nth(second)?);
        Some(if first.health.is_better_than(&second.health, now) { first } else { second })
    }
}

// === impl Health ===

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: Cell::new(0),
            latency: Cell::new(None),
            measured: Cell::new(Instant::now()),
            failures: Cell::new(0),
            ejected_until: Cell::new(None),
        }
    }

    fn is_healthy(&self, now: Instant) -> bool {
        self.ejected_until.get().is_none_or(|until| until <= now)
    }

    /// Compares expected waits. Endpoints that are about as fast are compared by load alone, so that they share the
    /// traffic; and so is one that has not answered yet, so that a new endpoint is not flooded.
    fn is_better_than(&self, other: &Self, now: Instant) -> bool {
        let load = |health: &Self| f64::from(health.in_flight.get() + 1);
        match (self.decayed(now), other.decayed(now)) {
            (Some(own), Some(others)) if own > others * NOTABLE || others > own * NOTABLE => {
                own * load(self) <= others * load(other)
            }
            _ => load(self) <= load(other),
        }
    }

    fn decayed(&self, now: Instant) -> Option<f64> {
        let age = now.saturating_duration_since(self.measured.get());
        self.latency.get().map(|latency| (latency * weight(age)).max(1.0))
    }

    fn measure(&self, latency: Duration) {
        let now = Instant::now();
        let sample = latency.as_secs_f64() * 1e6;
        let weight = weight(now.saturating_duration_since(self.measured.get()));
        // A slower answer counts at once, faster ones little by little.
        let smoothed = match self.latency.get() {
            Some(known) if known > sample => known * weight + sample * (1.0 - weight),
            _ => sample,
        };
        self.latency.set(Some(smoothed));
        self.measured.set(now);
    }

    fn fail(&self) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let time = limits::EJECTION.saturating_mul(1 << failures.min(10)).min(limits::EJECTION_MAX);
        self.ejected_until.set(Some(Instant::now() + time));
    }
}

/// How many times slower an endpoint is before it is avoided for that: less is chance.
const NOTABLE: f64 = 3.0;

/// The weight of a measurement of this age.
fn weight(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

// === impl Load ===

impl Load {
    pub(crate) fn new(health: &Rc<Health>) -> Self {
        health.in_flight.set(health.in_flight.get() + 1);
        Self(health.clone())
    }

    /// The endpoint answered.
    pub(crate) fn answered(&self, latency: Duration) {
        self.0.measure(latency);
        self.connected();
    }

    /// The client gave the request up before it was answered, which takes longer than it waited: an endpoint that hangs
    /// must not seem the faster the longer ago its last answer is. What a client that waited for long shows is no more
    /// than that.
    pub(crate) fn gave_up(&self, waited: Duration) {
        let waited = waited.min(DECAY);
        let known = self.0.decayed(Instant::now()).unwrap_or_default();
        if waited.as_secs_f64() * 1e6 > known {
            self.0.measure(waited);
        }
    }

    /// The endpoint took the connection.
    pub(crate) fn connected(&self) {
        self.0.failures.set(0);
        self.0.ejected_until.set(None);
    }

    /// The endpoint could not be connected to, or broke the connection off.
    pub(crate) fn failed(&self) {
        self.0.fail();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests;
