//! Any object is converted or refused. What is a valid resource can be had in every version, and comes back meaning the
//! same.

#![no_main]

use heddle_smi::{Kind, Parsed, Resource, convert, manifest, parse};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| manifest::parse(text).documents.iter().for_each(|document| convert_both_ways(&document.value)));

fn convert_both_ways(value: &Value) {
    let Ok((kind, version)) = Kind::of(value) else { return };
    let before = parse(value);
    for to in kind.versions() {
        let there = convert(value.clone(), &kind.api_version(*to));
        let Ok(Parsed { resource: before, .. }) = &before else { continue };
        let there = there.expect("a valid resource has every version");
        let back = convert(there, &kind.api_version(version)).expect("what was converted comes back");
        let after = parse(&back).expect("and is as valid as it was").resource;
        assert_eq!(meaning(&after), meaning(before));
    }
}

/// The resource without the annotations of conversion, but for the port that is part of its meaning; and without the
/// unit of weights, which any whole number may have.
fn meaning(resource: &Resource) -> String {
    match resource {
        Resource::TrafficTarget(target) => format!("{:?} {:?}", target.spec, target.port()),
        Resource::IdentityBinding(binding) => format!("{:?}", binding.spec),
        Resource::HttpRouteGroup(group) => format!("{:?}", group.spec),
        Resource::TcpRoute(route) => format!("{:?}", route.spec),
        Resource::UdpRoute(route) => format!("{:?}", route.spec),
        Resource::TrafficSplit(split) => {
            let backends = &split.spec.backends;
            let divisor = backends.iter().fold(0, |divisor, backend| gcd(backend.weight, divisor)).max(1);
            let shares: Vec<_> = backends.iter().map(|backend| (&backend.service, backend.weight / divisor)).collect();
            format!("{} {shares:?} {:?}", split.spec.service, split.spec.matches)
        }
        Resource::MeshConfig(config) => format!("{:?}", config.spec),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
