//! What the compiler makes of manifests.
//!
//! A fixture is a directory: manifests that are added to the cast (`fixtures/cast.yaml`), and `ask.txt`, whose lines
//! are questions to the compiled mesh. `expected.txt` is the transcript: problems, conditions that are not as one
//! wishes, and the answers. `UPDATE_EXPECT=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test ends where its own input is wrong")]

use std::path::{Path, PathBuf};

use heddle_compile::{ResourceSet, compile};
use heddle_policy::{Pick, ServiceName};
use serde_json::{Value, json};

mod properties;
mod transcript;

/// One test for each fixture, so that a name finds it.
macro_rules! fixtures {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Compiles a fixture with the cast, and compares the transcript with the expected one.
fn check(name: &str) {
    let directory = fixtures().join(name);
    let questions = std::fs::read_to_string(directory.join("ask.txt")).unwrap_or_default();
    let actual = transcript::transcript(&set(name), &questions);
    let path = directory.join("expected.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display());
}

fn manifests(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

/// Inserts every object of a file, at `file:line`.
fn insert(set: &mut ResourceSet, file: &Path) {
    let manifest = heddle_smi::manifest::parse(&std::fs::read_to_string(file).unwrap());
    assert!(manifest.errors.is_empty(), "{}: {:?}", file.display(), manifest.errors);
    for document in manifest.documents {
        let name = file.file_name().unwrap().to_string_lossy();
        set.insert(&document.value, format!("{name}:{}", document.start.line).into());
    }
}

#[test]
fn every_fixture_has_a_test() {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    for directory in directories {
        let name = directory.file_name().into_string().unwrap();
        assert!(NAMES.contains(&&*name), "{name} is not listed in `fixtures!`");
    }
}

/// The set of a fixture, with the cast.
fn set(name: &str) -> ResourceSet {
    let mut set = ResourceSet::default();
    insert(&mut set, &fixtures().join("cast.yaml"));
    manifests(&fixtures().join(name)).iter().for_each(|file| insert(&mut set, file));
    set
}

/// The answers to `questions`, without the problems before them.
fn answers(set: &ResourceSet, questions: &str) -> String {
    let transcript = transcript::transcript(set, questions);
    transcript[transcript.find("> ").unwrap()..].to_owned()
}

#[test]
fn a9_a_route_that_appears_later_opens_its_rule() {
    let mut set = set("a9_a_missing_route_closes_its_rule_only");
    let route = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "TCPRoute",
        "metadata": {"namespace": "shop", "name": "missing"},
        "spec": {"matches": {"ports": [8080]}},
    });
    let question = "request mon/prometheus -> shop/api-v1:8080 GET /books";
    let before = answers(&set, question);
    assert!(before.contains("denied: port-not-allowed"), "{before}");
    set.insert(&route, "later".into());
    let after = answers(&set, question);
    assert!(after.contains("allowed by HTTPRouteGroup shop/api"), "{after}");
    set.remove(&route);
    assert_eq!(answers(&set, question), before);
}

#[test]
fn i8_a_pod_whose_labels_change_has_another_identity() {
    let mut set = set("i8_a_selector_names_pods");
    let pod = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "web", "name": name, "labels": labels},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "main"}]},
            "status": {"phase": "Running"},
        })
    };
    let may = |set: &ResourceSet, client: &str| {
        answers(set, &format!("request {client} -> shop/api-v1:8080 GET /")).contains("allowed by")
    };
    assert!(may(&set, "web/web") && !may(&set, "web/back"));
    set.insert(&pod("web", json!({"tier": "back"})), "relabelled".into());
    set.insert(&pod("back", json!({"tier": "front"})), "relabelled".into());
    assert!(!may(&set, "web/web") && may(&set, "web/back"));
}

#[test]
fn t8_a_backend_that_is_made_later_is_taken_up() {
    let mut set = set("t8_a_backend_may_be_named_before_it_exists");
    let question = "route shop/api:80 GET /";
    assert!(answers(&set, question).contains("split canary: shop/api-v1*1\n"));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "api-v3"},
        "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}, {"port": 9102}]},
    });
    set.insert(&service, "later".into());
    let answer = answers(&set, question);
    assert!(answer.contains("split canary: shop/api-v1*1 shop/api-v3*0\n"), "{answer}");
}

/// Flagger writes the canary last, Argo Rollouts first.
#[test]
fn t34_the_order_of_backends_does_not_change_their_shares() {
    let shares = |backends: [(&str, u64); 3]| {
        let backends = backends.map(|(service, weight)| json!({"service": service, "weight": weight}));
        let mut set = set("t28_a_split_grants_no_access");
        let split = json!({
            "apiVersion": "split.smi-spec.io/v1alpha4",
            "kind": "TrafficSplit",
            "metadata": {"namespace": "shop", "name": "canary"},
            "spec": {"service": "api", "backends": backends},
        });
        set.insert(&split, "here".into());
        let mesh = compile(&set).mesh;
        let split = &mesh.services()[&ServiceName::new("shop", "api")].ports[0].splits[0];
        let mut counts = std::collections::BTreeMap::new();
        for random in 0..1000_u64 {
            let Pick::Backend(backend) = split.pick(random * (u64::MAX / 1000), |_| true) else { panic!("no backend") };
            *counts.entry(backend.service.name.to_string()).or_insert(0_u32) += 1;
        }
        counts
    };
    let (v1, v2, v3) = (("api-v1", 70), ("api-v2", 20), ("api-v3", 10));
    let expected = shares([v1, v2, v3]);
    assert_eq!(expected.len(), 3);
    for order in [[v1, v3, v2], [v2, v1, v3], [v2, v3, v1], [v3, v1, v2], [v3, v2, v1]] {
        for (name, count) in shares(order) {
            // The bounds between backends fall between different numbers.
            assert!(count.abs_diff(expected[&name]) <= 2, "{name} in {order:?}: {count}, {expected:?}");
        }
    }
}

#[test]
fn t11_a_port_mismatch_is_an_event_on_the_split() {
    let problems = compile(&set("t10_ports_are_matched_by_number")).problems;
    assert!(problems.iter().all(|problem| problem.is_event() && &*problem.origin.kind == "TrafficSplit"));
    assert!(!problems.is_empty());
}

#[test]
fn t27_deleting_a_split_restores_the_service() {
    let mut set = set("t24_a_backend_by_its_own_name_is_not_split");
    let api = ServiceName::new("shop", "api");
    assert!(compile(&set).mesh.services()[&api].ports.iter().all(|port| port.splits.len() == 1));
    let split = json!({
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"namespace": "shop", "name": "canary"},
    });
    set.remove(&split);
    assert!(compile(&set).mesh.services()[&api].ports.iter().all(|port| port.splits.is_empty()));
}

/// The example is what newcomers read first: nothing in it may be wrong, or look it.
#[test]
fn the_bookstore_has_no_problems() {
    let mut set = ResourceSet::default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookstore");
    manifests(&directory).iter().for_each(|file| insert(&mut set, file));
    let problems = compile(&set).problems;
    let problems: Vec<String> = problems.iter().filter(|problem| problem.is_event()).map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

fixtures! {
    a1_without_targets_everything_is_denied
    a6_a_rule_without_matches_means_all_of_the_group
    a7_named_matches_are_ored
    a8_an_unknown_match_name_allows_nothing
    a9_a_missing_route_closes_its_rule_only
    a12_a_destination_is_pods_by_service_account
    a13_a_target_without_rules_or_sources_grants_nothing
    a14_destination_port_of_old_versions_limits_every_layer
    a15_tcp_route_ports_limit_and_none_means_all
    a16_layers_are_anded
    a17_a_tcp_route_alone_opens_the_port_to_http
    a18_an_http_route_alone_opens_no_raw_tcp
    a19_udp_and_tcp_are_apart
    a20_the_table_of_the_specification
    a21_targets_keep_their_routes_apart
    a22_the_same_account_of_another_namespace_is_another
    a23_a_target_for_another_namespace_grants_nothing
    a23_unless_the_mesh_allows_it
    a24_routes_are_looked_for_in_the_targets_namespace
    a25_missing_namespaces_are_the_targets_own
    a26_a_source_of_an_unknown_kind_is_left_out
    a26_a_source_whose_name_is_no_identity_costs_only_itself
    a29_a_target_has_no_fields_for_egress_retries_or_limits
    a32b_a_match_without_criteria_is_any_request
    a33_options_needs_a_star_or_its_name
    a34_declared_probes_are_answered_to_the_node
    a35_a_pod_that_calls_its_own_service_needs_a_target
    a36_one_service_account_needs_a_target
    i1_schemes_are_ored
    i2_a_selector_excludes_a_service_account
    i3_a_binding_covers_its_own_namespace
    i4_a_foreign_identity_is_no_destination
    i4_a_foreign_identity_is_a_source
    i5_subjects_of_both_kinds_mix
    i6_a_missing_binding_grants_nothing
    i6_a_binding_that_stands_for_nobody_is_reported
    i6_a_missing_service_account_is_reported
    i7_an_empty_selector_is_refused
    i7_the_null_of_a_label_is_refused
    i8_a_selector_names_pods
    s1_an_http_route_group_covers_http2
    s2_duplicate_match_names_are_refused
    s3_headers_alone_are_any_path_and_method
    s4_a_path_that_matches_longer_ones_is_noted
    s8_a_star_is_every_method
    s14_a_match_sees_path_and_headers_only
    s15_a_route_without_ports_means_all
    s16_a_service_port_that_maps_to_one_container_port_is_accepted
    s16_a_service_port_is_each_pods_own_during_a_rollout
    s17_an_old_tcp_route_is_all_tcp
    s18_a_route_alone_has_no_effect
    s19_an_invalid_pattern_closes_its_group
    s19_a_pattern_may_end_in_a_comment
    s20_both_forms_of_headers_are_read
    s20_the_null_of_a_header_closes_its_group
    t1_a_root_is_named_in_any_dns_form
    t4_weights_are_relative
    t5_weights_are_whole_and_not_negative
    t6_weight_zero_stays_a_backend
    t7_all_weights_zero_answers_503
    t8_a_backend_may_be_named_before_it_exists
    t9_a_missing_backend_leaves_its_share
    t9_a_backend_without_ready_endpoints_is_reported
    t10_ports_are_matched_by_number
    t10_what_is_left_over_is_not_all_zero
    t12_target_ports_map_per_backend
    t13_a_named_target_port_is_each_pods_own
    t14_unmatched_requests_go_to_the_root
    t15_groups_are_merged
    t16_path_and_method_count_too
    t17_a_missing_group_splits_nothing
    t18_matches_do_not_apply_to_tcp
    t19_splits_are_not_nested
    t20_the_root_may_be_its_own_backend
    t21_of_splits_without_matches_the_oldest_counts
    t21_splits_with_matches_are_tried_by_age
    t22_a_root_is_in_the_splits_namespace
    t23_a_root_must_be_a_service
    t24_a_backend_by_its_own_name_is_not_split
    t25_a_pod_is_known_by_its_address
    t26_the_roots_selector_may_cover_the_leaves
    t28_a_split_grants_no_access
    t30_udp_ports_of_the_root_are_not_split
    t33_a_backend_named_twice_is_refused
    t35_a_headless_root_is_warned_about
    t35_a_headless_backend_receives_its_share
    t36_an_external_name_is_no_backend
    protocol_is_app_protocol_then_name_then_detection
    protocols_that_disagree_are_detected
    access_log_and_tracing_are_chosen_by_resources
    mode_is_the_namespaces_or_the_meshs
    pods_outside_the_mesh_have_no_proxy
    an_unknown_value_of_the_inject_label_is_reported
    templates_stand_for_the_pods_they_make
    objects_that_cannot_be_read_cost_only_themselves
    fields_are_named_as_they_are_written
    who_has_no_proxy_neither_proves_nor_enforces
}
