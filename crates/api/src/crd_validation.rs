//! Validation of CustomResourceDefinitions: names, versions, structural schemas and CEL rules that compile.

use serde_json::{Value, json};

use super::error::Cause;
use super::names;
use super::object::{self, items, text};
use super::rule_fields;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

pub(crate) fn check(crd: &Value, causes: &mut Vec<Cause>) {
    let spec = &crd["spec"];
    let wanted = format!("{}.{}", text(spec, "/names/plural"), text(spec, "/group"));
    if object::name(crd) != wanted {
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(object::name(crd)),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if let Err(why) = names::dns_subdomain(text(spec, "/group")) {
        causes.push(Cause::invalid("spec.group", &spec["group"], &why));
    }
    if !matches!(text(spec, "/scope"), "Cluster" | "Namespaced") {
        causes.push(Cause::unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]));
    }
    for field in ["plural", "singular"] {
        if let Err(why) = names::dns_1035_label(text(spec, &format!("/names/{field}"))) {
            causes.push(Cause::invalid(format!("spec.names.{field}"), &spec["names"][field], &why));
        }
    }
    versions(spec, causes);
    conversion(&spec["conversion"], causes);
}

fn versions(spec: &Value, causes: &mut Vec<Cause>) {
    let versions = items(spec, "/versions");
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    if stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &json!(stored),
            "must have exactly one version marked as storage version",
        ));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        if let Err(why) = names::dns_1035_label(text(version, "/name")) {
            causes.push(Cause::invalid(format!("{path}.name"), &version["name"], &why));
        }
        if versions[..index].iter().any(|v| v["name"] == version["name"]) {
            causes.push(Cause::duplicate(format!("{path}.name"), &version["name"]));
        }
        for (at, column) in items(version, "/additionalPrinterColumns").iter().enumerate() {
            if !text(column, "/jsonPath").starts_with('.') {
                let field = format!("{path}.additionalPrinterColumns[{at}].jsonPath");
                causes.push(Cause::invalid(field, &column["jsonPath"], "must be a simple json path starting with ."));
            }
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            causes.push(Cause::required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"));
            continue;
        }
        let path = format!("{path}.schema.openAPIV3Schema");
        structural(schema, &path, 0, causes);
        cel_rules(schema, &path, causes);
        undefined_fields(schema, &path, true, causes);
    }
}

fn conversion(conversion: &Value, causes: &mut Vec<Cause>) {
    let strategy = text(conversion, "/strategy");
    if !matches!(strategy, "None" | "Webhook") {
        causes.push(Cause::unsupported("spec.conversion.strategy", &conversion["strategy"], &["None", "Webhook"]));
    }
    if strategy == "Webhook" && !conversion["webhook"]["clientConfig"].is_object() {
        causes
            .push(Cause::required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook"));
    }
}

/// The rules that make a schema structural: every node has a type, and nothing that only logic would decide.
fn structural(schema: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    if depth > MAX_DEPTH {
        return causes.push(Cause::invalid(path, &Value::Null, "the schema is nested too deeply"));
    }
    let open = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = text(schema, "/type");
    if kind.is_empty() && !open {
        causes.push(Cause::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if depth == 0 && !matches!(kind, "object" | "") {
        causes.push(Cause::invalid(format!("{path}.type"), &json!(kind), "must be object at the root"));
    }
    if kind == "array" && !schema["items"].is_object() {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if schema.get("$ref").is_some_and(|r| !r.is_null()) {
        causes.push(Cause::forbidden(format!("{path}.$ref"), "$ref is not supported"));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && regex::Regex::new(pattern).is_err()
    {
        causes.push(Cause::invalid(format!("{path}.pattern"), &json!(pattern), "must be a valid regular expression"));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        structural(property, &format!("{path}.properties[{name}]"), depth + 1, causes);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            structural(&schema[field], &format!("{path}.{field}"), depth + 1, causes);
        }
    }
}

fn cel_rules(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    for error in uncompiled(&kube_cel::compile_schema(schema)) {
        causes.push(Cause::invalid(
            format!("{path}.x-kubernetes-validations"),
            &Value::Null,
            &format!("compilation failed: {error}"),
        ));
    }
}

/// Rules that name what the schema does not have.
fn undefined_fields(schema: &Value, path: &str, is_root: bool, causes: &mut Vec<Cause>) {
    for (index, validation) in items(schema, "/x-kubernetes-validations").iter().enumerate() {
        let rule = text(validation, "/rule");
        if let Some(field) = rule_fields::undefined(rule, schema, is_root) {
            let detail = format!("compilation failed: undefined field '{field}'");
            causes.push(Cause::invalid(
                format!("{path}.x-kubernetes-validations[{index}].rule"),
                &json!(rule),
                &detail,
            ));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        undefined_fields(property, &format!("{path}.properties[{name}]"), false, causes);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            undefined_fields(&schema[field], &format!("{path}.{field}"), false, causes);
        }
    }
}

/// Errors of the rules of a schema and of everything below it.
fn uncompiled(schema: &kube_cel::CompiledSchema) -> Vec<String> {
    let below =
        schema.properties.values().chain(schema.items.as_deref()).chain(schema.additional_properties.as_deref());
    let own = schema.compilation_errors().into_iter().map(ToString::to_string);
    own.chain(below.chain(&schema.all_of).flat_map(uncompiled)).collect()
}
