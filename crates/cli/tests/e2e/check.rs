//! `heddle check`: each file of `fixtures/check` beside what is printed of it.
//!
//! `UPDATE_EXPECTED=1` writes what is printed now, to be read before it is kept.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::mesh::HEDDLE;

fn check(arguments: &[&str]) -> Output {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/check");
    Command::new(HEDDLE).arg("check").args(arguments).current_dir(fixtures).output().expect("heddle runs")
}

/// The printed text is the expected one, and says that there are errors.
fn expect(name: &str) {
    expect_exit(name, 1);
}

fn expect_exit(name: &str, code: i32) {
    let file = format!("{name}.yaml");
    let output = check(&[&file]);
    assert_eq!(output.status.code(), Some(code), "whether {name} has errors");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/check/{name}.txt"));
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &printed).expect("it can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(printed, expected, "see {}", path.display());
    machines_read_the_same(&file, &printed);
}

/// `-o json` has every finding of the text: its place, message and hint.
fn machines_read_the_same(file: &str, text: &str) {
    let output = check(&[file, "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(!findings.is_empty());
    for finding in findings {
        let of = |field: &str| finding[field].as_str().unwrap_or_default();
        let place = format!("{}:{}:{}", of("file"), finding["line"], finding["column"]);
        for part in [place.as_str(), of("message"), of("hint"), of("reason")] {
            assert!(text.contains(part), "`{part}` is not in the text");
        }
    }
}

#[test]
fn broken_yaml_is_shown_at_its_place() {
    expect("syntax");
}

#[test]
fn every_field_of_kubernetes_own_kinds_is_checked() {
    expect("workloads");
}

#[test]
fn unknown_versions_and_kinds_are_told_with_the_known_ones() {
    expect("versions");
}

#[test]
fn routes_that_cannot_be_are_refused() {
    expect("routes");
}

#[test]
fn weights_that_cannot_be_are_refused() {
    expect("splits");
}

#[test]
fn targets_and_bindings_that_cannot_be_are_refused() {
    expect("access");
}

#[test]
fn values_that_need_quotes_are_told_without_another_value() {
    expect("quotes");
}

#[test]
fn references_to_nothing_are_named() {
    expect("references");
}

#[test]
fn namespaces_that_no_manifest_makes_are_named_once() {
    expect_exit("namespaces", 0);
}

#[test]
fn what_this_machine_does_not_honour_is_noted() {
    expect_exit("honoured", 0);
}

#[test]
fn the_bookstore_has_nothing_to_be_said_about() {
    let bookstore = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookstore");
    let output = check(&[&bookstore.display().to_string()]);
    assert!(output.status.success());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.ends_with("0 errors, 0 warnings\n"), "{printed}");
}

#[test]
fn fix_moves_matches_under_spec_in_the_file() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("routes.yaml");
    let head = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: shop}\n";
    std::fs::write(&file, format!("{head}# Everything.\nmatches:\n- name: all # of it\n")).expect("written");
    let output = check(&["--fix", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("routes.yaml:5: moved `matches` under `spec` in HTTPRouteGroup shop"), "{said}");
    let fixed = std::fs::read_to_string(&file).expect("read");
    assert_eq!(fixed, format!("{head}# Everything.\nspec:\n  matches:\n  - name: all # of it\n"));
}
