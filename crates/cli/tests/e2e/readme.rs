//! The commands of the README, as they stand there.

use std::path::Path;

use crate::mesh::{HEDDLE, Mesh};

const README: &str = include_str!("../../../../README.md");

/// The commands of the section "Try next": its indented lines.
fn try_next() -> String {
    let section = README.split("\n## ").find(|section| section.starts_with("Try next")).expect("the section");
    let commands = section.lines().filter_map(|line| line.strip_prefix("    "));
    commands.map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_the_readme_says_to_try_next_works() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let programs = Path::new(HEDDLE).parent().expect("the directory of the build");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = mesh
        .command("bash", &["-euxo", "pipefail", "-c", &try_next()])
        .env("PATH", format!("{}:{path}", programs.display()))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .expect("bash runs");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{error}");
    assert!(text.contains("x-heddle-reason: source-not-allowed"), "the thief is told why: {text}");
}
