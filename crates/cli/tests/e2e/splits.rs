//! Splits of real traffic: their accuracy, and how soon a change takes effect.

use crate::mesh::Mesh;

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
        let mut answers = mesh.watch_answers();
        // Alone first, so that the change to the weights under test is certain to be in force once its last backend
        // answers after another one did.
        let heaviest = backends.iter().max_by_key(|one| one.1).expect("a backend").0;
        let other = backends.iter().rev().find(|one| one.1 > 0 && one.0 != heaviest).expect("another").0;
        answers.wait_for(heaviest, mesh.split(&[(heaviest, 1)]));
        answers.wait_for(other, mesh.split(&backends));
        drop(answers);
        let tally = mesh.load(REQUESTS);
        tally.assert_none_failed();
        let seen: Vec<(u64, u64)> = backends.iter().map(|(store, weight)| (tally.answers_of(store), *weight)).collect();
        assert_eq!(seen.iter().map(|one| one.0).sum::<u64>(), REQUESTS, "{seen:?}");
        assert!(seen.iter().all(|one| one.1 > 0 || one.0 == 0), "a backend of weight zero was chosen: {seen:?}");
        let statistic = chi_square(&seen);
        println!("weights {weights:?}: {seen:?}, chi-square {statistic:.2} of {critical}");
        assert!(statistic < critical, "{seen:?}: {statistic}");
    }
}

#[test]
fn a_change_of_weights_takes_effect_and_the_time_is_reported() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let mut answers = mesh.watch_answers();
    let mut change_to = |v1: u64, v2: u64, target: &str| {
        let began = mesh.split(&[("bookstore-v1", v1), ("bookstore-v2", v2)]);
        answers.wait_for(target, began) - began
    };
    // Both answer at first: only a change that comes after one backend has all is told by the first other answer.
    change_to(1, 0, "bookstore-v1");
    let pairs = (0..51).flat_map(|_| [change_to(0, 1, "bookstore-v2"), change_to(1, 0, "bookstore-v1")]);
    let mut micros: Vec<u128> = pairs.skip(2).collect();
    micros.sort_unstable();
    println!(
        "100 changes, from the start of kubectl to the first request: median {} ms, p99 {} ms",
        micros[49] / 1000,
        micros[98] / 1000
    );
}
