//! Manifests: files of YAML or JSON with one or more objects, read so that every field knows its place.
//!
//! Scalars mean what they mean to `kubectl`: `yes` and `off` are booleans, `0644` is octal.

mod scalar;
mod tree;

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use crate::path;
use tree::{Data, Node};

/// The size of a file that is read, in bytes.
pub const SIZE_LIMIT: usize = 16 * 1024 * 1024;

/// What a file holds: its documents, and the mistakes that kept others from being read.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// In the order of the file. The items of a `List` are documents of their own.
    pub documents: Vec<Document>,
    pub errors: Vec<SyntaxError>,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Document {
    pub value: Value,
    /// Where the object starts.
    pub start: Place,
    places: HashMap<String, Located>,
}

/// A part of a file.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What to underline in the text. It may be empty.
    pub bytes: Range<usize>,
}

/// Why a document cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}:{}: {message}", place.line, place.column)]
pub struct SyntaxError {
    pub place: Place,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Where a field stands: its key, unless it is an item of a list, and its value.
#[derive(Clone, Debug)]
struct Located {
    key: Option<Place>,
    value: Place,
    scalar: bool,
}

/// Reads a file. A document with a mistake is left out, and the others are read nevertheless.
pub fn parse(text: &str) -> Manifest {
    let mut manifest = Manifest::default();
    if text.len() > SIZE_LIMIT {
        let message = format!("the file is larger than {} MiB", SIZE_LIMIT / 1024 / 1024);
        manifest.errors.push(SyntaxError::new(Place { line: 1, column: 1, bytes: 0..0 }, message));
        return manifest;
    }
    let roots = tree::read(text, &mut manifest.errors);
    for root in roots {
        add(root, &mut manifest);
    }
    manifest
}

fn add(root: Node, manifest: &mut Manifest) {
    match root.data {
        Data::Scalar(Value::Null) => {}
        Data::Map(_) => match root.into_list_items() {
            Ok(items) => items.into_iter().for_each(|item| add(item, manifest)),
            Err(object) => manifest.documents.push(Document::new(object)),
        },
        Data::Scalar(_) | Data::List(_) => {
            let error = SyntaxError::new(root.place, "a document must be an object".to_owned());
            manifest.errors.push(error.hint("start it with `apiVersion:` and `kind:`"));
        }
    }
}

// === impl Document ===

impl Document {
    fn new(root: Node) -> Self {
        let start = root.place.clone();
        let mut places = HashMap::new();
        let value = flatten(root, String::new(), None, &mut places);
        Self { value, start, places }
    }

    /// Where a field stands that something is to be said about: a scalar, or the key of an object or list. Of a field
    /// that is not there, the nearest that should hold it.
    pub fn place(&self, field: &str) -> &Place {
        let mut field = field;
        loop {
            match self.places.get(field) {
                Some(located) if located.scalar => return &located.value,
                Some(located) => return located.key.as_ref().unwrap_or(&located.value),
                None if field.is_empty() => return &self.start,
                None => field = parent(field),
            }
        }
    }

    /// Where the key of a field stands; for an item of a list and a field that is not there, as [`Self::place`].
    pub fn key_place(&self, field: &str) -> &Place {
        let key = self.places.get(field).and_then(|located| located.key.as_ref());
        key.unwrap_or_else(|| self.place(field))
    }
}

/// Makes the value of a node, and notes the places of all in it.
fn flatten(node: Node, field: String, key: Option<Place>, places: &mut HashMap<String, Located>) -> Value {
    let scalar = matches!(node.data, Data::Scalar(_));
    let value = match node.data {
        Data::Scalar(value) => value,
        Data::List(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| flatten(item, path::item(&field, index), None, places)).collect()
        }
        Data::Map(entries) => {
            let entries = entries.into_iter().map(|entry| {
                let field = path::key(&field, &entry.key);
                (entry.key, flatten(entry.value, field, Some(entry.key_place), places))
            });
            Value::Object(entries.collect())
        }
    };
    places.insert(field, Located { key, value: node.place, scalar });
    value
}

/// The path without its last step.
fn parent(field: &str) -> &str {
    if field.ends_with(']') {
        return field.rfind('[').map_or("", |start| &field[..start]);
    }
    field.rfind('.').map_or("", |dot| &field[..dot])
}

// === impl SyntaxError ===

impl SyntaxError {
    fn new(place: Place, message: String) -> Self {
        Self { place, message, hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
