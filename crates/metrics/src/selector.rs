//! Label selectors, as Kubernetes writes them in a request: `app=web,tier in (a,b),!legacy`.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Which objects appear in a list. Without terms: all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector(Vec<Term>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Term {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// The labels of an object.
pub(crate) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// More terms than this are refused.
const TERMS: usize = 64;

impl Selector {
    /// # Errors
    ///
    /// The text is no selector; says which term is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms = split(text).map(str::trim).filter(|term| !term.is_empty());
        let terms: Vec<Term> = terms.map(Term::parse).collect::<Result<_, _>>()?;
        if terms.len() > TERMS {
            return Err(format!("a label selector has at most {TERMS} terms"));
        }
        Ok(Self(terms))
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|term| term.matches(labels))
    }

    /// The terms that demand one value of a label.
    pub(crate) fn equalities(&self) -> BTreeMap<String, String> {
        let equal = |term: &Term| match term {
            Term::In(key, values) if values.len() == 1 => Some((key.clone(), values[0].clone())),
            _ => None,
        };
        self.0.iter().filter_map(equal).collect()
    }
}

/// The terms: commas separate them, but not within parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no term of a label selector: write `key=value`, `key in (a,b)` or `!key`");
        let key = |text: &str| {
            let text = text.trim();
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            if !text.is_empty() && text.chars().all(fits) { Ok(text.to_owned()) } else { Err(wrong()) }
        };
        if let Some(absent) = text.strip_prefix('!') {
            return Ok(Self::Absent(key(absent)?));
        }
        if let Some((left, right)) = text.split_once("!=") {
            return Ok(Self::NotIn(key(left)?, vec![right.trim().to_owned()]));
        }
        if let Some((left, right)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return Ok(Self::In(key(left)?, vec![right.trim().to_owned()]));
        }
        let Some((left, list)) = text.split_once('(') else { return Ok(Self::Exists(key(text)?)) };
        let list = list.trim_end().strip_suffix(')').ok_or_else(wrong)?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        match left.trim().split_once(char::is_whitespace).map(|(left, word)| (left, word.trim())) {
            Some((left, "in")) => Ok(Self::In(key(left)?, values)),
            Some((left, "notin")) => Ok(Self::NotIn(key(left)?, values)),
            _ => Err(wrong()),
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let is_in = |key: &str, values: &[String]| {
            labels.get(key).is_some_and(|value| values.iter().any(|wanted| **wanted == **value))
        };
        match self {
            Self::In(key, values) => is_in(key, values),
            Self::NotIn(key, values) => !is_in(key, values),
            Self::Exists(key) => labels.contains_key(&**key),
            Self::Absent(key) => !labels.contains_key(&**key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str) -> bool {
        let labels = [("app", "web"), ("tier", "front")].map(|(key, value)| (key.into(), value.into()));
        Selector::parse(selector).unwrap().matches(&Labels::from(labels))
    }

    #[test]
    fn every_form_of_a_term_is_understood() {
        for yes in ["", "app=web", "app==web", "app", "app in (web, api),tier!=back", "!legacy", "tier notin (a,b)"] {
            assert!(selects(yes), "{yes}");
        }
        for no in ["app=api", "app!=web", "legacy", "!app", "app in (api,db)", "tier notin (front)", "app=web,x=y"] {
            assert!(!selects(no), "{no}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_term() {
        for wrong in ["app in web", "app in (web", "=web", "a b=c", "app within (a)"] {
            assert!(Selector::parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
