//! Splits of real traffic: their accuracy, and how soon a change takes effect.

use crate::mesh::{Mesh, eventually, now};

const REQUESTS: u64 = 10_000;

/// The chi-square statistic of what was seen against what the weights say.
fn chi_square(seen: &[(u64, u64)]) -> f64 {
    let (total, weights): (u64, u64) = seen.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let expected = |weight: u64| total as f64 * weight as f64 / weights as f64;
    seen.iter().filter(|one| one.1 > 0).map(|one| (one.0 as f64 - expected(one.1)).powi(2) / expected(one.1)).sum()
}

#[test]
fn t4_t6_t32_ten_thousand_requests_follow_the_weights() {
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/three-stores", &[]) else { return };
    // Critical values of chi-square at p = 0.001, for one and two degrees of freedom.
    for (weights, critical) in [([90, 10, 0], 10.828), ([50, 50, 0], 10.828), ([1, 10, 100], 13.816)] {
        let stores = ["bookstore-v1", "bookstore-v2", "bookstore-v3"];
        let backends: Vec<(&str, u64)> = stores.into_iter().zip(weights).collect();
        // Alone first, so that the change to the weights under test is certain to be in force once its last backend
        // answers after another one did.
        let heaviest = backends.iter().max_by_key(|one| one.1).expect("a backend").0;
        let other = backends.iter().rev().find(|one| one.1 > 0 && one.0 != heaviest).expect("another").0;
        has_all(&mesh, heaviest);
        mesh.watch_answers().wait_for(other, mesh.split(&backends));
        // Of good splits one in a thousand fails, and one in a million twice.
        let follows = || {
            let statistic = chi_square(&load(&mesh, &backends));
            println!("weights {weights:?}: chi-square {statistic:.2} of {critical}");
            statistic < critical
        };
        assert!(follows() || follows(), "{weights:?}");
    }
}

/// Gives a backend all the traffic, and waits until it has it.
fn has_all(mesh: &Mesh, backend: &str) {
    mesh.split(&[(backend, 1)]);
    eventually("nothing is left of the former weights", || mesh.load(100).answers_of(backend) == 100);
}

/// How many requests of a load each backend answered, with its weight.
fn load(mesh: &Mesh, backends: &[(&str, u64)]) -> Vec<(u64, u64)> {
    let tally = mesh.load(REQUESTS);
    tally.assert_none_failed();
    let seen: Vec<(u64, u64)> = backends.iter().map(|(store, weight)| (tally.answers_of(store), *weight)).collect();
    println!("{seen:?}");
    assert_eq!(seen.iter().map(|one| one.0).sum::<u64>(), REQUESTS, "{seen:?}");
    assert!(seen.iter().all(|one| one.1 > 0 || one.0 == 0), "a backend of weight zero was chosen: {seen:?}");
    seen
}

#[test]
fn a_change_of_weights_takes_effect_and_the_time_is_reported() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    // Both answer at first: only a change that comes after one backend has all is told by the first other answer.
    has_all(&mesh, "bookstore-v1");
    let answers = mesh.watch_answers();
    let change_to = |v1: u64, v2: u64, target: &str| {
        let began = mesh.split(&[("bookstore-v1", v1), ("bookstore-v2", v2)]);
        answers.wait_for(target, began) - began
    };
    let pairs = (0..51).flat_map(|_| [change_to(0, 1, "bookstore-v2"), change_to(1, 0, "bookstore-v1")]);
    let mut micros: Vec<u128> = pairs.skip(2).collect();
    micros.sort_unstable();
    println!(
        "100 changes, from the start of kubectl to the first request: median {} ms, p99 {} ms",
        micros[49] / 1000,
        micros[98] / 1000
    );
}

/// Who may buy is changed as often as this, and back.
const REVOCATIONS: usize = 25;

#[test]
fn what_a_traffic_target_allows_ends_and_begins_with_it_and_the_time_is_reported() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    has_all(&mesh, "bookstore-v1");
    let answers = mesh.watch_answers();
    answers.wait_for_status("200", 0);
    let millis_until = |status: &str, kubectl: &[&str]| {
        let began = now();
        mesh.kubectl(kubectl);
        (answers.wait_for_status(status, began) - began) / 1000
    };
    let target = ["traffictarget", "-n", "bookstore", "bookstore-v1"];
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/bookstore/policy-access.yaml");
    let changes = (0..REVOCATIONS).map(|_| {
        let ended = millis_until("403", &[&["delete"], &target[..]].concat());
        (ended, millis_until("200", &["apply", "-f", manifest]))
    });
    let (mut ended, mut begun): (Vec<u128>, Vec<u128>) = changes.unzip();
    for (what, millis) in [("deleted", &mut ended), ("applied", &mut begun)] {
        millis.sort_unstable();
        println!(
            "a TrafficTarget {what} {REVOCATIONS} times, from the start of kubectl to the first request: median {} ms, \
             at most {} ms",
            millis[REVOCATIONS / 2],
            millis[REVOCATIONS - 1]
        );
    }
}
