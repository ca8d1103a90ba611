//! `heddle check`: parses, validates and compiles manifests, and says what is wrong with them, and where.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use heddle_api::{Mistake, MistakeKind, Types};
use heddle_compile::{Problem, ResourceSet, Severity};
use heddle_smi::manifest::{Document, Place, SyntaxError};
use serde::Serialize;

use crate::honour::{self, NotHonoured};
use crate::manifests::{self, Manifest};
use crate::output::{self, Format, count};
use crate::{apply, fix};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 when there is an error, and with 0 otherwise.\n\nExample:\n  heddle check examples/bookstore"
)]
pub(crate) struct Args {
    /// Files, or directories of .yaml, .yml and .json files
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Correct in the files what can only have meant one thing
    #[arg(long)]
    fix: bool,
    /// Text with excerpts, or JSON for programs
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Something to say about a place in a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) severity: &'static str,
    pub(crate) file: String,
    /// From 1, as is the column.
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Such as `TrafficSplit bookstore/bookstore`; absent where no object could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) field: String,
    /// A stable code.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    #[serde(skip)]
    bytes: Range<usize>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut manifests = manifests::load(&args.paths)?;
    if args.fix {
        fix::fix(&manifests)?.iter().for_each(|note| eprintln!("{note}"));
        manifests = manifests::load(&args.paths)?;
    }
    let findings = check(&manifests);
    match args.output {
        Format::Json => output::json(&findings)?,
        Format::Text => {
            output::print(report(&manifests, &findings, output::is_colored(&std::io::stdout())).as_bytes())?;
        }
    }
    Ok(if has_errors(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == "error")
}

/// All that is to be said about the manifests, by file and line.
pub(crate) fn check(manifests: &[Manifest]) -> Vec<Finding> {
    let mut set = ResourceSet::default();
    let mut index = HashMap::new();
    let mut places = HashMap::new();
    let types = types(manifests);
    let mut findings = Vec::new();
    for manifest in manifests {
        findings.extend(manifest.errors.iter().map(|error| Finding::syntax(&manifest.path, error)));
        for document in &manifest.documents {
            if let Some(pointer) = unnamed(&document.value) {
                findings.push(Finding::unnamed(manifest, document, pointer));
                continue;
            }
            let place: Arc<str> = manifest.place(document).into();
            set.insert(&document.value, place.clone());
            places.insert(place, (manifest, document));
            // The compiler says what is wrong with the kinds of the mesh.
            if !heddle_smi::Kind::is_ours(&document.value) {
                let mistakes = types.check(&document.value).into_iter();
                findings.extend(mistakes.map(|mistake| Finding::mistake(manifest, document, mistake)));
            }
            if let Some((first, earlier)) = index.insert(key(&document.value), (manifest, document)) {
                let message =
                    format!("this object stands at {} too; here it replaces that one", Manifest::place(first, earlier));
                findings.push(Finding::duplicate(manifest, document, message));
            }
        }
    }
    let problems = heddle_compile::compile(&set).problems;
    findings.extend(problems.into_iter().filter_map(|problem| {
        let origin = &problem.origin;
        let (manifest, document) = places.get(&origin.at)?;
        // Of an object that cannot be read the schema says more.
        let is_told = origin.field.is_empty() && !heddle_smi::Kind::is_ours(&document.value);
        (!is_told).then(|| Finding::problem(manifest, document, problem))
    }));
    findings.extend(unmade_namespaces(manifests));
    findings.extend(not_honoured(manifests, &types));
    findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    findings
}

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 5] = ["default", "kube-system", "kube-public", "kube-node-lease", "heddle-system"];

/// Of each namespace that is used and that no manifest makes, its first place. `heddle up` would end there. Where
/// manifests make namespaces, one that they do not make is a mistake; else it may well be on the cluster.
fn unmade_namespaces(manifests: &[Manifest]) -> Vec<Finding> {
    let documents = || manifests.iter().flat_map(|manifest| manifest.documents.iter().map(move |it| (manifest, it)));
    let is_namespace = |value: &serde_json::Value| value["kind"] == "Namespace" && value["apiVersion"] == "v1";
    let made = documents().map(|(_, it)| &it.value).filter(|value| is_namespace(value));
    let made: Vec<&str> = made.filter_map(|value| value["metadata"]["name"].as_str()).collect();
    let mut told = HashSet::new();
    let unmade = documents().filter_map(|(manifest, document)| {
        let name = document.value["metadata"]["namespace"].as_str().filter(|name| !name.is_empty())?;
        let is_new = !NAMESPACES.contains(&name) && !made.contains(&name) && told.insert(name);
        is_new.then(|| Finding::unmade_namespace(manifest, document, name, &made))
    });
    unmade.collect()
}

/// What is not honoured on this machine. It is no mistake: the manifests may be those of a cluster.
fn not_honoured(manifests: &[Manifest], types: &Types) -> Vec<Finding> {
    let documents = manifests.iter().flat_map(|manifest| manifest.documents.iter().map(move |it| (manifest, it)));
    let found = documents.flat_map(|(manifest, document)| {
        let found = honour::of_object(types, &document.value).into_iter();
        found.map(move |found| Finding::not_honoured(manifest, document, found))
    });
    found.collect()
}

/// The types of Kubernetes, and those that the manifests define.
fn types(manifests: &[Manifest]) -> Types {
    let mut types = Types::default();
    let objects = manifests.iter().flat_map(|manifest| &manifest.documents).map(|document| &document.value);
    objects.filter(|object| object["kind"] == "CustomResourceDefinition").for_each(|object| types.add(object));
    types
}

/// API group, kind, namespace and name.
type Key = (String, String, String, String);

/// The version is no part of an object's name.
fn key(object: &serde_json::Value) -> Key {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let namespace = match (group, kind.as_str()) {
        ("", "Namespace") | ("heddle.dev", "MeshConfig") => "",
        _ => object["metadata"]["namespace"].as_str().unwrap_or("default"),
    };
    (group.to_owned(), kind, namespace.to_owned(), text(&object["metadata"]["name"]))
}

/// What an object lacks to be one, as a JSON pointer.
fn unnamed(object: &serde_json::Value) -> Option<&'static str> {
    let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
    ["/apiVersion", "/kind", "/metadata/name"].into_iter().find(|pointer| text(pointer).is_empty())
}

/// The findings as people read them, and their number.
pub(crate) fn report(manifests: &[Manifest], findings: &[Finding], colored: bool) -> String {
    let texts: HashMap<String, &str> =
        manifests.iter().map(|manifest| (manifest.path.display().to_string(), manifest.text.as_str())).collect();
    let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for finding in findings {
        let source = texts.get(&finding.file).copied().unwrap_or_default();
        text.push_str(&renderer.render(&finding.groups(source)));
        text.push_str("\n\n");
    }
    let number = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let objects: usize = manifests.iter().map(|manifest| manifest.documents.len()).sum();
    text.push_str(&format!(
        "{} in {}: {}, {}",
        count(objects, "object"),
        count(manifests.len(), "file"),
        count(number("error"), "error"),
        count(number("warning"), "warning"),
    ));
    match number("note") {
        0 => {}
        notes => text.push_str(&format!(", {}", count(notes, "note"))),
    }
    text.push('\n');
    text
}

/// What would have been right where a name is not known.
fn hint(document: &Document, mistake: &Mistake) -> Option<String> {
    let known: Vec<&str> = mistake.known.iter().map(String::as_str).collect();
    let written = match mistake.kind {
        MistakeKind::Invalid => return None,
        MistakeKind::UnknownGroup => {
            return Some("`heddle up` has it when its CustomResourceDefinition is among the manifests".to_owned());
        }
        MistakeKind::UnknownField => mistake.field.rsplit('.').next().unwrap_or_default(),
        _ => document.value[&mistake.field].as_str().unwrap_or_default(),
    };
    match (heddle_smi::closest(written, &known), known.as_slice()) {
        (Some(name), _) | (None, &[name]) => Some(format!("did you mean `{name}`?")),
        (None, []) => None,
        (None, known) => Some(format!("known here: {}", known.join(", "))),
    }
}

// === impl Finding ===

impl Finding {
    fn syntax(path: &Path, error: &SyntaxError) -> Self {
        Self { hint: error.hint.clone(), ..Self::new("error", "Syntax", path, &error.place, error.message.clone()) }
    }

    fn unnamed(manifest: &Manifest, document: &Document, pointer: &str) -> Self {
        let field = pointer[1..].replace('/', ".");
        let is_text = |value: &serde_json::Value| value.is_null() || value.is_string();
        let (place, message, hint) = match document.value.pointer(pointer).filter(|value| !is_text(value)) {
            // YAML reads `no` and `1e3` as other things than texts.
            Some(_) => (document.place(&field), "is no string", "write it in quotes".to_owned()),
            None => (&document.start, "is missing", format!("add `{field}`")),
        };
        Self {
            resource: Some(apply::describe(&document.value).trim_end().to_owned()),
            field,
            hint: Some(hint),
            ..Self::new("error", "Invalid", &manifest.path, place, message.to_owned())
        }
    }

    fn duplicate(manifest: &Manifest, document: &Document, message: String) -> Self {
        Self {
            resource: Some(apply::describe(&document.value)),
            ..Self::new("warning", "Duplicate", &manifest.path, &document.start, message)
        }
    }

    fn unmade_namespace(manifest: &Manifest, document: &Document, name: &str, made: &[&str]) -> Self {
        let severity = if made.is_empty() { "note" } else { "warning" };
        let message = format!("no manifest makes the namespace `{name}`: `heddle up` cannot make what is in it");
        let hint = match heddle_smi::closest(name, made) {
            Some(made) => format!("did you mean `{made}`?"),
            None => "add a Namespace of this name, unless the cluster has it".to_owned(),
        };
        let (field, place) = ("metadata.namespace".to_owned(), document.place("metadata.namespace"));
        Self {
            resource: Some(apply::describe(&document.value)),
            field,
            hint: Some(hint),
            ..Self::new(severity, "NamespaceNotFound", &manifest.path, place, message)
        }
    }

    fn not_honoured(manifest: &Manifest, document: &Document, found: NotHonoured) -> Self {
        let place = document.place(&found.field);
        Self {
            resource: Some(apply::describe(&document.value)),
            field: found.field,
            hint: Some(found.hint.to_owned()),
            ..Self::new("note", "NotHonoured", &manifest.path, place, found.message)
        }
    }

    fn mistake(manifest: &Manifest, document: &Document, mistake: Mistake) -> Self {
        let (severity, reason) = match mistake.kind {
            MistakeKind::Invalid => ("error", "Invalid"),
            MistakeKind::UnknownField => ("error", "UnknownField"),
            MistakeKind::UnknownKind => ("error", "UnknownKind"),
            MistakeKind::UnknownGroup => ("warning", "UnknownKind"),
        };
        let place = match mistake.kind {
            MistakeKind::UnknownField => document.key_place(&mistake.field),
            _ => document.place(&mistake.field),
        };
        Self {
            resource: Some(apply::describe(&document.value)),
            hint: hint(document, &mistake),
            field: mistake.field,
            ..Self::new(severity, reason, &manifest.path, place, mistake.message)
        }
    }

    fn problem(manifest: &Manifest, document: &Document, problem: Problem) -> Self {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let place = document.place(&problem.origin.field);
        Self {
            resource: Some(apply::describe(&document.value)),
            field: problem.origin.field.to_string(),
            hint: problem.hint,
            ..Self::new(severity, problem.reason.code(), &manifest.path, place, problem.message)
        }
    }

    fn new(severity: &'static str, reason: &'static str, path: &Path, place: &Place, message: String) -> Self {
        Self {
            severity,
            file: path.display().to_string(),
            line: place.line,
            column: place.column,
            resource: None,
            field: String::new(),
            reason,
            message,
            hint: None,
            bytes: place.bytes.clone(),
        }
    }

    /// The finding for the renderer: the message, the place in the text, and the hint.
    fn groups<'a>(&'a self, source: &'a str) -> Vec<Group<'a>> {
        let level = match self.severity {
            "error" => Level::ERROR,
            "warning" => Level::WARNING,
            _ => Level::NOTE,
        };
        let mut annotation = AnnotationKind::Primary.span(self.bytes.clone());
        if let Some(resource) = &self.resource {
            annotation = annotation.label(resource);
        }
        let snippet = Snippet::source(source).path(&self.file).annotation(annotation);
        let title = match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        };
        let mut groups = vec![level.primary_title(title).id(self.reason).element(snippet)];
        if let Some(hint) = &self.hint {
            groups.push(Group::with_title(Level::HELP.secondary_title(hint)));
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gateway API has a UDPRoute as well as SMI.
    #[test]
    fn kinds_of_one_name_in_two_groups_are_two_objects() {
        let text = "\
apiVersion: specs.smi-spec.io/v1alpha4
kind: UDPRoute
metadata: {name: dns}
spec: {matches: {ports: [53]}}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: {name: dns}
---
apiVersion: gateway.networking.k8s.io/v1alpha3
kind: UDPRoute
metadata: {name: dns, namespace: default}
";
        let heddle_smi::manifest::Manifest { documents, errors } = heddle_smi::manifest::parse(text);
        let manifest = Manifest { path: "routes.yaml".into(), text: text.to_owned(), documents, errors };
        let findings = check(&[manifest]);
        let found = |reason| findings.iter().filter(|found| found.reason == reason).map(|found| found.line).collect();
        let lines: Vec<usize> = found("UdpNotCarried");
        assert_eq!(lines, [1], "{findings:?}");
        let lines: Vec<usize> = found("Duplicate");
        assert_eq!(lines, [10], "of one group in two versions: {findings:?}");
    }
}
