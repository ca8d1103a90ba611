//! What is asked: which resources, which traffic of theirs, in which window.

use std::time::Duration;

use heddle_smi::metrics::{Direction, Side};

use crate::{Kind, LONGEST_WINDOW, Refusal, Selector};

/// A question about the traffic of resources of one kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    pub kind: Kind,
    pub scope: Scope,
    /// Which resources appear (M5). It does not choose among their traffic.
    pub selector: Selector,
    /// Which of them by name and by namespace, as a field selector says it: within the scope, never beyond it.
    pub field_name: Option<String>,
    pub field_namespace: Option<String>,
    pub window: Duration,
    /// Absent: what is received, and of edges both.
    pub direction: Option<Direction>,
    /// Absent: the side that the resource itself is on.
    pub side: Option<Side>,
}

/// How much is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every resource of the kind, of one namespace or of all.
    List { namespace: Option<String> },
    /// One resource. The namespace is empty for a cluster-scoped kind.
    One { namespace: String, name: String },
    /// The edges of one resource (M6), or of every one of the kind: absent is any. Of a cluster-scoped kind there is no
    /// namespace.
    Edges { namespace: Option<String>, name: Option<String> },
}

/// The window when none is asked for (M13).
const DEFAULT_WINDOW: Duration = Duration::from_secs(30);

impl Query {
    /// A question with the defaults of the specification.
    pub fn new(kind: Kind, scope: Scope) -> Self {
        Self {
            kind,
            scope,
            selector: Selector::default(),
            field_name: None,
            field_namespace: None,
            window: DEFAULT_WINDOW,
            direction: None,
            side: None,
        }
    }

    /// Applies the parameters of a request. Unknown ones, such as `limit`, change nothing.
    ///
    /// # Errors
    ///
    /// A parameter has a value that means nothing, or asks for what no kind or this one does not have.
    pub fn with_parameters(mut self, parameters: &[(String, String)]) -> Result<Self, Refusal> {
        for (name, value) in parameters {
            match name.as_str() {
                "t" => self.window = window(value)?,
                "direction" => {
                    self.direction = Some(one_of(name, value, [("to", Direction::To), ("from", Direction::From)])?)
                }
                "side" => self.side = Some(one_of(name, value, [("client", Side::Client), ("server", Side::Server)])?),
                "labelSelector" => self.selector = Selector::parse(value).map_err(Refusal::bad_request)?,
                "fieldSelector" if !value.is_empty() => self.select_field(value)?,
                "watch" if matches!(value.as_str(), "true" | "1") => {
                    let message = "measures cannot be watched: ask again, or use `kubectl traffic top --watch`";
                    return Err(Refusal::method_not_allowed(message));
                }
                _ => {}
            }
        }
        if self.kind == Kind::TrafficSplit && (self.direction == Some(Direction::To) || self.side == Some(Side::Server))
        {
            let message = "a TrafficSplit is measured by its clients: its direction is `from` and its side `client`";
            return Err(Refusal::bad_request(message));
        }
        Ok(self)
    }

    fn select_field(&mut self, selector: &str) -> Result<(), Refusal> {
        for term in selector.split(',') {
            let (field, value) = match (term.replace("==", "=").split_once('='), &self.scope) {
                (Some(("metadata.name", name)), _) => (&mut self.field_name, name.to_owned()),
                (Some(("metadata.namespace", value)), Scope::List { .. }) => {
                    (&mut self.field_namespace, value.to_owned())
                }
                _ => {
                    let message = format!(
                        "`{term}` is no field selector here: there are `metadata.name=` and `metadata.namespace=`"
                    );
                    return Err(Refusal::bad_request(message));
                }
            };
            if field.as_ref().is_some_and(|said| *said != value) {
                return Err(Refusal::bad_request(format!("`{selector}` selects nothing: a field has one value")));
            }
            *field = Some(value);
        }
        Ok(())
    }
}

fn one_of<T: Copy, const N: usize>(name: &str, value: &str, values: [(&str, T); N]) -> Result<T, Refusal> {
    let found = values.iter().find(|(known, _)| *known == value);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known = values.map(|(known, _)| format!("`{known}`")).join(" or ");
        Refusal::bad_request(format!("the parameter `{name}` is {known}, and not `{value}`"))
    })
}

/// A window, as Go writes durations; fractions of a second count as a whole one.
fn window(text: &str) -> Result<Duration, Refusal> {
    let seconds = go_seconds(text).map(f64::ceil).filter(|seconds| *seconds >= 1.0);
    seconds.filter(|seconds| *seconds <= LONGEST_WINDOW.as_secs_f64()).map(Duration::from_secs_f64).ok_or_else(|| {
        let longest = go_text(LONGEST_WINDOW);
        let message =
            format!("the parameter `t` is a window such as `30s` or `1m`, from 1s to {longest}, and not `{text}`");
        Refusal::bad_request(message)
    })
}

/// `1m30s`, `1.5h`, `100ms` in seconds; `None` for what is no duration of Go's, or a negative one.
fn go_seconds(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Some(seconds)
}

/// Whole seconds as Go writes them: `30s`, `1m0s`.
pub(crate) fn go_text(duration: Duration) -> String {
    let (hours, minutes, seconds) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60, duration.as_secs() % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(parameters: &[(&str, &str)]) -> Result<Query, Refusal> {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Query::new(Kind::Pod, Scope::List { namespace: None }).with_parameters(&parameters)
    }

    #[test]
    fn m13_the_window_is_a_duration_of_go_and_thirty_seconds_by_default() {
        let window = |text| asked(&[("t", text)]).map(|query| query.window.as_secs());
        assert_eq!(asked(&[]).unwrap().window.as_secs(), 30);
        for (text, seconds) in [("1m", 60), ("1m30s", 90), ("1.5m", 90), ("10m", 600), ("90s", 90), ("1200ms", 2)] {
            assert_eq!(window(text), Ok(seconds), "{text}");
        }
        for text in ["", "30", "abc", "-1m", "1d", "11m", "0s", "1e3s", "NaNs", "."] {
            let refusal = window(text).unwrap_err();
            assert_eq!((refusal.code, refusal.reason), (400, "BadRequest"), "{text}");
            assert!(refusal.message.contains("from 1s to 10m0s"), "{refusal}");
        }
    }

    #[test]
    fn windows_are_written_as_go_does() {
        for (seconds, text) in [(1, "1s"), (30, "30s"), (60, "1m0s"), (90, "1m30s"), (3600, "1h0m0s")] {
            assert_eq!(go_text(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn m8_direction_and_side_are_words() {
        let query = asked(&[("direction", "to"), ("side", "server"), ("limit", "500")]).unwrap();
        assert_eq!((query.direction, query.side), (Some(Direction::To), Some(Side::Server)));
        assert!(asked(&[("direction", "out")]).unwrap_err().message.contains("`to` or `from`"));
    }

    #[test]
    fn a_field_selector_chooses_by_name_and_namespace() {
        let query = asked(&[("fieldSelector", "metadata.name=web,metadata.namespace==shop")]).unwrap();
        assert_eq!(query.field_name.as_deref(), Some("web"));
        assert_eq!(query.field_namespace.as_deref(), Some("shop"));
        assert_eq!(asked(&[("fieldSelector", "spec.nodeName=a")]).unwrap_err().code, 400);
    }

    #[test]
    fn measures_cannot_be_watched() {
        assert_eq!(asked(&[("watch", "true")]).unwrap_err().code, 405);
    }
}
