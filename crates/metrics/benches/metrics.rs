//! What a list of 1,000 Deployments costs, what all their edges do, and how much memory 1,000 edges take that are busy all
//! the time.
//!
//! `cargo bench -p heddle-metrics` prints both.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where its own input is wrong")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use heddle_metrics::{Form, Objects, Request, Samples, answer};
use heddle_policy::PodName;
use heddle_policy::telemetry::{Edge, Lost, Report, Side, Totals};
use heddle_smi::metrics::TrafficMetricsList;
use serde_json::json;

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator can be counted in no other way")]
// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPLOYMENTS: usize = 1_000;

/// Deployments of one pod each.
fn objects() -> Objects {
    let mut objects = Objects::default();
    for number in 0..DEPLOYMENTS {
        let meta = |name: String, kind: &str, owner: String| {
            json!({ "namespace": "shop", "name": name, "labels": { "app": format!("app-{number}") },
                "ownerReferences": [{ "kind": kind, "name": owner, "controller": true }] })
        };
        let (deployment, set) = (format!("app-{number}"), format!("app-{number}-7f"));
        objects.insert(&json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "namespace": "shop", "name": deployment } }));
        objects.insert(&json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": meta(set.clone(), "Deployment", deployment) }));
        objects.insert(&json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": meta(format!("{set}-1"), "ReplicaSet", set) }));
    }
    objects
}

/// One edge of each pod, with so many requests each second for the longest window, at twenty different latencies.
fn samples(start: Instant, seconds: u64) -> Samples {
    let mut samples = Samples::new(start, SystemTime::now());
    let pods: Vec<PodName> =
        (0..DEPLOYMENTS).map(|number| PodName::new("shop", format!("app-{number}-7f-1"))).collect();
    let mut totals = Totals::default();
    for second in 0..=seconds {
        for pod in &pods {
            let peer_pod = Some(PodName::new("shop", "app-0-7f-1"));
            let edge =
                Edge { side: Side::Server, pod: pod.clone(), peer: None, peer_pod, service: None, backend: None };
            let edges = vec![(edge, totals.clone())];
            let report = Report {
                instance: "a".into(),
                edges,
                open: Vec::new(),
                lost: Lost::default(),
                last: false,
                history: Vec::new().into(),
            };
            samples.add(pod, report, start + Duration::from_secs(second));
        }
        for request in 0..20 {
            totals.requests.success += 1;
            totals.latency.record(1000 + (second * 7 + request * 131) % 5_000);
        }
    }
    samples
}

fn lists(criterion: &mut Criterion) {
    let start = Instant::now();
    let objects = objects();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let samples = samples(start, 600);
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    println!("memory: {DEPLOYMENTS} edges, busy for ten minutes: {:.1} MB", bytes as f64 / 1e6);
    let now = start + Duration::from_secs(600);
    let list = "/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/deployments";
    let [one, all] = ["app-1", "*"].map(|name| format!("{list}/{name}/edges"));
    for (name, path, window) in [
        ("list", list, "30s"),
        ("list", list, "10m"),
        ("edges of one", &one, "30s"),
        ("edges of all", &all, "30s"),
        ("edges of all", &all, "10m"),
    ] {
        let parameters = [("t".to_owned(), window.to_owned())];
        let request = Request { path, parameters: &parameters, form: Form::Object };
        criterion.bench_function(&format!("{name} of {DEPLOYMENTS} deployments, {window}"), |bencher| {
            bencher.iter(|| black_box(answer(&objects, &samples, &request, now)).unwrap());
        });
    }
    // What passes between the control plane and who asks, and is read there.
    let parameters = [("t".to_owned(), "30s".to_owned())];
    let answered =
        answer(&objects, &samples, &Request { path: &all, parameters: &parameters, form: Form::Object }, now);
    let answered = answered.unwrap();
    println!("the edges of all: {:.1} MB of JSON", answered.to_string().len() as f64 / 1e6);
    criterion.bench_function("writing and reading them", |bencher| {
        bencher.iter(|| serde_json::from_str::<TrafficMetricsList>(&black_box(&answered).to_string()).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = lists
}
criterion_main!(benches);
