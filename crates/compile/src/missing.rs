//! What to do about a name that refers to nothing.

use std::sync::Arc;

use heddle_smi::closest;

use crate::resource_set::Facts;

/// How many names are compared with a missing one. Compilation is run on every change, and must not become slow where
/// much is missing.
const NAMES_COMPARED: usize = 256;
/// How many names a hint lists.
const NAMES_LISTED: usize = 8;

/// How a missing object may be reached when another namespace has one of its name.
#[derive(Clone, Copy)]
pub(crate) enum Elsewhere {
    /// The reference has a field for the namespace.
    Named,
    /// It is looked for in one namespace alone.
    Ignored,
}

/// What to do where `name` is no valid object of `kind`.
pub(crate) fn hint<T>(facts: &Facts<T>, kind: &str, namespace: &str, name: &str, elsewhere: Elsewhere) -> String {
    let key = (Arc::from(namespace), Arc::from(name));
    if facts.contains_key(&key) {
        return "correct it first: what is wrong with it is reported there".to_owned();
    }
    let first = (Arc::from(namespace), Arc::default());
    let own = facts.range::<(Arc<str>, Arc<str>), _>(first..).take_while(|((of, _), _)| **of == *namespace);
    let names: Vec<&str> = own.take(NAMES_COMPARED).map(|((_, name), _)| &**name).collect();
    if let Some(known) = closest(name, &names) {
        return format!("did you mean `{known}`?");
    }
    match (facts.keys().find(|(_, other)| **other == *name), elsewhere) {
        (Some((other, _)), Elsewhere::Named) => format!("`{other}` has one of this name: write `namespace: {other}`"),
        (Some((other, _)), Elsewhere::Ignored) => {
            format!("`{other}` has one of this name, but it must be in `{namespace}`")
        }
        (None, _) => format!("add the {kind}, or correct the name"),
    }
}

/// What to do where a route has no match of this name.
pub(crate) fn match_hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.take(NAMES_COMPARED).collect();
    if let Some(known) = closest(name, &known) {
        return format!("did you mean `{known}`?");
    }
    match known.as_slice() {
        [] => "it has no match with a name: leave `matches` out to name all of it".to_owned(),
        known => {
            let more = if known.len() > NAMES_LISTED { " and others" } else { "" };
            let listed = &known[..known.len().min(NAMES_LISTED)];
            format!("it has `{}`{more}", listed.join("`, `"))
        }
    }
}
