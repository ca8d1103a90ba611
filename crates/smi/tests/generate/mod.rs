//! Resources of every kind and version, and what they grant.

use std::collections::{BTreeMap, BTreeSet};

use heddle_smi::{Kind, Resource, annotation, convert};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// What a resource means to the mesh, as sets that can be compared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Granted {
    /// Destination and the only port, rules, sources.
    Target {
        destination: String,
        port: Option<u16>,
        rules: BTreeSet<String>,
        sources: BTreeSet<String>,
    },
    /// By name of the match: path, methods and headers, each a restriction.
    Requests(BTreeMap<String, BTreeSet<String>>),
    /// `None`: every port.
    Ports(Option<BTreeSet<u16>>),
    /// Shares of the sum of weights as cross products, and the groups that select (`None`: everything).
    Split {
        service: String,
        backends: Vec<(String, u64)>,
        matches: Option<BTreeSet<String>>,
    },
    Other(String),
}

impl Granted {
    pub(crate) fn by(resource: &Resource) -> Self {
        match resource {
            Resource::TrafficTarget(target) => Self::Target {
                destination: format!("{:?}", target.spec.destination),
                port: target.port().unwrap(),
                rules: target.spec.rules.iter().map(|rule| format!("{rule:?}")).collect(),
                sources: target.spec.sources.iter().map(|source| format!("{source:?}")).collect(),
            },
            Resource::HttpRouteGroup(group) => {
                let matches = group.spec.matches.iter().map(|rule| {
                    let path = rule.path_regex.iter().map(|path| format!("path {path}"));
                    let methods = (!rule.methods.is_empty()).then(|| format!("methods {:?}", rule.methods));
                    let headers = rule.headers.iter().map(|(name, value)| format!("header {name}: {value}"));
                    (rule.name.clone(), path.chain(methods).chain(headers).collect())
                });
                Self::Requests(matches.collect())
            }
            Resource::TcpRoute(route) => Self::ports(&route.spec.matches.ports),
            Resource::UdpRoute(route) => Self::ports(&route.spec.matches.ports),
            Resource::TrafficSplit(split) => {
                let backends = &split.spec.backends;
                let divisor = backends.iter().fold(0, |divisor, backend| gcd(backend.weight, divisor)).max(1);
                let matches = split.spec.matches.iter().map(|reference| reference.name.clone());
                Self::Split {
                    service: split.spec.service.clone(),
                    backends: backends.iter().map(|one| (one.service.clone(), one.weight / divisor)).collect(),
                    matches: (!split.spec.matches.is_empty()).then(|| matches.collect()),
                }
            }
            Resource::IdentityBinding(binding) => Self::Other(format!("{:?}", binding.spec)),
            Resource::MeshConfig(config) => Self::Other(format!("{:?}", config.spec)),
        }
    }

    fn ports(ports: &[u16]) -> Self {
        Self::Ports((!ports.is_empty()).then(|| ports.iter().copied().collect()))
    }

    /// Whether all that this grants is granted by `other` too.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Target { destination: a, port: narrow, rules: x, sources: s },
                Self::Target { destination: b, port: wide, rules: y, sources: t },
            ) => a == b && (wide.is_none() || narrow == wide) && x.is_subset(y) && s.is_subset(t),
            (Self::Requests(narrow), Self::Requests(wide)) => narrow
                .iter()
                .all(|(name, restrictions)| wide.get(name).is_some_and(|fewer| fewer.is_subset(restrictions))),
            (Self::Ports(narrow), Self::Ports(wide)) => match (narrow, wide) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(narrow), Some(wide)) => narrow.is_subset(wide),
            },
            (
                Self::Split { service: a, backends: x, matches: narrow },
                Self::Split { service: b, backends: y, matches: wide },
            ) => a == b && x == y && (wide.is_none() || narrow == wide),
            (a, b) => a == b,
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A valid resource of any kind in any version.
pub(crate) fn resource() -> impl Strategy<Value = Value> {
    let newest = prop_oneof![target(), group(), route(), split(), binding()];
    let written_in_newest = (newest, 0..4usize).prop_map(|(value, version)| {
        let (kind, _) = Kind::of(&value).unwrap();
        let version = kind.versions()[version % kind.versions().len()];
        convert(value, &kind.api_version(version)).unwrap()
    });
    prop_oneof![4 => written_in_newest, 1 => old_target(), 1 => old_split()]
}

/// A valid resource of an older version, or a TrafficTarget of any, without and with annotations of conversion.
pub(crate) fn annotated() -> impl Strategy<Value = (Value, Value)> {
    let port = select(vec!["80", "8080", "", "0", "x", "99999"]).prop_map(str::to_owned);
    let matches = prop_oneof![
        ports().prop_map(|ports| json!({"ports": ports}).to_string()),
        names().prop_map(|names| {
            names.iter().map(|name| json!({"kind": "HTTPRouteGroup", "name": name})).collect::<Value>().to_string()
        }),
        ".{0,8}",
    ];
    let headers = btree_map(name(), headers(), 0..3).prop_map(|all| json!(all).to_string());
    let annotations = (option::of(port), option::of(matches), option::of(headers), option::of("[0-9]{1,4}"));
    (resource(), annotations).prop_map(|(mut value, (port, matches, headers, unit))| {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("annotations");
        }
        let mut with = value.clone();
        let names = [annotation::DESTINATION_PORT, annotation::MATCHES, annotation::HEADERS, annotation::WEIGHT_UNIT];
        for (name, text) in names.into_iter().zip([port, matches, headers, unit]) {
            if let Some(text) = text {
                with["metadata"]["annotations"][name] = text.into();
            }
        }
        (value, with)
    })
}

/// A resource in which one value somewhere was replaced by another.
pub(crate) fn damaged() -> impl Strategy<Value = Value> {
    let junk = select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("500m"),
        json!("1E"),
        json!([]),
        json!([null]),
        json!({}),
        json!({"": {}}),
    ]);
    (resource(), any::<Index>(), junk).prop_map(|(mut value, at, junk)| {
        let mut pointers = Vec::new();
        collect_pointers(&value, String::new(), &mut pointers);
        if let Some(place) = value.pointer_mut(&pointers[at.index(pointers.len())]) {
            *place = junk;
        }
        value
    })
}

fn collect_pointers(value: &Value, pointer: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect_pointers(value, format!("{pointer}/{name}"), all);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect_pointers(value, format!("{pointer}/{index}"), all);
            }
        }
        _ => {}
    }
    all.push(pointer);
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c", "shop", "web"]).prop_map(str::to_owned)
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    btree_set(name(), 1..3)
}

fn ports() -> impl Strategy<Value = BTreeSet<u16>> {
    btree_set(prop_oneof![Just(80), Just(8080), 1..=u16::MAX], 0..4)
}

fn headers() -> impl Strategy<Value = Value> {
    let pattern = || select(vec![".*", "a|b", "x.*y"]);
    let name = || select(vec!["host", "cookie", "x-user"]);
    prop_oneof![
        btree_map(name(), pattern(), 0..3).prop_map(|headers| json!(headers)),
        btree_map(name(), pattern(), 0..3)
            .prop_map(|headers| { headers.into_iter().map(|(name, pattern)| json!({name: pattern})).collect() }),
    ]
}

fn subject() -> impl Strategy<Value = Value> {
    let kind = select(vec!["ServiceAccount", "IdentityBinding"]);
    (kind, name(), option::of(name())).prop_map(|(kind, name, namespace)| match namespace {
        Some(namespace) => json!({"kind": kind, "name": name, "namespace": namespace}),
        None => json!({"kind": kind, "name": name}),
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let kind = select(vec!["HTTPRouteGroup", "TCPRoute", "UDPRoute"]);
    (kind, name(), option::of(names())).prop_map(|(kind, name, matches)| match matches {
        Some(matches) => json!({"kind": kind, "name": name, "matches": matches}),
        None => json!({"kind": kind, "name": name}),
    })
}

fn target() -> impl Strategy<Value = Value> {
    let port = option::of(1..=u16::MAX);
    (subject(), vec(rule(), 1..3), vec(subject(), 1..3), port).prop_map(|(destination, rules, sources, port)| {
        let mut value = json!({
            "apiVersion": "access.smi-spec.io/v1alpha4", "kind": "TrafficTarget", "metadata": {"name": "a"},
            "spec": {"destination": destination, "rules": rules, "sources": sources},
        });
        if let Some(port) = port {
            value["metadata"]["annotations"][annotation::DESTINATION_PORT] = port.to_string().into();
        }
        value
    })
}

fn old_target() -> impl Strategy<Value = Value> {
    (subject(), vec(rule(), 0..3), vec(subject(), 0..3), option::of(1..=u16::MAX)).prop_map(
        |(mut destination, rules, sources, port)| {
            if let Some(port) = port {
                destination["port"] = port.into();
            }
            json!({
                "apiVersion": "access.smi-spec.io/v1alpha1", "kind": "TrafficTarget", "metadata": {"name": "a"},
                "destination": destination, "specs": rules, "sources": sources,
            })
        },
    )
}

fn group() -> impl Strategy<Value = Value> {
    let methods = option::of(btree_set(select(vec!["*", "GET", "POST"]), 0..3));
    let rule = (option::of(select(vec!["/a", "/b.*", ""])), methods, option::of(headers()));
    btree_map(name(), rule, 0..4).prop_map(|rules| {
        let matches = rules.into_iter().map(|(name, (path, methods, headers))| {
            let mut rule = json!({"name": name});
            path.into_iter().for_each(|path| rule["pathRegex"] = path.into());
            methods.into_iter().for_each(|methods| rule["methods"] = json!(methods));
            headers.into_iter().for_each(|headers| rule["headers"] = headers);
            rule
        });
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
            "spec": {"matches": matches.collect::<Vec<_>>()},
        })
    })
}

fn route() -> impl Strategy<Value = Value> {
    (select(vec!["TCPRoute", "UDPRoute"]), option::of(name()), option::of(ports())).prop_map(|(kind, name, ports)| {
        let mut matches = json!({});
        name.into_iter().for_each(|name| matches["name"] = name.into());
        ports.into_iter().for_each(|ports| matches["ports"] = json!(ports));
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": kind, "metadata": {"name": "a"},
            "spec": {"matches": matches},
        })
    })
}

fn split() -> impl Strategy<Value = Value> {
    let weights = btree_map(name(), prop_oneof![Just(0), 0..1000u64, 0..=1_000_000_000_000u64], 1..4);
    (name(), weights, option::of(names())).prop_map(|(service, weights, matches)| {
        let backends: Vec<_> =
            weights.into_iter().map(|(name, weight)| json!({"service": name, "weight": weight})).collect();
        let mut value = json!({
            "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": {"name": "a"},
            "spec": {"service": service, "backends": backends},
        });
        if let Some(names) = matches {
            value["spec"]["matches"] =
                names.iter().map(|name| json!({"kind": "HTTPRouteGroup", "name": name})).collect();
        }
        value
    })
}

fn old_split() -> impl Strategy<Value = Value> {
    let quantity = prop_oneof![
        (0..100_000u32).prop_map(|thousandths| format!("{thousandths}m")),
        (0..100_000u32).prop_map(|units| units.to_string()),
        (0..100u32).prop_map(|tenths| format!("{}.{}", tenths / 10, tenths % 10)),
    ];
    (name(), btree_map(name(), quantity, 1..4)).prop_map(|(service, weights)| {
        let backends: Vec<_> =
            weights.into_iter().map(|(name, weight)| json!({"service": name, "weight": weight})).collect();
        json!({
            "apiVersion": "split.smi-spec.io/v1alpha1", "kind": "TrafficSplit", "metadata": {"name": "a"},
            "spec": {"service": service, "backends": backends},
        })
    })
}

fn binding() -> impl Strategy<Value = Value> {
    name().prop_map(|name| {
        json!({
            "apiVersion": "access.smi-spec.io/v1alpha4", "kind": "IdentityBinding", "metadata": {"name": "a"},
            "spec": {"schemes": {"serviceAccount": name}},
        })
    })
}
