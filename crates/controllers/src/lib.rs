//! The controllers of Kubernetes, as one loop over one snapshot.
//!
//! Each controller is a function from the `World` (every object the API holds, typed) and the time to a `Plan`
//! (actions, and when to look again). The [driver](run) watches the API, computes all plans, executes them and repeats
//! until nothing is left to do. Nothing is remembered between two computations, so a lost watch, a conflict or a
//! restart costs one more computation and no correctness.
//!
//! All of it speaks to the API through a [`kube::Client`]: the embedded API's in-process client and a real API server
//! are the same to it.

mod adoption;
mod conditions;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod driver;
mod endpoints;
mod execute;
mod garbage;
mod history;
mod job;
mod namespace;
mod plan;
mod pod_gc;
mod pods;
mod recorder;
mod replica_set;
mod schedule;
mod scheduler;
mod stateful_set;
mod world;

#[cfg(test)]
mod fixtures;

pub use driver::{Settings, run};

use jiff::Timestamp;
use plan::Plan;
use world::World;

/// Everything that is to be done now, by every controller, in the order in which it is best done.
fn reconcile(world: &World, settings: &Settings, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    plan.extend(namespace::reconcile(world, settings));
    plan.extend(deployment::reconcile(world, now));
    plan.extend(replica_set::reconcile(world, now));
    plan.extend(stateful_set::reconcile(world, now));
    plan.extend(daemon_set::reconcile(world, now));
    plan.extend(cron_job::reconcile(world, now));
    plan.extend(job::reconcile(world, now));
    plan.extend(scheduler::reconcile(world, now));
    plan.extend(endpoints::reconcile(world, now));
    plan.extend(disruption::reconcile(world, now));
    plan.extend(pod_gc::reconcile(world));
    plan.extend(garbage::reconcile(world));
    plan
}
