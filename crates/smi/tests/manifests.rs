//! Every file in `tests/manifests` is read and checked. What is found must be what the comments at its end say.
//!
//! `UPDATE=1 cargo test -p heddle-smi` writes these comments anew, to be read before they are committed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use heddle_smi::manifest::{Document, Place};
use heddle_smi::{Invalid, InvalidReason, manifest};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn everything_wrong_is_reported_at_its_place() {
    let mut failed = Vec::new();
    for file in files("manifests") {
        let text = fs::read_to_string(&file).unwrap();
        let (manifest, expected) = text
            .split_once("\n#: ")
            .map_or((&*text, String::new()), |(manifest, expected)| (manifest, format!("#: {expected}")));
        let manifest = format!("{}\n", manifest.trim_end());
        let found = report(&manifest);
        if found != expected {
            failed.push(format!("--- {}\nexpected:\n{expected}found:\n{found}", file.display()));
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&file, format!("{manifest}{found}")).unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn report(text: &str) -> String {
    let mut lines = String::new();
    let manifest = manifest::parse(text);
    for error in &manifest.errors {
        let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let at = at(&error.place, text);
        writeln!(lines, "#: error {at} {}{hint}", error.message).unwrap();
    }
    for document in &manifest.documents {
        let (severity, found) = match heddle_smi::parse(&document.value) {
            Ok(parsed) => ("warning", parsed.warnings),
            Err(errors) => ("error", errors),
        };
        for invalid in found {
            writeln!(lines, "#: {severity} {} {invalid}", at(place(document, &invalid), text)).unwrap();
        }
    }
    lines
}

fn place<'a>(document: &'a Document, invalid: &Invalid) -> &'a Place {
    match invalid.reason {
        InvalidReason::UnknownField => document.key_place(&invalid.field),
        _ => document.place(&invalid.field),
    }
}

/// Line, column, and the text there.
fn at(place: &Place, text: &str) -> String {
    format!("{}:{} `{}`", place.line, place.column, text[place.bytes.clone()].lines().next().unwrap_or_default())
}

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No text makes reading panic, and every place that it gives is a place in the text.
    #[test]
    fn any_text_is_read_or_refused(parts in vec(fragment(), 0..24)) {
        let text = parts.concat();
        let manifest = manifest::parse(&text);
        for error in &manifest.errors {
            prop_assert!(text.get(error.place.bytes.clone()).is_some(), "{text:?}: {error:?}");
        }
        for document in &manifest.documents {
            prop_assert!(document.value.is_object());
            prop_assert!(text.get(document.start.bytes.clone()).is_some(), "{text:?}");
            drop(heddle_smi::parse(&document.value));
        }
    }

    /// JSON is YAML.
    #[test]
    fn json_means_the_same(value in json_object()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let manifest = manifest::parse(&text);
            prop_assert_eq!(&manifest.errors, &[]);
            prop_assert_eq!(&manifest.documents[0].value, &value);
        }
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let special = proptest::sample::select(vec![
        "\n",
        "\n  ",
        "\n- ",
        "\t",
        " ",
        "a: ",
        "b:",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!x ",
        "\"",
        "'",
        "|\n",
        ">-\n",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\u{feff}",
        "é",
        "kind: List\nitems:\n",
        "\r\n",
        "\0",
    ]);
    prop_oneof![4 => special.prop_map(str::to_owned), 1 => ".{0,3}"]
}

fn json_object() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[ -~é世]{0,12}".prop_map(Value::from),
    ];
    let value = scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-zA-Z./ -]{1,8}", inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    });
    btree_map("[a-zA-Z./ -]{1,8}", value, 1..5).prop_map(|fields| fields.into_iter().collect())
}
