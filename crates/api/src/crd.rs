//! CustomResourceDefinitions: the resource types they make, their own status, and the names they claim.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{self, items, text};
use super::resource::{Registry, Resource, SchemaSource};

/// CEL rules of a schema, compiled once.
pub(crate) struct Rules(pub kube_cel::CompiledSchema);

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rules")
    }
}

/// One served version of a custom type.
#[derive(Debug)]
pub(crate) struct CustomVersion {
    /// Name of the CustomResourceDefinition.
    pub crd: String,
    /// Version in which objects are stored.
    pub storage_version: String,
    /// `openAPIV3Schema`, or an open object where there is none.
    pub schema: Value,
    pub rules: Rules,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Value>,
    /// The scale subresource's paths.
    pub scale: Option<ScalePaths>,
    /// `conversion.webhook` when the strategy is Webhook.
    pub conversion: Option<Value>,
    /// JSON paths of `selectableFields`.
    pub selectable_fields: Vec<String>,
    /// Warning for users of a deprecated version.
    pub deprecation: Option<String>,
}

/// Where a custom type keeps what the Scale object shows, as JSON pointers.
#[derive(Clone, Debug)]
pub(crate) struct ScalePaths {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

/// The types of a CustomResourceDefinition, one per served version. A definition that is being deleted keeps serving
/// until its objects are gone.
pub(crate) fn resources(crd: &Value) -> Vec<Resource> {
    let versions = items(crd, "/spec/versions");
    let storage = versions.iter().find(|v| v["storage"] == true).map(|v| text(v, "/name")).unwrap_or_default();
    versions.iter().filter(|v| v["served"] == true).map(|version| resource(crd, version, storage)).collect()
}

fn resource(crd: &Value, version: &Value, storage: &str) -> Resource {
    let names = &crd["spec"]["names"];
    let list = |field: &str| items(names, field).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    let subresources = &version["subresources"];
    let kind = text(names, "/kind").to_owned();
    let singular =
        Some(text(names, "/singular")).filter(|s| !s.is_empty()).map_or_else(|| kind.to_lowercase(), str::to_owned);
    Resource {
        group: text(crd, "/spec/group").to_owned(),
        version: text(version, "/name").to_owned(),
        kind,
        plural: text(names, "/plural").to_owned(),
        singular,
        short_names: list("/shortNames"),
        categories: list("/categories"),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
        create_only: false,
        subresources: ["scale", "status"]
            .into_iter()
            .filter(|s| !subresources[*s].is_null())
            .map(str::to_owned)
            .collect(),
        schema: SchemaSource::Custom(Arc::new(custom_version(crd, version, storage))),
    }
}

fn custom_version(crd: &Value, version: &Value, storage: &str) -> CustomVersion {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = Some(&version["schema"]["openAPIV3Schema"]).filter(|s| s.is_object()).cloned().unwrap_or(open);
    let fields = items(version, "/selectableFields").iter();
    let deprecated = version["deprecated"] == true;
    let warning = || match text(version, "/deprecationWarning") {
        "" => format!(
            "{}/{} {} is deprecated",
            text(crd, "/spec/group"),
            text(version, "/name"),
            text(crd, "/spec/names/kind")
        ),
        given => given.to_owned(),
    };
    CustomVersion {
        crd: object::name(crd).to_owned(),
        storage_version: storage.to_owned(),
        rules: Rules(kube_cel::compile_schema(&schema)),
        schema,
        columns: items(version, "/additionalPrinterColumns").to_vec(),
        scale: scale_paths(&version["subresources"]["scale"]),
        conversion: (text(crd, "/spec/conversion/strategy") == "Webhook")
            .then(|| crd["spec"]["conversion"]["webhook"].clone()),
        selectable_fields: fields.map(|f| text(f, "/jsonPath").to_owned()).collect(),
        deprecation: deprecated.then(warning),
    }
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    let pointer = |field: &str| scale[field].as_str().map(|path| path.replace('.', "/"));
    Some(ScalePaths {
        spec: pointer("specReplicasPath")?,
        status: pointer("statusReplicasPath")?,
        selector: pointer("labelSelectorPath"),
    })
}

/// Fills in what the API server itself says about a definition: defaults of its names, and that it is established.
pub(crate) fn settle(crd: &mut Value, registry: &Registry) {
    default_names(crd);
    let stored: Vec<Value> = stored_versions(crd);
    let names = crd["spec"]["names"].clone();
    let (accepted, reason, message) = match name_conflict(crd, registry) {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(conflict) => ("False", "NameConflict", conflict),
    };
    let (established, why, says) = match accepted {
        "True" => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
        _ => ("False", "NotAccepted", "not all names are accepted"),
    };
    let old = crd["status"]["conditions"].clone();
    let conditions = json!([
        condition(&old, "NamesAccepted", accepted, reason, &message),
        condition(&old, "Established", established, why, says),
    ]);
    crd["status"] = json!({"acceptedNames": names, "conditions": conditions, "storedVersions": stored});
}

/// Whether its types are served.
pub(crate) fn is_established(crd: &Value) -> bool {
    items(crd, "/status/conditions").iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn default_names(crd: &mut Value) {
    let kind = text(crd, "/spec/names/kind").to_owned();
    let spec = object::map_at(crd, "spec");
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        object::set_default(names, "singular", kind.to_lowercase());
        object::set_default(names, "listKind", format!("{kind}List"));
    }
    object::set_default(spec, "conversion", json!({"strategy": "None"}));
}

fn stored_versions(crd: &Value) -> Vec<Value> {
    let mut stored = items(crd, "/status/storedVersions").to_vec();
    let storage = items(crd, "/spec/versions").iter().find(|v| v["storage"] == true).map(|v| v["name"].clone());
    if let Some(storage) = storage
        && !stored.contains(&storage)
    {
        stored.push(storage);
    }
    stored
}

/// A condition whose transition time is kept while its status is the same.
fn condition(old: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let before = old.as_array().into_iter().flatten().find(|c| c["type"] == kind && c["status"] == status);
    let since = before.map_or_else(object::now, |c| text(c, "/lastTransitionTime").to_owned());
    json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
}

/// Why the names cannot be accepted: another type of the group has them.
fn name_conflict(crd: &Value, registry: &Registry) -> Option<String> {
    let group = text(crd, "/spec/group");
    let own = object::name(crd);
    let others = registry.iter().filter(|r| r.group == group && r.custom().is_none_or(|c| c.crd != own));
    let names = &crd["spec"]["names"];
    for other in others {
        for (field, taken) in [("plural", &other.plural), ("kind", &other.kind)] {
            if names[field] == **taken {
                return Some(format!("\"{taken}\" is already in use"));
            }
        }
    }
    None
}
