//! What the API would say of an object, without an API: the same types, schemas and checks, for `heddle check`.

use serde_json::Value;

use super::error::Cause;
use super::resource::{Registry, Resource, SchemaSource, split_api_version};
use super::schema::{self, Schema};
use super::{crd, custom, custom_validation, defaults, strategy, validate};

/// The types that are served: the built-in ones, and those of the CustomResourceDefinitions that were added.
#[derive(Clone, Debug)]
pub struct Types(Registry);

/// Something wrong with one field of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    pub kind: MistakeKind,
    /// Path from the object's root, such as `spec.ports[0].port`.
    pub field: String,
    /// A sentence without full stop, which does not repeat the field.
    pub message: String,
    /// What would have been right in its place, when that is a short list of names.
    pub known: Vec<String>,
}

/// The kinds of mistakes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MistakeKind {
    /// A value that is missing, of another type, or not what it must be.
    Invalid,
    UnknownField,
    /// A group that is served has no such version or kind.
    UnknownKind,
    /// Nothing of the group is known here; another cluster may have it.
    UnknownGroup,
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

// === impl Types ===

impl Default for Types {
    fn default() -> Self {
        Self(Registry::builtin())
    }
}

impl Types {
    /// Adds the types of a CustomResourceDefinition.
    pub fn add(&mut self, definition: &Value) {
        crd::resources(definition).into_iter().for_each(|resource| self.0.insert(resource));
    }

    /// What becomes of an object that is stored for whoever reads it, and that nothing acts on: such as `NetworkPolicy is
    /// stored, but nothing enforces it here`.
    pub fn unheeded(&self, object: &Value) -> Option<String> {
        self.find(object).and_then(strategy::unheeded)
    }

    /// All that is wrong with an object. References to other objects are not looked at.
    pub fn check(&self, object: &Value) -> Vec<Mistake> {
        if let Some(resource) = self.find(object) {
            return self.check_as(resource, object.clone());
        }
        let api_version = text(object, "apiVersion");
        vec![self.unknown(api_version, split_api_version(api_version).0, text(object, "kind"))]
    }

    /// How its kind is served.
    fn find(&self, object: &Value) -> Option<&Resource> {
        let (group, version) = split_api_version(text(object, "apiVersion"));
        let kind = text(object, "kind");
        let mut resources = self.0.iter().map(AsRef::as_ref);
        resources.find(|resource: &&Resource| {
            resource.group == group && resource.version == version && resource.kind == kind
        })
    }

    fn unknown(&self, api_version: &str, group: &str, kind: &str) -> Mistake {
        let mistake = |kind, field: &str, message: String, mut known: Vec<String>| {
            known.sort();
            known.dedup();
            Mistake { kind, field: field.to_owned(), message, known }
        };
        let of_group: Vec<_> = self.0.iter().filter(|resource| resource.group == group).collect();
        if of_group.is_empty() {
            let message = format!("nothing serves the group of `{api_version}`");
            // Only Kubernetes' own groups have no dot, so nobody else can define one.
            if group.contains('.') {
                return mistake(MistakeKind::UnknownGroup, "apiVersion", message, Vec::new());
            }
            let known = self.0.iter().filter(|resource| resource.kind == kind).map(|resource| resource.api_version());
            return mistake(MistakeKind::UnknownKind, "apiVersion", message, known.collect());
        }
        if let Some(resource) = of_group.iter().find(|resource| resource.kind == kind) {
            let message = format!("{kind} is not served in `{api_version}`");
            return mistake(MistakeKind::UnknownKind, "apiVersion", message, vec![resource.api_version()]);
        }
        let known = of_group.iter().map(|resource| resource.kind.clone()).collect();
        mistake(MistakeKind::UnknownKind, "kind", format!("`{api_version}` has no kind `{kind}`"), known)
    }

    fn check_as(&self, resource: &Resource, mut object: Value) -> Vec<Mistake> {
        // Nobody reads the status of a new object.
        if let Some(fields) = object.as_object_mut() {
            fields.shift_remove("status");
        }
        match &resource.schema {
            SchemaSource::Builtin(name) => match Schema::builtin(name) {
                Some(schema) => self.check_builtin(resource, schema, &mut object),
                None => Vec::new(),
            },
            SchemaSource::Custom(version) => {
                let unknown = custom::decode(version, &mut object).unwrap_or_default();
                let mut causes = validate::create(resource, &object);
                causes.extend(custom_validation::check(resource, version, &object, None));
                let unknown = unknown.into_iter().map(|field| unknown_field(field, Vec::new()));
                unknown.chain(causes.into_iter().map(Mistake::from)).collect()
            }
        }
    }

    fn check_builtin(&self, resource: &Resource, schema: Schema<'_>, object: &mut Value) -> Vec<Mistake> {
        let decoded = schema::decode(schema, &resource.kind, object);
        let unknown = decoded.unknown.into_iter().map(|unknown| unknown_field(unknown.field, unknown.known));
        let mut mistakes: Vec<Mistake> = unknown.collect();
        mistakes.extend(decoded.mistakes.into_iter().map(|mistake| Mistake {
            kind: MistakeKind::Invalid,
            field: mistake.field,
            message: mistake.plain,
            known: Vec::new(),
        }));
        // A value of the wrong type cannot be looked into. What is missing may be what is misspelt; both are told.
        if mistakes.iter().all(|mistake| mistake.kind == MistakeKind::UnknownField) {
            defaults::apply(resource, object);
            strategy::before_create(resource, object, &self.0);
            mistakes.extend(validate::create(resource, object).into_iter().map(Mistake::from));
        }
        mistakes
    }
}

fn unknown_field(field: String, known: Vec<String>) -> Mistake {
    Mistake { kind: MistakeKind::UnknownField, field, message: "is not a known field".to_owned(), known }
}

impl From<Cause> for Mistake {
    fn from(cause: Cause) -> Self {
        let message = match (cause.reason, cause.message.as_str()) {
            ("FieldValueRequired", "Required value") => "is missing".to_owned(),
            _ => cause.message,
        };
        Self { kind: MistakeKind::Invalid, field: cause.field, message, known: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value) -> Vec<(MistakeKind, String, String)> {
        let mistakes = Types::default().check(&object).into_iter();
        mistakes.map(|mistake| (mistake.kind, mistake.field, mistake.message)).collect()
    }

    fn deployment(container: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [container]}},
            },
        })
    }

    #[test]
    fn a_sound_object_has_no_mistakes() {
        assert_eq!(check(deployment(json!({"name": "app", "image": "app:1", "command": ["app"]}))), []);
    }

    #[test]
    fn every_mistake_is_told_with_its_field() {
        let mut object = deployment(json!({"name": "app", "image": 1, "comand": ["app"]}));
        object["spec"]["replicas"] = json!("two");
        let at = "spec.template.spec.containers[0]";
        let expected = [
            (MistakeKind::UnknownField, format!("{at}.comand"), "is not a known field".to_owned()),
            (
                MistakeKind::Invalid,
                format!("{at}.image"),
                "must be a string, not a number; put it in quotes".to_owned(),
            ),
            (MistakeKind::Invalid, "spec.replicas".to_owned(), "must be a whole number, not a string".to_owned()),
        ];
        assert_eq!(check(object), expected);
    }

    #[test]
    fn what_is_required_is_named() {
        let mut object = deployment(json!({"name": "app"}));
        object["spec"].as_object_mut().unwrap().shift_remove("selector");
        let expected = [(MistakeKind::Invalid, "spec.selector".to_owned(), "is missing".to_owned())];
        assert_eq!(check(object), expected);
    }

    #[test]
    fn a_stateful_sets_claims_are_volumes_of_its_pods() {
        let mut object =
            deployment(json!({"name": "db", "image": "db", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}));
        object["kind"] = json!("StatefulSet");
        let unknown = check(object.clone());
        assert_eq!(unknown[0].1, "spec.template.spec.containers[0].volumeMounts[0].name");
        object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        assert_eq!(check(object), []);
    }

    #[test]
    fn an_unknown_type_is_told_by_its_version_kind_or_group() {
        let of = |api_version: &str, kind: &str| {
            let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}});
            Types::default().check(&object).remove(0)
        };
        let version = of("apps/v1beta1", "Deployment");
        assert_eq!((version.kind, version.known), (MistakeKind::UnknownKind, vec!["apps/v1".to_owned()]));
        let kind = of("apps/v1", "Deploymnet");
        assert_eq!((kind.field.as_str(), kind.known.contains(&"Deployment".to_owned())), ("kind", true));
        let group = of("extensions/v1beta1", "Deployment");
        assert_eq!((group.kind, group.known), (MistakeKind::UnknownKind, vec!["apps/v1".to_owned()]));
        assert_eq!(of("serving.knative.dev/v1", "Service").kind, MistakeKind::UnknownGroup);
    }

    #[test]
    fn a_custom_type_is_checked_by_its_definition() {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"kind": "Widget", "plural": "widgets"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"size": {"type": "integer", "minimum": 1}},
                }}}],
            },
        });
        let mut types = Types::default();
        assert_eq!(types.check(&definition), [], "what the server fills in is not asked for");
        types.add(&definition);
        let widget = |size: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "size": size});
        assert_eq!(types.check(&widget(json!(1))), []);
        assert_eq!(types.check(&widget(json!(0)))[0].field, "size");
    }
}
