//! `heddle check --fix`: corrects in the files what can only have meant one thing, and leaves all else as it is written.

use std::path::Path;

use anyhow::Context;
use heddle_smi::manifest::{self, Document};
use serde_json::Value;

use crate::apply;
use crate::manifests::Manifest;

/// Corrects the files, and tells what was done, a line each.
pub(crate) fn fix(manifests: &[Manifest]) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    for manifest in manifests.iter().filter(|manifest| manifest.errors.is_empty()) {
        let mut text = manifest.text.clone();
        while let Some((fixed, note)) = next_fix(&text) {
            notes.push(format!("{}:{note}", manifest.path.display()));
            text = fixed;
        }
        if text != manifest.text {
            write(&manifest.path, &text)?;
        }
    }
    Ok(notes)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text with the first mistake corrected that can be, and what was done.
fn next_fix(text: &str) -> Option<(String, String)> {
    let documents = manifest::parse(text).documents;
    documents.iter().enumerate().find_map(|(index, document)| {
        let wanted = heddle_smi::fix(&document.value)?;
        let fixed = matches_under_spec(text, document)?;
        // An edit of text is right when it is read as what was wanted, and nothing else has changed.
        let read = manifest::parse(&fixed);
        let others = |(at, other): (usize, &Document)| at == index || other.value == documents[at].value;
        let is_right = read.errors.is_empty()
            && read.documents.len() == documents.len()
            && read.documents[index].value == wanted
            && read.documents.iter().enumerate().all(others);
        let line = document.key_place("matches").line;
        let note = format!("{line}: moved `matches` under `spec` in {}", apply::describe(&document.value));
        is_right.then_some((fixed, note))
    })
}

/// Moves the block of the top-level key `matches` under `spec`. `None` where the object is not in YAML's block style.
fn matches_under_spec(text: &str, document: &Document) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let matches = block(&lines, document.key_place("matches"))?;
    let indented = |indent: &str| -> String {
        lines[matches.clone()]
            .iter()
            .map(|line| if line.trim().is_empty() { (*line).to_owned() } else { format!("{indent}{line}") })
            .collect()
    };
    let rest = |range: std::ops::Range<usize>| lines[range].concat();
    if document.value.get("spec").is_none_or(Value::is_null) {
        let spec = format!("spec:\n{}", indented("  "));
        return Some(rest(0..matches.start) + &spec + &rest(matches.end..lines.len()));
    }
    let spec = block(&lines, document.key_place("spec"))?;
    let child = lines.get(spec.start + 1..spec.end)?.iter().find(|line| !line.trim().is_empty())?;
    let indent = &child[..child.len() - child.trim_start().len()];
    let moved = indented(indent);
    Some(if spec.end <= matches.start {
        rest(0..spec.end) + &moved + &rest(spec.end..matches.start) + &rest(matches.end..lines.len())
    } else {
        rest(0..matches.start) + &rest(matches.end..spec.end) + &moved + &rest(spec.end..lines.len())
    })
}

/// The lines of a top-level key and of what is below it, without the empty lines and comments after it.
fn block(lines: &[&str], key: &manifest::Place) -> Option<std::ops::Range<usize>> {
    if key.column != 1 {
        return None;
    }
    let start = key.line - 1;
    let is_below = |line: &str| {
        let item = line.starts_with('-') && !line.starts_with("---");
        line.starts_with([' ', '\t', '#']) || item || line.trim().is_empty()
    };
    let below = lines.get(start + 1..)?.iter().take_while(|line| is_below(line)).count();
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let last = lines[start..=start + below].iter().rposition(is_content)?;
    Some(start..start + last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata:\n  name: shop # ours\n";

    fn fixed(text: &str) -> Option<String> {
        next_fix(text).map(|(text, _)| text)
    }

    #[test]
    fn matches_move_under_a_new_spec_with_their_comments() {
        let text = format!(
            "# Routes.\n{HEAD}matches:\n# All of them.\n- name: all # really\n\n# The end.\n---\n{HEAD}spec: {{}}\n"
        );
        let expected = format!(
            "# Routes.\n{HEAD}spec:\n  matches:\n  # All of them.\n  - name: all # really\n\n# The end.\n---\n{HEAD}spec: {{}}\n"
        );
        assert_eq!(fixed(&text), Some(expected));
    }

    #[test]
    fn what_is_right_or_not_in_block_style_is_left_alone() {
        assert_eq!(fixed(&format!("{HEAD}spec:\n  matches:\n  - name: all\n")), None);
        assert_eq!(
            fixed("{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, matches: []}"),
            None
        );
    }
}
