//! What is said of counts that are missing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heddle_metrics::{LossCause, losses};
use heddle_policy::telemetry::{Edge, Gap, Lost, Past, Report};
use heddle_policy::{PodName, SpiffeId};
use serde_json::json;

use crate::world::{World, report, sent, served, totals, value};

const WINDOW: Duration = Duration::from_secs(30);

fn lost(world: &World, path: &str) -> String {
    value(&world.get(path), "lost_time").to_owned()
}

fn web_1() -> PodName {
    PodName::new("shop", "web-1")
}

fn remove(world: &mut World, pod: &PodName) {
    let metadata = json!({ "namespace": pod.namespace, "name": pod.name });
    world.objects.remove(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata }), world.now);
    world.samples.end(pod, world.now);
}

#[test]
fn the_time_that_a_killed_proxy_lost_is_told_at_all_that_contains_its_pod() {
    let mut world = World::begun();
    assert_eq!(lost(&world, "/namespaces/shop/deployments/web"), "absent");
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut gaps = Lost::default();
    gaps.add(Gap { from: until - 700, until });
    world.pass(5);
    // As often as it is reported, and to a control plane that hears it for the first time.
    for _ in 0..2 {
        world.samples.add(&web_1(), Report { lost: gaps.clone(), ..report(Vec::new()) }, world.now);
    }
    for resource in ["pods/web-1", "deployments/web", "services/web"] {
        assert_eq!(lost(&world, &format!("/namespaces/shop/{resource}")), "700m", "{resource}");
    }
    assert_eq!(lost(&world, "/namespaces/shop/pods/web-2"), "absent");
    world.pass(60);
    assert_eq!(lost(&world, "/namespaces/shop/pods/web-1"), "absent", "it was before the window");
    assert_eq!(lost(&world, "/namespaces/shop/pods/web-1?t=2m"), "700m");
}

#[test]
fn a_pod_that_goes_without_a_last_report_has_lost_what_it_counted_since_the_one_before() {
    let mut world = World::begun();
    world.pass(2);
    remove(&mut world, &web_1());
    assert_eq!(lost(&world, "/namespaces/shop/deployments/web"), "2");
    // It came late.
    let last = Report { last: true, ..report(vec![(served("web-1", "buyer-1"), totals(5, 0, 0, 1))]) };
    world.samples.add(&web_1(), last.clone(), world.now);
    world.samples.add(&web_1(), last, world.now);
    assert_eq!(lost(&world, "/namespaces/shop/deployments/web"), "absent");
    assert_eq!(value(&world.get("/namespaces/shop/deployments/web"), "success_count"), "5");
}

#[test]
fn a_pod_that_ended_before_this_control_plane_could_hear_it_is_known_by_its_peers() {
    let mut world = World::new();
    let peer = SpiffeId::of_service_account("cluster.local", "shop", "web").ok();
    let proven = |edge: Edge| Edge { peer: peer.clone(), ..edge };
    let edges = |pod: &str| vec![(proven(sent("buyer-1", pod, "web", None)), totals(9, 0, 0, 1))];
    let past = |pod: &str, age: u32| Past { age, length: 10, edges: edges(pod).into() };
    let history = vec![past("web-7f-gone", 10), past("web-1", 5)];
    let edges = [edges("web-7f-gone"), edges("web-1")].concat();
    world.samples.add(&PodName::new("shop", "buyer-1"), Report { history: history.into(), ..report(edges) }, world.now);

    let found = losses(&world.objects, &world.samples, WINDOW, world.now);
    let found: Vec<_> = found.iter().map(|loss| (&*loss.pod.name, loss.cause, loss.gap.length().as_secs())).collect();
    assert_eq!(found, [("web-7f-gone", LossCause::Unheard, 21)], "web-1 is there, and will report");
    assert_eq!(lost(&world, "/namespaces/shop/deployments/web"), "21");
    assert_eq!(lost(&world, "/namespaces/shop/deployments/buyer"), "absent");
    // A pod that is there and has ended will report as little as one that is gone.
    let metadata = json!({ "namespace": "shop", "name": "web-1" });
    world.objects.insert(
        &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": { "phase": "Succeeded" } }),
    );
    assert_eq!(losses(&world.objects, &world.samples, WINDOW, world.now).len(), 2);
}
