//! Custom types, server-side apply, identities and rights, through a client in this process.

use heddle_api::{Api, Config, User};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the type")
}

fn message(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {} {}", status.code, status.reason, status.message),
        other => panic!("not a Status: {other}"),
    }
}

async fn api() -> Api {
    Api::open(Config::default()).await.expect("an API in memory")
}

async fn define(client: &Client) -> kube::Api<DynamicObject> {
    let crds: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
    let crd: CustomResourceDefinition =
        serde_saphyr::from_str(include_str!("../fixtures/widgets.yaml")).expect("a CRD");
    let created = crds.create(&PostParams::default(), &crd).await.expect("created");
    let conditions = created.status.and_then(|s| s.conditions).expect("conditions");
    assert!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"));
    widgets(client, "v1")
}

fn widgets(client: &Client, version: &str) -> kube::Api<DynamicObject> {
    let resource = ApiResource {
        group: "example.com".to_owned(),
        version: version.to_owned(),
        api_version: format!("example.com/{version}"),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
    };
    kube::Api::namespaced_with(client.clone(), "default", &resource)
}

fn widget(spec: Value) -> DynamicObject {
    typed(json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}))
}

#[tokio::test]
async fn custom_objects_are_defaulted_pruned_and_validated() {
    let widgets = define(&api().await.client()).await;
    let create = async |spec: Value| widgets.create(&PostParams::default(), &widget(spec)).await;
    let made = create(json!({"size": 3, "unknown": 1})).await.expect("created");
    assert_eq!(made.data["spec"], json!({"size": 3, "max": 10, "colour": "red"}));
    let refused = async |spec: Value| message(create(spec).await.expect_err("refused"));
    let wrong = refused(json!({"size": "three"})).await;
    assert!(wrong.contains("422 Invalid") && wrong.contains("spec.size: Invalid value: \"string\""), "{wrong}");
    assert!(refused(json!({})).await.contains("spec.size: Required value"));
    assert!(refused(json!({"size": 1, "colour": "green"})).await.contains("supported values: \"red\", \"blue\""));
    let cel = refused(json!({"size": 11})).await;
    assert!(cel.contains("spec: Invalid value: \"object\": size must not exceed max"), "{cel}");
    let twice = refused(json!({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]})).await;
    assert!(twice.contains("spec.parts[1]: Duplicate value"), "{twice}");
    let patch = Patch::Merge(json!({"spec": {"colour": "blue"}}));
    let fixed = message(widgets.patch("w", &PatchParams::default(), &patch).await.expect_err("refused"));
    assert!(fixed.contains("colour is immutable"), "{fixed}");
    let blind = widgets.replace("w", &PostParams::default(), &widget(json!({"size": 4}))).await;
    let blind = message(blind.expect_err("refused"));
    assert!(blind.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"), "{blind}");
}

#[tokio::test]
async fn custom_objects_have_versions_status_and_scale_and_go_with_their_type() {
    let client = api().await.client();
    let one = define(&client).await;
    one.create(&PostParams::default(), &widget(json!({"size": 3}))).await.expect("created");
    let two = widgets(&client, "v2").get("w").await.expect("the object in v2");
    assert_eq!(two.types.map(|t| t.api_version).as_deref(), Some("example.com/v2"));
    let status = Patch::Merge(json!({"spec": {"size": 9}, "status": {"size": 2}}));
    let after = one.patch_status("w", &PatchParams::default(), &status).await.expect("patched");
    assert_eq!((&after.data["spec"]["size"], &after.data["status"]["size"]), (&json!(3), &json!(2)));
    let scaled = one.patch_scale("w", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 5}}))).await;
    assert_eq!(scaled.expect("scaled").spec.and_then(|s| s.replicas), Some(5));
    assert_eq!(one.get("w").await.expect("the object").data["spec"]["size"], 5);
    let crds: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
    crds.delete("widgets.example.com", &DeleteParams::default()).await.expect("deleted");
    while crds.get_opt("widgets.example.com").await.expect("an answer").is_some() {
        tokio::task::yield_now().await;
    }
    let gone = message(one.list(&ListParams::default()).await.expect_err("gone"));
    assert!(gone.starts_with("404"), "{gone}");
}

#[tokio::test]
async fn a_definition_that_is_not_structural_or_does_not_compile_is_refused() {
    let client = api().await.client();
    let crds: kube::Api<CustomResourceDefinition> = kube::Api::all(client);
    let text = include_str!("../fixtures/widgets.yaml");
    for (from, to, said) in [
        ("self.size <= self.max", "self.size <=", "compilation failed"),
        ("self.size <= self.max", "self.size <= self.most", "compilation failed: undefined field 'most'"),
        ("colour: {type: string,", "colour: {", "properties[colour].type: Required value"),
        ("jsonPath: .spec.size", "jsonPath: spec.size", "must be a simple json path starting with ."),
        ("name: widgets.example.com", "name: gadgets.example.com", "metadata.name"),
    ] {
        let crd: CustomResourceDefinition = serde_saphyr::from_str(&text.replace(from, to)).expect("a CRD");
        let refused = message(crds.create(&PostParams::default(), &crd).await.expect_err("refused"));
        assert!(refused.contains(said), "{refused}");
    }
}

#[tokio::test]
async fn applied_fields_conflict_merge_and_go() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api().await.client(), "default");
    let map = |data: Value| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}))
    };
    maps.patch("m", &PatchParams::apply("a"), &map(json!({"x": "1", "y": "1"}))).await.expect("applied");
    maps.patch("m", &PatchParams::apply("b"), &map(json!({"z": "1"}))).await.expect("applied");
    let conflict =
        message(maps.patch("m", &PatchParams::apply("b"), &map(json!({"x": "2"}))).await.expect_err("a conflict"));
    assert!(conflict.contains("conflict with \"a\": .data.x"), "{conflict}");
    let merged = maps.patch("m", &PatchParams::apply("a"), &map(json!({"x": "1"}))).await.expect("applied");
    let keys: Vec<String> = merged.data.expect("data").into_keys().collect();
    assert_eq!(keys, ["x", "z"]);
}

async fn service_account(api: &Api, name: &str) -> String {
    let client = api.client();
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client, "default");
    accounts.create(&PostParams::default(), &typed(json!({"metadata": {"name": name}}))).await.expect("created");
    let request: TokenRequest = typed(json!({"spec": {"audiences": ["heddle"], "expirationSeconds": 600}}));
    let made = accounts.create_token_request(name, &PostParams::default(), &request).await.expect("a token");
    made.status.expect("a status").token
}

#[tokio::test]
async fn tokens_name_their_account_for_their_audience_until_it_is_gone() {
    let api = api().await;
    let token = service_account(&api, "robot").await;
    let reviews: kube::Api<TokenReview> = kube::Api::all(api.client());
    let review = async |token: &str, audience: &str| {
        let review: TokenReview = typed(json!({"metadata": {}, "spec": {"token": token, "audiences": [audience]}}));
        reviews.create(&PostParams::default(), &review).await.expect("reviewed").status.expect("a status")
    };
    let good = review(&token, "heddle").await;
    assert_eq!(good.user.and_then(|u| u.username).as_deref(), Some("system:serviceaccount:default:robot"));
    assert_eq!(review(&token, "other").await.authenticated, None);
    assert_eq!(review(&format!("{token}x"), "heddle").await.authenticated, None);
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(api.client(), "default");
    accounts.delete("robot", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(review(&token, "heddle").await.authenticated, None);
}

#[tokio::test]
async fn rights_are_those_that_bindings_give() {
    let api = api().await;
    let robot = User {
        name: "system:serviceaccount:default:robot".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..User::default()
    };
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api.client_as(robot.clone()), "default");
    let refused = message(maps.list(&ListParams::default()).await.expect_err("refused"));
    let wanted = "configmaps is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"configmaps\" \
                  in API group \"\" in the namespace \"default\"";
    assert_eq!(refused, format!("403 Forbidden {wanted}"));
    let roles: kube::Api<Role> = kube::Api::namespaced(api.client(), "default");
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "get"]}]);
    roles
        .create(&PostParams::default(), &typed(json!({"metadata": {"name": "r"}, "rules": rules})))
        .await
        .expect("created");
    let bindings: kube::Api<RoleBinding> = kube::Api::namespaced(api.client(), "default");
    let binding = json!({
        "metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    bindings.create(&PostParams::default(), &typed(binding)).await.expect("created");
    assert!(maps.list(&ListParams::default()).await.is_ok());
    assert!(maps.delete("x", &DeleteParams::default()).await.is_err());
    let other: kube::Api<ConfigMap> = kube::Api::namespaced(api.client_as(robot), "kube-system");
    assert!(other.list(&ListParams::default()).await.is_err());
}

#[tokio::test]
async fn requests_by_nobody_are_refused() {
    use tower::ServiceExt as _;
    let request = http::Request::get("/api/v1/namespaces").body(axum::body::Body::empty()).expect("a request");
    let response = api().await.router().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn names_of_the_objects_made_from_a_prefix_differ() {
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api().await.client(), "default");
    let map: ConfigMap = typed(json!({"metadata": {"generateName": "made-"}}));
    let (one, two) = (maps.create(&PostParams::default(), &map).await, maps.create(&PostParams::default(), &map).await);
    let (one, two) = (one.expect("created").name_any(), two.expect("created").name_any());
    assert!(one.starts_with("made-") && two.starts_with("made-") && one != two);
}

#[tokio::test]
async fn only_who_has_every_right_says_what_a_role_aggregates() {
    let api = api().await;
    let (all_roles, bindings) = (kube::Api::all(api.client()), kube::Api::all(api.client()));
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["*"]}]);
    let without_escalate = json!([{
        "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
        "verbs": ["create", "get", "patch", "update"],
    }]);
    for (name, rules) in [("escalates", rules), ("edits", without_escalate)] {
        let role: ClusterRole = typed(json!({"metadata": {"name": name}, "rules": rules}));
        all_roles.create(&PostParams::default(), &role).await.expect("created");
        let binding = json!({
            "metadata": {"name": name}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        });
        bindings.create(&PostParams::default(), &typed::<ClusterRoleBinding>(binding)).await.expect("created");
    }
    let roles = |name: &str| -> kube::Api<ClusterRole> {
        kube::Api::all(api.client_as(User { name: name.to_owned(), ..User::default() }))
    };
    let gathers = |name: &str, label: &str| -> ClusterRole {
        let rule = json!({"clusterRoleSelectors": [{"matchLabels": {"gather": label}}]});
        typed(json!({"metadata": {"name": name}, "aggregationRule": rule}))
    };
    let params = PostParams::default();
    let refused = roles("edits").create(&params, &gathers("all", "yes")).await.expect_err("refused");
    assert!(refused.to_string().contains("cluster-admin privileges to use the aggregationRule"), "{refused}");
    roles("escalates").create(&params, &gathers("all", "yes")).await.expect("created");
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    roles("edits").patch("all", &PatchParams::default(), &labelled).await.expect("labelled");
    let other = Patch::Merge(json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"gather": "no"}}]}}));
    roles("edits").patch("all", &PatchParams::default(), &other).await.expect_err("refused");
}
