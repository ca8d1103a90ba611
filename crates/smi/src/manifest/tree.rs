//! From text to a tree of nodes with their places. Bounded in depth and size, aliases included.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::scalar::resolve;
use super::{Place, SyntaxError};

/// How deep collections may be nested.
const DEPTH_LIMIT: usize = 64;
/// How many values a file may hold, those that aliases repeat included.
const NODE_LIMIT: usize = 1_000_000;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) data: Data,
    /// The number of nodes in it, and of levels below it.
    size: usize,
    height: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

/// A collection whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Place)> },
}

/// The document being read.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    errors: Vec<SyntaxError>,
}

/// Reads all documents that have no mistake. A mistake ends its document, and reading goes on with the next.
pub(super) fn read(text: &str, errors: &mut Vec<SyntaxError>) -> Vec<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_LIMIT,
        block_nesting_limit: DEPTH_LIMIT,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut roots = Vec::new();
    let mut builder = Builder::default();
    let mut nodes = 0;
    while let Some(next) = parser.next_event() {
        let done = match next {
            Ok((Event::DocumentEnd, _)) => {
                let document = std::mem::take(&mut builder);
                if document.errors.is_empty() {
                    roots.extend(document.root);
                }
                errors.extend(document.errors);
                continue;
            }
            Ok((event, span)) => builder.take(event, &span, &mut nodes),
            Err(error) => Err(syntax_error(&error, text)),
        };
        if let Err(error) = done {
            errors.append(&mut builder.errors);
            errors.push(error);
            builder = Builder::default();
            if nodes > NODE_LIMIT || !parser.proceed_next_document().unwrap_or(false) {
                break;
            }
        }
    }
    roots
}

impl Builder {
    /// Takes one event. An error ends the document; mistakes that leave its structure intact are collected.
    fn take(&mut self, event: Event<'_>, span: &Span, nodes: &mut usize) -> Result<(), SyntaxError> {
        let place = place(span);
        let size = match &event {
            Event::Alias(id) => self.anchors.get(id).map_or(1, |node| node.size),
            _ => 1,
        };
        *nodes = nodes.saturating_add(size);
        if *nodes > NODE_LIMIT {
            let message = format!("the file holds more than {NODE_LIMIT} values, those repeated by aliases included");
            return Err(SyntaxError::new(place, message));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), place),
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", &place);
                self.start(OpenKind::List(Vec::new()), anchor, place)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", &place);
                self.start(OpenKind::Map { entries: Vec::new(), key: None }, anchor, place)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => self.alias(id, place),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        place: Place,
    ) -> Result<(), SyntaxError> {
        let value = self.value_of(text, style, tag, &place);
        if let Some(Open { kind: OpenKind::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            if matches!(value, Value::Null | Value::Bool(_)) {
                let error = SyntaxError::new(place.clone(), format!("the key `{text}` is no text to kubectl"));
                self.errors.push(error.hint(format!("write it in quotes: \"{text}\"")));
            }
            *key = Some((text.to_owned(), place));
            return Ok(());
        }
        self.finish(Node { place, data: Data::Scalar(value), size: 1, height: 0 }, anchor)
    }

    fn value_of(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: &Place) -> Value {
        let core = tag.map(|tag| (tag, tag.core_suffix()));
        let resolved = match core {
            None if style == ScalarStyle::Plain => resolve(text),
            None | Some((_, Some("str"))) => return text.into(),
            Some((tag, suffix)) => {
                let value = resolve(text);
                if !suffix.is_some_and(|suffix| value.as_ref().is_some_and(|value| has_tag(value, suffix))) {
                    let message = format!("`{text}` is no {}", tag.original());
                    self.errors.push(SyntaxError::new(place.clone(), message).hint("leave the tag out"));
                }
                value
            }
        };
        resolved.unwrap_or_else(|| {
            let message = format!("`{text}` is not a number that JSON has");
            self.errors.push(SyntaxError::new(place.clone(), message).hint("write it in quotes if it is a text"));
            Value::Null
        })
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, place: &Place) {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(expected)) {
            let message = format!("the tag {} has no meaning here", tag.original());
            self.errors.push(SyntaxError::new(place.clone(), message).hint("leave it out"));
        }
    }

    fn start(&mut self, kind: OpenKind, anchor: usize, place: Place) -> Result<(), SyntaxError> {
        if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(SyntaxError::new(place, "a key must be a text, not a collection".to_owned())
                .hint("a template's `{{ }}` must be filled in, or put in quotes"));
        }
        if self.open.len() >= DEPTH_LIMIT {
            return Err(too_deep(place));
        }
        self.open.push(Open { place, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let data = match open.kind {
            OpenKind::List(items) => Data::List(items),
            OpenKind::Map { entries, .. } => Data::Map(self.merged(entries)),
        };
        let children: Vec<&Node> = match &data {
            Data::List(items) => items.iter().collect(),
            Data::Map(entries) => entries.iter().map(|entry| &entry.value).collect(),
            Data::Scalar(_) => Vec::new(),
        };
        let size = children.iter().fold(1, |size: usize, child| size.saturating_add(child.size));
        let height = children.iter().map(|child| child.height + 1).max().unwrap_or(0);
        drop(children);
        self.finish(Node { place: open.place, data, size, height }, open.anchor)
    }

    /// Carries out `<<` and refuses keys that come twice.
    fn merged(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut seen = HashMap::new();
        let mut own = Vec::with_capacity(entries.len());
        let mut inherited = Vec::new();
        for entry in entries {
            if entry.key == "<<" {
                self.inherit(entry.value, &mut inherited);
            } else if let Some(line) = seen.insert(entry.key.clone(), entry.key_place.line) {
                let message = format!("the key `{}` is already on line {line}", entry.key);
                self.errors.push(SyntaxError::new(entry.key_place, message).hint("remove one of them"));
            } else {
                own.push(entry);
            }
        }
        let mut names: HashSet<String> = seen.into_keys().collect();
        own.extend(inherited.into_iter().filter(|entry| names.insert(entry.key.clone())));
        own
    }

    fn inherit(&mut self, value: Node, inherited: &mut Vec<Entry>) {
        match value.data {
            Data::Map(entries) => inherited.extend(entries),
            Data::List(items) if items.iter().all(|item| matches!(item.data, Data::Map(_))) => {
                items.into_iter().for_each(|item| self.inherit(item, inherited));
            }
            _ => {
                let error = SyntaxError::new(value.place, "`<<` needs an object, or a list of objects".to_owned());
                self.errors.push(error.hint("write an alias, such as `<<: *defaults`"));
            }
        }
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), SyntaxError> {
        // An anchor is known once its node has ended.
        let Some(node) = self.anchors.get(&id).cloned() else {
            return Err(SyntaxError::new(place, "the alias is inside of what it stands for".to_owned()));
        };
        if self.open.len() + node.height >= DEPTH_LIMIT {
            return Err(too_deep(place));
        }
        if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(SyntaxError::new(place, "a key must be a text, not an alias".to_owned()));
        }
        self.finish(Node { place, ..node }, 0)
    }

    /// Puts a whole node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, key }) => {
                let (key, key_place) = key.take().unwrap_or_default();
                entries.push(Entry { key, key_place, value: node });
            }
        }
        Ok(())
    }
}

impl Node {
    /// The items, when this is a list of objects as `kubectl get` writes it; else the node itself.
    pub(super) fn into_list_items(self) -> Result<Vec<Self>, Self> {
        let Data::Map(entries) = &self.data else { return Err(self) };
        let is_list = entries.iter().any(|entry| {
            entry.key == "kind"
                && matches!(&entry.value.data, Data::Scalar(Value::String(kind)) if kind.ends_with("List"))
        });
        let items = entries.iter().position(|entry| entry.key == "items" && matches!(entry.value.data, Data::List(_)));
        match (items, self.data) {
            (Some(at), Data::Map(mut entries)) if is_list => match entries.swap_remove(at).value.data {
                Data::List(items) => Ok(items),
                _ => Ok(Vec::new()),
            },
            (_, data) => Err(Self { data, ..self }),
        }
    }
}

fn has_tag(value: &Value, suffix: &str) -> bool {
    match suffix {
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "bool" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn too_deep(place: Place) -> SyntaxError {
    SyntaxError::new(place, format!("is nested deeper than {DEPTH_LIMIT} levels"))
}

fn place(span: &Span) -> Place {
    let start = span.start.byte_offset().unwrap_or_default();
    let end = span.end.byte_offset().unwrap_or(start).max(start);
    Place { line: span.start.line().max(1), column: span.start.col() + 1, bytes: start..end }
}

fn syntax_error(error: &ScanError, text: &str) -> SyntaxError {
    let marker = error.marker();
    let at = marker.byte_offset().unwrap_or(text.len()).min(text.len());
    let place = Place { line: marker.line().max(1), column: marker.col() + 1, bytes: at..at };
    let indented_by_tab = |line: &str| line[..line.len() - line.trim_start().len()].contains('\t');
    let tabs = text.lines().nth(place.line - 1).is_some_and(indented_by_tab);
    let hint = match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => Some("indent with spaces, not with tabs"),
        _ if tabs => Some("indent with spaces, not with tabs"),
        ErrorKind::InvalidIndentation | ErrorKind::ExpectedBlockMappingKey | ErrorKind::ExpectedBlockSequenceEntry => {
            Some("line it up with the lines it belongs to")
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey | ErrorKind::MappingValueNotAllowed => {
            Some("a key ends with a colon and a space; a text that holds `: ` needs quotes")
        }
        ErrorKind::UnknownAnchor => {
            Some("an alias needs an anchor, `&name`, before it; a text that starts with `*` needs quotes")
        }
        ErrorKind::UnexpectedCharacter { .. } => Some("a text that starts with this character needs quotes"),
        ErrorKind::RecursionLimitExceeded => Some("nest at most 64 levels"),
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::DocumentIndicatorInQuotedScalar => Some("close the quotes"),
        ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence => Some("close every bracket that was opened"),
        _ => None,
    };
    let error = SyntaxError::new(place, error.info());
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
