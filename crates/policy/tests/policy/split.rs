//! Group T: which split a request follows, and which backend it takes.

use heddle_policy::{Pick, ServicePort, Split};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{get, origin, rule};

fn split(weights: &[u64]) -> Split {
    let backend = |(number, weight): (usize, &u64)| json!({"origin": origin("TrafficSplit", "s"), "service": format!("bookstore/v{number}"), "weight": weight});
    let backends: Vec<Value> = weights.iter().enumerate().map(backend).collect();
    serde_json::from_value(json!({"origin": origin("TrafficSplit", "s"), "backends": backends})).unwrap()
}

/// How often each backend is chosen in `count` picks spread evenly and in disorder over all values of `random`.
fn picks(weights: &[u64], count: u64) -> Vec<u64> {
    let split = split(weights);
    let mut chosen = vec![0; weights.len()];
    for number in 0..count {
        if let Pick::Backend(backend) = split.pick(spread(number), |_| true) {
            chosen[backend.service.name[1..].parse::<usize>().unwrap()] += 1;
        }
    }
    chosen
}

/// SplitMix64: a fixed sequence of well-mixed values.
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn t4_weights_are_relative() {
    for weights in [[2, 1], [1000, 500], [u64::MAX - 1, (u64::MAX - 1) / 2]] {
        let chosen = picks(&weights, 30_000);
        assert!(chosen[0].abs_diff(20_000) < 400, "{weights:?} {chosen:?}");
    }
    assert_eq!(picks(&[1], 100), [100]);
}

#[test]
fn t4_the_smallest_weight_has_its_share_of_all_values() {
    let split = split(&[1, u64::from(u32::MAX), 1]);
    let service = |random| match split.pick(random, |_| true) {
        Pick::Backend(backend) => backend.service.name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((service(0), service(u64::MAX / 2), service(u64::MAX)), ("v0".into(), "v1".into(), "v2".into()));
}

#[test]
fn t6_weight_zero_receives_nothing() {
    assert_eq!(picks(&[1, 0, 0], 10_000), [10_000, 0, 0]);
}

#[test]
fn t7_all_weights_zero_is_said() {
    assert_eq!(split(&[0, 0]).pick(7, |_| true), Pick::AllZero);
    assert_eq!(split(&[]).pick(7, |_| true), Pick::NoneReady, "all backends were left out");
}

#[test]
fn t9_a_backend_that_is_not_ready_leaves_its_share() {
    let split = split(&[50, 50, 0]);
    for number in 0..1000 {
        let pick = split.pick(spread(number), |backend| &*backend.service.name != "v0");
        assert!(matches!(pick, Pick::Backend(backend) if &*backend.service.name == "v1"));
    }
    assert_eq!(split.pick(7, |backend| backend.weight == 0), Pick::NoneReady);
}

#[test]
fn t9_readiness_that_changes_during_a_pick_still_finds_a_backend() {
    let split = split(&[1, 1]);
    let asked = std::cell::Cell::new(0);
    let pick = split.pick(u64::MAX, |backend| {
        asked.set(asked.get() + 1);
        asked.get() <= 2 || &*backend.service.name == "v0"
    });
    assert!(matches!(pick, Pick::Backend(backend) if &*backend.service.name == "v0"));
}

#[test]
fn t32_the_share_of_each_backend_passes_a_chi_square_test() {
    // The critical values at p = 0.001 for one and two degrees of freedom.
    for (weights, critical) in [(vec![90, 10], 10.83), (vec![50, 50], 10.83), (vec![1, 10, 100], 13.82)] {
        let (count, total) = (10_000, weights.iter().sum::<u64>());
        let statistic = picks(&weights, count).iter().zip(&weights).fold(0.0, |sum, (&seen, &weight)| {
            let expected = count as f64 * weight as f64 / total as f64;
            sum + (seen as f64 - expected).powi(2) / expected
        });
        assert!(statistic < critical, "{weights:?}: {statistic}");
    }
}

proptest! {
    #[test]
    fn t34_a_pick_is_ready_and_weighted_in_any_order(
        weights in prop::collection::vec(prop_oneof![Just(0), 0..9u64, any::<u64>()], 0..8),
        ready: u8, random: u64,
    ) {
        let split = split(&weights);
        let is_ready = |name: &str| ready >> name[1..].parse::<u32>().unwrap() & 1 == 1;
        match split.pick(random, |backend| is_ready(&backend.service.name)) {
            Pick::Backend(backend) => prop_assert!(backend.weight > 0 && is_ready(&backend.service.name)),
            Pick::AllZero => prop_assert!(weights.iter().all(|&weight| weight == 0)),
            Pick::NoneReady => prop_assert!(
                split.backends.iter().all(|backend| backend.weight == 0 || !is_ready(&backend.service.name))
            ),
        }
    }
}

/// A port with a split for `/beta`, then, when `and_rest`, one for everything.
fn port(and_rest: bool) -> ServicePort {
    let beta = json!({
        "origin": origin("TrafficSplit", "beta"),
        "matches": [rule("beta", json!({"path": "/beta"}))],
        "backends": [],
    });
    let rest = json!({"origin": origin("TrafficSplit", "rest"), "backends": []});
    let splits = if and_rest { vec![beta, rest] } else { vec![beta] };
    serde_json::from_value(json!({"port": 80, "splits": splits})).unwrap()
}

#[test]
fn t14_a_request_that_nothing_matches_follows_no_split() {
    assert_eq!(&*port(false).split_for_request(&get("/beta/x")).unwrap().origin.name, "beta");
    assert!(port(false).split_for_request(&get("/")).is_none());
}

#[test]
fn t17_a_split_whose_matches_do_not_resolve_takes_nothing() {
    let split = json!({"origin": origin("TrafficSplit", "s"), "matches": [], "backends": []});
    let port: ServicePort = serde_json::from_value(json!({"port": 80, "splits": [split]})).unwrap();
    assert!(port.split_for_request(&get("/")).is_none() && port.split_for_connection().is_none());
}

#[test]
fn t18_matches_leave_raw_tcp_alone() {
    assert!(port(false).split_for_connection().is_none());
}

#[test]
fn t21_the_first_split_that_matches_wins() {
    assert_eq!(&*port(true).split_for_request(&get("/beta")).unwrap().origin.name, "beta");
    assert_eq!(&*port(true).split_for_request(&get("/")).unwrap().origin.name, "rest");
}

#[test]
fn t30_raw_tcp_follows_a_split_without_matches() {
    assert_eq!(&*port(true).split_for_connection().unwrap().origin.name, "rest");
}
