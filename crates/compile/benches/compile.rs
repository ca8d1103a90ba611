//! How long it takes from a set of resources to the configuration of every proxy.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where its own input is wrong")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_compile::{Mesh, ResourceSet, compile};
use serde_json::{Value, json};

/// Namespaces of 50 Services; each Service has 4 pods, a target, and a route group; every tenth has a split.
fn resources(services: usize) -> Vec<Value> {
    (0..services).flat_map(|number| service(number, format!("ns-{}", number / 50))).collect()
}

fn service(number: usize, namespace: String) -> Vec<Value> {
    let name = format!("svc-{number}");
    let metadata = |name: &str| json!({"name": name, "namespace": namespace});
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(&name), "spec": {
            "clusterIP": format!("10.96.{}.{}", number / 250, number % 250 + 1),
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "grpc", "port": 9000}],
        }}),
        json!({"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": metadata(&name), "spec": {
            "matches": [
                {"name": "read", "pathRegex": "/api/.*", "methods": ["GET", "HEAD"]},
                {"name": "write", "pathRegex": "/api/[a-z]+/[0-9]+", "methods": ["POST"]},
            ],
        }}),
        json!({"apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget", "metadata": metadata(&name), "spec": {
            "destination": {"kind": "ServiceAccount", "name": name},
            "rules": [{"kind": "HTTPRouteGroup", "name": name}],
            "sources": (0..3).map(|other| {
                json!({"kind": "ServiceAccount", "name": format!("svc-{}", (number + other * 7) / 50 * 50)})
            }).collect::<Vec<_>>(),
        }}),
    ];
    all.push(slice(&name, &namespace, number));
    all.extend((0..4).map(|replica| pod(&name, &namespace, number * 4 + replica)));
    if number.is_multiple_of(10) {
        all.push(json!({"apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit", "metadata": metadata(&name), "spec": {
            "service": name,
            "backends": [{"service": name, "weight": 90}, {"service": format!("svc-{}", number + 1), "weight": 10}],
        }}));
    }
    all
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", 128 + pod / 62_500, pod / 250 % 250, pod % 250 + 1)
}

fn pod(service: &str, namespace: &str, number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{service}-5d4f-{number}"), "namespace": namespace,
            "labels": {"app": service, "pod-template-hash": "5d4f"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{service}-5d4f"), "controller": true}],
        },
        "spec": {"serviceAccountName": service, "containers": [{
            "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9000}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "web"}},
        }]},
        "status": {"phase": "Running", "podIP": address(number), "hostIP": "10.0.0.1"},
    })
}

fn slice(service: &str, namespace: &str, number: usize) -> Value {
    let endpoint = |replica: usize| {
        let pod = number * 4 + replica;
        json!({"addresses": [address(pod)], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": format!("{service}-5d4f-{pod}"), "namespace": namespace}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "grpc", "port": 9000}],
        "endpoints": (0..4).map(endpoint).collect::<Vec<_>>(),
    })
}

fn filled(resources: &[Value]) -> ResourceSet {
    let mut set = ResourceSet::default();
    resources.iter().for_each(|resource| set.insert(resource, "resourceVersion 1".into()));
    set
}

fn project(mesh: &Mesh) -> usize {
    mesh.pods().filter_map(|pod| mesh.proxy_config(pod)).map(|config| config.services.len()).sum()
}

fn benches(criterion: &mut Criterion) {
    for services in [1000, 5000] {
        let size = format!("{services} services, {} pods", services * 4);
        let resources = resources(services);
        let set = filled(&resources);
        let compiled = compile(&set);
        assert_eq!(compiled.mesh.pods().count(), services * 4);
        let mut group = criterion.benchmark_group("mesh");
        group.sample_size(10);
        group.bench_with_input(BenchmarkId::new("insert", &size), &resources, |bencher, resources| {
            bencher.iter_batched(|| (), |()| filled(resources), BatchSize::PerIteration);
        });
        group.bench_with_input(BenchmarkId::new("compile", &size), &set, |bencher, set| {
            bencher.iter_with_large_drop(|| compile(set));
        });
        group.bench_with_input(BenchmarkId::new("project all", &size), &compiled.mesh, |bencher, mesh| {
            bencher.iter(|| project(mesh));
        });
        group.finish();
    }
}

criterion_group!(all, benches);
criterion_main!(all);
