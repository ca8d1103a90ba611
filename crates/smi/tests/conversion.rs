//! Conversion between versions: by example, by what is refused, and that no round trip ever widens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod generate;

use std::fs;
use std::path::Path;

use generate::{Granted, annotated, resource};
use heddle_smi::{Invalid, Kind, Resource, Version, annotation, convert, fix, manifest, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The documents of every file in `tests/conversions` are one resource in several versions, and every pair of them is
/// converted into each other.
#[test]
fn every_version_becomes_every_other_and_comes_back() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversions");
    for file in fs::read_dir(directory).unwrap() {
        let file = file.unwrap().path();
        let manifest = manifest::parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(manifest.errors, [], "{}", file.display());
        for from in &manifest.documents {
            assert!(parse(&from.value).is_ok(), "{}: {:?}", file.display(), parse(&from.value));
            for to in &manifest.documents {
                let version = to.value["apiVersion"].as_str().unwrap();
                let converted = convert(from.value.clone(), version).unwrap();
                assert_eq!(converted, to.value, "{}: to {version}", file.display());
            }
        }
    }
}

#[test]
fn headers_are_read_in_both_shapes_and_written_as_an_array() {
    let group = |headers: Value| {
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
            "spec": {"matches": [{"name": "a", "headers": headers}]},
        })
    };
    let object = group(json!({"b": "1", "a": "2"}));
    let array = group(json!([{"a": "2"}, {"b": "1"}]));
    assert_eq!(parse(&object).unwrap().resource, parse(&array).unwrap().resource);
    let old = convert(object, "specs.smi-spec.io/v1alpha3").unwrap();
    assert_eq!(old["spec"]["matches"][0]["headers"], json!([{"a": "2"}, {"b": "1"}]));
    let Resource::HttpRouteGroup(group) = parse(&array).unwrap().resource else { panic!() };
    assert_eq!(serde_json::to_value(&group).unwrap(), array);
}

#[test]
fn matches_outside_spec_are_refused_and_can_be_fixed() {
    let group = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
        "matches": [{"name": "a"}],
    });
    let errors = parse(&group).unwrap_err();
    assert_eq!(errors.iter().map(|invalid| &*invalid.field).collect::<Vec<_>>(), ["matches"]);
    assert!(errors[0].hint.as_ref().unwrap().contains("under spec"));
    let fixed = fix(&group).unwrap();
    assert!(parse(&fixed).is_ok());
    assert_eq!(fix(&fixed), None);
    let old = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha2", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
        "matches": [{"name": "a"}],
    });
    assert_eq!(fix(&old), None, "in v1alpha2 that is where they belong");
}

/// What is stored must stay readable, and grants nothing in any version.
#[test]
fn the_null_of_a_header_is_refused_in_every_version() {
    for headers in [json!({"x-internal-token": null}), json!([{"a": "1", "b": null}])] {
        let group = json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
            "spec": {"matches": [{"name": "a", "headers": headers}]},
        });
        assert!(parse(&group).is_err());
        for version in Kind::HttpRouteGroup.versions() {
            let converted = convert(group.clone(), &Kind::HttpRouteGroup.api_version(*version)).unwrap();
            assert!(parse(&converted).is_err(), "{converted}");
        }
    }
}

#[test]
fn matches_of_a_split_outside_spec_can_be_fixed_where_the_version_has_them() {
    let split = |version: &str| {
        json!({
            "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit", "metadata": {"name": "a"},
            "spec": {"service": "a", "backends": [{"service": "b", "weight": 1}]},
            "matches": [{"kind": "HTTPRouteGroup", "name": "a"}],
        })
    };
    assert!(parse(&fix(&split("v1alpha4")).unwrap()).is_ok());
    assert_eq!(fix(&split("v1alpha2")), None);
}

#[test]
fn headers_kept_for_a_match_that_is_gone_are_refused() {
    let mut group = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha1", "kind": "HTTPRouteGroup",
        "metadata": {"name": "a", "annotations": {annotation::HEADERS: r#"{"insider":[{"cookie":"x"}]}"#}},
        "matches": [{"name": "insider"}],
    });
    let up = convert(group.clone(), "specs.smi-spec.io/v1alpha4").unwrap();
    assert_eq!(up["spec"]["matches"][0]["headers"], json!([{"cookie": "x"}]));
    group["matches"][0]["name"] = "renamed".into();
    let refused = refusal(&group, "specs.smi-spec.io/v1alpha4");
    assert_eq!(refused.field, "metadata.annotations[conversion.heddle.dev/headers]");
    assert!(refused.message.contains("`insider`"), "{refused}");
}

/// As `kubectl apply` does, which replaces `matches` and leaves the annotation as it was read.
#[test]
fn s20_headers_of_v1alpha1_can_be_changed() {
    let newest = "specs.smi-spec.io/v1alpha4";
    let stored = json!({
        "apiVersion": newest, "kind": "HTTPRouteGroup", "metadata": {"name": "a"},
        "spec": {"matches": [{"name": "a", "headers": [{"cookie": "x"}]}, {"name": "b"}]},
    });
    let read = convert(stored.clone(), "specs.smi-spec.io/v1alpha1").unwrap();
    assert_eq!(read["matches"][0]["headers"], json!([{"cookie": "x"}]));
    let written = |matches: Value| {
        let mut group = read.clone();
        group["matches"] = matches;
        group
    };
    let b = json!({"name": "b"});
    for (headers, now) in [
        (json!([{"cookie": "y"}]), json!([{"cookie": "y"}])),
        (json!({"Cookie": "y", "host": "shop"}), json!([{"Cookie": "y"}, {"host": "shop"}])),
        (json!([]), Value::Null),
        (json!({}), Value::Null),
    ] {
        let group = convert(written(json!([{"name": "a", "headers": headers}, b])), newest).unwrap();
        assert_eq!(group["spec"]["matches"][0]["headers"], now);
        assert_eq!(group["metadata"], stored["metadata"], "nothing is kept");
    }

    // A client that does not know the field may not lose it, and so not by another name either.
    for matches in [json!([{"name": "a"}, b]), json!([{"name": "a", "headers": null}, b])] {
        assert_eq!(convert(written(matches), newest).unwrap(), stored);
    }
    refusal(&written(json!([{"name": "renamed"}, b])), newest);
    // This one knows it.
    let renamed = json!([{"name": "renamed", "headers": [{"cookie": "x"}]}]);
    let group = convert(written(renamed.clone()), newest).unwrap();
    assert_eq!(group["spec"]["matches"], renamed);
}

#[test]
fn a14_two_different_ports_are_refused() {
    let target = json!({
        "apiVersion": "access.smi-spec.io/v1alpha2", "kind": "TrafficTarget",
        "metadata": {"name": "a", "annotations": {annotation::DESTINATION_PORT: "80"}},
        "spec": {"destination": {"kind": "ServiceAccount", "name": "a", "port": 8080}, "rules": [], "sources": []},
    });
    refusal(&target, "access.smi-spec.io/v1alpha4");
}

#[test]
fn a14_an_annotation_that_is_no_port_grants_nothing_and_stays_readable_in_every_version() {
    for text in ["", "0", "+80", "http", "65536", "80,443"] {
        let target = json!({
            "apiVersion": "access.smi-spec.io/v1alpha4", "kind": "TrafficTarget",
            "metadata": {"name": "a", "annotations": {annotation::DESTINATION_PORT: text}},
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": "a"},
                "rules": [{"kind": "TCPRoute", "name": "a"}],
                "sources": [{"kind": "ServiceAccount", "name": "b"}],
            },
        });
        assert!(parse(&target).is_err(), "{text}");
        for version in Kind::TrafficTarget.versions() {
            let converted = convert(target.clone(), &Kind::TrafficTarget.api_version(*version)).unwrap();
            assert!(parse(&converted).is_err(), "{text} in {version}");
            assert_eq!(convert(converted, "access.smi-spec.io/v1alpha4").unwrap(), target, "{text} in {version}");
        }
    }
}

#[test]
fn annotations_that_cannot_be_read_are_refused() {
    let matches = ["", "{", "[]", r#"{"ports":[0]}"#, r#"{"port":[80]}"#, r#"{"ports":"80"}"#];
    for text in matches {
        let route = json!({
            "apiVersion": "specs.smi-spec.io/v1alpha2", "kind": "TCPRoute",
            "metadata": {"name": "a", "annotations": {annotation::MATCHES: text}},
        });
        refusal(&route, "specs.smi-spec.io/v1alpha4");
        assert!(parse(&route).is_err());
    }
}

/// Server-side apply converts what is left of an object when a manager's fields are taken away.
#[test]
fn parts_of_objects_are_converted() {
    let kinds = Kind::ALL.into_iter().flat_map(|kind| kind.versions().iter().map(move |version| (kind, version)));
    for (kind, from) in kinds {
        for rest in [json!({}), json!({"spec": {}}), json!({"spec": null}), json!({"metadata": {}})] {
            let old_group = kind == Kind::HttpRouteGroup && *from <= Version::V1Alpha2;
            if rest.get("spec").is_some() && (old_group || (kind, *from) == (Kind::TrafficTarget, Version::V1Alpha1)) {
                continue;
            }
            let mut part = json!({"apiVersion": kind.api_version(*from), "kind": kind.names().kind});
            part.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            for to in kind.versions() {
                let converted = convert(part.clone(), &kind.api_version(*to));
                assert!(converted.is_ok(), "{part} to {to}: {converted:?}");
            }
        }
    }
}

#[test]
fn what_is_of_no_known_version_is_refused() {
    let split = json!({"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit"});
    for version in ["split.smi-spec.io/v1alpha5", "access.smi-spec.io/v1alpha4", "v1alpha4", ""] {
        refusal(&split, version);
    }
    for value in [json!(null), json!([]), json!("text"), json!({"kind": "TrafficSplit"})] {
        assert!(convert(value.clone(), "split.smi-spec.io/v1alpha4").is_err());
        assert!(parse(&value).is_err());
    }
}

fn refusal(value: &Value, to: &str) -> Invalid {
    let Err(invalid) = convert(value.clone(), to) else { panic!("{value} became {to}") };
    invalid
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// For every valid resource in any version and every other version of its kind: there and back is the same
    /// resource to the mesh, and on the way it is the same too, or refused: as is a TrafficTarget without rules or
    /// sources, which only the older versions know.
    #[test]
    fn no_round_trip_widens(value in resource(), to in 0..4usize) {
        let (kind, version) = Kind::of(&value).unwrap();
        let to = kind.versions()[to % kind.versions().len()];
        let before = parse(&value).unwrap().resource;
        let there = convert(value, &kind.api_version(to)).unwrap();
        if let Ok(parsed) = parse(&there) {
            prop_assert_eq!(&Granted::by(&parsed.resource), &Granted::by(&before));
        }
        let back = convert(there, &kind.api_version(version)).unwrap();
        prop_assert_eq!(Granted::by(&parse(&back).unwrap().resource), Granted::by(&before));
    }

    /// Whatever the annotations of conversion hold, an object with them grants and selects at most what it does
    /// without them, or nothing at all.
    #[test]
    fn no_annotation_widens((value, with) in annotated()) {
        let without = Granted::by(&parse(&value).unwrap().resource);
        if let Ok(parsed) = parse(&with) {
            prop_assert!(Granted::by(&parsed.resource).is_within(&without), "{with}");
        }
    }

    /// Nothing that is JSON makes conversion or parsing panic, and what is parsed can be converted everywhere.
    #[test]
    fn any_change_to_a_resource_is_parsed_or_refused((value, to) in (generate::damaged(), 0..4usize)) {
        let Ok((kind, _)) = Kind::of(&value) else { return Ok(()) };
        let to = kind.versions()[to % kind.versions().len()];
        let converted = convert(value.clone(), &kind.api_version(to));
        if parse(&value).is_ok() {
            prop_assert!(converted.is_ok(), "{converted:?}");
        }
    }
}
