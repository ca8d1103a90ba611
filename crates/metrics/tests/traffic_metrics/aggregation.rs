//! Whatever is aggregated: counts are exact, and percentiles are those of the raw samples.

use std::time::Instant;

use heddle_metrics::{Kind, Query, Scope, measure};
use heddle_policy::PodName;
use heddle_policy::telemetry::{Edge, Past, Report, Totals};
use proptest::prelude::*;

use crate::world::{World, report, sent, served, totals, value};

/// One request: which of two pods served it, through which of two backends, and how long it took in microseconds.
type Sample = (bool, bool, u64);

/// From microseconds to minutes, as traffic of any kind has them.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let micros = (4..28_u32, any::<u64>()).prop_map(|(bits, value)| 1 + (value & ((1 << bits) - 1)));
    prop::collection::vec((any::<bool>(), any::<bool>(), micros), 1..400)
}

fn web(second: bool) -> &'static str {
    if second { "web-2" } else { "web-1" }
}

/// What the proxies of both ends have counted after the samples up to `end`.
fn counted(samples: &[Sample], of: impl Fn(&Sample) -> Option<Edge>) -> Vec<(Edge, Totals)> {
    let mut edges: Vec<(Edge, Totals)> = Vec::new();
    for sample in samples {
        let Some(edge) = of(sample) else { continue };
        if !edges.iter().any(|(known, _)| *known == edge) {
            edges.push((edge.clone(), Totals::default()));
        }
        let found = edges.iter_mut().find(|(known, _)| *known == edge);
        let (_, totals) = found.unwrap();
        totals.requests.success += 1;
        totals.latency.record(sample.2);
    }
    edges
}

fn assert_exact(world: &World, kind: Kind, name: &str, backend: Option<&str>, mut micros: Vec<u64>) {
    micros.sort_unstable();
    let namespace = if kind.is_namespaced() { "shop" } else { "" };
    let scope = Scope::One { namespace: namespace.to_owned(), name: name.to_owned() };
    let measured = measure(&world.objects, &world.samples, &Query::new(kind, scope), world.now).unwrap();
    let mut rows = measured.rows.into_iter();
    let row = rows.find(|row| row.backend.as_ref().map(|backend| backend.name.as_str()) == backend).unwrap();
    assert_eq!(row.totals.requests.success, micros.len() as u64, "{kind:?} {name}");
    for quantile in [0.5, 0.9, 0.99] {
        let rank = (micros.len() as f64 * quantile).ceil() as usize;
        let exact = micros.get(rank.saturating_sub(1)).copied().unwrap_or_default();
        let told = row.totals.latency.quantile(quantile).unwrap_or_default();
        assert!(told.abs_diff(exact) * 50 <= exact, "{kind:?} {name} p{quantile}: {told} for {exact}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn m3_percentiles_of_every_aggregation_are_within_two_percent_of_the_raw_samples(all in samples(), parts in 1..6_usize) {
        let mut world = World::begun();
        // Reports come while the samples do, each a second after the other.
        for part in 1..=parts {
            world.pass(1);
            let so_far = &all[..all.len() * part / parts];
            for second in [false, true] {
                let own = |sample: &Sample| (sample.0 == second).then(|| served(web(second), "buyer-1"));
                world.report(web(second), counted(so_far, own));
            }
            let to_backend = |sample: &Sample| {
                Some(sent("buyer-1", web(sample.0), "web", Some(if sample.1 { "web-v2" } else { "web-v1" })))
            };
            world.report("buyer-1", counted(so_far, to_backend));
        }
        let micros = |fits: &dyn Fn(&Sample) -> bool| {
            all.iter().filter(|sample| fits(sample)).map(|sample| sample.2).collect::<Vec<u64>>()
        };
        assert_exact(&world, Kind::Pod, "web-1", None, micros(&|sample| !sample.0));
        assert_exact(&world, Kind::Pod, "web-2", None, micros(&|sample| sample.0));
        assert_exact(&world, Kind::Deployment, "web", None, micros(&|_| true));
        assert_exact(&world, Kind::Service, "web", None, micros(&|_| true));
        assert_exact(&world, Kind::Namespace, "shop", None, micros(&|_| true));
        assert_exact(&world, Kind::Node, "node-1", None, micros(&|_| true));
        assert_exact(&world, Kind::TrafficSplit, "web", Some("web-v1"), micros(&|sample| !sample.1));
        assert_exact(&world, Kind::TrafficSplit, "web", Some("web-v2"), micros(&|sample| sample.1));
    }

    #[test]
    fn a_request_counts_once_however_often_and_wherever_its_report_arrives(
        steps in prop::collection::vec((0..50_u64, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let mut world = World::begun();
        let pod = PodName::new("shop", "web-1");
        let mut total = 0;
        let mut history: Vec<(Instant, Totals)> = Vec::new();
        for (added, twice, restart) in steps {
            world.pass(1);
            total += added;
            history.push((world.now, totals(added, 0, 0, 1)));
            if restart {
                // Another control plane, which knows nothing.
                world.samples = heddle_metrics::Samples::new(world.now, std::time::SystemTime::now());
            }
            let past = history.iter().map(|(at, added)| Past {
                age: (world.now - *at).as_secs() as u32,
                length: 1,
                edges: vec![(served("web-1", "buyer-1"), added.clone())].into(),
            });
            let newest = Report {
                history: past.collect::<Vec<_>>().into(),
                ..report(vec![(served("web-1", "buyer-1"), totals(total, 0, 0, 1))])
            };
            world.samples.add(&pod, newest.clone(), world.now);
            if twice {
                world.samples.add(&pod, newest, world.now);
            }
            let document = world.get("/namespaces/shop/deployments/web");
            prop_assert_eq!(value(&document, "success_count"), total.to_string());
        }
    }
}

/// What `web-1` has answered `buyer-1`, and the answers of each so many seconds ago.
fn answered(total: u64, past: &[(u32, u64)]) -> Report {
    let edges = |count| vec![(served("web-1", "buyer-1"), totals(count, 0, 0, 1))];
    let past = past.iter().map(|(age, count)| Past { age: *age, length: 10, edges: edges(*count).into() });
    Report { history: past.collect(), ..report(edges(total)) }
}

#[test]
fn what_was_counted_while_a_proxy_was_not_heard_is_of_the_time_that_it_tells() {
    let pod = PodName::new("shop", "web-1");
    for (total, oldest, counts) in [
        // Of three it is not told when they were counted.
        (60, 6, [3, 24, 44, 60]),
        // Of the oldest interval, in which the proxy was last heard, six were known.
        (55, 10, [0, 21, 41, 55]),
    ] {
        let mut world = World::begun();
        world.samples.add(&pod, answered(10, &[]), world.now);
        world.pass(100);
        let report = answered(total, &[(300, 6), (95, oldest), (40, 20), (5, 21)]);
        world.samples.add(&pod, report, world.now);
        for (window, count) in ["1s", "10s", "45s", "5m"].into_iter().zip(counts) {
            let document = world.get(&format!("/namespaces/shop/deployments/web?t={window}"));
            assert_eq!(value(&document, "success_count"), count.to_string(), "{window} of {total}");
        }
    }
}

#[test]
fn an_edge_that_a_report_does_not_name_has_been_retired_and_begins_with_zeros() {
    let mut world = World::begun();
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(5, 0, 0, 1))]);
    world.pass(1);
    world.report("web-1", Vec::new());
    assert_eq!(world.samples.edges(), 0);
    world.report("web-1", vec![(served("web-1", "buyer-1"), totals(2, 0, 0, 1))]);
    assert_eq!(value(&world.get("/namespaces/shop/deployments/web"), "success_count"), "7");
}

#[test]
fn edges_that_were_counted_together_stay_so_when_there_is_room_again_and_later_ones_are_told_apart() {
    let mut world = World::begun();
    let edge = |client: u64| served("web-1", &format!("client-{client:04}"));
    let report = |world: &mut World, clients: std::ops::Range<u64>, each: u64| {
        world.pass(1);
        world.report("web-1", clients.map(|client| (edge(client), totals(each, 0, 0, 1))).collect());
    };
    let total = |world: &World| value(&world.get("/namespaces/shop/deployments/web"), "success_count").to_owned();
    report(&mut world, 0..3_000, 1);
    report(&mut world, 1_500..3_000, 2);
    assert_eq!((total(&world), world.samples.edges()), ("4500".into(), 501));
    report(&mut world, 1_500..4_000, 3);
    assert_eq!((total(&world), world.samples.edges()), ("9000".into(), 1_501));
    report(&mut world, 3_000..4_000, 3);
    assert_eq!((total(&world), world.samples.edges()), ("9000".into(), 1_000));
}

#[test]
fn backends_are_told_apart_when_there_is_no_room_for_pods() {
    let mut world = World::begun();
    let pods = 0..4_000_u64;
    let backend = |pod: u64| if pod.is_multiple_of(4) { "web-v2" } else { "web-v1" };
    let edge = |pod: u64| sent("buyer-1", &format!("pod-{pod}"), "web", Some(backend(pod)));
    world.report("buyer-1", pods.map(|pod| (edge(pod), totals(1, 0, 0, 1))).collect());
    let list = world.get("/namespaces/shop/trafficsplits/web");
    let counts: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| value(item, "success_count")).collect();
    assert_eq!(counts, ["3000", "1000"]);
}

#[test]
fn edges_beyond_the_bound_are_counted_together_and_none_twice() {
    let mut world = World::begun();
    let clients = 3_000_u64;
    let edge = |client: u64| served("web-1", &format!("client-{client}"));
    for round in 1..=2 {
        world.pass(1);
        world.report("web-1", (0..clients).map(|client| (edge(client), totals(round, 0, 0, 1))).collect());
        // One more edge each round, among those that are known and those that are not.
        assert!(world.samples.edges() <= 2_001, "{}", world.samples.edges());
    }
    assert_eq!(value(&world.get("/namespaces/shop/deployments/web"), "success_count"), (2 * clients).to_string());
    let list = world.get("/namespaces/shop/pods/web-1/edges");
    let rest = list["items"].as_array().unwrap().iter().find(|item| item["edge"]["resource"]["kind"] == "Outside");
    assert_eq!(value(rest.unwrap(), "success_count"), (2 * (clients - 2_000)).to_string());
}
