//! What the control plane registers with the API server, and keeps so: its webhooks, its read API, its trust bundle.

use std::time::Duration;

use futures::StreamExt;
use heddle_cluster::{Kind, apply, merge, read, watch};
use heddle_smi::metrics;
use k8s_openapi::ByteString;
use kube::Client;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::names::{NAME, NAMESPACE, SERVICE, SERVICE_PORT, TRUST_BUNDLE};
use crate::view;

const WEBHOOKS: Kind = Kind::new(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
);
const CRDS: Kind = Kind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
const API_SERVICES: Kind = Kind::new("apiregistration.k8s.io", "v1", "APIService", "apiservices");
pub(crate) const CONFIG_MAPS: Kind = Kind::new("", "v1", "ConfigMap", "configmaps");

/// How often everything is looked at again, beside whenever something changes.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Changes of others are answered together, so that two who disagree do not race.
const GATHER: Duration = Duration::from_millis(200);

/// Registers the control plane and keeps it registered, for ever. `bundle` is the mesh's roots in PEM.
pub(crate) async fn keep_registered(client: Client, bundle: String) {
    let mut changes = watch(&client, &[WEBHOOKS, CRDS, API_SERVICES]);
    loop {
        for (kind, object) in registrations(&bundle) {
            let name = object["metadata"]["name"].clone();
            if let Err(error) = keep(&client, &kind, &object).await {
                warn!(%error, kind = kind.kind, %name, "the control plane cannot register itself");
            }
        }
        for kind in heddle_smi::Kind::ALL {
            let names = kind.names();
            let name = format!("{}.{}", names.plural, names.group);
            if let Err(error) = keep_conversion(&client, &name, &bundle).await {
                warn!(%error, name, "conversion between versions cannot be set up");
            }
        }
        tokio::select! {
            _ = changes.next() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        while futures::FutureExt::now_or_never(changes.next()).flatten().is_some() {}
    }
}

/// Applies an object unless it is so already.
async fn keep(client: &Client, kind: &Kind, object: &Value) -> kube::Result<()> {
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let there = read(client, kind, namespace, name).await?;
    if there.is_some_and(|there| includes(&there, object)) {
        return Ok(());
    }
    info!(kind = kind.kind, name, "registered");
    apply(client, kind, object).await
}

/// Tells a CustomResourceDefinition that converts through this control plane by which root to trust it. One that is
/// missing or converts otherwise is left alone.
async fn keep_conversion(client: &Client, name: &str, bundle: &str) -> kube::Result<()> {
    let Some(crd) = read(client, &CRDS, "", name).await? else { return Ok(()) };
    let service = &crd["spec"]["conversion"]["webhook"]["clientConfig"]["service"];
    if text(&service["name"]) != SERVICE || text(&service["namespace"]) != NAMESPACE {
        return Ok(());
    }
    let wanted = json!({
        "metadata": { "name": name },
        "spec": { "conversion": { "webhook": { "clientConfig": client_config("/convert", bundle) } } },
    });
    if includes(&crd, &wanted) {
        return Ok(());
    }
    info!(name, "converts between versions through this control plane");
    merge(client, &CRDS, &wanted).await
}

fn registrations(bundle: &str) -> Vec<(Kind, Value)> {
    let trust_bundle = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": NAMESPACE, "name": TRUST_BUNDLE },
        "data": { "ca.crt": bundle },
    });
    let mut all = vec![(CONFIG_MAPS, trust_bundle), (WEBHOOKS, validation(bundle))];
    all.push((API_SERVICES, api_service(view::GROUP, view::VERSION, 100, bundle)));
    for (version, priority) in metrics::VERSIONS.into_iter().zip([100, 110]) {
        all.push((API_SERVICES, api_service(metrics::GROUP, version, priority, bundle)));
    }
    all
}

/// A version with the higher `priority` is the one that is preferred.
fn api_service(group: &str, version: &str, priority: u32, bundle: &str) -> Value {
    json!({
        "apiVersion": API_SERVICES.api_version(),
        "kind": API_SERVICES.kind,
        "metadata": { "name": format!("{version}.{group}") },
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": priority,
            "service": { "namespace": NAMESPACE, "name": SERVICE, "port": SERVICE_PORT },
            "caBundle": ByteString(bundle.as_bytes().to_vec()),
        },
    })
}

/// Validation of the SMI kinds in every version. When the control plane is away, the rules in the
/// CustomResourceDefinitions still hold.
fn validation(bundle: &str) -> Value {
    json!({
        "apiVersion": WEBHOOKS.api_version(),
        "kind": WEBHOOKS.kind,
        "metadata": { "name": NAME },
        "webhooks": [{
            "name": "validate.heddle.dev",
            "clientConfig": client_config("/validate", bundle),
            "rules": [{
                "apiGroups": ["access.smi-spec.io", "specs.smi-spec.io", "split.smi-spec.io", "heddle.dev"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": [
                    "traffictargets", "identitybindings", "httproutegroups", "tcproutes", "udproutes", "trafficsplits",
                    "meshconfigs",
                ],
                "scope": "*",
            }],
            "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "sideEffects": "None",
            "timeoutSeconds": 5,
        }],
    })
}

fn client_config(path: &str, bundle: &str) -> Value {
    json!({
        "service": { "namespace": NAMESPACE, "name": SERVICE, "path": path, "port": SERVICE_PORT },
        "caBundle": ByteString(bundle.as_bytes().to_vec()),
    })
}

/// Whether `there` has all that `wanted` says, whatever else it has.
fn includes(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| there.get(key).is_some_and(|there| includes(there, value)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| includes(there, wanted))
        }
        _ => there == wanted,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_includes_what_others_added_to_it() {
        let there = json!({ "spec": { "rules": [{ "a": 1, "b": 2 }], "more": true } });
        assert!(includes(&there, &json!({ "spec": { "rules": [{ "a": 1 }] } })));
        assert!(!includes(&there, &json!({ "spec": { "rules": [{ "a": 2 }] } })));
        assert!(!includes(&there, &json!({ "spec": { "rules": [] } })));
    }
}
