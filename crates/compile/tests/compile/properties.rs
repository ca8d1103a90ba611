//! What holds of any set of resources. The objects are those of all fixtures, and what chance makes of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use heddle_compile::{Compiled, Mesh, ResourceSet, compile};
use heddle_policy::{Peer, ProxyConfig, Request};
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::{Value, json};

use crate::{fixtures, manifests};

/// Every object of every fixture. Several have the same name.
static POOL: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let directories = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut directories: Vec<_> = directories.filter(|path| path.is_dir()).collect();
    directories.sort();
    let files = directories.iter().flat_map(|directory| manifests(directory));
    files.flat_map(|file| objects(&file)).collect()
});

static CAST: LazyLock<Vec<Value>> = LazyLock::new(|| objects(&fixtures().join("cast.yaml")));

fn objects(file: &std::path::Path) -> Vec<Value> {
    let manifest = heddle_smi::manifest::parse(&std::fs::read_to_string(file).unwrap());
    manifest.documents.into_iter().map(|document| document.value).collect()
}

/// Some objects of the pool beside the cast, no two of one name.
fn some_objects() -> impl Strategy<Value = Vec<Value>> {
    subsequence((0..POOL.len()).collect::<Vec<_>>(), 0..60).prop_map(|numbers| {
        let chosen = numbers.into_iter().map(|number| POOL[number].clone());
        let named = CAST.iter().cloned().chain(chosen).map(|object| (key(&object), object));
        named.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn key(object: &Value) -> (String, String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn set<'a>(objects: impl IntoIterator<Item = &'a Value>) -> ResourceSet {
    let mut set = ResourceSet::default();
    objects.into_iter().for_each(|object| set.insert(object, "here".into()));
    set
}

/// Which of all pods may do which of some things to which of all pods.
fn access(mesh: &Mesh) -> Vec<bool> {
    let configs: Vec<ProxyConfig> = mesh.pods().filter_map(|pod| mesh.proxy_config(pod)).collect();
    let mut allowed = Vec::new();
    for (client, server) in configs.iter().flat_map(|client| configs.iter().map(move |server| (client, server))) {
        let settings = client.settings.as_ref().unwrap();
        let peer = Peer { identity: Some(settings.identity.clone()), pod: Some(settings.pod.clone()) };
        for port in [5432, 8080, 9102] {
            allowed.push(server.inbound.decide_connection(&peer, port).admitted);
            for (method, path) in [("GET", "/books"), ("GET", "/x"), ("GET", "/metrics"), ("POST", "/one")] {
                let request = Request { method, path, authority: "api", headers: &[("x-a", "1"), ("x-b", "2")] };
                allowed.push(server.inbound.decide_request(&peer, port, &request).admitted);
            }
        }
    }
    allowed
}

/// Puts `value` in stead of one of the values within `object`.
fn mutate(object: &mut Value, mut at: usize, value: &Value) {
    fn replace(object: &mut Value, at: &mut usize, value: &Value) {
        if *at == 0 {
            *object = value.clone();
        }
        *at = at.wrapping_sub(1);
        match object {
            Value::Array(items) if *at < 10_000 => items.iter_mut().for_each(|item| replace(item, at, value)),
            Value::Object(fields) if *at < 10_000 => fields.values_mut().for_each(|field| replace(field, at, value)),
            _ => {}
        }
    }
    replace(object, &mut at, value);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z./:*\\\\(é%-]{0,8}".prop_map(Value::from),
        Just(json!("10.244.0.11")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("(name|port|kind|matches|x)", inner), 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_insertion_does_not_matter(objects in some_objects(), shuffle: Vec<Index>) {
        let mut shuffled: Vec<&Value> = objects.iter().collect();
        for (number, index) in shuffle.iter().enumerate().take(shuffled.len()) {
            let other = index.index(shuffled.len());
            shuffled.swap(number, other);
        }
        prop_assert_eq!(compile(&set(&objects)), compile(&set(shuffled)));
    }

    #[test]
    fn a27_what_is_removed_was_never_there(objects in some_objects(), gone in some_objects()) {
        let keys: Vec<_> = gone.iter().map(key).collect();
        let rest = set(objects.iter().filter(|object| !keys.contains(&key(object))));
        let mut all = set(&objects);
        gone.iter().for_each(|object| all.remove(object));
        prop_assert_eq!(compile(&all), compile(&rest));
    }

    #[test]
    fn a2_adding_a_target_never_removes_access(objects in some_objects(), target: Index) {
        let targets: Vec<&Value> = POOL.iter().filter(|object| object["kind"] == "TrafficTarget").collect();
        let mut target = targets[target.index(targets.len())].clone();
        target["metadata"]["name"] = json!("another");
        let before = access(&compile(&set(&objects)).mesh);
        let after = access(&compile(&set(objects.iter().chain([&target]))).mesh);
        prop_assert_eq!(before.len(), after.len());
        prop_assert!(before.iter().zip(&after).all(|(before, after)| before <= after));
    }

    #[test]
    fn an_invalid_resource_neither_grants_nor_removes(objects in some_objects(), smi: Index) {
        let smi_objects: Vec<&Value> = POOL
            .iter()
            .filter(|object| object["apiVersion"].as_str().is_some_and(|version| version.contains("smi-spec.io/")))
            .collect();
        let mut invalid = smi_objects[smi.index(smi_objects.len())].clone();
        invalid["metadata"]["name"] = json!("another");
        invalid["unknown"] = json!({"field": true});
        let before = compile(&set(&objects));
        let after = compile(&set(objects.iter().chain([&invalid])));
        prop_assert_eq!(before.mesh, after.mesh);
    }

    #[test]
    fn nothing_panics_and_configurations_survive_the_wire(
        mut objects in some_objects(),
        changes in prop::collection::vec((any::<Index>(), 0..40usize, any_value()), 1..12),
    ) {
        for (object, at, value) in &changes {
            let number = object.index(objects.len());
            mutate(&mut objects[number], *at, value);
        }
        let Compiled { mesh, .. } = compile(&set(&objects));
        for pod in mesh.pods() {
            let config = mesh.proxy_config(pod).unwrap();
            let wire = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(serde_json::from_str::<ProxyConfig>(&wire).unwrap(), config);
        }
    }
}
