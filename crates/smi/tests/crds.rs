//! The CustomResourceDefinitions: the files in `deploy/crds`, and what their rules refuse.
//!
//! `UPDATE=1 cargo test -p heddle-smi` writes the files anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use heddle_smi::{Kind, Version, crds, heddle_conversion, manifest};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_cel::{Validator, compile_schema};
use serde_json::{Value, json};

#[test]
fn the_files_in_deploy_are_current() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for crd in crds(&heddle_conversion()) {
        let text = serde_saphyr::to_string(&crd).unwrap();
        let read = manifest::parse(&text).documents.remove(0).value;
        assert!(serde_json::from_value::<CustomResourceDefinition>(read).unwrap() == crd, "the YAML means the same");
        let file = directory.join(format!("{}.yaml", crd.spec.names.plural));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap_or_default(), text, "{}: run with UPDATE=1", file.display());
    }
}

#[test]
fn every_version_is_served_and_the_newest_is_stored() {
    for (kind, crd) in Kind::ALL.into_iter().zip(crds(&heddle_conversion())) {
        assert!(crd.spec.versions.iter().all(|version| version.served));
        let stored: Vec<_> =
            crd.spec.versions.iter().filter(|version| version.storage).map(|version| &*version.name).collect();
        assert_eq!(stored, [kind.hub().as_str()], "{kind}");
        let strategy = crd.spec.conversion.map(|conversion| conversion.strategy);
        assert_eq!(strategy.as_deref(), (kind.versions().len() > 1).then_some("Webhook"), "{kind}");
    }
}

#[test]
fn every_rule_compiles() {
    for kind in Kind::ALL {
        for version in kind.versions() {
            assert_compiles(&compile_schema(&schema(kind, *version)), kind);
        }
    }
}

fn assert_compiles(schema: &kube_cel::CompiledSchema, kind: Kind) {
    assert!(!schema.has_errors(), "{kind}: {:?}", schema.compilation_errors());
    schema.properties.values().for_each(|schema| assert_compiles(schema, kind));
    schema.items.iter().for_each(|schema| assert_compiles(schema, kind));
}

#[test]
fn invalid_regular_expressions_are_refused() {
    let group = |pattern: &str| {
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
            "spec": {"matches": [{"name": "a", "pathRegex": pattern}]},
        })
    };
    refused(&group("/api/("), "not a valid regex");
    refused(&group("*"), "not a valid regex");
    accepted(&group("/api/(a|b)"));
    accepted(&group(""));
}

#[test]
fn i2_schemes_that_exclude_each_other_and_ids_that_are_none_are_refused() {
    let binding = |schemes: Value| {
        json!({
            "apiVersion": "access.smi-spec.io/v1alpha4", "kind": "IdentityBinding", "metadata": {"name": "a"},
            "spec": {"schemes": schemes},
        })
    };
    let selector = json!({"matchLabels": {"app": "a"}});
    refused(&binding(json!({"serviceAccount": "a", "podLabelSelector": selector})), "exclude each other");
    accepted(&binding(json!({"serviceAccount": "a"})));
    refused(&binding(json!({"spiffeIdentities": ["https://example.org/a"]})), "is written spiffe://");
    accepted(&binding(json!({"spiffeIdentities": ["spiffe://example.org", "example.org/a/b"]})));
    accepted(&binding(json!({"podLabelSelector": selector})));
}

/// Of v1alpha1 and v1alpha2 they may be, and are then stored in v1alpha4: refused there, they would take no status.
#[test]
fn a13_an_api_server_bears_targets_without_rules_which_admission_refuses() {
    for version in ["v1alpha3", "v1alpha4"] {
        let target = json!({
            "apiVersion": format!("access.smi-spec.io/{version}"), "kind": "TrafficTarget", "metadata": {"name": "a"},
            "spec": {"destination": {"kind": "ServiceAccount", "name": "a"}, "rules": [], "sources": []},
        });
        let (kind, version) = Kind::of(&target).unwrap();
        let spec = &schema(kind, version)["properties"]["spec"]["properties"];
        assert_eq!((&spec["rules"]["minItems"], &spec["sources"]["minItems"]), (&Value::Null, &Value::Null));
        accepted(&target);
        let refused: Vec<_> =
            heddle_smi::parse(&target).unwrap_err().into_iter().map(|invalid| invalid.field).collect();
        assert_eq!(refused, ["spec.rules", "spec.sources"]);
    }
}

#[test]
fn fields_that_a_version_would_lose_are_refused() {
    let target = |version: &str, destination: Value| {
        json!({
            "apiVersion": format!("access.smi-spec.io/{version}"), "kind": "TrafficTarget", "metadata": {"name": "a"},
            "spec": {"destination": destination, "rules": [], "sources": []},
        })
    };
    let with_port = json!({"kind": "ServiceAccount", "name": "a", "port": 80});
    refused(&target("v1alpha4", with_port.clone()), "it ended with v1alpha2");
    refused(&target("v1alpha3", with_port.clone()), "it ended with v1alpha2");
    accepted(&target("v1alpha2", with_port));

    let split = |version: &str| {
        json!({
            "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit", "metadata": {"name": "a"},
            "spec": {"service": "a", "backends": [], "matches": [{"kind": "HTTPRouteGroup", "name": "a"}]},
        })
    };
    refused(&split("v1alpha1"), "it came with v1alpha3");
    refused(&split("v1alpha2"), "it came with v1alpha3");
    accepted(&split("v1alpha3"));

    let route = |version: &str| {
        json!({
            "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "TCPRoute", "metadata": {"name": "a"},
            "spec": {"matches": {"ports": [80]}},
        })
    };
    for version in ["v1alpha1", "v1alpha2", "v1alpha3"] {
        refused(&route(version), "ports came with v1alpha4");
    }
    accepted(&route("v1alpha4"));
}

/// `parse` refuses every one of them too, by `tests/manifests/refused-lost-fields.yaml`.
#[test]
fn fields_that_are_misspelt_or_of_similar_kinds_are_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/refused-lost-fields.yaml");
    let documents = manifest::parse(&fs::read_to_string(file).unwrap()).documents;
    assert!(documents.len() > 5);
    documents.iter().for_each(|document| refused(&document.value, "is not a field here"));
}

/// An API server would drop a null that the schema does not allow, and what is left would select more.
#[test]
fn i7_the_null_of_a_label_is_kept_so_that_it_can_be_refused() {
    let null = json!({
        "apiVersion": "access.smi-spec.io/v1alpha4", "kind": "IdentityBinding", "metadata": {"name": "a"},
        "spec": {"schemes": {"podLabelSelector": {"matchLabels": {"app": "web", "tier": null}}}},
    });
    let labels = "/properties/spec/properties/schemes/properties/podLabelSelector/properties/matchLabels";
    let schema = schema(Kind::IdentityBinding, Version::V1Alpha4);
    assert_eq!(schema.pointer(labels).unwrap()["additionalProperties"]["nullable"], true);
    accepted(&null);
    assert!(heddle_smi::parse(&null).is_err());
}

#[test]
fn matches_outside_spec_are_refused_with_a_hint() {
    let outside = |version: &str| {
        json!({
            "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
            "matches": [{"name": "a"}],
        })
    };
    refused(&outside("v1alpha4"), "write it under spec");
    refused(&outside("v1alpha3"), "write it under spec");
    accepted(&outside("v1alpha2"));
    let bare = json!({"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute", "metadata": {"name": "a"}});
    refused(&bare, "spec is missing");
}

#[test]
fn a_mesh_config_of_another_name_is_refused() {
    let config =
        |name: &str| json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": name}});
    refused(&config("other"), "named default");
    accepted(&config("default"));
}

/// The rules refuse the object with this message, and so does `parse`.
fn refused(object: &Value, message: &str) {
    let messages = messages(object);
    assert!(messages.iter().any(|found| found.contains(message)), "{object}: {messages:?}");
    assert!(heddle_smi::parse(object).is_err(), "{object}");
}

fn accepted(object: &Value) {
    assert_eq!(messages(object), Vec::<String>::new(), "{object}");
}

fn messages(object: &Value) -> Vec<String> {
    let (kind, version) = Kind::of(object).unwrap();
    let result = Validator::new().validate(&schema(kind, version), object, None);
    result.err().into_iter().flat_map(|errors| errors.into_vec()).map(|error| error.to_string()).collect()
}

fn schema(kind: Kind, version: Version) -> Value {
    let crd = crds(&heddle_conversion()).into_iter().find(|crd| crd.spec.names.kind == kind.names().kind).unwrap();
    let served = crd.spec.versions.into_iter().find(|served| served.name == version.as_str()).unwrap();
    serde_json::to_value(served.schema.unwrap().open_api_v3_schema).unwrap()
}
