//! Label and field selectors.

use serde_json::Value;

use super::error::{Answer, Failure};
use super::object;
use super::resource::Resource;

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug)]
struct FieldRequirement {
    /// JSON pointer of the field, or pointers of which the first that is set counts.
    pointers: Vec<String>,
    value: String,
    equal: bool,
}

impl Selector {
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Answer<Self> {
        let labels =
            parse_labels(labels).map_err(|e| Failure::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = fields.split(',').filter(|term| !term.trim().is_empty());
        let fields = fields.map(|term| parse_field(resource, term.trim())).collect::<Answer<_>>()?;
        Ok(Selector { labels, fields })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|f| f.matches(object)) && labels_match(&self.labels, &object["metadata"]["labels"])
    }
}

/// Whether a `metav1.LabelSelector` in its JSON form selects these labels. An empty selector selects everything.
pub(crate) fn label_selector_matches(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    let by_labels = wanted.is_none_or(|wanted| wanted.iter().all(|(k, v)| labels.get(k) == Some(v)));
    by_labels && object::items(selector, "/matchExpressions").iter().all(|e| expression_matches(e, labels))
}

fn expression_matches(expression: &Value, labels: &Value) -> bool {
    let value = labels.get(object::text(expression, "/key")).and_then(Value::as_str);
    let listed = |value: &str| object::items(expression, "/values").iter().any(|v| v.as_str() == Some(value));
    match object::text(expression, "/operator") {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn labels_match(requirements: &[Requirement], labels: &Value) -> bool {
    requirements.iter().all(|requirement| {
        let value = labels.get(&requirement.key).and_then(Value::as_str);
        match &requirement.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::NotIn(values) => !value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}

/// Splits at commas that are not inside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
pub(crate) fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    terms(text).into_iter().map(parse_label).collect()
}

fn parse_label(term: &str) -> Result<Requirement, String> {
    let requirement = |key: &str, operator| {
        let key = key.trim();
        match super::names::qualified_name(key) {
            Ok(()) => Ok(Requirement { key: key.to_owned(), operator }),
            Err(why) => Err(format!("<nil>: Invalid value: \"{key}\": {why}")),
        }
    };
    if let Some((key, value)) = term.split_once("!=") {
        return requirement(key, Operator::NotIn(vec![label_value(value)?]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return requirement(key, Operator::In(vec![label_value(value)?]));
    }
    if let Some(key) = term.strip_prefix('!') {
        return requirement(key, Operator::DoesNotExist);
    }
    let mut words = term.splitn(2, char::is_whitespace);
    let (key, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim());
    match rest {
        "" => requirement(key, Operator::Exists),
        rest if rest.starts_with("in") => requirement(key, Operator::In(value_list(&rest[2..])?)),
        rest if rest.starts_with("notin") => requirement(key, Operator::NotIn(value_list(&rest[5..])?)),
        rest => Err(format!("found '{rest}', expected: in, notin, =, ==, !=, gt, lt")),
    }
}

fn value_list(text: &str) -> Result<Vec<String>, String> {
    let inner = text.trim().strip_prefix('(').and_then(|t| t.strip_suffix(')'));
    let inner = inner.ok_or_else(|| format!("found '{}', expected: '('", text.trim()))?;
    inner.split(',').map(label_value).collect()
}

fn label_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    super::names::label_value(value).map_err(|why| format!("values[0]: Invalid value: \"{value}\": {why}"))?;
    Ok(value.to_owned())
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let values = self.pointers.iter().filter_map(|pointer| object.pointer(pointer));
        let mut texts = values.map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        (texts.next().unwrap_or_default() == self.value) == self.equal
    }
}

fn parse_field(resource: &Resource, term: &str) -> Answer<FieldRequirement> {
    let (field, value, equal) = match (term.split_once("!="), term.split_once("==").or_else(|| term.split_once('='))) {
        (Some((field, value)), _) => (field, value, false),
        (None, Some((field, value))) => (field, value, true),
        (None, None) => {
            return Err(Failure::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
        }
    };
    let selectable =
        resource.custom().is_some_and(|c| c.selectable_fields.iter().any(|f| f.trim_start_matches('.') == field));
    let pointers: Vec<String> = match field_pointers(resource, field) {
        Some(pointers) => pointers.iter().map(|p| (*p).to_owned()).collect(),
        None if selectable => vec![format!("/{}", field.replace('.', "/"))],
        None => return Err(Failure::bad_request(format!("field label not supported: {field}"))),
    };
    Ok(FieldRequirement { pointers, value: value.to_owned(), equal })
}

/// The fields that can be selected, which Kubernetes fixes per type.
fn field_pointers(resource: &Resource, field: &str) -> Option<&'static [&'static str]> {
    let group = resource.group.as_str();
    Some(match (group, resource.plural.as_str(), field) {
        (_, _, "metadata.name") => &["/metadata/name"],
        (_, _, "metadata.namespace") if resource.namespaced => &["/metadata/namespace"],
        ("", "pods", "spec.nodeName") => &["/spec/nodeName"],
        ("", "pods", "spec.restartPolicy") => &["/spec/restartPolicy"],
        ("", "pods", "spec.schedulerName") => &["/spec/schedulerName"],
        ("", "pods", "spec.serviceAccountName") => &["/spec/serviceAccountName"],
        ("", "pods", "spec.hostNetwork") => &["/spec/hostNetwork"],
        ("", "pods" | "namespaces", "status.phase") => &["/status/phase"],
        ("", "pods", "status.podIP") => &["/status/podIP"],
        ("", "pods", "status.nominatedNodeName") => &["/status/nominatedNodeName"],
        ("", "nodes", "spec.unschedulable") => &["/spec/unschedulable"],
        ("", "secrets", "type") => &["/type"],
        ("", "services", "spec.clusterIP") => &["/spec/clusterIP"],
        ("", "services", "spec.type") => &["/spec/type"],
        ("", "replicationcontrollers", "status.replicas") | ("apps", "replicasets", "status.replicas") => {
            &["/status/replicas"]
        }
        ("batch", "jobs", "status.successful") => &["/status/succeeded"],
        ("" | "events.k8s.io", "events", field) => return event_pointers(field),
        _ => return None,
    })
}

fn event_pointers(field: &str) -> Option<&'static [&'static str]> {
    Some(match field {
        "involvedObject.kind" | "regarding.kind" => &["/involvedObject/kind"],
        "involvedObject.namespace" | "regarding.namespace" => &["/involvedObject/namespace"],
        "involvedObject.name" | "regarding.name" => &["/involvedObject/name"],
        "involvedObject.uid" | "regarding.uid" => &["/involvedObject/uid"],
        "involvedObject.apiVersion" | "regarding.apiVersion" => &["/involvedObject/apiVersion"],
        "involvedObject.resourceVersion" | "regarding.resourceVersion" => &["/involvedObject/resourceVersion"],
        "involvedObject.fieldPath" | "regarding.fieldPath" => &["/involvedObject/fieldPath"],
        "reason" => &["/reason"],
        "type" => &["/type"],
        "source" | "reportingComponent" | "reportingController" => &["/source/component", "/reportingComponent"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(selector: &str, labels: Value) -> bool {
        labels_match(&parse_labels(selector).expect("a selector"), &labels)
    }

    #[test]
    fn label_selectors_select_as_kubectl_says() {
        assert!(selects("", json!(null)));
        assert!(selects("app=web,tier!=db", json!({"app": "web"})));
        assert!(selects("app in (web, api),!canary", json!({"app": "api"})));
        assert!(!selects("app notin (web)", json!({"app": "web"})));
        assert!(selects("app", json!({"app": ""})));
        assert!(parse_labels("app ~ x").is_err());
        assert!(parse_labels("-bad=x").is_err());
    }
}
