//! What policy decides, item by item of the SMI checklist. Values are written as a proxy's file writes them: in JSON.

#![allow(clippy::unwrap_used, reason = "a test ends where its own input is wrong")]

use std::sync::Arc;

use heddle_policy::{HttpMatch, Inbound, Peer, PodName, Request, SpiffeId};
use serde_json::{Value, json};

mod access;
mod matching;
mod split;
mod telemetry;
mod wire;

const PORT: u16 = 14001;

fn identity(namespace: &str, name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", namespace, name).unwrap()
}

/// A peer of this ServiceAccount, written `namespace/name`, in a pod of the same name.
fn peer(name: &str) -> Peer {
    let (namespace, account) = name.split_once('/').unwrap();
    Peer { identity: Some(identity(namespace, account)), pod: Some(PodName::new(namespace, account)) }
}

fn origin(kind: &str, name: &str) -> Value {
    json!({"kind": kind, "namespace": "bookstore", "name": name})
}

/// An authorization named `name` for the ServiceAccounts `sources`, with the layers of `layers`.
fn authorization(name: &str, sources: &[&str], layers: Value) -> Value {
    let source = |source: &&str| {
        let (namespace, name) = source.split_once('/').unwrap();
        json!({"identity": identity(namespace, name), "origin": origin("TrafficTarget", "sources")})
    };
    let sources: Vec<Value> = sources.iter().map(source).collect();
    let mut authorization = json!({"origin": origin("TrafficTarget", name), "sources": sources});
    authorization.as_object_mut().unwrap().extend(layers.as_object().unwrap().clone());
    authorization
}

/// A match with the fields of `fields`, as `HttpMatch` is written.
fn rule(name: &str, fields: Value) -> Value {
    let mut rule = json!({"origin": origin("HTTPRouteGroup", name)});
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    rule
}

fn http_match(fields: Value) -> Arc<HttpMatch> {
    serde_json::from_value(rule("match", fields)).unwrap()
}

fn inbound(mode: &str, authorizations: &[Value]) -> Inbound {
    serde_json::from_value(json!({"mode": mode, "authorizations": authorizations})).unwrap()
}

fn get(path: &str) -> Request<'_, [(&'static str, &'static str); 0]> {
    request("GET", path)
}

fn request<'a>(method: &'a str, path: &'a str) -> Request<'a, [(&'static str, &'static str); 0]> {
    Request { method, path, authority: "bookstore.bookstore:14001", headers: &[] }
}
