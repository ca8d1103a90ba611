//! Authorization by the RBAC objects in the store, read anew for every decision.

use std::sync::Arc;

use serde_json::Value;

use super::error::{Answer, Failure};
use super::object::{items, text};
use super::request::{Place, Target};
use super::resource::Resource;
use super::selector::label_selector_matches;
use super::server::Server;
use super::store::Object;
use super::user::User;

const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// What is to be allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub verb: String,
    pub group: String,
    /// Plural, with `/subresource` where there is one.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// Set, and the only thing that counts beside the verb, for what is no resource.
    pub path: Option<String>,
}

impl Attributes {
    pub(crate) fn of(target: &Target) -> Self {
        match &target.resource {
            None => Attributes { verb: target.verb.clone(), path: Some(target.path.clone()), ..Attributes::default() },
            Some(place) => Attributes::of_place(&target.verb, place),
        }
    }

    pub(crate) fn of_place(verb: &str, place: &Place) -> Self {
        let resource = match place.subresource.as_str() {
            "" => place.plural.clone(),
            subresource => format!("{}/{subresource}", place.plural),
        };
        Attributes {
            verb: verb.to_owned(),
            group: place.group.clone(),
            resource,
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            path: None,
        }
    }
}

impl Server {
    /// Refuses with 403 what no binding allows.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes) -> Answer<()> {
        if self.is_allowed(user, attributes) {
            return Ok(());
        }
        let who = &user.name;
        let Attributes { verb, group, resource, namespace, name, path } = attributes;
        if let Some(path) = path {
            let message = format!("forbidden: User \"{who}\" cannot {verb} path \"{path}\"");
            return Err(Failure::new(http::StatusCode::FORBIDDEN, "Forbidden", message));
        }
        let scope = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let why = format!("User \"{who}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}");
        let plural = resource.split('/').next().unwrap_or_default();
        let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let named = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
        let mut failure =
            Failure::new(http::StatusCode::FORBIDDEN, "Forbidden", format!("{named} is forbidden: {why}"));
        failure.details = serde_json::json!({"name": name, "group": group, "kind": plural});
        Err(failure)
    }

    pub(crate) fn is_allowed(&self, user: &User, attributes: &Attributes) -> bool {
        user.is_master() || self.rules(user, &attributes.namespace).iter().any(|rule| covers(rule, attributes))
    }

    /// The rules that hold for the user in a namespace, those of cluster-wide bindings among them.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Value> {
        let (mut bindings, _) = self.store.list(CLUSTER_ROLE_BINDINGS, None);
        if !namespace.is_empty() {
            bindings.extend(self.store.list(ROLE_BINDINGS, Some(namespace)).0);
        }
        let bound = bindings
            .iter()
            .filter(|b| items(&b.value, "/subjects").iter().any(|s| is_subject(s, user, &b.key.namespace)));
        bound.flat_map(|binding| self.rules_of(&binding.value["roleRef"], namespace)).collect()
    }

    fn rules_of(&self, role: &Value, namespace: &str) -> Vec<Value> {
        let name = text(role, "/name");
        let found = match text(role, "/kind") {
            "ClusterRole" => self.lookup(CLUSTER_ROLES, "", name),
            "Role" => self.lookup(ROLES, namespace, name),
            _ => None,
        };
        found.map(|role| self.with_aggregated(&role)).unwrap_or_default()
    }

    /// A role's rules with those of the roles it aggregates. Aggregated roles may aggregate again (admin has edit has view).
    fn with_aggregated(&self, role: &Arc<Object>) -> Vec<Value> {
        let mut rules = Vec::new();
        let mut pending = vec![role.clone()];
        let mut seen = Vec::new();
        while let Some(role) = pending.pop() {
            if seen.contains(&role.key) {
                continue;
            }
            seen.push(role.key.clone());
            rules.extend(items(&role.value, "/rules").iter().cloned());
            let selectors = items(&role.value, "/aggregationRule/clusterRoleSelectors");
            if !selectors.is_empty() {
                let (all, _) = self.store.list(CLUSTER_ROLES, None);
                let labels = |o: &Arc<Object>| o.value["metadata"]["labels"].clone();
                pending.extend(
                    all.into_iter().filter(|o| selectors.iter().any(|s| label_selector_matches(s, &labels(o)))),
                );
            }
        }
        rules
    }
}

/// Whether a subject of a binding is this user. A binding's own namespace is that of subjects that name none.
fn is_subject(subject: &Value, user: &User, binding_namespace: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|g| g == name),
        "ServiceAccount" => {
            let namespace = Some(text(subject, "/namespace")).filter(|ns| !ns.is_empty()).unwrap_or(binding_namespace);
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

/// Whether one rule allows it.
fn covers(rule: &Value, wanted: &Attributes) -> bool {
    let lists = |field: &str, value: &str| items(rule, field).iter().any(|v| v == "*" || v == value);
    if !lists("/verbs", &wanted.verb) {
        return false;
    }
    if let Some(path) = &wanted.path {
        return items(rule, "/nonResourceURLs").iter().filter_map(Value::as_str).any(|pattern| {
            match pattern.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == pattern,
            }
        });
    }
    let names = items(rule, "/resourceNames");
    let resource = lists("/resources", &wanted.resource) || subresource_of_any(rule, &wanted.resource);
    resource && lists("/apiGroups", &wanted.group) && (names.is_empty() || names.iter().any(|n| *n == *wanted.name))
}

/// `*/scale` stands for the scale subresource of every type.
fn subresource_of_any(rule: &Value, resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(_, sub)| items(rule, "/resources").iter().any(|r| *r == *format!("*/{sub}")))
}

/// Nobody may grant what he does not have, unless he may escalate or bind. `old` is what `value` replaces.
pub(crate) fn check_escalation(
    server: &Server,
    user: &User,
    resource: &Resource,
    value: &Value,
    old: Option<&Value>,
) -> Answer<()> {
    if user.is_master() || resource.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let namespace = super::object::namespace(value);
    let may = |verb: &str, plural: &str, name: &str| {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: resource.group.clone(),
            resource: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: None,
        };
        server.is_allowed(user, &attributes)
    };
    let own = server.rules(user, namespace);
    let (granted, free) = match resource.plural.as_str() {
        "roles" | "clusterroles" => {
            (items(value, "/rules").to_vec(), may("escalate", &resource.plural, super::object::name(value)))
        }
        _ => {
            let role = &value["roleRef"];
            let plural = if role["kind"] == "ClusterRole" { "clusterroles" } else { "roles" };
            (server.rules_of(role, namespace), may("bind", plural, text(role, "/name")))
        }
    };
    if free {
        return Ok(());
    }
    let refused = |why: &str| Err(Failure::forbidden(resource, super::object::name(value), why));
    if !granted.iter().all(|rule| has_rule(&own, rule)) {
        return refused(&format!("user \"{}\" is attempting to grant RBAC permissions not currently held", user.name));
    }
    if changes_aggregation(value, old) && !full_authority().iter().all(|rule| has_rule(&own, rule)) {
        return refused("must have cluster-admin privileges to use the aggregationRule");
    }
    Ok(())
}

/// Whether it is changed which roles a role gathers: those may be any, and grant anything, at any time.
fn changes_aggregation(value: &Value, old: Option<&Value>) -> bool {
    let selectors = |value| items(value, "/aggregationRule/clusterRoleSelectors");
    selectors(value) != old.map(selectors).unwrap_or_default()
}

/// What an administrator of the cluster has.
fn full_authority() -> [Value; 2] {
    [
        serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
        serde_json::json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
    ]
}

/// Whether every single permission of `rule` is covered by one of `own`.
fn has_rule(own: &[Value], rule: &Value) -> bool {
    let texts = |field: &str| -> Vec<String> {
        items(rule, field).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let names = Some(texts("/resourceNames")).filter(|n| !n.is_empty()).unwrap_or_else(|| vec![String::new()]);
    texts("/verbs").iter().all(|verb| {
        let paths = texts("/nonResourceURLs");
        let path_fine = paths.iter().all(|path| {
            let wanted = Attributes { verb: verb.clone(), path: Some(path.clone()), ..Attributes::default() };
            own.iter().any(|rule| covers(rule, &wanted))
        });
        path_fine
            && texts("/apiGroups").iter().all(|group| {
                texts("/resources").iter().all(|resource| {
                    names.iter().all(|name| {
                        let wanted = Attributes {
                            verb: verb.clone(),
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            ..Attributes::default()
                        };
                        own.iter().any(|rule| covers(rule, &wanted))
                    })
                })
            })
    })
}
