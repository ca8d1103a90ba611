//! What the API server calls itself: admission and conversion webhooks, and aggregated APIs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use heddle_api::{Api, Config};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ApiResource, DynamicObject, PostParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What a test server is asked: path, the header `x-remote-user`, and the JSON body.
type Asked = (String, String, Value);

/// An HTTPS server until it is dropped.
struct Server {
    address: SocketAddr,
    /// Base64 of the certificate it is to be trusted by.
    bundle: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(answer: fn(Asked) -> Value) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "things.default.svc".to_owned()])
        .expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server's configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| respond(request, answer));
                // A client that goes away early is none of the test's business.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Server { address, bundle: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()), task }
}

async fn respond(
    request: http::Request<hyper::body::Incoming>,
    answer: fn(Asked) -> Value,
) -> Result<http::Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let user = request.headers().get("x-remote-user").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(http::Response::new(Full::from(answer((path, user, body)).to_string())))
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the type")
}

fn message(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        other => panic!("not a Status: {other}"),
    }
}

fn map(name: &str) -> ConfigMap {
    typed(json!({"metadata": {"name": name}}))
}

/// Labels everything at `/mutate`; refuses what is named `bad` elsewhere.
fn admit((path, _, review): Asked) -> Value {
    let uid = &review["request"]["uid"];
    let response = if path == "/mutate" {
        let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]).to_string();
        json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": base64::engine::general_purpose::STANDARD.encode(patch)})
    } else {
        let allowed = review["request"]["object"]["metadata"]["name"] != "bad";
        json!({"uid": uid, "allowed": allowed, "status": {"message": "bad is no name"}})
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn webhook(url: &str, bundle: &str, more: Value) -> Value {
    let mut webhook = json!({
        "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": url, "caBundle": bundle},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    });
    webhook.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"metadata": {"name": "hooks"}, "webhooks": [webhook]})
}

#[tokio::test]
async fn webhooks_change_and_refuse_what_their_rules_and_conditions_cover() {
    let server = serve(admit).await;
    let client = Api::open(Config::default()).await.expect("an API").client();
    let url = format!("https://{}", server.address);
    let mutating: kube::Api<MutatingWebhookConfiguration> = kube::Api::all(client.clone());
    let hook = webhook(&format!("{url}/mutate"), &server.bundle, json!({}));
    mutating.create(&PostParams::default(), &typed(hook)).await.expect("created");
    let validating: kube::Api<ValidatingWebhookConfiguration> = kube::Api::all(client.clone());
    let condition = json!({"matchConditions": [{"name": "c", "expression": "object.metadata.name != 'free'"}]});
    validating.create(&PostParams::default(), &typed(webhook(&url, &server.bundle, condition))).await.expect("created");
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, "default");
    let good = maps.create(&PostParams::default(), &map("good")).await.expect("created");
    assert_eq!(good.metadata.labels.expect("labels")["seen"], "yes");
    let bad = message(maps.create(&PostParams::default(), &map("bad")).await.expect_err("refused"));
    assert_eq!(bad, "403 admission webhook \"hook.example.com\" denied the request: bad is no name");
    assert!(maps.get_opt("bad").await.expect("an answer").is_none());
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_counts_as_its_policy_says() {
    let client = Api::open(Config::default()).await.expect("an API").client();
    let server = serve(admit).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a socket").local_addr().expect("an address");
    let validating: kube::Api<ValidatingWebhookConfiguration> = kube::Api::all(client.clone());
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, "default");
    let hook =
        |policy: &str| typed(webhook(&format!("https://{closed}"), &server.bundle, json!({"failurePolicy": policy})));
    validating.create(&PostParams::default(), &hook("Fail")).await.expect("created");
    let refused = message(maps.create(&PostParams::default(), &map("a")).await.expect_err("refused"));
    assert!(
        refused.starts_with("500 Internal error occurred: failed calling webhook \"hook.example.com\""),
        "{refused}"
    );
    validating.delete("hooks", &kube::api::DeleteParams::default()).await.expect("deleted");
    validating.create(&PostParams::default(), &hook("Ignore")).await.expect("created");
    maps.create(&PostParams::default(), &map("a")).await.expect("created");
}

/// Notes in every object which version it was converted to.
fn convert((_, _, review): Asked) -> Value {
    let wanted = &review["request"]["desiredAPIVersion"];
    let objects = review["request"]["objects"].as_array().cloned().unwrap_or_default();
    let converted: Vec<Value> = objects
        .into_iter()
        .map(|mut object| {
            object["apiVersion"] = wanted.clone();
            object["converted"] = wanted.clone();
            object
        })
        .collect();
    json!({"response": {"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": converted}})
}

#[tokio::test]
async fn versions_are_converted_by_the_webhook() {
    let server = serve(convert).await;
    let client = Api::open(Config::default()).await.expect("an API").client();
    let mut crd: Value = serde_saphyr::from_str(include_str!("../fixtures/widgets.yaml")).expect("a CRD");
    let config = json!({"url": format!("https://{}", server.address), "caBundle": server.bundle});
    crd["spec"]["conversion"] =
        json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}});
    let crds: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
    crds.create(&PostParams::default(), &typed(crd)).await.expect("created");
    let widgets = |version: &str| -> kube::Api<DynamicObject> {
        let gvk = kube::core::GroupVersionKind::gvk("example.com", version, "Widget");
        kube::Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&gvk))
    };
    let widget =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}});
    widgets("v1").create(&PostParams::default(), &typed(widget)).await.expect("created");
    assert_eq!(widgets("v2").get("w").await.expect("in v2").data["converted"], "example.com/v2");
    assert!(widgets("v1").get("w").await.expect("in v1").data.get("converted").is_none());
}

fn things((path, user, _): Asked) -> Value {
    match path.as_str() {
        "/apis/things.example.com/v1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.example.com/v1",
            "resources": [{"name": "things", "singularName": "thing", "namespaced": false, "kind": "Thing", "verbs": ["get", "list"]}],
        }),
        path => {
            json!({"kind": "Thing", "apiVersion": "things.example.com/v1", "metadata": {"name": path}, "user": user})
        }
    }
}

#[tokio::test]
async fn an_aggregated_api_is_discovered_and_called_in_the_users_name() {
    let server = serve(things).await;
    let client = Api::open(Config::default()).await.expect("an API").client();
    let services: kube::Api<Service> = kube::Api::namespaced(client.clone(), "default");
    let service = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"name": "api", "port": 443}]}});
    services.create(&PostParams::default(), &typed(service)).await.expect("created");
    let slices: kube::Api<EndpointSlice> = kube::Api::namespaced(client.clone(), "default");
    let slice = json!({
        "metadata": {"name": "things-1", "labels": {"kubernetes.io/service-name": "things"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "api", "port": server.address.port()}],
    });
    slices.create(&PostParams::default(), &typed(slice)).await.expect("created");
    let apis: kube::Api<APIService> = kube::Api::all(client.clone());
    let api = json!({"metadata": {"name": "v1.things.example.com"}, "spec": {
        "group": "things.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        "caBundle": server.bundle, "service": {"namespace": "default", "name": "things"},
    }});
    apis.create(&PostParams::default(), &typed(api)).await.expect("created");
    let request = http::Request::get("/apis/things.example.com/v1/things/x").body(Vec::new()).expect("a request");
    let thing: Value = client.request(request).await.expect("an answer");
    assert_eq!(thing["user"], "system:heddle");
    let groups = client.list_api_groups().await.expect("groups");
    assert!(groups.groups.iter().any(|g| g.name == "things.example.com"));
    let available = |api: &APIService| {
        let conditions = api.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Available" && c.status == "True")
    };
    while !available(&apis.get("v1.things.example.com").await.expect("the APIService")) {
        tokio::task::yield_now().await;
    }
}
