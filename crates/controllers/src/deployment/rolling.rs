//! The arithmetic of a rolling update: which sizes the ReplicaSets of a Deployment may have next.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{available, replicas, revision};

/// How far a rolling update may stray from the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) replicas: i32,
    /// Pods above `replicas`.
    pub(crate) surge: i32,
    /// Replicas that need not be available.
    pub(crate) unavailable: i32,
    /// Strategy `Recreate`: no two templates at once.
    pub(crate) recreate: bool,
}

/// A ReplicaSet and the size it is to have.
#[derive(Debug, Clone)]
pub(crate) struct Sized {
    pub(crate) set: Arc<ReplicaSet>,
    /// Whether it is that of the present template.
    pub(crate) new: bool,
    pub(crate) size: i32,
}

// === impl Bounds ===

impl Bounds {
    pub(crate) fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: 0, recreate: true };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let surge = scaled(rolling.max_surge.as_ref(), replicas, true);
        let mut unavailable = scaled(rolling.max_unavailable.as_ref(), replicas, false);
        if surge == 0 && unavailable == 0 {
            // Both round to zero only for percentages of few replicas; nothing could ever move then.
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas), recreate: false }
    }

    pub(crate) fn min_available(self) -> i32 {
        if self.recreate { self.replicas } else { self.replicas - self.unavailable }
    }
}

/// A number or a percentage of `total`; the default is 25%.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or(25).max(0),
        None => 25,
    };
    let product = percent * i64::from(total);
    let whole = if round_up { (product + 99) / 100 } else { product / 100 };
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// The size a new ReplicaSet starts with.
pub(crate) fn initial(others: &[Sized], bounds: Bounds) -> i32 {
    if bounds.recreate {
        return bounds.replicas;
    }
    grown(0, others.iter().map(|set| set.size).sum(), bounds)
}

/// `size` and what may be added to it when all ReplicaSets together have `total` pods.
fn grown(size: i32, total: i32, bounds: Bounds) -> i32 {
    let room = bounds.replicas + bounds.surge - total;
    size + room.min(bounds.replicas - size).max(0)
}

/// The next step of a rolling update: first the new ReplicaSet grows as far as the surge allows; when it cannot, the
/// old ones shrink as far as availability allows, unhealthy pods first.
pub(crate) fn step(sets: &[Sized], bounds: Bounds) -> Vec<Sized> {
    let mut sets = sets.to_vec();
    let total: i32 = sets.iter().map(|set| set.size).sum();
    let Some(new) = sets.iter_mut().find(|set| set.new) else { return sets };
    let target = if new.size > bounds.replicas { bounds.replicas } else { grown(new.size, total, bounds) };
    if new.size != target {
        new.size = target;
        return sets;
    }
    let new_unavailable = new.size - available(&new.set);
    let spare = total - bounds.min_available() - new_unavailable;
    if spare > 0 {
        drop_unhealthy(&mut sets, spare);
        drop_available(&mut sets, bounds);
    }
    sets
}

fn drop_unhealthy(sets: &mut [Sized], mut spare: i32) {
    for old in sets.iter_mut().filter(|set| !set.new) {
        let dropped = (old.size - available(&old.set)).max(0).min(spare);
        old.size -= dropped;
        spare -= dropped;
    }
}

fn drop_available(sets: &mut [Sized], bounds: Bounds) {
    let all: i32 = sets.iter().map(|set| available(&set.set)).sum();
    let mut spare = (all - bounds.min_available()).max(0);
    for old in sets.iter_mut().filter(|set| !set.new) {
        let dropped = old.size.min(spare);
        old.size -= dropped;
        spare -= dropped;
    }
}

/// Sizes after a change of `spec.replicas`: the only active ReplicaSet takes it all; in the middle of a rollout each
/// takes its share.
pub(crate) fn proportional(sets: &[Sized], bounds: Bounds) -> Vec<Sized> {
    let mut sets = sets.to_vec();
    if let Some(only) = active_or_latest(&sets) {
        sets[only].size = bounds.replicas;
        return sets;
    }
    if sets.iter().any(|set| set.new && is_saturated(&set.set, bounds)) {
        sets.iter_mut().filter(|set| !set.new).for_each(|set| set.size = 0);
    } else if !bounds.recreate {
        share(&mut sets, bounds);
    }
    sets
}

fn active_or_latest(sets: &[Sized]) -> Option<usize> {
    let active: Vec<usize> = (0..sets.len()).filter(|at| sets[*at].size > 0).collect();
    match active[..] {
        // The new one, or else the youngest: they are ordered so.
        [] => sets.len().checked_sub(1),
        [only] => Some(only),
        _ => None,
    }
}

fn is_saturated(set: &ReplicaSet, bounds: Bounds) -> bool {
    let desired = revision::desired(set) == Some(bounds.replicas);
    desired && replicas(set) == bounds.replicas && available(set) == bounds.replicas
}

fn share(sets: &mut [Sized], bounds: Bounds) {
    let allowed = if bounds.replicas > 0 { bounds.replicas + bounds.surge } else { 0 };
    let to_add = allowed - sets.iter().map(|set| set.size).sum::<i32>();
    if to_add == 0 {
        return;
    }
    let mut order: Vec<usize> = (0..sets.len()).filter(|at| sets[*at].size > 0).collect();
    // The largest first; of equals the newest when growing, the oldest when shrinking.
    order.sort_by_key(|at| (-sets[*at].size, if to_add > 0 { -(*at as i64) } else { *at as i64 }));
    let mut added = 0;
    for at in &order {
        let left = to_add - added;
        let fraction = fraction(&sets[*at], bounds);
        let part = if to_add > 0 { fraction.min(left) } else { fraction.max(left) };
        sets[*at].size += part;
        added += part;
    }
    if let Some(first) = order.first() {
        sets[*first].size = (sets[*first].size + to_add - added).max(0);
    }
}

/// What a ReplicaSet's size grows by when it keeps its share of the Deployment.
fn fraction(sized: &Sized, bounds: Bounds) -> i32 {
    if bounds.replicas == 0 {
        return -sized.size;
    }
    let Some(before) = revision::max_replicas(&sized.set).filter(|before| *before > 0) else { return 0 };
    let share = f64::from(sized.size) * f64::from(bounds.replicas + bounds.surge) / f64::from(before);
    share.round() as i32 - sized.size
}
